"""Which of the proposed edits to make now: pure functions of statistics, progress and noise.

A policy sees a proposal and answers which sites it takes, `[S]` bool. It never asks which family it serves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.noise import Noise
from unmask.objectives import Proposal
from unmask.objectives.words import segment_logsumexp

THRESHOLD = 0.9  # probability of the best word at which `threshold` takes a site


@dataclass(frozen=True)
class Progress:
    """How far the decoding is."""

    n_rows: int
    quota: Tensor | None = None  # [B] int64, how many sites a row should take now; None: one


Choose = Callable[[Proposal, Progress, Noise | None], Tensor]


@dataclass(frozen=True)
class Policy:
    """A way to choose sites."""

    choose: Choose
    deterministic: bool  # given the distributions
    charges_place: bool  # the model's own log-probability of the site is part of a path's cost
    several: bool = False  # may take more than one site of a row at once: no beam
    all: bool = False  # offers every site, for a beam to choose from


def places(proposal: Proposal, n_rows: int) -> Tensor:
    """Log-probability of each site within its row, `[S]`: the model's own, or uniform where it has none."""
    return proposal.place - segment_logsumexp(proposal.place, proposal.sites.row, n_rows)[proposal.sites.row]


def best_sites(value: Tensor, row: Tensor, n_rows: int, quota: Tensor | None = None) -> Tensor:
    """The sites with the highest `value [S]` in each row: one, or `quota [B]`; ties go to the first. `[S]` bool."""
    by_value = value.argsort(descending=True, stable=True)
    order = by_value[row[by_value].argsort(stable=True)]
    per_row = torch.bincount(row, minlength=n_rows)
    rank = torch.arange(row.numel(), device=row.device) - (per_row.cumsum(0) - per_row)[row[order]]
    taken = torch.zeros_like(row, dtype=torch.bool)
    taken[order] = rank < (1 if quota is None else quota[row[order]])
    return taken


def confident(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """The site whose word distribution has the lowest entropy.

    Source: after Kim et al. 2025 ("Train for the worst, plan for the best"), who order by certainty.
    """
    return best_sites(-proposal.entropy, proposal.sites.row, progress.n_rows, progress.quota)


def location(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """Every site, each at the model's own price for it, so that a beam sums over orders; with noise, one drawn so.

    Source: Shen et al. 2020, section 3.1.
    """
    if noise is None:
        return torch.ones_like(proposal.place, dtype=torch.bool)
    return _drawn(places(proposal, progress.n_rows).double(), proposal, progress, noise)


def leftmost(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """The first open site. Source: the order of every left-to-right model."""
    return best_sites(-proposal.sites.element.double(), proposal.sites.row, progress.n_rows, progress.quota)


def rightmost(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """The last open site. Source: the mirror of `leftmost`, for comparison."""
    return best_sites(proposal.sites.element.double(), proposal.sites.row, progress.n_rows, progress.quota)


def random(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """Any site, all alike. Source: ancestral sampling of masked diffusion (Sahoo et al. 2024, section 3.3)."""
    if noise is None:
        raise ValueError("the random policy draws · it was given no noise")
    return _drawn(torch.zeros_like(proposal.place, dtype=torch.float64), proposal, progress, noise)


def parallel(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """Every site at once. Source: Stern et al. 2019, section 4 (parallel decoding)."""
    return torch.ones_like(proposal.place, dtype=torch.bool)


def threshold(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """Every site whose best word has probability 0.9 or more, and the likeliest in any case.

    Source: Wu et al. 2025 (Fast-dLLM), section 3.3.
    """
    sure = proposal.confidence.exp() >= THRESHOLD
    return sure | best_sites(proposal.confidence, proposal.sites.row, progress.n_rows, progress.quota)


def _drawn(log_prob: Tensor, proposal: Proposal, progress: Progress, noise: Noise) -> Tensor:
    """One site a row, drawn by Gumbel noise."""
    row = proposal.sites.row
    per_row = torch.bincount(row, minlength=progress.n_rows)
    number = torch.arange(row.numel(), device=row.device) - (per_row.cumsum(0) - per_row)[row]
    uniform = noise.grid(row, number, 1, "place").squeeze(1)
    return best_sites(log_prob - (-uniform.log()).log(), row, progress.n_rows, progress.quota)


POLICIES: dict[str, Policy] = {
    "confident": Policy(confident, deterministic=True, charges_place=False),
    "location": Policy(location, deterministic=True, charges_place=True, all=True),
    "leftmost": Policy(leftmost, deterministic=True, charges_place=False),
    "rightmost": Policy(rightmost, deterministic=True, charges_place=False),
    "random": Policy(random, deterministic=False, charges_place=False),
    "parallel": Policy(parallel, deterministic=True, charges_place=False, several=True),
    "threshold": Policy(threshold, deterministic=True, charges_place=False, several=True),
}
