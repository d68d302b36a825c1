"""A view is what the model reads of a canvas, and who sees whom in it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unmask.canvas import row_of


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

    @property
    def rows(self) -> Tensor:
        """The row of each element, `[M]`."""
        return row_of(self.offsets)

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

    def to(self, device: torch.device | str) -> View:
        """The same view on another device."""
        moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in vars(self).items()}
        return View(**moved)  # type: ignore[arg-type]


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
