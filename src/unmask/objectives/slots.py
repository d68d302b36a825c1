"""What a model says of slots: features from both neighbours, words, places, and whether anything is missing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from unmask.canvas import Canvas
from unmask.objectives.objective import Sites, open_signs
from unmask.objectives.words import WordHead, segment_logsumexp


class Head(nn.Module):
    """Slots from their two neighbours; words, places, and whether all is there (Stern et al. 2019)."""

    def __init__(
        self,
        width: int,
        embedding: nn.Embedding,
        special: Tensor,
        *,
        place: str,
        context: bool,
        mixture: int,
        stop: bool,
    ) -> None:
        """Make the parts that are asked for; words share the backbone's output matrix, `embedding`."""
        super().__init__()
        self.left, self.right = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.words = WordHead(embedding, special)
        self.location = nn.Linear(width, 1) if place == "factorised" else None
        self.place = place
        self.context = nn.Linear(width, width, bias=False) if context else None
        self.mixture = nn.Linear(width, mixture * (width + 1)) if mixture > 1 else None
        self.stop = nn.Linear(width, 1) if stop else None


class Prediction:
    """What the model says of the `S` slots of a canvas, worked out when asked."""

    def __init__(self, head: Head, hidden: Tensor, seen: Seen, silent: Tensor, sites: Sites | None = None) -> None:
        """From `hidden [R, D]`, of the elements that `seen` reads; `silent [P, 2]`: slots and words they cannot say."""
        self.silent, self.sites = silent, sites
        self.head, self.n_rows, self.row = head, seen.first.numel(), seen.row  # [S]
        self.first = hidden[seen.first]  # [B, D]
        slots = head.left(hidden)[seen.left] + head.right(hidden)[seen.right]
        self.slots = F.elu(slots)  # [S, D]
        if head.context is not None:
            assert seen.every is not None
            row, left, right = seen.every
            every = F.elu(head.left(hidden)[left] + head.right(hidden)[right])
            pooled = every.new_full((self.n_rows, every.shape[1]), -math.inf)
            pooled = pooled.scatter_reduce(0, row[:, None].expand_as(every), every, "amax")
            self.slots = self.slots + head.context(pooled[self.row])

    @cached_property
    def _logits(self) -> Tensor:
        return self._barred(self.head.words.logits(self.slots))

    def _barred(self, logits: Tensor) -> Tensor:
        return logits.index_put((self.silent[:, 0], self.silent[:, 1]), logits.new_tensor(-math.inf))

    @cached_property
    def places(self) -> Tensor:
        """Give log p(slot | canvas), `[S]`: a softmax over the slots of each row; of a joint head its words summed."""
        if self.head.place == "none":
            return self.slots.new_zeros(self.row.numel())
        head = self.head.location
        scores = self._logits.logsumexp(-1) if head is None else head(self.slots).squeeze(1)
        return scores - segment_logsumexp(scores, self.row, self.n_rows)[self.row]

    def words(self) -> Tensor:
        """Give log p(w | slot), `[S, V]`, the end among the words."""
        if self.head.mixture is None:
            return self._logits.log_softmax(-1)
        each = self.head.mixture(self.slots).view(self.slots.shape[0], -1, self.slots.shape[1] + 1)
        prior, latent = each[..., 0].log_softmax(-1), each[..., 1:].tanh()
        logits = self.head.words.logits(latent.flatten(0, 1)).view(*prior.shape, -1)
        found = self._barred(logits.transpose(1, 2)).transpose(1, 2).log_softmax(-1)
        never = found == -math.inf  # barred in all alike: a sum over nothing has no gradient
        mixed: Tensor = (prior[..., None] + found.masked_fill(never, 0.0)).logsumexp(1)
        return mixed.masked_fill(never[:, 0], -math.inf)

    @cached_property
    def all_there(self) -> tuple[Tensor, Tensor]:
        """Give log p(nothing is missing) and log p(something is), `[B]` each."""
        assert self.head.stop is not None
        score = self.head.stop(self.first).squeeze(1)
        return F.logsigmoid(score), F.logsigmoid(-score)


@dataclass(frozen=True)
class Seen:
    """Which elements of a canvas the model sees, all but its slots, and where each slot lies among them."""

    keep: Tensor  # [N] bool
    read: Tensor  # [R] int64, seen elements whose hidden states are wanted: beside slots, and the first of each row
    row: Tensor  # [S] int64
    left: Tensor  # [S] int64, a slot's left neighbour, as a place in `read`
    right: Tensor  # [S] int64
    first: Tensor  # [B] int64, the first of each row, as a place in `read`
    every: tuple[Tensor, Tensor, Tensor] | None = None  # `row`, `left`, `right` of all slots, those that ended too

    @classmethod
    def of(cls, canvas: Canvas, keep: Tensor, sites: Sites | None = None, every: bool = False) -> Seen:
        """Of the slots `sites`, none: all that are open, of a canvas whose rows begin and end with a seen element.

        `keep [N]` says which elements are seen; the others are slots, open or ended, and with `every` all are read.
        """
        sites, before = sites or open_signs(canvas), keep.long().cumsum(0)
        left, first = before[sites.element] - 1, before[canvas.offsets[:-1]] - 1
        slot = (~keep).nonzero().squeeze(1) if every else sites.element[:0]
        beside = before[slot] - 1
        read = torch.cat([left, left + 1, beside, beside + 1, first]).unique()
        left, right, first, lefts, rights = (
            torch.searchsorted(read, some) for some in (left, left + 1, first, beside, beside + 1)
        )
        return cls(keep, read, sites.row, left, right, first, (canvas.rows[slot], lefts, rights) if every else None)
