"""Noise schedules: how much of a text is hidden at noise level t (0 clean, 1 all hidden)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """The probability that a token is hidden, as a function of `t`, and the weight that makes the loss a bound."""

    hidden: Callable[[Tensor], Tensor]  # t -> probability hidden, rising from 0 to 1
    rate: Callable[[Tensor], Tensor]  # its derivative

    def weight(self, t: Tensor) -> Tensor:
        """The weight of a hidden token's cross-entropy at `t`: rate / hidden (1/t for the linear schedule).

        Source: Sahoo et al. 2024, eq. 10; Nie et al. 2025, eq. 3.
        """
        return self.rate(t) / self.hidden(t)


LINEAR = Schedule(lambda t: t, torch.ones_like)
COSINE = Schedule(
    lambda t: 1 - torch.cos(math.pi / 2 * t),
    lambda t: math.pi / 2 * torch.sin(math.pi / 2 * t),
)
SCHEDULES = {"linear": LINEAR, "cosine": COSINE}
