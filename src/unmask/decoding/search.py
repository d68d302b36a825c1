"""How to decode: what a caller may choose, checked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from unmask.decoding.choices import check, draws
from unmask.decoding.masks import Masks
from unmask.decoding.policies import POLICIES, Policy, policy_named

BEAM = 8  # rows a text has at once, unless told


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
    end_penalty: float = 0.0  # nats that choosing an end takes off it
    masks: Masks = Masks()  # what is for families that are told lengths

    def __post_init__(self) -> None:
        check(POLICIES, **vars(self))

    @cached_property
    def rule(self) -> Policy:
        """The policy itself."""
        return policy_named(self.policy)

    @property
    def at_once(self) -> bool:
        """Whether all that the policy takes is written in one go; otherwise each alternative is a row of its own."""
        if self.sampling or self.rule.several:
            return True
        return self.beam == 1 and not self.rule.all and (self.steps is not None or self.masks.one_row)

    @property
    def alone(self) -> bool:
        """Whether one place of a row is written at a time."""
        return not self.at_once or (not self.rule.several and self.steps is None)

    @property
    def expands(self) -> bool:
        """Whether masks may be added on the way: a text is one row, nothing that is as long is compared with it.

        Nor can it be seen where the end is hidden.
        """
        one = self.sampling or (self.beam == 1 and not self.rule.all)
        return one and self.masks.suffix is None and self.masks.ending != "never"

    @property
    def sampling(self) -> bool:
        """Whether anything is drawn: each fill is a row of its own then."""
        return draws(self.rule, self.temperature, self.masks)


def search_of(
    policy: str | None,
    n: int,
    beam: int | None,
    steps: int | None,
    temperature: float,
    top_p: float | None,
    top_k: int | None,
    seed: int,
    timeout: float | None,
    masks: Masks | None,
    end_penalty: float = 0.0,
    rows: int | None = None,
    closes: str = "never",
) -> Search:
    """How to decode, with what was not said filled in; `rows`: what a beam is where nothing was said of it.

    `closes`, as `Objective.closes`: where an end is one for the whole row, which place is next is a part of what the
    model says, and is asked.
    """
    name, masks = policy or ("location" if closes == "row" else "confident"), masks or Masks()
    rule = policy_named(name)
    alone = draws(rule, temperature, masks) or rule.several or masks.one_row
    if beam is None:
        beam = 1 if alone or (steps is not None and n == 1) else rows or max(BEAM, 2 * n)
    elif not alone and beam > 0:
        beam = max(beam, n)
    return Search(name, n, beam, temperature, top_p, top_k, steps, seed, timeout, end_penalty, masks)
