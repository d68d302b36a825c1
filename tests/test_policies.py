"""What each policy and each way to write masks takes, by numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import test_plain
from families import clean_canvas
from test_masks import ending, same
from test_plain import NEW, PROMPTS, opened, opinionated, written
from toys import toy, with_options
from unmask.backbone.cache import Cache
from unmask.canvas import Canvas, Role
from unmask.decoding import duel as replayed
from unmask.decoding import lengths, policies
from unmask.decoding.masks import Masks
from unmask.decoding.policies import POLICIES, Progress, policy_named
from unmask.decoding.remasking import alpha, taken_back
from unmask.decoding.search import Search
from unmask.masking import Mixture
from unmask.model import Model
from unmask.noise import Noise
from unmask.objectives import Proposal, Shape, Sites
from unmask.objectives.words import choose
from unmask.schedules import SCHEDULES
from unmask.training.config import checked
from unmask.training.setup import filled
from unmask.view import View

STARTS = torch.ones(20, dtype=torch.bool)


def proposal(**facts: list[float]) -> Proposal:
    """One row, a site for each number, a word at each."""
    n = len(next(iter(facts.values())))
    some = {name: torch.tensor(facts.get(name, [-1.0] * n)) for name in ("entropy", "confidence", "margin", "best")}
    own = torch.tensor(facts.get("chosen", facts.get("confidence", [-1.0] * n)))[:, None]
    zero = torch.zeros(n, dtype=torch.int64)
    return Proposal(
        Sites(torch.arange(n), zero, zero), torch.tensor(facts.get("place", [0.0] * n)), zero[:, None],
        zero[:, None] > 0, zero[:, None] > 0, own, own.double(), **some,
    )  # fmt: skip


def taken(name: str, **facts: list[float]) -> list[int]:
    """Which sites the policy takes."""
    policy, of = policy_named(name), proposal(**facts)
    return policy.choose(of, Progress(1, None, policy.level or 0.0), None).nonzero().squeeze(1).tolist()


def test_each_policy_goes_by_its_own_number() -> None:
    assert taken("confident", entropy=[2.0, 0.5, 1.0]) == [1]
    # .5 against .1 leads by more than .02 against .002, which is further apart as logarithms go
    lead = [math.log(p) for p in (0.02, 0.5)]
    assert taken("margin", confidence=lead, margin=[math.log(10), math.log(5)]) == [1]
    # the word that was drawn counts, not the best one
    assert taken("low_confidence", confidence=[-0.1, -0.5], chosen=[-3.0, -0.5]) == [1]
    assert taken("threshold:0.6", best=[math.log(p) for p in (0.7, 0.5, 0.65)]) == [0, 2]
    assert taken("threshold:0.9", best=[math.log(p) for p in (0.7, 0.5, 0.65)]) == [0]
    # (n + 1)(1 - p_n) below the level: 2 * .05, 3 * .1, 4 * .3
    assert taken("factor:0.35", best=[math.log(p) for p in (0.9, 0.95, 0.7)]) == [0, 1]
    # sums without their largest: 0, .2, .2 + .3
    assert taken("entropy_bound:0.25", entropy=[0.3, 0.2, 0.6]) == [0, 1]
    assert taken("entropy_bound:0.1", entropy=[0.3, 0.2, 0.6]) == [1]
    assert taken("serial", best=[-1.0, -2.0], place=[-3.0, -0.5]) == [1]
    assert taken("leftmost", best=[-1.0, -2.0]) == [0] and taken("rightmost", best=[-1.0, -2.0]) == [1]


def share_taken_back(remask: str, age: int, steps: int, n: int = 4000) -> float:
    """Of that many written tokens."""
    canvas = Canvas.from_rows([[1] * n], role=torch.zeros(n).long(), hole=torch.zeros(n).long())
    ages = torch.tensor([age])
    return taken_back(canvas, ages, steps, remask, Noise(3, torch.tensor([1]))).numel() / n


def test_how_much_is_taken_back() -> None:
    # alpha rises from .5 to .6 in the sixth of ten steps: at most .4 / .5 may go
    assert share_taken_back("cap:0.3", 5, 10) == pytest.approx(0.3, abs=0.02)
    assert share_taken_back("cap:1", 5, 10) == pytest.approx(0.8, abs=0.02)
    assert share_taken_back("rescale:0.3", 5, 10) == pytest.approx(0.24, abs=0.02)
    # a loop takes back only while alpha is held, at .9 between .45 and .95 of the steps
    assert [float(one) for one in alpha(torch.tensor([50]), 100, "loop")] == pytest.approx([0.9, 0.9])
    assert [float(one) for one in alpha(torch.tensor([18]), 100, "loop")] == pytest.approx([0.36, 0.38])
    assert [float(one) for one in alpha(torch.tensor([97]), 100, "loop")] == pytest.approx([0.94, 0.96])
    assert share_taken_back("loop:0.05", 50, 100) == pytest.approx(0.05, abs=0.01)
    assert share_taken_back("loop:0.05", 18, 100) == share_taken_back("loop:0.05", 97, 100) == 0


def test_how_sure_a_model_is_of_a_length_whatever_stands_there() -> None:
    curve = lengths.bias(torch.tensor([1, 5, 20]))
    assert curve.tolist() == pytest.approx([0.93774, 0.65500, 0.40867], abs=1e-4)


def test_never_writes_no_end_and_late_writes_it_last() -> None:
    lm = ending()
    objective = lm.model.objective
    with torch.no_grad():
        objective.head.words.bias[objective.ends] += 6.0
    how: dict[str, Any] = {"policy": "low_confidence"}
    n = {}
    for rule in ("free", "late", "never"):
        for heat in (0.0, 1.0):
            masks = Masks(length=12, ending=rule)
            some = [lm.generate("the cat", masks=masks, seed=k, temperature=heat, **how)[0] for k in range(4)]
            n[rule, heat] = [len(lm.tokenizer.encode(fill.holes[0].text, inside=True)) for fill in some]
    for heat in (0.0, 1.0):
        assert n["never", heat] == [12] * 4
        assert sum(n["free", heat]) < sum(n["late", heat]) and min(n["free", heat]) < 12
    for policy in ("leftmost", "rightmost", "parallel", "serial", "location"):
        with pytest.raises(ValueError, match="ending='late' with the policy"):
            lm.generate("the cat", policy=policy, masks=Masks(length=12, ending="late"))


def test_what_is_kept_is_computed_anew_as_often_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, sizes = toy("masked_diffusion"), []
    plan = Cache.plan

    def seen(self: Cache, view: View) -> Any:
        made = plan(self, view)
        sizes.append(made.new.numel() == view.ids.numel())
        return made

    monkeypatch.setattr(Cache, "plan", seen)
    whole = {}
    for every in (None, 1, 2, 4):
        sizes.clear()
        masks = Masks(length=8, block=8, cache="dual", refresh=every)
        lm.generate("the cat sat on the", policy="low_confidence", steps=8, masks=masks)
        whole[every] = sum(sizes)
    assert whole == {None: 1, 1: 8, 2: 4, 4: 2}


def guided(model: Model, canvas: Canvas, steps: int, weight: float) -> Tensor:
    """LLaDA's own loop with guidance, row by row: the surest after leaning are written."""
    mask, out = model.config.signs["mask"], []

    def words(ids: Tensor) -> Tensor:
        index = torch.arange(ids.numel())
        view = View(ids, torch.tensor([0, ids.numel()]), index, index)
        return model.head.words.log_probs(model.backbone(view))  # type: ignore[union-attr,no-any-return]

    for begin, end in zip(canvas.offsets[:-1].tolist(), canvas.offsets[1:].tolist(), strict=True):
        ids = canvas.ids[begin:end].clone()
        given = ids.numel() - NEW
        for _ in range(steps):
            seen, blind = words(ids), words(torch.cat([torch.full((given,), mask), ids[given:]]))
            lean = torch.where(seen > -math.inf, blind + (1 + weight) * (seen - blind), -math.inf).log_softmax(-1)
            best = lean.argmax(-1)
            sure = torch.where(ids == mask, lean.gather(1, best[:, None])[:, 0], -math.inf)
            at = sure.topk(NEW // steps).indices
            ids[at] = best[at]
        out.append(ids)
    return torch.cat(out)


@pytest.mark.parametrize("weight", [0.5, 2.0])
@pytest.mark.parametrize("steps", [4, 12])
@torch.no_grad()
def test_guidance_is_in_what_is_sure_too(weight: float, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_plain, "Masks", lambda block: Masks(block=block, guidance=weight))
    for seed in range(3):
        model = opinionated(seed)
        for parameter in model.parameters():
            parameter.mul_(0.6)  # else many places are sure to the last bit, and chance says which is first
        canvas = opened(model, PROMPTS)
        with torch.inference_mode():
            assert torch.equal(guided(model, canvas, steps, weight), written(model, canvas, steps, NEW))


def test_duel_goes_the_way_of_the_loop_under_guidance(monkeypatch: pytest.MonkeyPatch) -> None:
    way: list[list[int]] = []
    real = policies.low_confidence

    def watched(of: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
        chosen = real(of, progress, noise)
        way.append(of.sites.element[chosen].tolist())
        return chosen

    monkeypatch.setitem(POLICIES, "low_confidence", replace(POLICIES["low_confidence"], choose=watched))
    monkeypatch.setattr(test_plain, "Masks", lambda block: Masks(block=block, guidance=2.0))
    for seed in range(4):
        model = opinionated(seed)
        canvas = opened(model, PROMPTS[:1])
        way.clear()
        ids = written(model, canvas, 12, NEW)
        loop = list(way)
        plain = torch.full_like(canvas.role, int(Role.TEXT)), torch.full_like(canvas.hole, -1)
        clean = replace(canvas, ids=ids, role=plain[0], hole=plain[1])
        way.clear()
        with torch.inference_mode():
            masks = Masks(block=NEW, guidance=2.0)
            replayed.duel(model, clean, canvas.in_holes, Search("low_confidence", steps=12, masks=masks))
        assert loop == way and len(way) == 12


def test_hardly_any_guidance_is_nearly_none() -> None:
    lm, text = toy("masked_diffusion"), "the cat [MASK] on the [MASK]"
    bare, hardly = (lm.fill(text, policy="low_confidence", masks=Masks(guidance=w), beam=1) for w in (0.0, 1e-9))
    same(hardly, bare)


@pytest.mark.parametrize(
    "text", ["the cat ___{dog|old man} sat", "the ___{cat|big old dog} saw the man on ___{a|the mat}"]
)
def test_candidates_of_a_model_that_writes_block_by_block(text: str) -> None:
    lm = with_options(toy("masked_diffusion"), block=4)
    fills = lm.fill(text, n=2)
    first = text[text.index("{") + 1 : text.index("}")].split("|")
    assert {fill.holes[0].text for fill in fills} <= set(first)
    probs = {fill.holes[0].text: fill.holes[0].prob for fill in lm.fill(text.split(" saw")[0] + " sat", n=2)}
    assert sum(probs.values()) == pytest.approx(1.0)  # type: ignore[arg-type]
    alone, *_ = lm.fill([text, "a ___{dog|cat} ran"], n=2)
    same(alone, fills)
    with pytest.raises(ValueError, match="candidates behind a hole without any"):
        lm.fill("the [MASK] saw the man on ___{a|the mat}")


def test_nothing_is_taken_back_from_blocks_and_no_mask_is_left_without() -> None:
    with pytest.raises(ValueError, match="remask with a block"):
        Masks(remask="cap", block=4)
    with pytest.raises(ValueError, match="remask with a model that writes block by block"):
        with_options(toy("masked_diffusion"), block=4).generate("the", steps=8, masks=Masks(length=8, remask="cap:0.2"))
    lm = toy("masked_diffusion")
    for remask in ("cap:0.3", "rescale:0.3", "confidence:0.3", "loop:0.3"):
        for steps in (8, 20):
            (fill,) = lm.generate("the cat", steps=steps, seed=4, masks=Masks(length=8, remask=remask))
            assert fill.status == "finished"


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ({"length": 2.5}, "length is 2.5"),
        ({"length": "abc"}, "no length 'abc' · .* · write a number, probe or grow"),
        ({"block": "4"}, "block is '4'"),
        ({"block": 4, "cache": "dual", "refresh": 1.5}, "refresh is 1.5"),
        ({"guidance": "1"}, "guidance is '1'"),
    ],
)
def test_masks_of_another_kind_are_named(how: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Masks(**how)


@pytest.mark.parametrize(
    ("law", "named"),
    [
        ({"law": "bernoulli", "epsilon": 2}, "epsilon is 2"),
        ({"law": "bernoulli", "epsilon": "x"}, "epsilon is 'x'"),
        ({"law": "bernoulli", "schedule": "foo"}, "no schedule 'foo'"),
        ({"law": "bernoulli", "bell": 3}, "bell 3"),
        ({"law": "exact_count", "clip": 0.5}, "clip 0.5"),
        ({"law": "all", "share": -1}, "a share of -1"),
    ],
)
def test_masking_that_cannot_be_is_named(law: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Mixture([law], STARTS.long())(clean_canvas([[1, 2, 3]]), Noise(0, torch.arange(1)))


def test_a_model_of_blocks_stays_one_when_it_is_taught_answers(tmp_path: Path) -> None:
    folder = with_options(toy("masked_diffusion"), block=4).save_pretrained(tmp_path / "m")
    pairs = tmp_path / "p.jsonl"
    pairs.write_text('{"prompt": "the cat", "response": "sat"}\n' * 8)
    recipe = checked({"model": str(folder), "objective": {"ends": True}, "data": str(pairs)})
    assert filled(recipe).objective.options == {"block": 4, "ends": True}
    with pytest.raises(ValueError, match="a block of 'x'"):
        with_options(toy("masked_diffusion"), block="x")


def test_weights_of_schedules_are_their_slopes() -> None:
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    for schedule in SCHEDULES.values():
        slope = (schedule.hidden(t + 1e-6) - schedule.hidden(t - 1e-6)) / 2e-6
        torch.testing.assert_close(schedule.weight(t), slope / schedule.hidden(t), rtol=1e-6, atol=1e-6)


def test_noise_on_words_is_as_fine_as_double_numbers_are() -> None:
    words = torch.randn(3, 50).log_softmax(-1)
    shape = Shape(torch.zeros(50, dtype=torch.int64), torch.ones(3, 2, 4, dtype=torch.bool), temperature=1.0)
    zero = torch.zeros(3, dtype=torch.int64)
    _, score = choose(words, 5, shape, Noise(0, torch.arange(1)), zero, torch.arange(3))
    assert score.dtype == torch.float64 and not torch.equal(score, score.float().double())


def test_how_sure_an_end_must_be() -> None:
    # ends of .95 and .85 at the last two of four masks: one alone is sure to .9
    assert (lengths.SURE, lengths.ENOUGH) == (0.9, 0.5)
    objective = ending().model.objective
    (end,) = objective.ends
    words = torch.full((4, objective.head.words.bias.numel()), -20.0)
    words[:, end] = torch.tensor([0.1, 0.2, 0.85, 0.95]).log()
    mean, behind = lengths._ended(objective, words, torch.zeros(4, dtype=torch.int64), 1)[0].tolist()
    assert behind == 0 and 0.1 < mean < 1
    words[2, end] = math.log(0.92)
    assert lengths._ended(objective, words, torch.zeros(4, dtype=torch.int64), 1)[0, 1] == 1
