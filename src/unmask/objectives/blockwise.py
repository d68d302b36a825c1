"""Views of text that is written block by block: no element sees what comes after its block."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unmask.canvas import Canvas, Role
from unmask.objectives.objective import Sites
from unmask.view import View


def active(canvas: Canvas, sites: Sites, size: int) -> Sites:
    """The sites that lie in the first block of their row that has one."""
    block = canvas.index[sites.element] // size
    first = block.new_full((canvas.n_rows,), canvas.n_elements).scatter_reduce(0, sites.row, block, "amin")
    return sites.take(block == first[sites.row])


def ahead(view: View, canvas: Canvas, size: int) -> View:
    """The view of a canvas as it stands, up to the last block that is read; each block sees itself and those before.

    A block that has no masks any more is what it will be: as what was computed of it depends on it and on what is
    before it alone, it need never be computed again.
    """
    block = canvas.index // size
    rows = canvas.rows
    last = block.new_full((canvas.n_rows,), -1).scatter_reduce(0, rows[view.read], block[view.read], "amax")
    return replace(view, stage=block).only(block <= last[rows])


def both(canvas: Canvas, word: Tensor, size: int) -> View:
    """The masked text and the clean one in one view: each masked block sees itself and the clean blocks before it.

    One pass for all blocks of a row (Arriola et al. 2025, BD3-LM, section 3 and figure 2). The masked copy of block b
    is at stage 2b and seen by itself alone, the clean one at 2b + 1. Blocks that nobody reads or sees are left out.

    Args:
        canvas: With a mask for each missing token.
        word: `[R]`, the missing tokens in order.
        size: Elements of a block.
    """
    rows, block, masked = canvas.rows, canvas.index // size, canvas.role == Role.SIGN
    pieces = canvas.cut(size)
    has = pieces.sum_rows(masked.long()) > 0
    noisy = has[pieces.rows]
    last = block.new_full((canvas.n_rows,), -1).scatter_reduce(0, rows, torch.where(noisy, block, -1), "amax")
    element = torch.cat([noisy.nonzero().squeeze(1), (block < last[rows]).nonzero().squeeze(1)])
    clean = torch.arange(element.numel(), device=element.device) >= noisy.sum()
    order = (rows[element] * 2 + clean).argsort(stable=True)
    element, clean = element[order], clean[order]
    ids = torch.where(clean, canvas.ids.masked_scatter(masked, word)[element], canvas.ids[element])
    lengths = torch.bincount(rows[element], minlength=canvas.n_rows)
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    read = (masked[element] & ~clean).nonzero().squeeze(1)
    stage, segment = 2 * block[element] + clean, canvas.segment[element]
    return View(ids, offsets, canvas.place[element], read, stage=stage, transient=~clean, segment=segment)
