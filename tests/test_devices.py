"""On a GPU: everything is where it has to be. A pretended one, so that it holds where there is none."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch

from devices import CPU, GPU, AutocastAsOnAGPU, PretendGPU
from families import clean_canvas, noise_for, tiny_model
from toys import toy, with_options
from unmask.decoding.masks import Masks
from unmask.decoding.policies import POLICIES
from unmask.language_model import LanguageModel
from unmask.masking.mixture import Mixture
from unmask.noise import Noise
from unmask.objectives import OBJECTIVES
from unmask.training import setup
from unmask.training.loop import Lesson

Work = Callable[[LanguageModel], Any]
TEXTS = ["the cat ___ on the mat and", "the old man saw ___{1,2} and the dog ___{2}", "a ___{cat|dog} sat"]


def texts_for(lm: LanguageModel) -> list[str]:
    """Those whose holes its family fills."""
    return TEXTS if "candidates" in lm.model.objective.holes else TEXTS[:2]


WAYS: dict[str, Work] = {
    "fill": lambda lm: lm.fill(texts_for(lm), n=3),
    "sampled": lambda lm: lm.fill(texts_for(lm), n=2, temperature=1.0, top_p=0.9, top_k=8),
    "by length": lambda lm: lm.fill("the cat ___ on the mat", n=2, by_length=True),
    "generated": lambda lm: lm.generate(["the cat", "the old man saw"], max_words=4),
    "watched": lambda lm: list(lm.watch("the cat ___ on the mat")),
    "scored": lambda lm: lm.score(["the cat sat", "the old man saw the dog"]),
}
MASKS: dict[str, Work] = {
    **{f"policy {name}": lambda lm, name=name: lm.fill(TEXTS[0], policy=name) for name in POLICIES},
    **{
        f"cache {name}": lambda lm, name=name: lm.fill(
            TEXTS[:2], policy="low_confidence", masks=Masks(length=4, cache=name, block=2, refresh=2, suffix=2)
        )
        for name in ("prefix", "dual")
    },
    "cache delayed": lambda lm: lm.fill(TEXTS[:2], masks=Masks(length=4, cache="delayed", block=2)),
    "probed": lambda lm: lm.fill(TEXTS[:2], masks=Masks(length="probe")),
    "guided": lambda lm: lm.fill(TEXTS[0], masks=Masks(guidance=0.5)),
    "taken back": lambda lm: lm.fill(TEXTS[0], steps=6, masks=Masks(length=4, remask="cap:0.3")),
    "by duel": lambda lm: lm.score("the cat sat", method="duel", policy="confident", steps=2),
    "bound": lambda lm: lm.score("the cat sat", method="bound", orders=4),
}


def both(lm: LanguageModel, work: Work) -> tuple[Any, Any]:
    """What comes back on the CPU, and on the GPU."""
    here = work(lm)
    with PretendGPU() as gpu:
        there = LanguageModel(deepcopy(lm.model).to("cuda"), lm.tokenizer)
        assert gpu.label(next(there.model.parameters())) == GPU
        return here, work(there)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", OBJECTIVES)
def test_a_gpu_says_what_a_cpu_says(family: str, way: str) -> None:
    here, there = both(toy(family), WAYS[way])
    assert there == here


@pytest.mark.parametrize("way", MASKS)
def test_masks_are_written_on_a_gpu(way: str) -> None:
    here, there = both(toy("masked_diffusion"), MASKS[way])
    assert there == here


OPTIONS: dict[str, tuple[dict[str, Any], Work]] = {
    "grown": ({"ends": True}, lambda lm: lm.fill("the cat ___", masks=Masks(length="grow"))),
    "by blocks": ({"block": 4, "ends": True}, lambda lm: lm.generate(["the cat", "a dog sat"], max_words=6)),
    "scored by blocks": ({"block": 4}, lambda lm: lm.score("the cat sat on the mat", method="bound", orders=4)),
}


@pytest.mark.parametrize("way", OPTIONS)
def test_masks_with_options_are_written_on_a_gpu(way: str) -> None:
    options, work = OPTIONS[way]
    here, there = both(with_options(toy("masked_diffusion"), **options), work)
    assert there == here


@pytest.mark.parametrize("family", OBJECTIVES)
def test_a_lesson_is_learned_on_a_gpu(family: str) -> None:
    begins = torch.ones(16, dtype=torch.int64)
    losses = []
    for where in (CPU, GPU):
        with PretendGPU():
            model = tiny_model(family).to(where)
            lesson = Lesson(model, Mixture(setup.MASKING, begins.to(where)), in_bfloat16=False)
            canvas = clean_canvas([[1, 2, 3, 4, 5], [6, 7, 8]]).to(where)
            loss = lesson(canvas, Noise(0, torch.arange(canvas.n_rows, device=where))).total
            assert loss.device == where
            losses.append(float(loss.detach()))
    assert losses[0] == losses[1]
    assert losses[0] > 0


@pytest.mark.parametrize("family", OBJECTIVES)
def test_a_lesson_is_learned_under_the_autocast_of_a_gpu(family: str) -> None:
    model, canvas = tiny_model(family, dtype=torch.float32), clean_canvas([[1, 2, 3, 4, 5], [6, 7, 8]])
    masking = Mixture(setup.MASKING, torch.ones(16, dtype=torch.int64))
    fine = Lesson(model, masking, in_bfloat16=False)(canvas, noise_for(canvas)).total
    with AutocastAsOnAGPU():
        loss = Lesson(model, masking, in_bfloat16=True)(canvas, noise_for(canvas)).total
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(float(fine.detach()), rel=0.05)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_what_a_gpu_refuses_is_refused() -> None:
    with PretendGPU():
        here, there = torch.arange(3), torch.arange(3, device="cuda")
        assert (
            (there + 1).device == there.new_zeros(2).device == there[here].device == here.to(there.device).device == GPU
        )
        assert (there.cpu() + here).device == CPU
        refused: list[Callable[[], Any]] = [
            lambda: here + there, lambda: here[there], there.numpy, lambda: torch.cat([here, there])
        ]  # fmt: skip
        for attempt in refused:
            with pytest.raises((RuntimeError, TypeError), match=r"cuda|device"):
                attempt()
