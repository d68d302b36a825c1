"""Writing into masks: lengths, blocks, guidance, ends, taking back, and caches that are not exact."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from toys import toy, with_options
from unmask.backbone.cache import Cache
from unmask.canvas import Canvas, Edits, Role
from unmask.decoding import lengths
from unmask.decoding.blocks import Blocks
from unmask.decoding.masks import Masks, remask_of
from unmask.decoding.policies import POLICIES
from unmask.decoding.remasking import alpha, remasking_quota, taken_back
from unmask.language_model import LanguageModel
from unmask.noise import Noise
from unmask.objectives import Sites
from unmask.objectives.objective import STATISTICS
from unmask.results import Fill

TEXTS = ["the cat ___ on the mat and", "the old man saw ___ and the dog ___{1,3} sat", "a ___{2} [MASK] dog"]


@cache
def ending(seed: int = 0) -> LanguageModel:
    """A toy that may end its text."""
    return with_options(toy("masked_diffusion", seed), ends=True)


def same(a: list[Fill], b: list[Fill]) -> None:
    assert [fill.text for fill in a] == [fill.text for fill in b]
    assert [fill.log_prob for fill in a] == pytest.approx([fill.log_prob for fill in b], abs=1e-9)


def births(fill_steps: list[str]) -> list[int]:
    """How many masks each step left."""
    return [text.count("[MASK]") for text in fill_steps]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("how", [{}, {"policy": "parallel"}, {"steps": 2}, {"temperature": 1.0}, {"policy": "random"}])
def test_a_blank_of_unknown_length_is_filled(text: str, how: dict[str, object]) -> None:
    (fill,) = toy("masked_diffusion").fill(text, **how)
    assert fill.given == "length"
    assert fill.status == "finished" or "steps" in how  # places of a hole whose words count are written one by one
    assert "[MASK]" not in fill.text
    fixed = text.replace("___{1,3}", "___").replace("___{2}", "___").replace("[MASK]", "___").split("___")
    at = 0
    for piece in fixed:
        assert piece in fill.text[at:]
        at = fill.text.index(piece, at) + len(piece)
    if fill.status == "finished" and "{2}" in text:
        assert len(fill.holes[0].text.split()) == 2


def test_a_length_that_is_told_is_kept() -> None:
    lm = toy("masked_diffusion")
    for length in (1, 3, 9):
        (fill,) = lm.fill("the cat ___ on", policy="leftmost", beam=1, masks=Masks(length=length))
        assert fill.status == "finished"
        steps = list(lm.watch("the cat ___ on", policy="leftmost", beam=1, masks=Masks(length=length)))
        assert steps[-1].passes == length
    with pytest.raises(ValueError, match="length 400"):
        lm.fill("the cat ___ on", masks=Masks(length=400))
    with pytest.raises(ValueError, match="length 1 of hole 0"):
        lm.fill("the cat ___{3} on", masks=Masks(length=1))
    with pytest.raises(ValueError, match="length grow"):
        lm.fill("the cat ___", masks=Masks(length="grow"))
    with pytest.raises(ValueError, match="may be empty"):
        lm.fill("the cat ___{0,2} on")


class Sure:
    """In the place of a family: sure of its words where a blank has `length` tokens, and after `end` of an end."""

    ends = (7,)

    def __init__(self, inner: object, length: int = 0, end: int = 99) -> None:
        self.inner, self.length, self.end = inner, length, end

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def predict(self, hidden: Tensor, canvas: Canvas, *, sites: Sites) -> object:
        n = torch.bincount(sites.row, minlength=canvas.n_rows)
        place = torch.arange(sites.row.numel()) - (n.cumsum(0) - n)[sites.row]
        sure = torch.where(n[sites.row] == self.length, 0.9, 0.2)
        ends = torch.where(place >= self.end, 0.99, 0.001)
        probs = torch.full((sites.row.numel(), 20), 1e-4, dtype=torch.float64)
        probs[:, 1], probs[:, 7] = sure, ends
        return type("Words", (), {"words": lambda _: probs.log()})()


@pytest.mark.parametrize("length", [1, 2, 3, 7, 12])
def test_the_length_the_model_is_surest_of_is_found(length: int) -> None:
    lm = toy("masked_diffusion")
    reading = lm.tokenizer.read("the cat ___ on the mat")
    blanks = lengths.Blanks(reading.canvas, reading.holes, {0: 1}, {0: 40})
    family = Sure(lm.model.objective, length)
    got = lengths.choose_lengths(lm.model, family, [blanks], Masks(), None)  # type: ignore[arg-type]
    near = length <= lengths.PATIENCE * 2  # a lone peak far away is not climbed to
    assert got[0].lengths == {0: length} or not near
    told = lengths.choose_lengths(lm.model, family, [blanks], Masks(length=5), None)  # type: ignore[arg-type]
    assert told[0].lengths == {0: 5} and not told[0].room


@pytest.mark.parametrize("end", [3, 20, 40, 70])
def test_a_text_grows_until_its_end_is_sure(end: int) -> None:
    lm = ending()
    reading = lm.tokenizer.read("the cat ___")
    blanks = lengths.Blanks(reading.canvas, reading.holes, {0: 1}, {0: 80})
    got = lengths.choose_lengths(lm.model, Sure(lm.model.objective, end=end), [blanks], Masks(), None)  # type: ignore[arg-type]
    length = got[0].lengths[0]
    assert length == min(end + 1, 80)  # a mask for the end itself; what stands behind it is left out
    assert got[0].room == {0: 80}


def test_no_mask_is_written_before_the_blocks_before_it_are() -> None:
    lm, n, block = toy("masked_diffusion"), 7, 3
    text = "the " + "[MASK] " * n + "cat"
    for policy in (
        "confident",
        "rightmost",
        "low_confidence",
        "margin",
        "threshold:0.2",
        "factor:3",
        "entropy_bound:5",
    ):
        seen = [
            step.text.split()[1 : n + 1] for step in lm.watch(text, policy=policy, beam=1, masks=Masks(block=block))
        ]
        for words in seen:
            first = words.index("[MASK]") // block if "[MASK]" in words else n
            assert all(word == "[MASK]" for word in words[(first + 1) * block :])
    one_block = lm.fill(text, policy="confident", beam=1, masks=Masks(block=n))
    same(one_block, lm.fill(text, policy="confident", beam=1))


@pytest.mark.parametrize(("steps", "want"), [(3, [5, 2, 0]), (4, [6, 5, 2, 0]), (8, [7, 6, 5, 4, 3, 2, 1, 0])])
def test_steps_are_shared_among_blocks(steps: int, want: list[int]) -> None:
    lm = toy("masked_diffusion")
    text = "the " + "[MASK] " * 8
    seen = births([step.text for step in lm.watch(text, steps=steps, masks=Masks(block=3))])
    assert seen == [8, *want]
    with pytest.raises(ValueError, match="2 steps for 3 blocks"):
        lm.fill(text, steps=2, masks=Masks(block=3))


def test_levels_of_policies() -> None:
    lm, text = toy("masked_diffusion"), "the " + "[MASK] " * 6
    for policy in ("threshold:1", "factor:0", "low_confidence", "margin"):
        assert births([step.text for step in lm.watch(text, policy=policy, beam=1)]) == [6, 5, 4, 3, 2, 1, 0]
    by_entropy = [step.text for step in lm.watch(text, policy="confident", beam=1)]
    assert [step.text for step in lm.watch(text, policy="entropy_bound:0")] == by_entropy
    for policy in ("threshold:0", "factor:100", "entropy_bound:1000"):
        assert len(list(lm.watch(text, policy=policy))) == 2
    for wrong, word in (("threshold:x", "no level"), ("confident:1", "no level of its own"), ("best:1", "no policy")):
        with pytest.raises(ValueError, match=word):
            lm.fill(text, policy=wrong)


def test_guidance_leans_away_from_what_is_likely_without_the_text() -> None:
    lm, text = toy("masked_diffusion"), "the cat [MASK] on the mat"
    same(lm.fill(text, n=3, masks=Masks(guidance=0.0)), lm.fill(text, n=3))
    model = lm.model
    reading = lm.tokenizer.read(text)
    canvas = model.objective.open(reading.canvas, reading.holes)
    with torch.inference_mode():
        with_text = model.predict(canvas).words()[0]
        bare = replace(canvas, ids=torch.where(canvas.role == Role.TEXT, model.objective.mask, canvas.ids))
        without = model.predict(bare).words()[0]
    usable = with_text > -math.inf
    table = lm.tokenizer.table
    usable &= table.whole_characters & ~table.has_inner_space & ~table.special
    usable &= table.leading_space if reading.holes[0].spaced else ~table.starts_word
    lean = torch.where(usable, without + 3.0 * (with_text - without), -math.inf)
    (fill,) = lm.fill(text, masks=Masks(guidance=2.0))
    assert fill.holes[0].text == lm.tokenizer.decode([int(lean.argmax())], inside=True).strip()
    assert fill.log_prob == pytest.approx(float(with_text[lean.argmax()]))  # its own probability, not the leaning one


@pytest.mark.parametrize("how", [{}, {"temperature": 1.0}, {"policy": "threshold:0.2"}, {"policy": "random"}])
def test_ends(how: dict[str, object]) -> None:
    lm = ending()
    ends = set(lm.model.objective.ends)  # type: ignore[attr-defined]
    assert ends == {lm.tokenizer.signs["end"]}
    lengths_of = {}
    for rule in ("free", "late", "never"):
        masks = Masks(length=12, ending=rule)
        fills = [lm.generate("the cat", masks=masks, seed=seed, **how)[0] for seed in range(3)]
        assert all(fill.status == "finished" and "[MASK]" not in fill.text for fill in fills)
        lengths_of[rule] = [len(lm.tokenizer.encode(fill.text)) for fill in fills]
    assert min(lengths_of["never"]) >= max(1, min(lengths_of["free"]))


def test_what_stands_behind_an_end_goes_once_all_before_it_is_written() -> None:
    objective = ending().model.objective
    end, mask = objective.ends[0], objective.mask  # type: ignore[attr-defined]
    canvas = Canvas.from_rows(
        [[1, mask, mask, 2, mask], [mask, 3, mask]],
        role=torch.tensor([0, 1, 1, 0, 1, 1, 0, 1]),
        hole=torch.tensor([-1, 0, 0, 0, 0, 0, 0, 0]),
        fixed=torch.tensor([True] + [False] * 7),
    )

    def written(site: list[int], word: list[int]) -> Canvas:
        sites = objective.sites(canvas)
        place = torch.tensor([sites.element.tolist().index(s) for s in site])
        full = torch.full((sites.row.numel(), 1), 5)
        full[place, 0] = torch.tensor(word)
        proposal = type("P", (), {"word": full, "log_prob": full.double() * 0 - 1.0, "sites": sites})()
        return canvas.apply(objective.edits(proposal, canvas, place, torch.zeros_like(place), 1))

    late = written([2], [end])  # the mask before it is still open: nothing goes
    assert late.ids.tolist() == [1, mask, end, 2, mask, mask, 3, mask]
    sure = written([1, 5], [end, 4])
    assert sure.ids.tolist() == [1, end, 4, 3, mask]
    assert sure.lengths.tolist() == [2, 3]
    both = written([1, 2, 7], [5, end, end])
    assert both.ids.tolist() == [1, 5, end, mask, 3, end]
    assert sure.row_log_prob.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("remask", ["cap", "cap:0.5", "rescale:0.5", "confidence:0.5", "loop:0.3"])
def test_tokens_are_taken_back_and_written_again(remask: str) -> None:
    lm = toy("masked_diffusion")
    text = "the cat [MASK] [MASK] [MASK] mat [MASK] [MASK] [MASK] [MASK] [MASK] dog"
    fills = lm.fill([text, "a ___ dog"], steps=12, temperature=1.0, masks=Masks(remask=remask))
    for fill, fixed in zip([fill[0] for fill in fills], (["the", "cat", "mat", "dog"], ["a", "dog"]), strict=True):
        assert fill.status == "finished" and fill.kind == "estimate" and "[MASK]" not in fill.text
        assert [word for word in fill.text.split() if word in fixed][: len(fixed)] or fixed
    seen = births(
        [step.text for step in lm.watch(text, steps=12, temperature=1.0, masks=Masks(remask=remask, length=3))]
    )
    assert seen[0] == 8 and seen[-1] == 0
    if ":" in remask:  # a word that was there is a mask again in some run
        runs = [
            [
                step.text.split()
                for step in lm.watch(text, steps=12, temperature=1.0, seed=s, masks=Masks(remask=remask))
            ]
            for s in range(4)
        ]
        assert any(
            before[i] != "[MASK]" and after[i] == "[MASK]"
            for run in runs
            for before, after in zip(run, run[1:], strict=False)
            for i in range(min(len(before), len(after)))
        )
    (fill,) = lm.fill(text, steps=12, temperature=1.0, masks=Masks(remask=remask))
    assert fill.log_prob == pytest.approx(sum(hole.log_prob or 0.0 for hole in fill.holes), abs=1e-5)


def test_how_much_is_taken_back() -> None:
    n = 400
    canvas = Canvas.from_rows([[1] * n, [1] * n], hole=torch.zeros(2 * n, dtype=torch.int64))
    age = torch.tensor([5, 5])
    noise = Noise(0, torch.arange(2))
    back = taken_back(canvas, age, 10, "cap:0.1", noise)
    assert 0.06 < back.numel() / (2 * n) < 0.14
    most = taken_back(canvas, torch.tensor([9, 9]), 10, "cap:1", noise)  # the last step takes nothing back
    assert not most.numel()
    now, then = alpha(age, 10, "cap")
    assert (now.tolist(), then.tolist()) == ([0.5, 0.5], [0.6, 0.6])
    masked = canvas.apply(Edits.put(torch.arange(n // 2), torch.full((n // 2,), 9), Role.SIGN))
    written = remasking_quota(masked, back, age, 10, "cap:0.1")
    taken = torch.bincount(canvas.rows[back], minlength=2)
    assert written.tolist() == [
        n // 2 + int(taken[0]) - round(0.4 * n),
        int(taken[1]) - round(0.4 * n) if taken[1] > 160 else 0,
    ]
    doubtful = replace(canvas, log_prob=torch.cat([torch.full((n,), -4.0), torch.zeros(n)]))
    mixed = replace(doubtful, log_prob=torch.tensor([-4.0, 0.0]).repeat(n))
    back = taken_back(mixed, age, 10, "confidence:0.1", noise)
    share = (mixed.log_prob[back] < -1).double().mean()
    assert 0.6 < float(share) < 0.85  # e / (1 + e) of those that are taken back
    for wrong in ("cap:0", "cap:x", "often", "cap:2"):
        with pytest.raises(ValueError, match="remask"):
            remask_of(wrong)


@pytest.mark.parametrize("kind", ["prefix", "dual", "delayed"])
@pytest.mark.parametrize("policy", ["low_confidence", "threshold:0.3"])
def test_a_cache_that_is_refreshed_every_step_is_none(kind: str, policy: str) -> None:
    lm = toy("masked_diffusion")
    texts = ["the cat [MASK] [MASK] [MASK] mat", "a ___ dog and " + "[MASK] " * 7, "[MASK]"]
    for more in ({}, {"temperature": 1.0}, {"steps": 4}):
        plain = [lm.fill(t, policy=policy, beam=1, masks=Masks(block=3, length=2), **more) for t in texts]
        cached = [
            lm.fill(t, policy=policy, masks=Masks(block=3, length=2, cache=kind, refresh=1), **more) for t in texts
        ]
        for a, b in zip(plain, cached, strict=True):
            same(a, b)


@pytest.mark.parametrize("masks", [
    Masks(block=3, cache="prefix"), Masks(block=3, cache="dual"), Masks(block=2, cache="delayed", refresh=2),
    Masks(block=3, suffix=2), Masks(block=3, suffix=1, cache="dual"), Masks(block=4, guidance=1.0, cache="dual"),
    Masks(guidance=0.5), Masks(remask="cap:0.5"),
])  # fmt: skip
@pytest.mark.parametrize("how", [{"policy": "threshold:0.3"}, {"policy": "random"}, {"temperature": 0.8, "steps": 5}])
def test_company_changes_nothing(masks: Masks, how: dict[str, object]) -> None:
    lm = toy("masked_diffusion")
    how = {"steps": 9} | how if masks.remask else how
    texts = ["the cat [MASK] [MASK] [MASK] mat", "a [MASK] dog and " + "[MASK] " * 7, "[MASK]", "the ___ sat on [MASK]"]
    together = lm.fill(texts, masks=masks, **how)
    for text, fills in zip(texts, together, strict=True):
        same(lm.fill(text, masks=masks, **how), fills)
        assert fills[0].status == "finished"


def test_what_a_cache_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, made = toy("masked_diffusion"), []
    plan = Cache.plan

    def counted(self: Cache, view: object) -> object:
        made.append((found := plan(self, view)).new.numel())  # type: ignore[arg-type]
        return found

    monkeypatch.setattr(Cache, "plan", counted)
    text = "the cat sat on the mat and " + "[MASK] " * 9
    n = lm.tokenizer.read(text).canvas.n_elements
    counts = {}
    for kind in ("prefix", "dual", "delayed"):
        made.clear()
        lm.fill(text, policy="low_confidence", masks=Masks(block=3, cache=kind))
        counts[kind] = list(made)
    assert counts["dual"] == [n, 3, 3] * 3
    assert counts["delayed"] == [n, 3, 2] * 3  # two masks and what was just written; one and one
    assert counts["prefix"] == [n, n - 8, n - 8, n, n - 11, n - 11, n, n - 14, n - 14]


def test_masks_far_behind_the_block_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, read = toy("masked_diffusion"), []
    forward = lm.model.backbone.forward

    def measured(view: object, **more: object) -> object:
        read.append(view.ids.numel())  # type: ignore[attr-defined]
        return forward(view, **more)

    monkeypatch.setattr(lm.model.backbone, "forward", measured)
    text = "the cat " + "[MASK] " * 9 + "sat"
    n = lm.tokenizer.read(text).canvas.n_elements
    lm.fill(text, policy="low_confidence", beam=1, masks=Masks(block=3, suffix=2))
    assert read == [n - 4] * 3 + [n - 1] * 3 + [n] * 3
    plain = lm.fill(text, policy="low_confidence", beam=1, masks=Masks(block=3))
    same(lm.fill(text, policy="low_confidence", beam=1, masks=Masks(block=3, suffix=6)), plain)


def test_blocks_count_what_is_to_be_written() -> None:
    canvas = Canvas.from_rows(
        [[5, 9, 6, 9, 9], [9, 7]], role=torch.tensor([0, 1, 0, 1, 1, 1, 0]),
        hole=torch.tensor([-1, 0, -1, 1, 1, 0, -1]),
        fixed=torch.tensor([True, False, True, False, False, False, True]),
    )  # fmt: skip
    sites = Sites(torch.tensor([1, 3, 4, 5]), torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 0]))
    blocks = Blocks.cut(canvas, sites, 2)
    assert blocks.of.tolist() == [-1, 0, -1, 0, 1, 0, -1]
    assert (blocks.active.tolist(), blocks.n.tolist()) == ([0, 0], [2, 1])
    assert blocks.open.tolist() == [True, True, False, True]
    whole = Blocks.cut(canvas, sites, None)
    assert whole.open.all() and whole.n.tolist() == [1, 1]


@pytest.mark.parametrize(("wrong", "word"), [
    ({"length": 0}, "length is 0"), ({"length": "long"}, "no length"), ({"block": 0}, "block is 0"),
    ({"guidance": -1.0}, "guidance"), ({"ending": "soon"}, "no ending"), ({"cache": "dual"}, "without a block"),
    ({"cache": "full", "block": 2}, "no cache"), ({"refresh": 2}, "refresh without"), ({"suffix": 2}, "suffix without"),
    ({"remask": "cap:3"}, "no share"),
])  # fmt: skip
def test_wrong_masks_are_refused(wrong: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Masks(**wrong)  # type: ignore[arg-type]


def test_what_does_not_go_together_is_refused() -> None:
    lm = toy("masked_diffusion")
    with pytest.raises(ValueError, match="remask without steps"):
        lm.fill("the [MASK]", masks=Masks(remask="cap"))
    with pytest.raises(ValueError, match="several hypotheses"):
        lm.fill("the [MASK]", n=2, masks=Masks(block=2, cache="dual"))
    with pytest.raises(ValueError, match="guidance beside"):
        lm.fill("the [MASK]", beam=4, masks=Masks(guidance=1.0))
    for family in ("blank_lm", "left_to_right"):
        with pytest.raises(ValueError, match=f"guidance with a {family} model"):
            toy(family).fill("the ___ sat", masks=Masks(guidance=1.0))


@pytest.mark.parametrize("name", POLICIES)
def test_what_a_policy_does_not_read_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = toy("masked_diffusion")
    fewer = lm.fill(TEXTS, policy=name, steps=4, beam=1)
    monkeypatch.setitem(POLICIES, name, replace(POLICIES[name], reads=STATISTICS))
    for some, every in zip(fewer, lm.fill(TEXTS, policy=name, steps=4, beam=1), strict=True):
        same(some, every)
