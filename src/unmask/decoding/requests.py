"""A text to fill: what its search starts from, what is known of it, what was found."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from unmask.canvas import Canvas
from unmask.results import Status


@dataclass(frozen=True)
class Request:
    """One text to fill, as the rows its search starts from."""

    starts: Canvas  # [R] rows, opened; `request` says which row of the rules holds for each
    score: Tensor  # [R] float64, what is known of each start
    merged: Tensor  # [R] bool, several orders led to it
    key: int  # names its randomness: the same text draws the same, whatever its company
    identity: Callable[[list[int], list[int], list[int]], Hashable]  # of ids, roles, holes: equal for the same answer
    apart: bool = False  # starts do not compete: each has a beam of its own, and each must finish


@dataclass
class Finished:
    """A row that is done, or the best there was when a limit was hit."""

    rows: Canvas  # that ended in the same step
    row: int  # which of them it is
    score: float
    merged: bool
    unpaid: bool  # a place was chosen of several, and its price is not in the score
    status: Status
    complete: bool  # nothing is open in it
    start: int  # the row of the rules it began from

    def add(self, score: float, unpaid: bool) -> None:
        """Another path to the same answer."""
        high, low = max(self.score, score), min(self.score, score)
        self.score = high if low == -math.inf else high + math.log1p(math.exp(low - high))
        self.merged, self.unpaid = True, self.unpaid or unpaid

    @cached_property
    def canvas(self) -> Canvas:
        """It alone. Most of what is found is never asked for."""
        return self.rows.row(self.row)


@dataclass
class State:
    """What is known of a request while it runs."""

    request: Request
    n_drawn: int = 0
    done: dict[Hashable, Finished] = field(default_factory=dict)
    over: bool = False

    @property
    def ranked(self) -> list[Finished]:
        """What was found, best first; whatever is unfinished comes behind."""
        return sorted(self.done.values(), key=lambda one: (not one.complete, -one.score))

    def worst(self, n: int, start: int) -> float:
        """The score of the n-th best finished answer from one start (-1: any); -inf: there are fewer."""
        scores = [one.score for one in self.done.values() if one.complete and start in (-1, one.start)]
        return sorted(scores, reverse=True)[n - 1] if len(scores) >= n else -torch.inf
