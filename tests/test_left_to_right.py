"""Left to right: told numbers of words, plain models, and candidates that are read in one pass."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from families import N_WORDS, clean_canvas, noise_for, tiny_model
from toys import tokenizer, toy, with_options
from unmask.canvas import Canvas, Role
from unmask.decoding import opening
from unmask.holes import Blank, Hole
from unmask.language_model import LanguageModel
from unmask.masking import Mixture
from unmask.masking.hidden import Hidden
from unmask.model import Model
from unmask.objectives import left_to_right
from unmask.view import View

WORD, MAYBE, BLANK = N_WORDS + 6, N_WORDS + 7, N_WORDS + 1
STARTS = torch.zeros(N_WORDS + 8, dtype=torch.int64)
STARTS[:N_WORDS:2] = 1  # even ids begin words, odd ones go on
LAW = {"law": "runs", "lengths": [0.3, 0.3, 0.2, 0.2], "rate": [0.1, 0.6]}
ROWS = st.lists(st.lists(st.integers(0, N_WORDS - 1), min_size=1, max_size=12), min_size=1, max_size=6)


def told(share: float, empty: float = 0.0) -> Model:
    options = {"told": share, **({"empty": empty} if empty else {})}
    return tiny_model("left_to_right", options=options, more_signs=("word", "maybe"))


def shown(canvas: Canvas, row: int, run: int) -> list[int]:
    """The signs that stand for a run."""
    behind = canvas.index >= canvas.index[canvas.ids == N_WORDS + 4][canvas.rows]
    return canvas.ids[(canvas.rows == row) & (canvas.hole == run) & ~behind].tolist()


@given(
    rows=ROWS,
    seed=st.integers(0, 999),
    shares=st.sampled_from([(0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (0.5, 1.0), (1.0, 0.5)]),
)
@settings(max_examples=80)
def test_what_is_told_is_true_and_the_text_comes_back(
    rows: list[list[int]], seed: int, shares: tuple[float, float]
) -> None:
    model, clean, share = told(*shares), clean_canvas(rows), shares[0]
    hidden = Mixture([LAW], STARTS, STARTS > 0)(clean, noise_for(clean, seed))
    canvas, targets = model.objective.corrupt(clean, hidden, noise_for(clean, seed))
    back = model.objective.restore(canvas, targets)
    assert (back.ids.tolist(), back.offsets.tolist()) == (clean.ids.tolist(), clean.offsets.tolist())
    behind = canvas.index > canvas.index[canvas.ids == N_WORDS + 4][canvas.rows]
    for row, run in {*zip(canvas.rows[behind].tolist(), canvas.hole[behind].tolist(), strict=True)}:
        mine = behind & (canvas.rows == row) & (canvas.hole == run)
        *ids, end = canvas.ids[mine].tolist()
        assert end == model.objective.end and not any(token >= N_WORDS for token in ids)
        n_words = len(ids) and 1 + sum(token % 2 == 0 for token in ids[1:])
        assert n_words or shares[1]
        signs = shown(canvas, row, run)
        n = {kind: signs.count(kind) for kind in (WORD, MAYBE, BLANK)}
        assert signs == [WORD] * n[WORD] + [MAYBE] * n[MAYBE] + [BLANK] * n[BLANK]
        least, most = n[WORD] + n[BLANK], math.inf if n[BLANK] else n[WORD] + n[MAYBE]
        assert least <= n_words <= most
        assert share or signs == [BLANK]
    assert targets.word.tolist() == canvas.ids[behind].tolist()
    assert (canvas.ids[targets.read] != N_WORDS + 3).all()  # never the end of the text: the separator, or an answer
    assert int(targets.count) == targets.word.numel()
    holes = [canvas.hole[behind & (canvas.rows == row)].tolist() for row in range(clean.n_rows)]
    assert all(some == sorted(some) for some in holes)  # answers come in the order of their holes


def test_all_forms_of_telling_come_up_and_half_are_exact() -> None:
    clean = clean_canvas([[i % N_WORDS for i in range(40)]] * 200)
    hidden = Mixture([LAW], STARTS, STARTS > 0)(clean, noise_for(clean))
    canvas, _ = told(1.0).objective.corrupt(clean, hidden, noise_for(clean))
    forms = [shown(canvas, row, 0) for row in range(200)]
    exact = sum(set(form) == {WORD} for form in forms)
    assert 80 <= exact <= 150  # a half, and ranges that turn out exact
    assert sum(BLANK in form for form in forms) > 10
    assert sum(MAYBE in form for form in forms) > 20
    assert sum(WORD in form and BLANK in form for form in forms) > 3


@pytest.mark.parametrize("n", [8, 9, 30])
def test_more_words_than_can_be_shown_are_not_told(n: int) -> None:
    clean = clean_canvas([[2] * 40] * 20)
    one = torch.ones(20, dtype=torch.float64)
    missing = (clean.index > 3) & (clean.index <= 3 + n)
    hidden = Hidden(missing, one, n * one, one < 0, starts=STARTS[clean.ids] > 0)
    canvas, _ = told(1.0).objective.corrupt(clean, hidden, noise_for(clean))
    assert all(shown(canvas, row, 0) == [BLANK] for row in range(20)) == (n > left_to_right.MOST_MAYBE)


def test_a_share_of_rows_has_a_hole_where_nothing_is_missing() -> None:
    clean = clean_canvas([[2, 4, 5, 6, 8, 2, 4, 6]] * 1000)
    hidden = Mixture([LAW], STARTS, STARTS > 0)(clean, noise_for(clean))
    canvas, _ = told(0.5, 0.25).objective.corrupt(clean, hidden, noise_for(clean))
    closing = (canvas.ids == N_WORDS + 5).nonzero().squeeze(1)
    before = closing - 1
    empty = closing[(canvas.ids[before] == N_WORDS + 4) | (canvas.ids[before] == N_WORDS + 5)]
    rows = canvas.rows[empty]
    assert rows.unique().numel() == rows.numel()  # one at most
    assert 180 < rows.numel() < 280  # of some rows no two words are left side by side
    forms = [shown(canvas, int(row), int(canvas.hole[at])) for row, at in zip(rows, empty, strict=True)]
    assert {tuple(form) for form in forms} == {(MAYBE,) * n for n in (1, 2, 3, 4)}
    sign = ((canvas.hole >= 0) & (canvas.role == Role.SCAFFOLD)).nonzero().squeeze(1)
    keys = dict(
        zip(zip(canvas.rows[sign].tolist(), canvas.hole[sign].tolist(), strict=True), sign.tolist(), strict=True)
    )
    maybe = [shown(canvas, *key) for key in keys]
    not_always = sum(bool(form) and set(form) == {MAYBE} for form in maybe)
    assert not_always > rows.numel() + 20  # a hole that may be empty often is not


def test_how_likely_nothing_is_missing_is_learned() -> None:
    """Where every row has one such hole and no other range begins at 0, it is certain; untrained it is not."""
    model, clean = told(1.0, 1.0), clean_canvas([[2, 4, 6, 8]] * 16)
    none = torch.zeros_like(clean.ids, dtype=torch.bool)
    one = torch.ones(16, dtype=torch.float64)
    hidden = Hidden(none, one, 0 * one, one < 0, starts=STARTS[clean.ids] > 0)
    optimiser = torch.optim.Adam(model.parameters(), 0.02)

    def cost(seed: int) -> torch.Tensor:
        canvas, targets = model.objective.corrupt(clean, hidden, noise_for(clean, seed))
        assert int(targets.count) == 16
        loss = model.objective.loss(model.predict(canvas, targets), canvas, targets)
        return loss.total / loss.count

    first = cost(0).item()
    for seed in range(30):
        optimiser.zero_grad()
        cost(seed).backward()
        optimiser.step()
    assert cost(99).item() < 0.1 < first


def test_order_and_company_change_nothing_that_is_told() -> None:
    model, clean = told(0.7, 0.5), clean_canvas([[2, 3, 4], [5, 6, 7, 8, 2, 2], [1, 2], [8, 8, 8, 8]])
    mixture = Mixture([LAW], STARTS, STARTS > 0)

    def seen(order: list[int]) -> list[list[int]]:
        rows = torch.tensor(order)
        noise = noise_for(clean)
        part = clean.take(rows)
        noise = type(noise)(noise.seed, rows)
        canvas, _ = model.objective.corrupt(part, mixture(part, noise), noise)
        return [canvas.ids[a:b].tolist() for a, b in zip(canvas.offsets, canvas.offsets[1:], strict=False)]

    whole = seen([0, 1, 2, 3])
    assert seen([3, 1]) == [whole[3], whole[1]]


@pytest.mark.parametrize(
    ("words", "signs"),
    [
        ((1, None), [BLANK]),
        ((2, 2), [WORD, WORD]),
        ((1, 3), [WORD, MAYBE, MAYBE]),
        ((0, 1), [BLANK]),
        ((0, 3), [BLANK]),
        ((0, None), [BLANK]),
        ((0, 99), [BLANK]),
        ((3, None), [WORD, WORD, BLANK]),
        ((2, 10), [WORD, WORD, *[MAYBE] * 8]),
        ((2, 999), [WORD, BLANK]),  # as if it had no end: the signs of all would not fit
    ],
)
def test_a_hole_shows_how_many_words_it_may_have(words: tuple[int, int | None], signs: list[int]) -> None:
    start, end = N_WORDS + 2, N_WORDS + 3
    role = torch.tensor([Role.SCAFFOLD, Role.TEXT, Role.SIGN, Role.SCAFFOLD])
    canvas = Canvas.from_rows([[start, 4, BLANK, end]], role=role, hole=torch.tensor([-1, -1, 0, -1]))
    opened = told(0.5).objective.open(canvas, [Hole(0, Blank(words), True, False, False)])
    assert opened.ids.tolist() == [start, 4, *signs, end, N_WORDS + 4]
    may_be_empty = told(0.5, 0.1).objective.open(canvas, [Hole(0, Blank(words), True, False, False)]).ids.tolist()
    n = {(0, 1): 1, (0, 3): 3, (0, None): 8, (0, 99): 8}.get(words)
    assert may_be_empty == [start, 4, *([MAYBE] * n if n else signs), end, N_WORDS + 4]
    assert (opened.role == Role.SIGN).sum() == 1
    untold = tiny_model("left_to_right").objective.open(canvas, [Hole(0, Blank(words), True, False, False)])
    assert untold.ids.tolist() == [start, 4, BLANK, end, N_WORDS + 4]


def plain() -> LanguageModel:
    """A plain model that begins texts with its token "a" and ends them with "!"."""
    tok = tokenizer()
    (begin,), (stop,) = tok.encode(" a", inside=True), tok.encode("!", inside=True)
    return with_options(toy("left_to_right"), plain=True, begin=begin, stop=stop)


def test_a_plain_model_reads_nothing_but_the_text() -> None:
    lm = plain()
    ids = lm.tokenizer.encode("the cat sat on the mat")
    begin = lm.model.objective.begin
    row = torch.tensor([begin, *ids])
    index = torch.arange(row.numel())
    view = View(row, torch.tensor([0, row.numel()]), index, index, stage=index, causal=True)
    words = lm.model.head.words.log_probs(lm.model.backbone(view, dense=True))
    chain = words[:-1].gather(1, row[1:, None]).sum().item()
    score = lm.score("the cat sat on the mat")
    assert score.kind == "exact"
    assert score.log_prob == pytest.approx(chain, abs=1e-9)


@pytest.mark.parametrize(("hole", "counts"), [("___{1}", {1}), ("___{2}", {2}), ("___{2,3}", {2, 3})])
def test_a_number_is_written_where_no_digit_has_a_space_of_its_own(hole: str, counts: set[int]) -> None:
    tok, model = tokenizer(), copy.deepcopy(toy("left_to_right").model)
    space, *digits = tok.encode(" 4715", inside=True)
    assert tok.decode([space], inside=True) == " "
    with torch.no_grad():
        model.head.words.bias[space] += 60
        model.head.words.bias[digits] += 40
    found = LanguageModel(model, tok).fill(f"the {hole} sat", n=1)[0].holes[0].text
    assert len(found.split(" ")) in counts
    assert all(word.isdigit() for word in found.split(" "))


def test_a_long_text_is_scored_some_words_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = toy("left_to_right")
    text = "the cat sat on the mat and the old man saw a dog"
    whole = lm.score([text, "the cat"])
    head, sizes = lm.model.head.words, []
    logits = head.logits

    def counted(hidden: torch.Tensor) -> torch.Tensor:
        sizes.append(hidden.shape[0])
        return logits(hidden)

    monkeypatch.setattr(head, "logits", counted)
    monkeypatch.setattr(left_to_right, "PART", 5)
    for part, one in zip(lm.score([text, "the cat"]), whole, strict=True):
        assert part.log_prob == pytest.approx(one.log_prob, abs=1e-9)
    assert max(sizes) == 5 and len(sizes) > 3


def test_a_plain_model_goes_on_from_a_text_and_fills_nothing_before_its_end() -> None:
    lm = plain()
    best = lm.fill("the cat ___{2}", n=1)[0]
    assert best.text.startswith("the cat ")
    assert len(best.text.split()) == 4
    whole = lm.tokenizer.encode(best.text)
    row = torch.tensor([lm.model.objective.begin, *whole])
    index = torch.arange(row.numel())
    view = View(row, torch.tensor([0, row.numel()]), index, index, stage=index, causal=True)
    words = lm.model.head.words.log_probs(lm.model.backbone(view, dense=True))
    n = len(lm.tokenizer.encode("the cat"))
    table = lm.tokenizer.table
    stays = ~table.starts_word & ~table.has_inner_space & table.whole_characters
    beyond = words[-1].exp()[~stays].sum() + words[-1, lm.model.objective.end].exp()  # a third word, or the end
    written = words[n:-1].gather(1, row[n + 1 :, None]).sum() + beyond.log()
    assert best.log_prob == pytest.approx(written.item(), abs=1e-5)
    with pytest.raises(ValueError, match="adapt"):
        lm.fill("the ___ sat")
    clean = clean_canvas([[1, 2, 3]])
    options = {"plain": True, "begin": 0, "stop": 1}
    one = torch.ones(1, dtype=torch.float64)
    hidden = Hidden(clean.index == 1, one, one, one > 0)
    with pytest.raises(ValueError, match="masking law all"):
        tiny_model("left_to_right", options=options).objective.corrupt(clean, hidden, noise_for(clean))


def test_a_plain_model_ends_with_its_line() -> None:
    lm = plain()
    table = lm.tokenizer.table
    breaks = table.starts_word & ~table.leading_space & ~table.special
    breaks[lm.tokenizer.encode(" ", inside=True)] = False  # one space and no more may begin a number
    short = next(fill for fill in lm.fill("the cat ___", n=30, max_words=3) if " " not in fill.holes[0].text)
    row = torch.tensor([lm.model.objective.begin, *lm.tokenizer.encode(short.text)])
    index = torch.arange(row.numel())
    view = View(row, torch.tensor([0, row.numel()]), index, index, stage=index, causal=True)
    words = lm.model.head.words.log_probs(lm.model.backbone(view, dense=True))
    over = words[-1].exp()[breaks].sum() + words[-1, lm.model.objective.end].exp()
    n = len(lm.tokenizer.encode("the cat"))
    written = words[n:-1].gather(1, row[n + 1 :, None]).sum() + over.log()
    assert short.log_prob == pytest.approx(written.item(), abs=1e-5)


@pytest.mark.parametrize(
    "options", [{"told": 0.5}, {"empty": 0.1}, {"plain": True}, {"plain": True, "begin": 1, "stop": 2, "told": 0.5}]
)
def test_options_that_contradict_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="told|plain"):
        tiny_model("left_to_right", options=options)


@pytest.mark.parametrize("text", ["the ___{cat|dog|old man} sat", "the ___{cat|old man} ___{sat|ran to} on it"])
def test_candidates_are_read_in_one_pass_as_token_by_token(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = toy("left_to_right")
    n = 6
    passes: list[int] = []
    forward = lm.model.backbone.forward

    def counted(view: View, dense: bool = False, cache: object = None) -> torch.Tensor:
        passes.append(view.n_rows)
        return forward(view, dense, cache)

    monkeypatch.setattr(lm.model.backbone, "forward", counted)
    whole = lm.fill(text, n=n)
    assert len(passes) == 1
    monkeypatch.setattr(opening, "all_told", lambda start, holes: False)
    stepwise = lm.fill(text, n=n)
    assert len(passes) > 3
    assert [fill.text for fill in whole] == [fill.text for fill in stepwise]
    for one, other in zip(whole, stepwise, strict=True):
        assert one.kind == other.kind == "exact"
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-5)
        for mine, theirs in zip(one.holes, other.holes, strict=True):
            assert mine.log_prob == pytest.approx(theirs.log_prob, abs=1e-5)
            assert mine.prob == pytest.approx(theirs.prob, abs=1e-5)
