"""A view is what the model reads of a canvas, and who sees whom in it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from unmask.canvas import row_of
from unmask.noise import scattered


@dataclass(frozen=True)
class View:
    """Elements laid end to end in `B` rows, and where hidden states are wanted.

    Elements may be more than the canvas's (a clean copy, gap queries). Element *i* sees element *j* by one rule: *j*'s
    row is *i*'s or an ancestor of it, `stage[j] <= stage[i]`, and, when *j* is transient, only in the same row and
    stage. A local layer also asks that their positions differ by at most its window.
    """

    ids: Tensor  # [M] int64
    offsets: Tensor  # [B + 1] int64
    position: Tensor  # [M] int64; where positions are fixed at birth float: of what is given, from 0 to 1
    read: Tensor  # [R] int64, the elements whose hidden states are wanted
    stage: Tensor | None = None  # [M] int64; none: all 0, everyone sees everyone
    transient: Tensor | None = None  # [M] bool; none: nobody is
    parent: Tensor | None = None  # [B] int64, the row this one grows out of, -1: none; parents come before children
    segment: Tensor | None = None  # [M] int64
    noise: Tensor | None = None  # [B] float, noise level t
    causal: bool = False  # `stage` is the index in the row, and no row has a parent
    name: Tensor | None = None  # [M] int64, what was computed of an element of this name may stand for it
    fresh: Tensor | None = None  # [M] bool, but not for these: they are computed in any case
    born: Tensor | None = None  # [M, 2] int64, places in the row of the neighbours it was born between, -1: given

    @property
    def n_rows(self) -> int:
        """How many rows (`B`)."""
        return self.offsets.numel() - 1

    @cached_property
    def rows(self) -> Tensor:
        """The row of each element, `[M]`."""
        return row_of(self.offsets)

    @cached_property
    def names(self) -> Tensor:
        """The name of each element, `[M]` int64: its own, or else a hash of all that its state depends on.

        That is its row up to it, or, where stages ascend along the row, up to the end of its stage.
        """
        if self.name is not None:
            return self.name
        names = beginnings(self)
        if self.stage is None or self.causal:
            return names
        rows = self.rows
        last = torch.ones_like(rows, dtype=torch.bool)  # of a stage in its row
        last[:-1] = (self.stage[1:] != self.stage[:-1]) | (rows[1:] != rows[:-1])
        index = torch.arange(rows.numel(), device=rows.device)
        ends = last.nonzero().squeeze(1)
        return scattered(names[ends[torch.searchsorted(ends, index)]] + index - self.offsets[:-1][rows])

    @property
    def full(self) -> bool:
        """Whether everyone in a row sees everyone in it, and nobody else."""
        return self.stage is None and self.transient is None and self.parent is None

    def only(self, keep: Tensor) -> View:
        """The view without the elements that are not in `keep [M]` bool; those that are read must be."""
        place = keep.long().cumsum(0)
        ends = torch.cat([place.new_zeros(1), place])[self.offsets]
        columns = ("ids", "position", "stage", "transient", "segment", "name", "fresh", "born")
        cut = {name: column[keep] for name in columns if (column := getattr(self, name)) is not None}
        return replace(self, offsets=ends, read=place[self.read] - 1, **cut)

    def reading(self, read: Tensor) -> View:
        """The same elements with other states wanted, `read [R]`; what was worked out of them stays."""
        other = copy.copy(self)
        object.__setattr__(other, "read", read)
        return other

    def to(self, device: torch.device | str) -> View:
        """The same view on another device."""
        moved: dict[str, Any] = {}
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            moved[name] = value.to(device) if isinstance(value, Tensor) else value
        return View(**moved)


def beginnings(view: View) -> Tensor:
    """A 64-bit hash of each element's row up to it, `[M]`: all that it and those before it say."""
    start = view.offsets[:-1][view.rows]
    index = torch.arange(view.ids.numel(), device=view.ids.device) - start
    place = view.position
    if place.is_floating_point():
        place = place.double() * 2**40
    said = scattered(scattered(scattered(view.ids) + index) + place.to(torch.int64))
    if view.born is not None:
        said = scattered(scattered(said + view.born[:, 0]) + view.born[:, 1])
    if view.segment is not None:
        said = scattered(said + view.segment)
    total = said.cumsum(0)
    return scattered(total - (total - said)[start])


def visible(view: View, window: int | None = None) -> Tensor:
    """The one rule of who sees whom, `[M, M]` bool: entry *(i, j)* says that element *i* sees element *j*.

    The plain form, for tests and small views; fast paths must agree with it.
    """
    rows = view.rows
    same_row = rows[:, None] == rows[None, :]
    related = same_row if view.parent is None else ancestors(view.parent)[rows][:, rows]
    sees = related
    if view.stage is not None:
        sees = sees & (view.stage[None, :] <= view.stage[:, None])
    if view.transient is not None:
        same_stage = same_row if view.stage is None else same_row & (view.stage[:, None] == view.stage[None, :])
        sees = sees & (~view.transient[None, :] | same_stage)
    if window is not None:
        sees = sees & ((view.position[:, None] - view.position[None, :]).abs() <= window)
    return sees


def ancestors(parent: Tensor) -> Tensor:
    """Which rows each row grows out of, itself included: `[B, B]` bool, from `parent [B]`."""
    n_rows = parent.numel()
    reach = torch.eye(n_rows, dtype=torch.bool, device=parent.device)
    child = (parent >= 0).nonzero().squeeze(1)
    step = torch.zeros_like(reach)
    step[child, parent[child]] = True
    for _ in range(max(n_rows - 1, 0).bit_length()):  # doubling: paths of length 1, 2, 4, ...
        reach = reach | (step.float() @ reach.float() > 0)
        step = (step.float() @ step.float()) > 0
    return reach
