"""Masks that are added while a text is written: where the model has no good word yet, and does not see the end.

Source: DAEDAL (Li et al. 2025, arXiv 2508.00819), its second stage. The first, before any word, is in `lengths.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unmask.canvas import Canvas, Role
from unmask.decoding.beam import Hypotheses
from unmask.decoding.blocks import Blocks
from unmask.decoding.policies import best_sites
from unmask.decoding.remasking import names
from unmask.decoding.rules import Rules
from unmask.decoding.search import Search
from unmask.model import Model
from unmask.objectives import Proposal, Sites, Told, told

ENDED, DOUBT = 0.9, 0.1  # how sure the end must be, and how sure the worst mask, for a text to stay as long as it is
MORE = 8  # masks that the worst one gives way to
WINDOW = 32  # the last masks, which are looked at for an end


@dataclass(frozen=True)
class Slots:
    """Masks that give way to several, one a row at most."""

    element: Tensor  # [T] int64, of the rows that were read
    n: Tensor  # [T] int64


@dataclass(frozen=True)
class Expansion:
    """How the last hole of a text grows while it is written, of a family that writes ends."""

    family: Told
    rules: Rules
    search: Search

    @classmethod
    def of(cls, model: Model, rules: Rules, search: Search) -> Expansion | None:
        """What the search asks for; None: nothing grows in it."""
        family = told(model.objective)
        grows = family is not None and search.expands and bool(rules.grows.any())
        return cls(family, rules, search) if grows and family is not None else None

    def read(self, rows: Hypotheses, sites: Sites, blocks: Blocks) -> Tensor:
        """Which sites are to be read, `[S]` bool: those that are open, and the last of what may grow now."""
        canvas = rows.canvas
        mine = self._own(canvas)
        row = canvas.rows[mine]
        last = torch.zeros(canvas.n_elements, dtype=torch.bool, device=mine.device)
        last[mine] = within(torch.bincount(row, minlength=canvas.n_rows), row)
        return blocks.open | (last[sites.element] & self._whole(rows, blocks)[sites.row])

    def slots(self, rows: Hypotheses, seen: Proposal, proposal: Proposal, chosen: Tensor, blocks: Blocks) -> Slots:
        """The worst mask of each row whose end is not sure, where it is bad enough and there is room.

        Args:
            rows: As they were read.
            seen: What the model says of all that was read.
            proposal: Of what is open.
            chosen: `[S]` bool, its sites that are written in this step.
            blocks: Of the canvas.
        """
        canvas, sites = rows.canvas, proposal.sites
        n, unsure = self._more(rows, blocks), self._unsure(canvas, seen) & self._whole(rows, blocks)
        confidence = proposal.confidence.double()
        bad = self.rules.grows[canvas.request[sites.row], sites.hole] & ~chosen & confidence.isfinite()
        bad = bad & (confidence.exp() < DOUBT) & (unsure & (n > 1))[sites.row]
        worst = bad & best_sites(torch.where(bad, -confidence, -torch.inf), sites.row, rows.n_rows)
        return Slots(sites.element[worst], n[sites.row[worst]])

    def widened(self, rows: Hypotheses, written: Hypotheses, slots: Slots, step: int) -> Hypotheses:
        """The rows after writing, with more masks in the place of the slots.

        Args:
            rows: Before writing; each of a group of its own.
            written: After it. What stood behind an end may be gone.
            slots: Elements of `rows`, none of which was written.
            step: The birth of the masks.
        """
        wanted, order = names(rows)[slots.element].sort()
        if not wanted.numel():
            return written
        name = names(written)
        element = (torch.isin(name, wanted) & (written.canvas.role == Role.SIGN)).nonzero().squeeze(1)
        n = slots.n[order][torch.searchsorted(wanted, name[element])]
        return replace(written, canvas=written.canvas.apply(self.family.grow(written.canvas, element, n, step)))

    def _whole(self, rows: Hypotheses, blocks: Blocks) -> Tensor:
        """Which rows are computed whole in this step, `[B]` bool: with a cache not all are, and the end is not read."""
        canvas, masks = rows.canvas, self.search.masks
        if masks.cache is None:
            return torch.ones_like(rows.merged)
        written = (blocks.of == blocks.active[canvas.rows]) & (canvas.role != Role.SIGN)
        begins = canvas.sum_rows(written.long()) == 0
        return begins if masks.refresh is None else begins | (rows.age % masks.refresh == 0)

    def _own(self, canvas: Canvas) -> Tensor:
        """The elements of holes that may grow, `[M]`; a row has one such hole at most, its last."""
        mine = canvas.in_holes.nonzero().squeeze(1)
        return mine[self.rules.grows[canvas.request[canvas.rows[mine]], canvas.hole[mine]]]

    def _unsure(self, canvas: Canvas, seen: Proposal) -> Tensor:
        """Whether the mean probability of an end among the last elements is too low, `[B]`; a written one has 1."""
        assert seen.ended is not None
        ended = (canvas.role == Role.SCAFFOLD).double()
        ended[seen.sites.element] = seen.ended.double()
        mine = self._own(canvas)
        row = canvas.rows[mine]
        last = within(torch.bincount(row, minlength=canvas.n_rows), row)
        sums = ended.new_zeros(canvas.n_rows).index_add(0, row[last], ended[mine[last]])
        return sums / torch.bincount(row[last], minlength=canvas.n_rows).clamp(min=1) < ENDED

    def _more(self, rows: Hypotheses, blocks: Blocks) -> Tensor:
        """How many masks a slot of each row may give way to, `[B]`, 1: it stays, for room or steps are spent."""
        canvas, masks, steps = rows.canvas, self.search.masks, self.search.steps
        mine = self._own(canvas)
        row = canvas.rows[mine]
        most = self.rules.max_tokens[canvas.request[row], canvas.hole[mine]]
        room = most.new_zeros(rows.n_rows).scatter_reduce(0, row, most, "amax")
        n = (1 + room - torch.bincount(row, minlength=rows.n_rows)).clamp(min=1, max=MORE)
        if steps is None:
            return n
        length = canvas.sum_rows(canvas.in_holes.long()) + n - 1
        n_blocks = -(-length // masks.block) if masks.block is not None else torch.ones_like(length)
        return torch.where(n_blocks - blocks.active < steps - rows.age, n, 1)  # each takes a step that is still to come


def within(size: Tensor, of: Tensor) -> Tensor:
    """Which of some elements, `size [P]` to a part and in order, are the last of their part `of [M]`, `[M]` bool.

    The last are `WINDOW`, or half of the part where that is shorter, one at least.
    """
    from_end = size.cumsum(0)[of] - torch.arange(of.numel(), device=of.device)
    return from_end <= torch.minimum(size // 2, size.new_tensor(WINDOW)).clamp(min=1)[of]
