"""The likelihood of a model that fills all its slots in every round: a bound by random trees of insertion."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from unmask.canvas import Canvas
from unmask.masking.hidden import Hidden
from unmask.noise import Noise
from unmask.objectives.objective import Likelihood, Predict
from unmask.objectives.orders import chunks
from unmask.objectives.spans import Spans, drawn

CHUNK = 8_192  # elements a forward pass


class InRounds(Protocol):
    """A family that can price the next word and the end of every slot."""

    end: int
    order: str

    def corrupt(self, clean: Canvas, hidden: Hidden, noise: Noise) -> tuple[Canvas, object]:
        """Slots in the place of what is hidden."""
        ...

    def shares(self, spans: Spans) -> Tensor:
        """How often each missing token comes first in its slot, `[R]`."""
        ...


def likelihood(
    family: InRounds, predict: Predict, clean: Canvas, hidden: Tensor, method: str | None, n_trees: int, noise: Noise
) -> Likelihood:
    """Give log p(hidden | rest) of each row of `clean`.

    A text and a tree of insertions determine the path of a model that fills every slot in every round, so that
    p(text) is the sum over trees, and log mean over m trees of p(text, tree) / q(tree) is never above it in
    expectation, where q draws the first word of each slot as the family's order does (Burda et al. 2016). Where that
    leaves no choice there is one tree, and the number is exact.

    Raises:
        ValueError: for a method there is not.
    """
    exact = family.order == "left_to_right"
    own = "exact" if exact else "bound"
    if method not in (None, own):
        raise ValueError(f"no likelihood method {method!r} here · methods: {own} · name it, or none")
    n = 1 if exact else max(n_trees, 2)  # of one alone nobody knows how far it strays
    paths = torch.stack([_path(family, predict, clean, hidden, noise, number) for number in range(n)], 1)  # [B, n]
    return Likelihood(paths[:, 0], torch.zeros_like(paths[:, 0]), "exact", own) if exact else bound_of(paths)


def bound_of(paths: Tensor) -> Likelihood:
    """The bound by some trees a row, from log p(text, tree) - log q(tree) of each, `[B, n]`; n is 2 or more."""
    n, total = paths.shape[1], paths.logsumexp(1)
    spread = ((paths - total[:, None]).exp() * n).std(1) / n**0.5
    return Likelihood(total - math.log(n), spread, "bound", "bound")


def _path(
    family: InRounds, predict: Predict, clean: Canvas, hidden: Tensor, noise: Noise, number: int
) -> Tensor:  # fmt: skip
    """log p(hidden, tree) - log q(tree) of one tree a row, `[B]` float64."""
    out = torch.zeros(clean.n_rows, dtype=torch.float64, device=hidden.device)
    if not bool(hidden.any()):
        return out
    has = clean.sum_rows(hidden.long()) > 0
    missing, closed = hidden.clone(), ~has[clean.rows]  # closed [N]: nothing comes behind this element any more
    only_last = family.order == "left_to_right"
    for turn in range(2 * clean.n_elements):
        spans = Spans.of(clean, missing, only_last)
        behind = spans.opens.nonzero().squeeze(1)  # [S] elements
        ends = (spans.size == 0) & ~closed[behind]
        if not bool(missing.any()) and not bool(ends.any()):
            break
        share = family.shares(spans)
        draw = noise.elements(clean, f"tree {number} {turn}")[missing]
        first = drawn(share, draw, spans.slot, spans.size.numel())  # [R] bool
        word = torch.full_like(behind, family.end)
        word[spans.slot[first]] = clean.ids[missing][first]
        wanted = ends | (spans.size > 0)
        cost = _words(family, predict, clean, missing, noise, word, wanted)
        out.index_add_(0, spans.row[wanted], cost[wanted])
        out.index_add_(0, spans.row[spans.slot[first]], -share[first].log())
        closed[behind[ends]] = True
        missing = missing.masked_scatter(missing, ~first)
    return out


def _words(
    family: InRounds, predict: Predict, clean: Canvas, missing: Tensor, noise: Noise, word: Tensor, wanted: Tensor
) -> Tensor:
    """log p(word | slot) at all slots, `[S]` float64; 0 where it is not wanted."""
    rows = Spans.of(clean, missing, family.order == "left_to_right").row
    out = torch.zeros(word.numel(), dtype=torch.float64, device=word.device)
    live = torch.zeros(clean.n_rows, dtype=torch.bool, device=word.device)
    live[rows[wanted]] = True
    every = live.nonzero().squeeze(1)
    for some in chunks(clean.lengths[every], CHUNK):
        part = every[some]
        at = clean.source(part)
        one = torch.ones(part.numel(), dtype=torch.float64, device=word.device)
        hidden = Hidden(missing[at], one, one, one < 0)
        canvas = family.corrupt(clean.take(part), hidden, Noise(noise.seed, noise.key[part]))[0]
        mine = torch.isin(rows, part)
        each = torch.arange(int(mine.sum()), device=word.device)
        out[mine] = predict(canvas).words()[each, word[mine]].double()
    return torch.where(wanted, out, 0.0)
