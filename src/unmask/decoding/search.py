"""How to decode: what a caller may choose, checked."""

from __future__ import annotations

from dataclasses import dataclass

from unmask.decoding.choices import check
from unmask.decoding.policies import POLICIES, Policy


@dataclass(frozen=True)
class Search:
    """How to decode."""

    policy: str = "confident"
    n: int = 1  # distinct fills a request
    beam: int = 1  # open rows a request
    temperature: float = 0.0  # above 0: sampling
    top_p: float | None = None
    top_k: int | None = None
    steps: int | None = None  # most forward passes a row
    seed: int = 0
    timeout: float | None = None  # seconds

    def __post_init__(self) -> None:
        check(POLICIES, **vars(self))

    @property
    def rule(self) -> Policy:
        """The policy itself."""
        return POLICIES[self.policy]

    @property
    def at_once(self) -> bool:
        """Whether all that the policy takes is written in one go; otherwise each alternative is a row of its own."""
        return self.sampling or self.rule.several or (self.steps is not None and self.beam == 1 and not self.rule.all)

    @property
    def sampling(self) -> bool:
        """Whether anything is drawn: each fill is a row of its own then."""
        return self.temperature > 0 or not self.rule.deterministic
