"""Positions fixed at birth: one pass over a tree says what decoding says round by round, from an exact cache."""

import itertools
import math
from dataclasses import replace
from functools import cache as memo

import pytest
import torch

import unmask
from families import N_WORDS, clean_canvas, noise_for, tiny_model
from test_insertion import hidden_of, trees
from toys import toy, with_options
from unmask.backbone.cache import Cache
from unmask.backbone.positions import DEEPEST, Fractions
from unmask.canvas import Canvas, Edits, Role
from unmask.decoding.infill import infill
from unmask.decoding.opening import open_all
from unmask.decoding.search import search_of
from unmask.language_model import LanguageModel
from unmask.masking import Hidden
from unmask.model import Model
from unmask.noise import Noise
from unmask.objectives.fractional import Births
from unmask.objectives.insertion import Insertion
from unmask.objectives.slots import Prediction
from unmask.objectives.spans import Spans
from unmask.training.run import train
from unmask.view import visible

END = N_WORDS + 5
KINDS = pytest.mark.parametrize("kind", ["affine", "average"])


def growing(kind: str = "affine", seed: int = 0, **how: object) -> Model:
    return tiny_model("fractional", seed, options=how, positions=kind)


def grown(model: Model, texts: list[list[int]], seed: int = 0, *shown: int) -> tuple[Canvas, object]:
    """A tree over all that is not shown."""
    clean = clean_canvas(texts)
    mask = clean.role == Role.TEXT
    mask[list(shown)] = False
    one = torch.ones(clean.n_rows, dtype=torch.float64)
    return model.objective.corrupt(clean, Hidden(mask, one, one, one < 0), noise_for(clean, seed))


def of_round(model: Model, canvas: Canvas, turn: int) -> tuple[Canvas, Spans]:
    """The canvas as decoding sees it before the round `turn`: what is younger is missing, slots are signs."""
    missing = canvas.birth >= turn
    one = torch.ones(canvas.n_rows, dtype=torch.float64)
    shown, _ = Insertion.corrupt(model.objective, canvas, Hidden(missing, one, one, one < 0), noise_for(canvas))
    return shown, Spans.of(canvas, missing)


def test_what_is_born_lies_between_its_nearest_elders() -> None:
    model = growing()
    for seed in range(20):
        canvas, _ = grown(model, [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1], [2, 3, 4]], seed, 3, 4)
        births = Births.of(canvas, torch.ones_like(canvas.fixed))
        birth = canvas.birth.tolist()
        for i in range(canvas.n_elements):
            if birth[i]:
                left = max(j for j in range(i) if birth[j] < birth[i])
                right = min(j for j in range(i + 1, canvas.n_elements) if birth[j] < birth[i])
                assert (births.left[i], births.right[i]) == (left, right)


def test_elements_are_read_in_the_order_of_their_births() -> None:
    model = growing()
    clean = clean_canvas([[1, 2, 3, 4]])
    canvas = replace(clean, birth=torch.tensor([0, 2, 1, 0, 1, 0]))
    view = model.objective.view(canvas)
    s, e = N_WORDS + 2, N_WORDS + 3
    assert view.ids.tolist() == [s, 3, e, 2, 4, 1] and view.stage.tolist() == [0, 0, 0, 1, 1, 2]
    assert view.position.tolist() == [0.0, 0.5, 1.0, 0.0, 0.0, 0.0]  # given: k / (n + 1)
    assert view.born.tolist() == [[-1, -1]] * 3 + [[0, 1], [1, 2], [0, 3]]
    assert view.read.tolist() == [0, 5, 3, 1, 4, 2]  # where each element of the canvas lies


def test_every_slot_there_ever_was_is_taught() -> None:
    model = growing(order="uniform")
    clean = clean_canvas([[1, 1, 2]])
    for seed in range(5):
        canvas, targets = grown(model, [[1, 1, 2]], seed)
        assert targets.end.tolist() == [0] * 3 + [1] * 4 and targets.count == 7
        root = (canvas.birth[1:4] == 1).nonzero().item()
        mine = targets.slot == root
        assert targets.word[mine].tolist() == [1, 1, 2] and targets.weight[mine].tolist() == pytest.approx([1 / 3] * 3)
        sums = torch.zeros(7, dtype=torch.float64).index_add(0, targets.slot, targets.weight) + targets.end
        assert sums.tolist() == pytest.approx([1.0] * 7)
    given, fixed = torch.tensor([True, True, True, False, True]), Canvas.build
    held = fixed(clean.ids, clean.offsets, role=clean.role, fixed=given)
    canvas, targets = model.objective.corrupt(held, hidden_of(held, 3), noise_for(held))
    assert targets.end.tolist() == [0, 1, 1]  # between two given ones nothing was ever open


@KINDS
def test_one_pass_says_what_rounds_say_and_a_cache_computes_each_once(kind: str) -> None:
    model = growing(kind)
    cached = Cache()
    with torch.no_grad():
        canvas, _ = grown(model, [[1, 2, 3, 4, 5, 6, 7], [8, 9], [1, 2, 2, 1]], 3, 4)
        whole = model.predict(canvas).words()
        born = canvas.birth > 0
        number = born.long().cumsum(0) - 1
        ends = torch.zeros(canvas.n_elements, dtype=torch.int64)
        behind = model.objective._ends(canvas)
        ends[behind] = int(born.sum()) + torch.arange(int(behind.sum()))
        seen = 0
        for turn in range(1, int(canvas.birth.max()) + 2):
            shown, spans = of_round(model, canvas, turn)
            fresh, again = model.predict(shown).words(), model.predict(shown, cache=cached).words()
            torch.testing.assert_close(again, fresh, rtol=0, atol=1e-12)
            now = canvas.birth == turn  # these are written in this round
            which = Spans.of(canvas, canvas.birth >= turn).slot[now[canvas.birth >= turn]]
            torch.testing.assert_close(fresh[which], whole[number[now]], rtol=0, atol=1e-12)
            slots = spans.opens.nonzero().squeeze(1)
            beside = (canvas.birth[slots] == turn - 1) | (canvas.birth[slots + 1] == turn - 1)
            closes = (spans.size == 0) & beside & (turn > 0)
            torch.testing.assert_close(fresh[closes], whole[ends[slots[closes]]], rtol=0, atol=1e-12)
            seen += int(which.numel()) + int(closes.sum())
        assert seen == whole.shape[0]
        alike = 2  # the ends of two rows that begin from nothing
        assert cached.n_computed == canvas.n_elements - alike  # each went through the layers once


@KINDS
def test_queries_of_one_pass_say_what_they_say_step_by_step(kind: str) -> None:
    """Every slot, in every round, is asked by one that has seen all that was there, cached or not."""
    model, cached = growing(kind, queries=True), Cache()
    with torch.no_grad():
        canvas, targets = grown(model, [[1, 2, 3, 4, 5, 6, 7], [8, 9], [1, 2, 2, 1]], 3, 4)
        whole = model.predict(canvas, targets).words()
        born = canvas.birth > 0
        number = born.long().cumsum(0) - 1
        ends = torch.zeros(canvas.n_elements, dtype=torch.int64)
        behind = model.objective._ends(canvas)
        ends[behind] = int(born.sum()) + torch.arange(int(behind.sum()))
        closed = torch.zeros_like(behind)  # behind these elements nothing is open any more
        seen = 0
        for turn in range(1, int(canvas.birth.max()) + 2):
            shown, spans = of_round(model, canvas, turn)
            slots = spans.opens.nonzero().squeeze(1)
            signs = (shown.role == Role.SIGN).nonzero().squeeze(1)
            over = signs[closed[slots]]
            shown = shown.apply(Edits.put(over, shown.ids[over], Role.SCAFFOLD))  # a slot that ended is one no more
            fresh, again = model.predict(shown).words(), model.predict(shown, cache=cached).words()
            torch.testing.assert_close(again, fresh, rtol=0, atol=1e-12)
            still = ~closed[slots]
            place = still.long().cumsum(0) - 1  # of a slot among those that are open
            now = canvas.birth == turn
            which = place[Spans.of(canvas, canvas.birth >= turn).slot[now[canvas.birth >= turn]]]
            torch.testing.assert_close(fresh[which], whole[number[now]], rtol=0, atol=1e-12)
            closes = (spans.size == 0) & still
            torch.testing.assert_close(fresh[place[closes]], whole[ends[slots[closes]]], rtol=0, atol=1e-12)
            closed[slots[closes]] = True
            seen += int(which.numel()) + int(closes.sum())
        assert seen == whole.shape[0]


def test_a_query_sees_what_was_written_elsewhere_and_nobody_sees_a_query() -> None:
    for queries, hears in ((True, True), (False, False)):
        model = growing(queries=queries)
        clean = clean_canvas([[1, 2, 3, 4, 5]])
        said = []
        for word in (4, 7):  # written last, far from the first slot
            ids = clean.ids.clone()
            ids[4] = word
            birth = torch.tensor([0, 0, 0, 1, 2, 0, 0])
            canvas = replace(clean, ids=ids, birth=birth)
            shown = canvas.apply(
                Edits.emit(
                    torch.tensor([1]), torch.tensor([2]), torch.tensor([0, N_WORDS + 1]),
                    torch.tensor([Role.TEXT, Role.SIGN]), kept=torch.tensor([True, False]),
                )
            )  # fmt: skip
            with torch.no_grad():
                said.append(model.predict(shown).words().exp())
            view = model.objective.view(shown)
            sees = visible(view)
            if queries:
                query = view.transient
                assert int(query.sum()) == 1 and bool(sees[query].all()) and not bool(sees[~query][:, query].any())
        assert (float((said[0] - said[1]).abs().max()) > 1e-6) == hears


def test_it_is_another_model_than_reading_all_anew() -> None:
    model = growing()
    canvas, _ = grown(model, [[1, 2, 3, 4, 5, 6, 7]])
    flat = replace(canvas, birth=torch.zeros_like(canvas.birth))
    view, plain = model.objective.view(canvas), model.objective.view(flat)
    with torch.no_grad():
        assert (model.backbone(view) - model.backbone(plain)).abs().max() > 1e-3


@KINDS
def test_nothing_younger_is_ever_heard_of(kind: str) -> None:
    """Neither its words nor its places: with another word, or without it, what is older says the same to the bit."""
    model = growing(kind)
    with torch.no_grad():
        canvas, _ = grown(model, [[1, 2, 3, 4, 5, 6, 7]], 1)
        births = Births.of(canvas, torch.ones_like(canvas.fixed))
        whole = model.predict(canvas).words()
        order = (canvas.birth > 0).nonzero().squeeze(1)
        for turn in range(1, int(canvas.birth.max()) + 1):
            young = canvas.birth >= turn
            other = replace(canvas, ids=torch.where(young, (canvas.ids + 3) % N_WORDS, canvas.ids))
            changed = model.predict(other).words()
            older = canvas.birth[order] <= turn  # slots born into by then: their neighbours are all older
            assert torch.equal(whole[: order.numel()][older], changed[: order.numel()][older])
            assert not torch.equal(whole, changed)
            keep = ~young | (births.row != 0)
            fewer = Canvas.build(
                canvas.ids[keep], torch.tensor([0, int(keep.sum())]), role=canvas.role[keep], birth=canvas.birth[keep]
            )
            hidden = model.backbone(model.objective.view(canvas))
            left = model.backbone(model.objective.view(fewer))
            torch.testing.assert_close(left, hidden[keep], rtol=0, atol=1e-12)


def test_trees_bound_what_rounds_say() -> None:
    model, text = growing(roll_in=1.5), [1, 2, 2, 4]
    clean = clean_canvas([text])

    @memo
    def exact() -> float:
        costs = []
        for rounds in trees(4):
            birth = torch.zeros(6, dtype=torch.int64)
            for turn, words in enumerate(rounds, 1):
                birth[[1 + i for i in words]] = turn
            words = model.predict(replace(clean, birth=birth)).words()
            said = [*text, *[END] * 5]
            costs.append(sum(words[i, word].item() for i, word in enumerate(said)))
        return torch.tensor(costs).double().logsumexp(0).item()

    def bound(n: int, seed: int) -> float:
        noise = Noise(seed, torch.zeros(1, dtype=torch.int64))
        found = model.objective.likelihood(model.predict, clean, clean.role == Role.TEXT, None, n, noise)
        assert found.kind == "bound"
        return found.log_prob.item()

    with torch.no_grad():
        single = torch.tensor([bound(2, seed) for seed in range(150)])
        many = bound(300, 0)
        assert single.mean() <= exact() + 3 * single.std() / 150**0.5
        assert many == pytest.approx(exact(), abs=0.25)
        assert single.exp().mean().item() == pytest.approx(math.exp(exact()), rel=0.5)
    with pytest.raises(ValueError, match="no likelihood method 'exact'"):
        model.objective.likelihood(model.predict, clean, clean.role == Role.TEXT, "exact", 1, noise_for(clean))


def test_averages_are_fractions_of_the_way_and_refuse_to_fall_together() -> None:
    places = Fractions(4, "average")
    torch.nn.init.normal_(places.ends, generator=torch.Generator().manual_seed(0))
    start, end = places.given(torch.tensor([0.0, 1.0]))[:, None]
    middle = places.between(start, end)
    torch.testing.assert_close(places.vectors(middle)[0], places.ends.mean(0))
    torch.testing.assert_close(
        places.vectors(places.between(start, middle))[0], places.ends[0].lerp(places.ends[1], 0.25)
    )
    at = end
    for _ in range(DEEPEST):
        before, at = at, places.between(at, start) if at is end else places.between(at, end)
        assert (at[0, 0] - before[0, 0]).abs() > 0 and at[0, 0] != end[0, 0]
    with pytest.raises(ValueError, match=f"more than {DEEPEST} times in a row"):
        places.between(at, end)


def test_positions_are_as_fine_as_float32_in_a_narrow_model() -> None:
    places = Fractions(4, "affine").bfloat16()
    torch.nn.init.normal_(places.ends, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        left = places.given(torch.tensor([0.25]))
        assert left.dtype == torch.float32 == places.between(left, left).dtype


def test_a_backbone_of_other_positions_is_refused() -> None:
    clean = clean_canvas([[1, 2, 3]])
    for family, kind, message in (
        ("fractional", "rotary", "say backbone.positions=affine"),
        ("blank_lm", "affine", "say backbone.positions=rotary"),
    ):
        model = tiny_model(family, positions=kind)
        canvas, targets = model.objective.corrupt(clean, hidden_of(clean, 2), noise_for(clean))
        with pytest.raises(ValueError, match=message):
            model.predict(canvas, targets)
    with pytest.raises(ValueError, match="local layers with positions=affine"):
        tiny_model("fractional", positions="affine", global_every=3)
    for how, message in (({"order": "left_to_right"}, "they fall together"), ({"roll_in": 0.0}, "roll_in is 0")):
        with pytest.raises(ValueError, match=message):
            growing(**how)


# Decoding

TEXTS = ["the ___ sat on ___.", "a ___{2} saw [MASK] dog", "___{0,2} the ___{1,3}", "no hole"]


def shy(end: float = 3.0) -> LanguageModel:
    """A toy that ends sooner than it goes on; the cached one is not changed."""
    lm = toy("fractional", seed=5)
    with torch.no_grad():
        lm.model.objective.head.words.bias[lm.model.objective.end] = end
    return lm


@pytest.mark.parametrize("queries", [False, True])
@pytest.mark.parametrize("way", [{"policy": "parallel"}, {"policy": "serial"}, {}, {"temperature": 1.0, "n": 2}])
def test_a_batch_equals_each_alone(way: dict[str, object], queries: bool) -> None:
    lm = with_options(shy(), queries=queries)
    together = lm.fill(TEXTS, max_words=3, seed=1, **way)
    for text, fills in zip(TEXTS, together, strict=True):
        alone = lm.fill(text, max_words=3, seed=1, **way)
        assert [fill.text for fill in alone] == [fill.text for fill in fills]
        assert [fill.log_prob for fill in alone] == pytest.approx([fill.log_prob for fill in fills], abs=1e-9)


def test_each_element_is_computed_once_while_a_text_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = shy(-3.0)
    caches: list[Cache] = []
    plan = Cache.plan
    monkeypatch.setattr(Cache, "plan", lambda self, view: (caches.append(self), plan(self, view))[1])
    reading = lm.tokenizer.read("the ___ sat")
    opened = open_all(lm.model, lm.tokenizer, [reading], 6)
    search = search_of("parallel", 1, None, None, 0.0, None, None, 0, None, None)
    *_, last = infill(lm.model, opened.requests, opened.rules, opened.classes, search)
    canvas = last.finished[0][0].canvas
    n_seen = int((canvas.ids != lm.model.objective.blank).sum())
    assert n_seen > 8 and len(set(map(id, caches))) == 1
    newest = int((canvas.birth == canvas.birth[canvas.role == Role.TEXT].max()).sum())
    assert n_seen - newest <= caches[0].n_computed <= n_seen


@pytest.mark.parametrize("way", [{"policy": "parallel"}, {"policy": "serial"}, {}, {"n": 3, "policy": "leftmost"}])
def test_what_is_looked_up_is_what_would_be_worked_out(way: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    lm = shy()
    asked = [*TEXTS[:3], "the cat ___ the cat ___ the cat"]  # slots alike, and one after another
    found = lm.fill(asked, max_words=3, **way)
    n_words: list[int] = []
    words = Prediction.words
    monkeypatch.setattr(Prediction, "words", lambda self: (n_words.append(self.row.numel()), words(self))[1])
    assert [fill.text for fills in lm.fill(asked, max_words=3, **way) for fill in fills]
    settled, n_words[:] = sum(n_words), []
    monkeypatch.setattr(type(lm.model.objective), "settles", False)
    plain = lm.fill(asked, max_words=3, **way)
    for some, others in zip(found, plain, strict=True):
        assert [fill.text for fill in some] == [fill.text for fill in others]
        assert [fill.log_prob for fill in some] == pytest.approx([fill.log_prob for fill in others], abs=1e-9)
    assert settled < sum(n_words)


def test_what_was_proposed_is_remembered_by_all_parts_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are too many for one pass come in several: each finds what was worked out for it in the last step."""
    lm, texts = shy(-3.0), [f"the {word} ___ the mat" for word in ("cat", "dog", "sun", "moon")]
    n_words: list[int] = []
    words = Prediction.words
    monkeypatch.setattr(Prediction, "words", lambda self: (n_words.append(self.row.numel()), words(self))[1])
    whole = lm.fill(texts, max_words=6, policy="serial", beam=1)
    together, n_words[:] = sum(n_words), []
    monkeypatch.setattr("unmask.decoding.infill.CHUNK", 1)  # each row alone
    parts = lm.fill(texts, max_words=6, policy="serial", beam=1)
    for some, others in zip(parts, whole, strict=True):
        assert [fill.text for fill in some] == [fill.text for fill in others]
        assert [fill.log_prob for fill in some] == pytest.approx([fill.log_prob for fill in others], abs=1e-9)
    assert sum(n_words) == together > 40


def test_it_trains_by_its_recipe_and_fills_in_rounds(tmp_path) -> None:
    (tmp_path / "text.txt").write_text("The cat sat on the mat.\nThe dog lay on the log.\n" * 100)
    small = ["batch_tokens=512", "data.max_tokens=32", "backbone.width=64", "backbone.n_layers=2", "backbone.n_heads=2"]
    how = [f"data={tmp_path / 'text.txt'}", "learning_rate=0.005", "steps=240", "threads=1", "ema=null", *small]
    how.append("precision=float32")  # one result on every machine
    folder = train("fractional", how, out=tmp_path / "run", progress=False)
    lm = unmask.load(folder / "model", dtype="float64")
    (fill,) = lm.fill("The cat ___ mat.", policy="parallel")
    assert fill.text in ("The cat sat on the mat.", "The cat lay on the mat.") and fill.status == "finished"
    *_, last = lm.watch("The cat ___ mat.", policy="parallel")
    assert last.passes <= 4
    scores = [lm.score(text).log_prob for text in ("The cat sat on the mat.", "mat the on sat cat The.")]
    assert scores[0] > scores[1] + 5
    assert list(itertools.islice(lm.watch("The ___", policy="serial", max_words=2), 1))
