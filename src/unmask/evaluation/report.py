"""What a task found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Report:
    """Rows of named figures, and what has to be known to read them."""

    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)


def proportion(hits: Sequence[bool]) -> tuple[float, float]:
    """The share of hits and its standard error, the square root of p (1 - p) / n."""
    share = sum(hits) / len(hits)
    return share, math.sqrt(share * (1 - share) / len(hits))


def ratio(totals: Sequence[float], counts: Sequence[float]) -> tuple[float, float]:
    """A ratio of sums and its standard error (linearised; Cochran 1977, section 2.11).

    Args:
        totals: One number a sentence, say its nats.
        counts: What each is divided by, say its words.
    """
    value, n = sum(totals) / sum(counts), len(totals)
    if n < 2:
        return value, math.nan
    squares = sum((total - value * count) ** 2 for total, count in zip(totals, counts, strict=True))
    return value, math.sqrt(n / (n - 1) * squares) / sum(counts)
