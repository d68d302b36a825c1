"""Noise levels: how the share of a row that is hidden is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from unmask.masking.settings import are_numbers, is_truth
from unmask.noise import Noise

CELLS = 4_096  # of the table of a bell
FLOOR = 0.1  # the share of levels drawn uniformly beside a bell whose losses are weighed, so that no weight explodes


@dataclass(frozen=True)
class Levels:
    """How a level in (0, 1) is drawn of each row.

    `draw`: `uniform`, each row for itself; `stratified`, one in each even part of (0, 1) over the rows of a step
        (Sahoo et al. 2024, MDLM; Ou et al. 2024, RADD); `antithetic`, t and 1 - t by pairs of rows.
    `clip`: the range of levels (Arriola et al. 2025, BD3-LM). What lies outside is never seen, so that the loss is no
        bound.
    `bell`: a and b of a beta density, which is drawn from by a table of even cells. With `importance` the losses are
        weighed by the inverse of the density, and a tenth of the levels is uniform: the mean is that of uniform
        levels. Without it levels count as often as they come.

    Raises:
        ValueError: for values that are none of these.
    """

    draw: str = "uniform"
    clip: tuple[float, float] = (0.0, 1.0)
    bell: tuple[float, float] | None = None
    importance: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.draw, str) or self.draw not in DRAWS:
            raise ValueError(f"no draw {self.draw!r} of levels · draws: {', '.join(DRAWS)} · name one of them")
        if not is_truth(self.importance):
            raise ValueError(f"importance is {self.importance!r} · it is true or false · as in importance: false")
        if not (are_numbers(self.clip) and (self.bell is None or are_numbers(self.bell))):
            raise ValueError(f"clip {self.clip!r}, bell {self.bell!r} · each is two numbers · as in clip: [0.3, 0.8]")
        if len(self.clip) != 2 or not 0 <= self.clip[0] < self.clip[1] <= 1:
            raise ValueError(f"levels from {self.clip} · a range lies in 0 to 1 and rises · as in clip: [0.3, 0.8]")
        if self.bell is not None and (len(self.bell) != 2 or min(self.bell) <= 0):
            raise ValueError(f"a bell of {self.bell} · a beta density has two numbers above 0 · as in bell: [3, 3]")

    @property
    def whole(self) -> bool:
        """Whether losses weighed by `weight` have the mean of uniform levels."""
        return self.clip == (0.0, 1.0) and (self.bell is None or self.importance)

    def __call__(self, noise: Noise, stream: str) -> Tensor:
        """A level of each row, `[B]` float64."""
        u = DRAWS[self.draw](noise, stream)
        if self.bell is not None:
            ends = self._ends.to(u.device)
            cell = torch.searchsorted(ends[1:], u).clamp(max=CELLS - 1)
            u = (cell + (u - ends[cell]) / (ends[cell + 1] - ends[cell])) / CELLS
        return self.clip[0] + (self.clip[1] - self.clip[0]) * u

    def weight(self, level: Tensor) -> Tensor:
        """What makes up for levels near each `level [B]` being drawn more often or less."""
        if self.bell is None or not self.importance:
            return torch.ones_like(level)
        ends = self._ends.to(level.device)
        cell = (self._placed(level) * CELLS).long().clamp(0, CELLS - 1)
        return 1 / ((ends[cell + 1] - ends[cell]) * CELLS)

    def weight_between(self, low: Tensor, high: Tensor) -> Tensor:
        """As `weight`, where all levels of a range `(low, high]` are one."""
        if self.bell is None or not self.importance:
            return torch.ones_like(low)
        part = self._below(high) - self._below(low)
        return (self._placed(high) - self._placed(low)) / part.clamp(min=1e-300)

    @cached_property
    def _ends(self) -> Tensor:
        """The share of levels below the end of each cell, `[CELLS + 1]`."""
        assert self.bell is not None
        middle = (torch.arange(CELLS, dtype=torch.float64) + 0.5) / CELLS
        mass = middle ** (self.bell[0] - 1) * (1 - middle) ** (self.bell[1] - 1)
        mass = mass / mass.sum()
        if self.importance:
            mass = (1 - FLOOR) * mass + FLOOR / CELLS
        return torch.cat([mass.new_zeros(1), mass.cumsum(0) / mass.sum()])

    def _placed(self, level: Tensor) -> Tensor:
        return ((level - self.clip[0]) / (self.clip[1] - self.clip[0])).clamp(0, 1)

    def _below(self, level: Tensor) -> Tensor:
        ends, place = self._ends.to(level.device), self._placed(level) * CELLS
        cell = place.long().clamp(max=CELLS - 1)
        return ends[cell] + (ends[cell + 1] - ends[cell]) * (place - cell)


DRAWS: dict[str, Callable[[Noise, str], Tensor]] = {
    "uniform": Noise.rows,
    "stratified": Noise.strata,
    "antithetic": Noise.pairs,
}
