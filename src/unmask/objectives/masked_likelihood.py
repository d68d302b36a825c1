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


class Masked(Protocol):
    """A family that hides each missing token behind a sign of its own."""

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
    values = []
    for number in range(n_draws):
        rank = orders.ranks(noise.elements(clean, f"set {number}"), rows, hidden)
        mask = hidden & (rank < count[number][rows])
        weight = length / count[number]
        canvas, targets = family.corrupt(clean, Hidden(mask, weight, length.double(), length > 0), noise)
        costs = predict(canvas).words().gather(1, targets.word[:, None]).squeeze(1).double()
        values.append(weight * clean.sum_rows(costs.new_zeros(clean.n_elements).masked_scatter(mask, costs)))
    drawn = torch.stack(values)
    error = drawn.gather(0, count.argsort(0)).diff(dim=0).square().sum(0) / max(1, 2 * n_draws * (n_draws - 1))
    return Likelihood(drawn.mean(0), error.sqrt(), "bound", "bound", given="length")


def counts(uniform: Tensor, length: Tensor, n_draws: int) -> Tensor:
    """How many of `length [B]` tokens each draw hides, `[n_draws, B]` int64: 1 + floor(u + i L / b) mod L.

    With `uniform [B]` ~ U(0, 1) and u = L * uniform, every count is uniform over 1..L, and the b of a row lie evenly
    (systematic sampling). The rounding of LLaDA's code, round(k + i L / b) with halves to even, draws even counts up to
    three times as often as odd ones.
    """
    part = torch.arange(n_draws, device=length.device, dtype=torch.float64)[:, None] / n_draws
    most = length.clamp(min=1)
    return 1 + ((uniform + part) * most).floor().long() % most
