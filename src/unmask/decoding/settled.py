"""What was proposed at a place where nothing can change any more is not worked out again."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unmask.backbone.cache import Cache
from unmask.canvas import Canvas
from unmask.model import Model
from unmask.noise import scattered
from unmask.objectives import Proposal, Settling, Shape, Sites


class Settled:
    """The proposals of the last step, by the names of what stands beside each site and of what may come there.

    An element's name is a hash of all that its state depends on, so that sites of one name have one proposal, in
    whatever row; two of 10,000 share one by accident with probability 3e-12.
    """

    def __init__(self, model: Model, family: Settling, cache: Cache) -> None:
        """Hold nothing yet; elements are read through `cache`."""
        self.model, self.family, self.cache = model, family, cache
        self.names = torch.empty(0, dtype=torch.int64)  # [C] ascending
        self.order = torch.empty(0, dtype=torch.int64)  # [C] which site of the last step each was
        self.last: Proposal | None = None
        self.step = 0
        self.now: list[tuple[Tensor, Proposal]] = []  # of the parts of this step: names [S], and what was proposed

    def propose(self, canvas: Canvas, sites: Sites, shape: Shape, n: int, step: int) -> Proposal:
        """The `n` best alternatives at the sites, nothing drawn; those that are known are only looked up.

        The rows of one `step` may come in several parts.
        """
        if step != self.step and self.now:
            self.names, self.order = torch.cat([name for name, _ in self.now]).sort()
            self.last, self.now = _joined([found for _, found in self.now]), []
        self.step = step
        view = self.family.view(canvas)
        element = view.names
        left, right = self.family.beside(canvas, sites)
        may = (shape.allowed.flatten(1).long() * _weights(shape.allowed[0].numel(), shape.allowed.device)).sum(1)
        name = scattered(scattered(scattered(element[left]) + element[right]) + may)
        self.names = self.names.to(name.device)
        at = torch.searchsorted(self.names, name).clamp(max=max(self.names.numel() - 1, 0))
        known = self.names[at] == name if self.names.numel() else torch.zeros_like(name, dtype=torch.bool)
        parts = [] if self.last is None else [_rows(self.last, self.order[at[known]])]
        if not bool(known.all()):
            fresh, some = ~known, sites.take(~known)
            hidden = self.model.backbone(view.reading(self.family.reads(canvas, some)), cache=self.cache)
            prediction = self.family.predict(hidden, canvas, sites=some)
            now = replace(shape, allowed=shape.allowed[fresh], full=None)
            parts.append(self.family.propose(prediction, canvas, n, now, None))
        where = torch.cat([known.nonzero().squeeze(1), (~known).nonzero().squeeze(1)])
        found = replace(_rows(_joined(parts), where.argsort()), sites=sites)
        self.now.append((name, found))
        return found


def _weights(n: int, device: torch.device) -> Tensor:
    """An odd number for each of `n` bits, so that their sums tell sets of them apart."""
    return scattered(torch.arange(n, device=device)) | 1


def _rows(proposal: Proposal, which: Tensor) -> Proposal:
    """Some sites of a proposal, by number; where they lie is not told."""
    return replace(proposal, **{name: value[which] for name, value in proposal.columns.items()})  # type: ignore[arg-type]


def _joined(parts: list[Proposal]) -> Proposal:
    if len(parts) == 1:
        return parts[0]
    columns = [part.columns for part in parts]
    joined = {name: torch.cat([column[name] for column in columns]) for name in columns[0]}
    return replace(parts[0], **joined)  # type: ignore[arg-type]
