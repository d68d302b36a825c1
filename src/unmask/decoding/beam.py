"""Hypotheses: rows of a canvas with their scores; grown, merged where they are the same canvas, and pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unmask.canvas import Canvas, Role, concat
from unmask.noise import scattered
from unmask.objectives import Proposal, Sites
from unmask.objectives.words import segment_logsumexp

COLUMNS = ("score", "merged", "unpaid", "group", "age")  # what is kept of each row beside its canvas


@dataclass(frozen=True)
class Hypotheses:
    """Rows of a canvas, each with what the path to it, or all paths seen, cost."""

    canvas: Canvas
    score: Tensor  # [B] float64, log of the sum over the paths seen, nats
    merged: Tensor  # [B] bool, several paths were summed
    unpaid: Tensor  # [B] bool, a place was chosen of several, and its price is not in the score
    group: Tensor  # [B] int64, who competes with whom: a request, or one sample of it
    age: Tensor  # [B] int64, edits since its start

    @classmethod
    def begun(cls, canvas: Canvas, score: Tensor, merged: Tensor, group: Tensor) -> Hypotheses:
        """Rows in which nothing was written yet."""
        return cls(canvas, score, merged, torch.zeros_like(merged), group, torch.zeros_like(group))

    def take(self, rows: Tensor) -> Hypotheses:
        """Rows by number, or by a mask."""
        if rows.dtype == torch.bool:
            rows = rows.nonzero().squeeze(1)
        if torch.equal(rows, torch.arange(self.n_rows, device=rows.device)):  # as in most steps
            return self
        return Hypotheses(self.canvas.take(rows), *(getattr(self, name)[rows] for name in COLUMNS))

    def choosing(self, sites: Sites) -> Hypotheses:
        """The same, marked where a place is now chosen of several `sites`, and not paid for."""
        return replace(self, unpaid=self.unpaid | (torch.bincount(sites.row, minlength=self.n_rows) > 1))

    @property
    def n_rows(self) -> int:
        """How many."""
        return self.canvas.n_rows

    @property
    def n_signs(self) -> Tensor:
        """How many places of each row are still open, `[B]`."""
        return self.canvas.sum_rows((self.canvas.role == Role.SIGN).long())

    @property
    def compete(self) -> bool:
        """Whether some are of one group."""
        return int(self.group.unique().numel()) < self.n_rows


def join(parts: Sequence[Hypotheses]) -> Hypotheses:
    """Several in one; elements get fresh keys, which would grow without end if they only added up."""
    if len(parts) == 1:
        return parts[0]
    columns = (torch.cat([getattr(part, name) for part in parts]) for name in COLUMNS)
    canvas = concat([part.canvas for part in parts])
    key = torch.arange(canvas.n_elements, device=canvas.ids.device)
    return Hypotheses(replace(canvas, key=key, next_key=canvas.n_elements), *columns)


def forked(proposal: Proposal, parents: Canvas, children: Canvas, parent: Tensor, site: Tensor, pick: Tensor,
           child: Tensor) -> Proposal:  # fmt: skip
    """The chosen alternatives as a proposal about the children: edit *e* is site *e*, alternative 0.

    Args:
        proposal: About the parents.
        parents: The canvas it is about.
        children: `parents.take(parent)`.
        parent: `[B']`, the parent row of each child.
        site: `[E]`, sites of the proposal.
        pick: `[E]`, the alternative at each.
        child: `[E]`, the row that makes the edit; ascending, and sites ascending within a row.
    """
    shift = children.offsets[:-1][child] - parents.offsets[:-1][parent[child]]
    sites = Sites(proposal.sites.element[site] + shift, child, proposal.sites.hole[site])
    chosen = {name: getattr(proposal, name)[site, pick][:, None] for name in ("word", "left", "right", "log_prob")}
    return replace(proposal, sites=sites, **chosen)


def grow(total: Tensor, proposal: Proposal, group: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The `width` best single edits of each group: sites `[E]` and alternatives `[E]`, in the order of the rows.

    `total [S, A]` is what each would come to; -inf where it may not be.
    """
    site, pick = (total > -torch.inf).nonzero(as_tuple=True)
    keep = top_of(total[site, pick], group[proposal.sites.row[site]], width).sort().values
    return site[keep], pick[keep]


def top_of(score: Tensor, group: Tensor, width: int | Tensor) -> Tensor:
    """Indices of the `width` highest of `score [K]` within each group, best first; ties go to the first. `[K']`.

    The width may be told for each (`[K]`, equal within a group).
    """
    order = score.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    ordered = group[order]
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    index = torch.arange(order.numel(), device=order.device)
    first = torch.where(begins, index, 0).cummax(0).values if order.numel() else index
    return order[index - first < (width if isinstance(width, int) else width[order])]


def merge(hypotheses: Hypotheses, recalls: bool = False) -> Hypotheses:
    """Rows of a group that began alike and whose canvases are equal become one; their scores add up.

    Equal in ids, holes and roles, element by element; where the model `recalls` what was written first, in the order of
    that too. The one that stays is the first.
    """
    if not hypotheses.compete:
        return hypotheses
    same = same_canvas(hypotheses.canvas, hypotheses.group, recalls)
    n = int(same.max()) + 1 if same.numel() else 0
    if n == hypotheses.n_rows:
        return hypotheses
    first = same.new_full((n,), same.numel()).scatter_reduce(
        0, same, torch.arange(same.numel(), device=same.device), "amin"
    )
    kept = first.sort().values
    score = segment_logsumexp(hypotheses.score, same, n)[same[kept]]
    several = torch.bincount(same, minlength=n)[same[kept]] > 1
    unpaid = torch.bincount(same[hypotheses.unpaid], minlength=n)[same[kept]] > 0
    return replace(hypotheses.take(kept), score=score, merged=hypotheses.merged[kept] | several, unpaid=unpaid)


def best_of_equals(hypotheses: Hypotheses, parent: Tensor) -> Hypotheses:
    """Of the children of one row `parent [B]` whose canvases are equal the best alone."""
    same = same_canvas(hypotheses.canvas, parent)
    return hypotheses.take(top_of(hypotheses.score, same, 1).sort().values)


def same_canvas(canvas: Canvas, group: Tensor, recalls: bool = False) -> Tensor:
    """A number for each row, `[B]`, equal for rows of a group whose start and canvas are equal and for no others.

    Rows are told apart by a 64-bit hash of their elements; two of a beam collide with probability 1e-13.
    """
    what = (canvas.ids * 4 + canvas.role) * 4099 + canvas.hole
    mixed = scattered(scattered(what) + canvas.index)
    if recalls:
        mixed = scattered(mixed + _turns(canvas))
    rows = torch.zeros(canvas.n_rows, dtype=torch.int64, device=mixed.device).index_add_(0, canvas.rows, mixed)
    names = torch.stack([group, canvas.request, canvas.lengths, rows], 1)
    numbers: Tensor = torch.unique(names, dim=0, return_inverse=True)[1]
    return numbers


def _turns(canvas: Canvas) -> Tensor:
    """When each token was written, of those of its row: 0 the first, those of one step alike, `[N]`; others 0."""
    birth = torch.where(canvas.role == Role.TEXT, canvas.birth, 0)
    n = int(birth.max()) + 1 if birth.numel() else 1
    moments, which = torch.unique(canvas.rows * n + birth, return_inverse=True)  # row by row, the oldest first
    row = torch.div(moments, n, rounding_mode="floor")
    per_row = torch.bincount(row, minlength=canvas.n_rows)
    turns: Tensor = (torch.arange(row.numel(), device=row.device) - (per_row.cumsum(0) - per_row)[row])[which]
    return turns
