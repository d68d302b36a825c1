"""Blocks of a row's own elements: which are open now, and how many of their masks a step writes.

Semi-autoregressive remasking (Nie et al. 2025, LLaDA, section 2.4): what is to be written is cut into blocks, and no
mask of a block is written before all of the blocks before it are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.canvas import Canvas
from unmask.objectives import Sites


@dataclass(frozen=True)
class Blocks:
    """The blocks of a canvas, `size` elements each; None: each row is one."""

    of: Tensor  # [N] int64, the block of each element to be written, -1: the user's own
    active: Tensor  # [B] int64, the first block with an open site
    n: Tensor  # [B] int64
    open: Tensor  # [S] bool, sites of the active blocks

    @classmethod
    def cut(cls, canvas: Canvas, sites: Sites, size: int | None, whole: int | None = None) -> Blocks:
        """Number the blocks of the elements that belong to holes.

        `size` of these make one, in their order, whatever stands between. A family that writes block by block has its
        own, of `whole` elements of the row, and its sites are those of the first.
        """
        own = canvas.in_holes
        if size is None and whole is None:  # the usual case, on the way of every step
            zero = torch.zeros_like(canvas.request)
            return cls(own.long() - 1, zero, zero + 1, torch.ones_like(sites.row, dtype=torch.bool))
        begins = _begins(canvas, size, whole)
        count = begins.long().cumsum(0)
        before = torch.cat([count.new_zeros(1), count])[canvas.offsets[:-1]]
        of = torch.where(own, count - 1 - before[canvas.rows], -1)
        at = of[sites.element]
        active = at.new_full((canvas.n_rows,), canvas.n_elements).scatter_reduce(0, sites.row, at, "amin")
        return cls(of, active, canvas.sum_rows(begins.long()), at == active[sites.row])

    def quota(self, sites: Sites, age: Tensor, steps: int) -> Tensor:
        """How many of the active sites each row takes now, `[B]`, so that each block ends after its share of `steps`.

        The masks of a block are spread evenly over its steps, and the steps over blocks, what is left over going to
        the first (LLaDA, algorithm 4; there it must come out even).

        Args:
            sites: The active ones.
            age: Steps that each row took, `[B]`.
            steps: Of the whole row.
        """
        n_open = torch.bincount(sites.row, minlength=age.numel())
        each, over = steps // self.n.clamp(min=1), steps % self.n.clamp(min=1)
        end = (self.active + 1) * each + torch.minimum(self.active + 1, over)
        left = (end - age).clamp(min=1)
        return (n_open + left - 1) // left


def check(canvas: Canvas, size: int | None, whole: int | None, steps: int | None) -> None:
    """See that each block of the opened rows has a step; arguments as of `Blocks.cut`.

    Raises:
        ValueError: when there are more blocks than steps.
    """
    length = size or whole
    if length is None or steps is None or not canvas.n_rows:
        return
    most = int(canvas.sum_rows(_begins(canvas, size, whole).long()).max())
    if most > steps:
        raise ValueError(
            f"{steps} steps for {most} blocks of {length} · every block takes a step at least · give more steps, or"
            " longer blocks"
        )


def _begins(canvas: Canvas, size: int | None, whole: int | None) -> Tensor:
    """Which of the elements that belong to holes begin a block, `[N]` bool."""
    mine = canvas.in_holes.nonzero().squeeze(1)
    row = canvas.rows[mine]
    n = torch.bincount(row, minlength=canvas.n_rows)
    within = torch.arange(mine.numel(), device=mine.device) - (n.cumsum(0) - n)[row]
    first = within == 0
    if whole is not None:
        block = canvas.index[mine] // whole
        first[1:] |= block[1:] != block[:-1]
    elif size is not None:
        first = within % size == 0
    begins = torch.zeros_like(canvas.fixed)
    begins[mine[first]] = True
    return begins
