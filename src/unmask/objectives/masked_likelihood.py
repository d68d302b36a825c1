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

    Raises:
        ValueError: for another method.
    """
    if method not in (None, "bound"):
        raise ValueError(
            f"no likelihood method {method!r} here · this model draws sets of masks · use method='bound' or 'duel'"
        )
    rows, length = clean.rows, clean.sum_rows(hidden.long())
    n_draws = max(2, n_draws) if bool((length > 1).any()) else 1  # one token has one set
    count = counts(noise.rows("count"), length, n_draws)
    values, each = [], torch.arange(clean.n_rows, device=rows.device)
    for some in torch.arange(n_draws).split(max(1, _room(family) // max(1, clean.n_elements))):  # draws in one pass
        ranks = [orders.ranks(noise.elements(clean, f"set {number}"), rows, hidden) for number in some.tolist()]
        mask = torch.cat([hidden & (rank < count[number][rows]) for number, rank in zip(some, ranks, strict=True)])
        copies, weight = clean.take(each.repeat(len(some))), (length / count[some]).flatten()
        total = length.double().repeat(len(some))
        canvas, targets = family.corrupt(copies, Hidden(mask, weight, total, total > 0), noise)
        costs = predict(canvas).words().gather(1, targets.word[:, None]).squeeze(1).double()
        sums = copies.sum_rows(costs.new_zeros(copies.n_elements).masked_scatter(mask, costs))
        values.append((weight * sums).view(len(some), -1))
    drawn = torch.cat(values)
    error = drawn.gather(0, count.argsort(0)).diff(dim=0).square().sum(0) / max(1, 2 * n_draws * (n_draws - 1))
    return Likelihood(drawn.mean(0), error.sqrt(), "bound", "bound", given="length")


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
