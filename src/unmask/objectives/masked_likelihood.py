"""The likelihood of masked diffusion: a bound by random sets of masks, of counts that are stratified."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from unmask.canvas import Canvas
from unmask.masking.hidden import Hidden
from unmask.noise import Noise
from unmask.objectives import orders
from unmask.objectives.objective import Likelihood, Predict
from unmask.objectives.words import Head

LOGITS = 2**27  # of one pass, at most: tokens times words


class Masked(Protocol):
    """A family that hides each missing token behind a sign of its own."""

    head: Head
    block: int | None  # elements of a block past which nothing is seen

    def corrupt(self, clean: Canvas, hidden: Hidden, noise: Noise) -> tuple[Canvas, Any]:
        """The canvas with its signs, and targets whose `word [R]` is what they hide, in order."""
        ...


def likelihood(
    family: Masked,
    predict: Predict,
    clean: Canvas,
    hidden: Tensor,
    method: str | None,
    n_draws: int,
    noise: Noise,
) -> Likelihood:
    """A bound on log p(hidden | rest) by `n_draws` random sets of masks, two at least (LLaDA, eq. 14).

    Each set hides l of a row's L tokens; the counts l are `counts`, and -(L/l) times the sum of the costs behind the
    masks has the bound as its mean. Rows with the same noise key share the draws: the uniform number, and the rank of
    each place, so that answers to one question are compared on like sets.

    The standard error is by differences of successive counts (Wolter 1985, section 7.2), since a systematic sample
    strays less than one of as many independent draws.

    Where a family writes block by block, each block is a row of its own in this, given the blocks before it, and a
    row's bound is the sum of theirs (Arriola et al. 2025, BD3-LM, eq. 7).

    Raises:
        ValueError: for another method.
    """
    if method not in (None, "bound"):
        raise ValueError(
            f"no likelihood method {method!r} here · this model draws sets of masks · use method='bound' or 'duel'"
        )
    each = torch.arange(clean.n_rows, device=hidden.device)
    parts, draws, owner = clean, noise, each
    if family.block is not None:
        parts = clean.cut(family.block)
        draws, owner = noise.cut(parts), parts.request
    of, length = parts.rows, parts.sum_rows(hidden.long())  # [N] and [P]: of each part
    n_draws = max(2, n_draws) if bool((length > 1).any()) else 1  # one token has one set
    count = counts(draws.rows("count"), length, n_draws)
    values = []
    for some in torch.arange(n_draws).split(max(1, _room(family) // max(1, clean.n_elements))):  # draws in one pass
        ranks = [orders.ranks(draws.elements(parts, f"set {number}"), of, hidden) for number in some.tolist()]
        mask = torch.cat([hidden & (rank < count[number][of]) for number, rank in zip(some, ranks, strict=True)])
        copies, one = clean.take(each.repeat(len(some))), torch.ones(clean.n_rows * len(some), device=of.device)
        canvas, targets = family.corrupt(copies, Hidden(mask, one.double(), one.double(), one > 0), noise)
        costs = predict(canvas, targets).words().gather(1, targets.word[:, None]).squeeze(1).double()
        behind = costs.new_zeros(copies.n_elements).masked_scatter(mask, costs).view(len(some), -1)
        sums = costs.new_zeros(len(some), parts.n_rows).index_add_(1, of, behind)
        values.append(sums * length.double() / count[some])
    drawn = torch.cat(values)
    error = drawn.gather(0, count.argsort(0)).diff(dim=0).square().sum(0) / max(1, 2 * n_draws * (n_draws - 1))
    value, variance = (x.new_zeros(clean.n_rows).index_add_(0, owner, x) for x in (drawn.mean(0), error))
    return Likelihood(value, variance.sqrt(), "bound", "bound", given="length")


def _room(family: Masked) -> int:
    """How many elements go through the model together."""
    return min(orders.CHUNK, LOGITS // family.head.words.barred.numel())


def counts(uniform: Tensor, length: Tensor, n_draws: int) -> Tensor:
    """How many of `length [B]` tokens each draw hides, `[n_draws, B]` int64: 1 + floor(u + i L / b) mod L.

    With `uniform [B]` ~ U(0, 1) and u = L * uniform, every count is uniform over 1..L, and the b of a row lie evenly
    (systematic sampling). The rounding of LLaDA's code, round(k + i L / b) with halves to even, draws even counts up to
    three times as often as odd ones.
    """
    part = torch.arange(n_draws, device=length.device, dtype=torch.float64)[:, None] / n_draws
    most = length.clamp(min=1)
    return 1 + ((uniform + part) * most).floor().long() % most
