"""Multiple choice: how often the likeliest candidate is right, and whether its probability means what it says."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unmask.evaluation.cloze import Cloze
from unmask.evaluation.filling import batched
from unmask.evaluation.report import proportion
from unmask.holes import Blank

if TYPE_CHECKING:
    from unmask.evaluation import Tell
    from unmask.evaluation.asking import Filler

CANDIDATES = 10  # of one blank, the right one among them
BINS = 10  # of the probability, for the calibration error


def candidates(item: Cloze, others: Sequence[str], seed: int) -> list[str]:
    """What stood there and others of as many words where there are some, in a random order that the seed fixes."""
    draw = random.Random(f"{seed} {item.sentence}")
    length = item.gold.count(" ")
    alike = sorted(set(others) - {item.gold})  # a set alone has another order in every process
    draw.shuffle(alike)
    alike.sort(key=lambda other: other.count(" ") != length)
    chosen = [item.gold, *alike[: CANDIDATES - 1]]
    draw.shuffle(chosen)
    return chosen


def choice(
    lm: Filler, blanks: str, items: Sequence[Cloze], offered: Sequence[Sequence[str]], seed: int, tell: Tell
) -> dict[str, Any]:
    """A row: how often the model's first of the candidates is right, and its expected calibration error."""
    asked = [item.around(Blank(candidates=tuple(some))) for item, some in zip(items, offered, strict=True)]
    answers = batched(lambda some: lm.fill(some, n=1, seed=seed), asked, tell, "choosing")
    first = [fills[0].holes[0] for fills in answers]
    right = [hole.text == item.gold for hole, item in zip(first, items, strict=True)]
    share, error = proportion(right)
    row = {"blanks": blanks, "by": f"model, of {CANDIDATES}", "n": len(items), "top-1": share, "± 1": error}
    return row | {"ECE": calibration_error([hole.prob for hole in first], right)}


def calibration_error(probs: Sequence[float], right: Sequence[bool]) -> float:
    """How far a probability is from the share of times it is right, averaged over 10 bins of equal width.

    Source: Guo et al. 2017, eq. 3 (expected calibration error).
    """
    total = 0.0
    for number in range(BINS):
        mine = [i for i, prob in enumerate(probs) if min(int(prob * BINS), BINS - 1) == number]
        if mine:
            total += abs(sum(probs[i] for i in mine) - sum(right[i] for i in mine))
    return total / len(probs)
