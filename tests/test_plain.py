"""The plain algorithm of `benchmarks/masks.py`: what the loop is measured against writes what the loop writes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from families import tiny_model
from masks import plain
from unmask.canvas import Canvas, Role
from unmask.decoding.infill import run
from unmask.decoding.masks import Masks
from unmask.decoding.requests import Request
from unmask.decoding.rules import Rules, TokenClasses
from unmask.decoding.search import Search
from unmask.holes import Hole, Mask
from unmask.model import Model
from unmask.objectives.words import WordHead

PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7, 9]]
NEW = 12


def opinionated(seed: int) -> Model:
    """What it writes depends on what was written before."""
    model = tiny_model("masked_diffusion", seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def opened(model: Model, prompts: list[list[int]]) -> Canvas:
    """Rows of a prompt with masks behind it, all of them one hole."""
    rows = [[*prompt, *[model.config.signs["mask"]] * NEW] for prompt in prompts]
    new = torch.cat([torch.arange(len(row)) >= len(row) - NEW for row in rows])
    return Canvas.from_rows(
        rows, role=torch.where(new, int(Role.SIGN), int(Role.TEXT)), hole=new.long() - 1, fixed=~new
    )


def written(model: Model, canvas: Canvas, steps: int, block: int, policy: str = "low_confidence") -> Tensor:
    """By the loop, where every word may come."""
    n, no = canvas.n_rows, torch.zeros(1, dtype=torch.bool)
    classes = TokenClasses(torch.zeros(16, dtype=torch.int64), ~no, no, no, no, torch.tensor([-1]), no, no)
    holes = [[Hole(0, Mask(), False, False, False)]] * n
    rules = Rules.build(holes, None, [{}] * n, [[NEW]] * n, [{0: NEW}] * n)
    rules.max_words[:], rules.max_tokens[:] = NEW, NEW
    zero = torch.zeros(1, dtype=torch.float64)
    requests = [
        Request(canvas.take(torch.tensor([row])), zero, zero > 0, row, lambda ids, roles, holes: tuple(ids))
        for row in range(n)
    ]
    found = run(model, requests, rules, classes, Search(policy, steps=steps, masks=Masks(block=block)))
    return torch.cat([one.canvas.ids for (one,) in found])


@pytest.mark.parametrize("block", [3, 4, NEW])
@pytest.mark.parametrize("steps", [4, 8, 12, 20])
def test_the_loop_writes_what_the_plain_algorithm_writes(block: int, steps: int) -> None:
    steps -= steps % (NEW // block)
    others = 0
    for seed in range(3):
        model = opinionated(seed)
        canvas = opened(model, PROMPTS)
        with torch.inference_mode():
            theirs = plain(model, canvas, steps, block)
        assert torch.equal(theirs, written(model, canvas, steps, block))
        assert not bool((theirs == model.config.signs["mask"]).any())
        others += not torch.equal(theirs, written(model, canvas, steps, block, "rightmost"))
    assert others or steps == NEW // block, "models that write the same in any order would prove little"


def test_of_places_that_are_equally_sure_the_first_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    model = opinionated(0)
    words: WordHead = model.head.words  # type: ignore[assignment, union-attr]
    logits = words.logits

    def certain(hidden: Tensor) -> Tensor:
        there = logits(hidden)
        return torch.where(there == there.amax(-1, keepdim=True), 0.0, -1000.0).double()

    monkeypatch.setattr(words, "logits", certain)
    canvas = opened(model, PROMPTS)
    with torch.inference_mode():
        theirs = plain(model, canvas, 4, NEW)
    assert torch.equal(theirs, written(model, canvas, 4, NEW))
    assert torch.equal(theirs, written(model, canvas, 4, NEW, "leftmost"))
    assert not torch.equal(theirs, written(model, canvas, 4, NEW, "rightmost"))
