"""The loop: what a search adds up is what brute force over all paths adds up; samples follow the model."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from families import N_WORDS, tiny_model
from toys import FAMILIES, WRITERS, toy
from unmask.canvas import Canvas, Role, concat
from unmask.decoding import beam
from unmask.decoding.infill import run
from unmask.decoding.kinds import kind_of
from unmask.decoding.policies import POLICIES, Progress, best_sites
from unmask.decoding.replay import Told, replay, signs_for
from unmask.decoding.requests import Finished, Request
from unmask.decoding.rules import Rules, TokenClasses
from unmask.decoding.search import Search
from unmask.holes import Blank, Hole, Mask, Sign
from unmask.model import Model
from unmask.noise import Noise
from unmask.objectives import OBJECTIVES, Proposal, Shape, Sites
from unmask.objectives.masked_diffusion import MaskedDiffusion

N_LETTERS = 3


def letters(n: int = N_LETTERS) -> TokenClasses:
    """A vocabulary in which the first `n` words may stand, each a word with its space."""
    usable = torch.zeros(N_WORDS + 6, dtype=torch.bool)
    usable[:n] = True
    of = torch.where(usable, 1, 0)
    flags = torch.tensor([False, True])
    none = torch.tensor([False, False])
    return TokenClasses(of, flags, flags, flags, flags, torch.tensor([-1, -1]), lone=none, breaks=none)


def row_with(model: Model, *parts: int | str) -> tuple[Canvas, list[Hole]]:
    """One opened row: word numbers, `___` for blanks, `?` for masks."""
    signs = model.config.signs
    ids, role, hole, holes = [signs["start"]], [int(Role.SCAFFOLD)], [-1], []
    for part in parts:
        if isinstance(part, int):
            ids, role, hole = [*ids, part], [*role, int(Role.TEXT)], [*hole, -1]
            continue
        sign = Mask() if part == "?" else Blank()
        ids, role, hole = [*ids, signs["blank"]], [*role, int(Role.SIGN)], [*hole, len(holes)]
        holes.append(Hole(len(holes), sign, True, False, False))
    roles = torch.tensor([*role, int(Role.SCAFFOLD)])
    canvas = Canvas.from_rows(
        [[*ids, signs["end"]]], role=roles, hole=torch.tensor([*hole, -1]), fixed=roles != Role.SIGN
    )
    return model.objective.open(canvas, holes), holes


def written(canvas: Canvas, row: int) -> tuple[tuple[int, ...], ...]:
    """What stands in each hole of a row."""
    one = canvas.take(torch.tensor([row]))
    return answer(one.ids.tolist(), one.role.tolist(), one.hole.tolist())


def answer(ids: list[int], roles: list[int], holes: list[int]) -> tuple[tuple[int, ...], ...]:
    """The same from its columns."""
    texts: dict[int, list[int]] = {hole: [] for hole in sorted(set(holes)) if hole >= 0}
    for token, role, hole in zip(ids, roles, holes, strict=True):
        if hole >= 0 and role == Role.TEXT:
            texts[hole].append(token)
    return tuple(map(tuple, texts.values()))


def search_rows(
    model: Model, canvas: Canvas, holes: list[Hole], search: Search, room: int = 3, classes: TokenClasses | None = None
) -> list[Finished]:
    start = replace(canvas, request=torch.zeros(1, dtype=torch.int64))
    zero = torch.zeros(1, dtype=torch.float64)
    request = Request(start, zero, zero < 0, 7, answer)
    rules = Rules.build([holes], 100, [{}], [[room] * len(holes)])
    return run(model, [request], rules, classes or letters(), search)[0]


def paths(model: Model, canvas: Canvas, policy: str, room: int, n: int = N_LETTERS) -> dict[object, float]:
    """Probability of every text within the room, by following every path one canvas at a time."""
    sites = model.objective.sites(canvas)
    if not sites.row.numel():
        return {written(canvas, 0): 1.0}
    usable = letters(n).of
    open_ways = torch.ones(sites.row.numel(), 3, 4, dtype=torch.bool)
    open_ways[:, 0] = False
    prediction = model.predict(canvas)
    proposal = model.objective.propose(prediction, canvas, 4 * n + 1, Shape(usable, open_ways), None)
    chosen = POLICIES[policy].choose(proposal, Progress(1), None).nonzero().squeeze(1).tolist()
    total: dict[object, float] = {}
    for site in chosen:
        place = proposal.place.log_softmax(0)[site].item() if POLICIES[policy].charges_place else 0.0
        for pick in range(proposal.word.shape[1]):
            cost = proposal.log_prob[site, pick].item()
            if cost == -math.inf:
                continue
            edits = model.objective.edits(proposal, canvas, torch.tensor([site]), torch.tensor([pick]), 1)
            child = canvas.apply(edits)
            in_text = ((child.role == Role.TEXT) & (child.hole >= 0)).sum().item()
            n_open = model.objective.sites(child).row.numel() if proposal.sites.element[0] < 4 else 0
            if in_text + n_open > room:
                continue
            for text, prob in paths(model, child, policy, room, n).items():
                total[text] = total.get(text, 0.0) + math.exp(place + cost) * prob
    return total


@pytest.mark.parametrize("policy", ["confident", "location", "leftmost", "rightmost"])
def test_a_wide_beam_adds_up_every_path(policy: str) -> None:
    model = tiny_model("blank_lm")
    canvas, holes = row_with(model, 4, "___", 5)
    with torch.inference_mode():
        want = paths(model, canvas, policy, room=3)
    found = search_rows(model, canvas, holes, Search(policy, n=100, beam=500))
    got = {written(one.canvas, 0): math.exp(one.score) for one in found}
    assert len(want) == 3 + 9 + 27
    assert got.keys() == want.keys()
    for text, prob in want.items():
        assert got[text] == pytest.approx(prob, rel=1e-9)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_summed_over_places_it_is_the_models_likelihood() -> None:
    """Under `location` the sum over all paths is the family's own exact value."""
    model = tiny_model("blank_lm", seed=3)
    canvas, holes = row_with(model, 4, "___", 5)
    found = search_rows(model, canvas, holes, Search("location", n=100, beam=500))
    for one in found[::7]:
        ids = one.canvas.ids[None, 0 : one.canvas.n_elements].tolist()
        clean = Canvas.from_rows(ids, role=one.canvas.role)
        hidden = one.canvas.hole >= 0
        exact = model.objective.likelihood(model.predict, clean, hidden, "exact", 0, Noise(0, torch.zeros(1).long()))
        assert one.score == pytest.approx(exact.log_prob.item(), abs=1e-9)


@pytest.mark.parametrize("family", ["blank_lm", "masked_diffusion"])
def test_samples_follow_the_model(family: str) -> None:
    model = tiny_model(family, seed=5)
    canvas, holes = row_with(model, 4, "?", 5, "?")
    if family == "blank_lm":
        classes, want = letters(), _step_by_step(model, canvas)
    else:  # nothing is barred, so the search's own numbers are the probabilities
        classes = letters(N_WORDS)
        found = search_rows(model, canvas, holes, Search("leftmost", n=100, beam=100), classes=classes)
        want = {written(one.canvas, 0): math.exp(one.score) for one in found}
    assert sum(want.values()) == pytest.approx(1.0)
    draws = 1500
    start = replace(canvas, request=torch.zeros(1, dtype=torch.int64))
    zero = torch.zeros(1, dtype=torch.float64)
    rules = Rules.build([holes], 9, [{}], [[3, 3]])
    requests = [Request(start, zero, zero < 0, key, answer) for key in range(draws)]
    answers = run(model, requests, rules, classes, Search("leftmost", temperature=1.0))
    counts = Counter(written(found[0].canvas, 0) for found in answers)
    for text, prob in want.items():
        assert abs(counts[text] / draws - prob) < 4.5 * math.sqrt(prob * (1 - prob) / draws) + 1e-3


def _step_by_step(model: Model, canvas: Canvas) -> dict[object, float]:
    """Leftmost site; a word of the letters, then the one split that a mask allows."""
    sites = model.objective.sites(canvas)
    if not sites.row.numel():
        return {written(canvas, 0): 1.0}
    ways = torch.zeros(sites.row.numel(), 3, 4, dtype=torch.bool)
    ways[:, 1] = True
    with torch.inference_mode():
        prediction = model.predict(canvas)
        proposal = model.objective.propose(prediction, canvas, 4 * N_LETTERS, Shape(letters().of, ways), None)
    closed = (~proposal.left[0] & ~proposal.right[0]).nonzero().squeeze(1).tolist()
    mass = {
        pick: proposal.log_prob[0][proposal.word[0] == proposal.word[0, pick]].exp().sum().item() for pick in closed
    }
    out: dict[object, float] = {}
    for pick in closed:
        prob = mass[pick] / sum(mass.values())
        edits = model.objective.edits(proposal, canvas, torch.tensor([0]), torch.tensor([pick]), 1)
        for text, rest in _step_by_step(model, canvas.apply(edits)).items():
            out[text] = out.get(text, 0.0) + prob * rest
    return out


@pytest.mark.parametrize("family", ["blank_lm", "masked_diffusion"])
def test_told_tokens_are_summed_over_all_orders(family: str) -> None:
    """Replay by states is the mean over orders for masks, and the exact likelihood where places are modelled."""
    model = tiny_model(family, seed=2)
    words = [1, 2, 1]
    signs = model.config.signs
    text = [signs["start"], 4, *words, 5, signs["end"]]
    role = torch.tensor([2, 0, 0, 0, 0, 0, 2])
    clean = Canvas.from_rows([text], role=role)
    hidden = torch.tensor([False, False, True, True, True, False, False])
    base = Canvas.from_rows(
        [[signs["start"], 4, signs["blank"], 5, signs["end"]]],
        role=torch.tensor([2, 0, 1, 0, 2]), hole=torch.tensor([-1, -1, 0, -1, -1]),
    )  # fmt: skip
    hole = Hole(0, Mask(), True, False, False)
    told = family != "blank_lm"
    opened = model.objective.open(signs_for(base, {0: 3}) if told else base, [hole])
    with torch.inference_mode():
        found, lost = replay(model, opened, [Told.of({0: words})])
        fewer, cut = replay(model, opened, [Told.of({0: words})], [1])
    assert (lost, cut) == ([False], [True])
    assert fewer.score.item() < found.score.item()
    assert found.canvas.ids.tolist() == text
    assert found.merged.tolist() == [True]
    if not told:
        noise = Noise(0, torch.zeros(1, dtype=torch.int64))
        want = model.objective.likelihood(model.predict, clean, hidden, "exact", 0, noise).log_prob.item()
    else:
        want = math.log(sum(_masked_chain(model, text, order) for order in itertools.permutations((2, 3, 4))) / 6)
    assert found.score.item() == pytest.approx(want, abs=1e-9)


def _masked_chain(model: Model, text: list[int], order: tuple[int, ...]) -> float:
    ids, total = list(text), 0.0
    for place in order:
        ids[place] = model.config.signs["mask"]
    for place in order:
        role = [1 if token == model.config.signs["mask"] else 0 for token in ids]
        prediction = model.predict(Canvas.from_rows([ids], role=torch.tensor(role)))
        total += prediction.words()[sum(role[:place]), text[place]].item()
        ids[place] = text[place]
    return math.exp(total)


def test_told_tokens_that_cannot_be_are_refused() -> None:
    model = tiny_model("blank_lm")
    canvas, _ = row_with(model, 4, "___", 5)
    with torch.inference_mode(), pytest.raises(ValueError, match="a candidate cannot be written"):
        replay(model, canvas, [Told.of({0: [1, model.config.signs["mask"]]})])


def test_merging_takes_equal_canvases_of_a_group_only() -> None:
    rows = [[1, 2], [1, 2], [1, 2], [2, 1]]
    zero = torch.zeros(4, dtype=torch.int64)
    canvas = Canvas.from_rows(rows, request=zero)
    score = torch.tensor([0.1, 0.2, 0.4, 0.3], dtype=torch.float64).log()
    rows_of = beam.Hypotheses.begun(canvas, score, zero < 0, torch.tensor([0, 0, 1, 0]))
    merged = beam.merge(rows_of)
    assert merged.score.exp().tolist() == pytest.approx([0.3, 0.4, 0.3])
    assert merged.merged.tolist() == [True, False, False]
    other = replace(canvas, hole=torch.tensor([0, -1, -1, -1, -1, -1, -1, -1]))
    assert beam.same_canvas(other, zero).unique().numel() == 3
    elsewhere = replace(canvas, request=torch.tensor([0, 1, 0, 0]))  # began from another start
    assert beam.same_canvas(elsewhere, zero).unique().numel() == 3


def test_a_beam_never_mixes_requests() -> None:
    model = tiny_model("blank_lm")
    canvas, holes = row_with(model, 4, "___", 5)
    other, _ = row_with(model, 6, "___", 7)
    both = [replace(one, request=torch.tensor([i])) for i, one in enumerate((canvas, other))]
    zero = torch.zeros(1, dtype=torch.float64)
    rules = Rules.build([holes, holes], 100, [{}, {}], [[3], [3]])
    requests = [Request(one, zero, zero < 0, 7, answer) for one in both]
    together = run(model, requests, rules, letters(), Search(n=4, beam=9))
    for one, answers in zip((canvas, other), together, strict=True):
        alone = search_rows(model, one, holes, Search(n=4, beam=9))
        assert [written(a.canvas, 0) for a in alone] == [written(a.canvas, 0) for a in answers]
        assert [a.score for a in alone] == pytest.approx([a.score for a in answers], abs=1e-9)


def proposal_of(entropy: list[float], row: list[int]) -> Proposal:
    n = len(row)
    one = torch.zeros(n, 1)
    sites = Sites(torch.arange(n), torch.tensor(row), torch.zeros(n, dtype=torch.int64))
    value = torch.tensor(entropy)
    return Proposal(sites, -value, one.long(), one > 0, one > 0, one, one, value, -value, value, -value)


def test_policies_choose_by_row() -> None:
    proposal = proposal_of([3.0, 1.0, 2.0, 0.5, 0.05], [0, 0, 0, 1, 1])
    noise = Noise(0, torch.arange(2))
    picks = {
        name: policy.choose(proposal, Progress(2, level=policy.level or 0.0), noise if name == "random" else None)
        .nonzero()
        .squeeze(1)
        .tolist()
        for name, policy in POLICIES.items()
    }
    assert picks["confident"] == [1, 4]
    assert picks["leftmost"] == [0, 3]
    assert picks["rightmost"] == [2, 4]
    assert picks["location"] == picks["parallel"] == [0, 1, 2, 3, 4]
    assert picks["threshold"] == [1, 4]
    assert len(picks["random"]) == 2
    assert POLICIES["location"].choose(proposal, Progress(2), noise).sum() == 2
    quota = Progress(2, torch.tensor([2, 1]))
    assert POLICIES["confident"].choose(proposal, quota, None).nonzero().squeeze(1).tolist() == [1, 2, 4]
    assert all(policy.choose.__doc__ and "Source" in policy.choose.__doc__ for policy in POLICIES.values())


def test_ties_go_to_the_first_site() -> None:
    assert best_sites(torch.zeros(4), torch.tensor([0, 0, 1, 1]), 2).tolist() == [True, False, True, False]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("policy", list(POLICIES))
def test_every_policy_finishes(family: str, policy: str) -> None:
    lm = toy(family)
    (fill,) = lm.fill("the [MASK] sat [MASK] on [MASK]", policy=policy)
    assert fill.status == "finished"
    assert all(hole.text for hole in fill.holes)


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("how", [{}, {"temperature": 1.0}, {"policy": "parallel"}, {"policy": "location", "beam": 3}])
def test_no_canvas_is_left_open_in_silence(family: str, how: dict[str, object]) -> None:
    lm = toy(family)
    for fill in lm.fill(["the ___ sat", "___ ___", "a ___{3} b ___"], max_words=2, **how):
        assert fill[0].status in ("finished", "capped")
        words = [len(hole.text.split()) for hole in fill[0].holes]
        assert all(words), "each hole holds something"
        if fill[0].status == "finished":
            assert fill[0].kind != "estimate" or how.get("policy") == "parallel"


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("how", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5}], ids=str)
def test_what_cannot_be_is_refused_not_written(family: str, how: dict[str, float]) -> None:
    """Two words between letters: no white space may come, so there is no second word; drawing must not go on anyway."""
    with pytest.raises(ValueError, match="nothing fits"):
        toy(family).fill("un___{2}able", **how)


def test_a_step_limit_and_a_timeout_are_told() -> None:
    lm = toy("blank_lm")
    (short,) = lm.fill("the ___{3} sat", steps=1)
    assert (short.status, short.kind) == ("capped", "estimate")
    (late,) = lm.fill("the ___{3} sat", timeout=1e-9)
    assert late.status == "timeout"
    answers = lm.fill(["the ___{3} sat"] * 600, timeout=1e-9)
    assert {fill.status for fills in answers for fill in fills} == {"timeout"}


def test_steps_share_the_places_among_them() -> None:
    lm = toy("masked_diffusion")
    text = " ".join(["[MASK]"] * 7)
    passes = [step.passes for step in lm.watch(text, steps=3)]
    assert passes[-1] == 3
    assert lm.fill(text, steps=3)[0].status == "finished"


def test_kinds() -> None:
    assert kind_of("one") == "exact"
    assert kind_of("many") == "bound"
    assert kind_of("many", summed=True) == "exact"
    assert kind_of("many", summed=True, estimated=True) == "estimate"
    assert kind_of("many", several=True) == "estimate"
    assert kind_of("one", several=True) == "exact"
    assert kind_of("many", summed=True, several=True) == "exact"
    assert kind_of("many", unpaid=True) == "estimate" and kind_of("one", unpaid=True) == "exact"


@pytest.mark.parametrize("policy", ["confident", "leftmost", "location"])
@pytest.mark.parametrize("family", ["blank_lm", "masked_diffusion"])
def test_what_is_called_a_bound_is_never_above_the_exact(family: str, policy: str) -> None:
    lm, kinds = toy(family), {}
    texts = ["the [MASK] sat [MASK]", "the [MASK] [MASK] sat", "the [MASK] sat"]
    for text in texts:
        fills = lm.fill(text, n=6, policy=policy, beam=12)
        kinds[text] = {fill.kind for fill in fills}
        for fill in fills:
            said = iter(hole.text for hole in fill.holes)
            pieces = [
                Blank(candidates=(next(said),)) if isinstance(p, Sign) else p for p in lm.tokenizer.read(text).pieces
            ]
            (exact,) = lm.fill(pieces)
            assert exact.kind == "exact" and exact.text == fill.text
            assert fill.kind == "estimate" or fill.log_prob <= exact.log_prob + 1e-6
    paid = policy == "location"
    assert kinds["the [MASK] sat"] == {"bound"}
    assert kinds["the [MASK] sat [MASK]"] == ({"bound"} if paid else {"estimate"})


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ({"policy": "best"}, "policy"), ({"n": 0}, "n is 0"), ({"beam": 0}, "beam"), ({"temperature": -1.0}, "temper"),
        ({"top_p": 0.0}, "top_p"), ({"timeout": 0.0}, "timeout"), ({"beam": 4, "temperature": 1.0}, "beam of 4"),
        ({"temperature": float("nan")}, "temper"), ({"n": 3, "policy": "parallel"}, "parallel"),
        ({"n": 1.5}, "n is 1.5"), ({"n": True}, "n is True"), ({"beam": 2.5}, "beam is 2.5"),
        ({"max_words": 0}, "max_words"), ({"top_k": 0, "temperature": 1.0}, "top_k"), ({"steps": 0}, "steps"),
    ],
)  # fmt: skip
def test_wrong_wishes_are_refused(how: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        toy("blank_lm").fill("the ___ sat", **how)


class Backwards(MaskedDiffusion):
    """A toy family from outside the package: masks, the last first."""

    name = "backwards"
    holes = frozenset({"mask"})
    paths = "one"


def test_a_family_from_outside_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "backwards", Backwards)
    (fill,) = toy.__wrapped__("backwards").fill("the [MASK] sat [MASK]", policy="rightmost", beam=4)
    assert (fill.kind, fill.status) == ("exact", "finished")
    with pytest.raises(ValueError, match="blank_lm or masked_diffusion or left_to_right"):
        toy.__wrapped__("backwards").fill("the ___ sat")


def test_rows_concatenate_in_order() -> None:
    a, b = Canvas.from_rows([[1]]), Canvas.from_rows([[2, 3]])
    assert concat([a, b]).ids.tolist() == [1, 2, 3]
