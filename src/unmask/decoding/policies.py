"""Which of the proposed edits to make now: pure functions of statistics, progress and noise.

A policy sees a proposal and answers which sites it takes, `[S]` bool. It never asks which family it serves. Some have a
number of their own, their level: `threshold:0.8`. What takes written tokens back is in `remasking.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unmask.decoding.choices import level_of
from unmask.noise import Noise
from unmask.objectives import Proposal
from unmask.objectives.objective import STATISTICS
from unmask.objectives.words import segment_logsumexp


@dataclass(frozen=True)
class Progress:
    """How far the decoding is."""

    n_rows: int
    quota: Tensor | None = None  # [B] int64, how many sites a row should take now; None: one
    level: float = 0.0  # the policy's own number


Choose = Callable[[Proposal, Progress, Noise | None], Tensor]


@dataclass(frozen=True)
class Policy:
    """A way to choose sites."""

    choose: Choose
    deterministic: bool  # given the distributions
    charges_place: bool  # the model's own log-probability of the site is part of a path's cost
    several: bool = False  # may take more than one site of a row at once: no beam, unless it is wide
    wide: bool = False  # a beam follows the best ways to write all that it takes at once
    all: bool = False  # offers every site, for a beam to choose from
    weighs_place: bool = False  # goes by the model's own log-probability of sites
    waits: bool = True  # a site of no certainty, as an end has that is to be late, comes after all others
    level: float | None = None  # its own number, unless told; None: it has none
    reads: frozenset[str] = STATISTICS  # of a proposal: those of them that it looks at


def policy_named(name: str) -> Policy:
    """The policy of that name, with the level that it names (`threshold:0.8`)."""
    kind, level = level_of(name)
    policy = POLICIES[kind]
    return policy if level is None else replace(policy, level=level)


def places(proposal: Proposal, n_rows: int) -> Tensor:
    """Log-probability of each site within its row, `[S]`: the model's own, or uniform where it has none."""
    return proposal.place - segment_logsumexp(proposal.place, proposal.sites.row, n_rows)[proposal.sites.row]


def ranked(value: Tensor, row: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """Sites ordered by row and, within one, by `value [S]` from the highest; ties go to the first.

    Returns the order `[S]` and the rank within its row of each site of that order `[S]`, from 0.
    """
    by_value = value.argsort(descending=True, stable=True)
    order = by_value[row[by_value].argsort(stable=True)]
    per_row = torch.bincount(row, minlength=n_rows)
    return order, torch.arange(row.numel(), device=row.device) - (per_row.cumsum(0) - per_row)[row[order]]


def best_sites(value: Tensor, row: Tensor, n_rows: int, quota: Tensor | None = None) -> Tensor:
    """The sites with the highest `value [S]` in each row: one, or `quota [B]`; ties go to the first. `[S]` bool."""
    order, rank = ranked(value, row, n_rows)
    taken = torch.zeros_like(row, dtype=torch.bool)
    taken[order] = rank < (1 if quota is None else quota[row[order]])
    return taken


def confident(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """The site whose word distribution has the lowest entropy.

    Source: after Kim et al. 2025 ("Train for the worst, plan for the best"), who order by certainty.
    """
    return best_sites(-proposal.entropy, proposal.sites.row, progress.n_rows, progress.quota)


def low_confidence(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """The site whose chosen word is the likeliest, so that those of low confidence stay masked.

    Source: Nie et al. 2025 (LLaDA), section 2.4: low-confidence remasking.
    """
    said = proposal.log_prob if proposal.leaning is None else proposal.leaning
    chosen = said.gather(1, proposal.score.argmax(1, keepdim=True)).squeeze(1)
    chosen = torch.where(proposal.confidence > -torch.inf, chosen, -torch.inf)
    return best_sites(chosen, proposal.sites.row, progress.n_rows, progress.quota)


def margin(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """The site whose best word leads the second by most, in probability. Source: Kim et al. 2025, section 4."""
    lead = proposal.confidence.exp() - (proposal.confidence - proposal.margin).exp()
    lead = torch.where(proposal.confidence > -torch.inf, lead, -torch.inf)
    return best_sites(lead, proposal.sites.row, progress.n_rows, progress.quota)


def location(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """Every site, each at the model's own price for it, so that a beam sums over orders; with noise, one drawn so.

    Source: Shen et al. 2020, section 3.1.
    """
    if noise is None:
        return torch.ones_like(proposal.place, dtype=torch.bool)
    return _drawn(proposal.place.double(), proposal, progress, noise)


def leftmost(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """The first open site. Source: the order of every left-to-right model."""
    return best_sites(-proposal.sites.element.double(), proposal.sites.row, progress.n_rows, progress.quota)


def rightmost(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """The last open site. Source: the mirror of `leftmost`, for comparison."""
    return best_sites(proposal.sites.element.double(), proposal.sites.row, progress.n_rows, progress.quota)


def random(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """Any site, all alike. Source: ancestral sampling of masked diffusion (Sahoo et al. 2024, section 3.3).

    One a pass it is the first-hitting sampler (Zheng et al. 2024): the times of the reveals, which that draws too, say
    nothing to a network that is not told them.
    """
    if noise is None:
        raise ValueError("the random policy draws · it was given no noise")
    return _drawn(torch.zeros_like(proposal.place, dtype=torch.float64), proposal, progress, noise)


def parallel(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """Every site at once. Source: Stern et al. 2019 (parallel decoding)."""
    return torch.ones_like(proposal.place, dtype=torch.bool)


def serial(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """The likeliest word at its place, by the model's price of places too, and every end that is the likeliest there.

    Source: Stern et al. 2019 (greedy decoding); there slots that end are looked at again in every step.
    """
    ends = torch.zeros_like(proposal.best, dtype=torch.bool)
    if proposal.ended is not None:
        ends = proposal.ended >= proposal.best.exp()
    value = (places(proposal, progress.n_rows) + proposal.best).masked_fill(ends, -torch.inf)
    return ends | (best_sites(value, proposal.sites.row, progress.n_rows, progress.quota) & ~ends)


def threshold(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """Every site whose best word of those that may come has the level's probability, and the likeliest in any case.

    Source: Wu et al. 2025 (Fast-dLLM), section 3.3; there it is the chosen word, which is the best one unless words are
    drawn. By the best the order depends on the distributions and the rules alone.
    """
    sure = proposal.best.exp() >= progress.level
    return sure | best_sites(proposal.best, proposal.sites.row, progress.n_rows, progress.quota)


def factor(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """The n likeliest sites of a row, the largest n with (n + 1)(1 - p_n) below the level; one at least.

    p is that of the best word that may come. Source: Wu et al. 2025 (Fast-dLLM), section 3.3: n words are then, about,
    as good together as one by one.
    """
    row, sure = proposal.sites.row, proposal.best
    order, rank = ranked(sure, row, progress.n_rows)
    holds = (rank + 2) * (1 - sure[order].exp().double()) < progress.level
    return _leading(order, rank, holds, row, progress)


def entropy_bound(proposal: Proposal, progress: Progress, noise: Noise | None) -> Tensor:
    """The k most certain sites of a row, as many as keep H_1 + ... + H_k - max H within the level (nats).

    Source: Ben-Hamu et al. 2025 (EB-Sampler), eq. 8: it bounds what writing them at once may lose.
    """
    row = proposal.sites.row
    order, rank = ranked(-proposal.entropy, row, progress.n_rows)
    entropy = proposal.entropy[order].double()
    certain = entropy.isfinite()  # a site that is to wait has none
    entropy = torch.where(certain, entropy, 0.0)
    sums = entropy.cumsum(0) - entropy  # of those before it, in all rows
    before = sums - sums[torch.arange(row.numel(), device=row.device) - rank]
    return _leading(order, rank, certain & (before <= progress.level), row, progress)


def _leading(order: Tensor, rank: Tensor, holds: Tensor, row: Tensor, progress: Progress) -> Tensor:
    """Of sites in order, those up to the last of their row that `holds`, and its quota in any case."""
    last = torch.full((progress.n_rows,), -1, device=row.device).scatter_reduce(
        0, row[order], torch.where(holds, rank, -1), "amax"
    )
    least = torch.ones_like(last) if progress.quota is None else progress.quota
    taken = torch.zeros_like(row, dtype=torch.bool)
    taken[order] = rank < torch.maximum(last + 1, least)[row[order]]
    return taken


def _drawn(log_prob: Tensor, proposal: Proposal, progress: Progress, noise: Noise) -> Tensor:
    """One site a row, drawn by Gumbel noise."""
    row = proposal.sites.row
    per_row = torch.bincount(row, minlength=progress.n_rows)
    number = torch.arange(row.numel(), device=row.device) - (per_row.cumsum(0) - per_row)[row]
    uniform = noise.grid(row, number, 1, "place").squeeze(1)
    value = log_prob - (-uniform.log()).log()
    value = torch.where(proposal.confidence > -torch.inf, value, -torch.inf)
    return best_sites(value, row, progress.n_rows, progress.quota)


NONE, ENTROPY = frozenset[str](), frozenset({"entropy"})

POLICIES: dict[str, Policy] = {
    "confident": Policy(confident, deterministic=True, charges_place=False, reads=ENTROPY),
    "low_confidence": Policy(low_confidence, deterministic=True, charges_place=False, reads=NONE),
    "margin": Policy(margin, deterministic=True, charges_place=False, reads=frozenset({"margin"})),
    "location": Policy(
        location, deterministic=True, charges_place=True, all=True, weighs_place=True, waits=False, reads=NONE
    ),
    "leftmost": Policy(leftmost, deterministic=True, charges_place=False, waits=False, reads=NONE),
    "rightmost": Policy(rightmost, deterministic=True, charges_place=False, waits=False, reads=NONE),
    "random": Policy(random, deterministic=False, charges_place=False, reads=NONE),
    "parallel": Policy(
        parallel, deterministic=True, charges_place=False, several=True, wide=True, waits=False, reads=NONE
    ),
    "serial": Policy(
        serial, deterministic=True, charges_place=False, several=True, weighs_place=True, waits=False, reads=NONE
    ),
    "threshold": Policy(threshold, deterministic=True, charges_place=False, several=True, level=0.9, reads=NONE),
    "factor": Policy(factor, deterministic=True, charges_place=False, several=True, level=1.0, reads=NONE),
    "entropy_bound": Policy(
        entropy_bound, deterministic=True, charges_place=False, several=True, level=0.1, reads=ENTROPY
    ),
}
