"""The best ways to write several places of a row at once: the inner beam of a policy that does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ways:
    """`C` ways to write all that is chosen of rows, `E` edits in all; each way makes a row of its own."""

    parent: Tensor  # [C] int64, the row each is about, ascending
    child: Tensor  # [E] int64, the way that an edit is of, ascending
    site: Tensor  # [E] int64, ascending within a way
    pick: Tensor  # [E] int64, which alternative

    def fitting(self, fits: Tensor) -> Ways:
        """Without the edits that are not in `fits [E]` bool."""
        return Ways(self.parent, self.child[fits], self.site[fits], self.pick[fits])


def ways(total: Tensor, row: Tensor, chosen: Tensor, alive: Tensor, width: int) -> Ways:
    """The `width` best ways of each row to write all its chosen sites, an alternative at each.

    What is said at one site does not hang on another, so that a way costs the sum of its alternatives: the best are
    found site by site, of `width` beginnings each (Zhang et al. 2023: a beam over slots inside a hypothesis, one over
    hypotheses).

    Args:
        total: `[S, A]`, what each alternative costs; -inf where it may not be.
        row: `[S]`, ascending.
        chosen: `[S]` bool.
        alive: `[B]` bool, rows that go on.
        width: Ways a row has at most.
    """
    sites = (chosen & alive[row]).nonzero().squeeze(1)
    n_rows, per_row = alive.numel(), torch.bincount(row[sites], minlength=alive.numel())
    number = torch.arange(sites.numel(), device=row.device) - (per_row.cumsum(0) - per_row)[row[sites]]
    most, n = int(per_row.max()) if sites.numel() else 0, total.shape[1]
    cost = total.new_full((n_rows, most, n), -torch.inf)
    cost[:, :, 0] = 0  # a place that a row does not have
    cost[row[sites], number] = total[sites]
    best, picks = total.new_zeros(n_rows, 1).masked_fill(~alive[:, None], -torch.inf), row.new_zeros(n_rows, 1, 0)
    for place in range(most):
        every = (best[:, :, None] + cost[:, place, None, :]).flatten(1)
        best, at = every.topk(min(width, every.shape[1]), dim=1)
        before = picks.gather(1, (at // n)[:, :, None].expand(-1, -1, place))
        picks = torch.cat([before, (at % n)[:, :, None]], 2)
    parent, which = (best > -torch.inf).nonzero(as_tuple=True)
    counts = per_row[parent]
    child = torch.arange(parent.numel(), device=row.device).repeat_interleave(counts)
    within = torch.arange(child.numel(), device=row.device) - (counts.cumsum(0) - counts)[child]
    first = (per_row.cumsum(0) - per_row)[parent]
    return Ways(parent, child, sites[first[child] + within], picks[parent[child], which[child], within])
