"""How to decode: what a caller may choose, checked."""

from __future__ import annotations

from dataclasses import dataclass

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
        if self.policy not in POLICIES:
            raise ValueError(f"no policy {self.policy!r} · policies: {', '.join(POLICIES)} · name one of them")
        for name, least in (("n", 1), ("beam", 1), ("steps", 1), ("top_k", 1), ("temperature", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                raise ValueError(f"{name} is {value} · it cannot be less than {least} or endless · change it")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p} · it is a share of the probability · take one above 0, at most 1")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout} · it is a number of seconds above 0 · change it")
        if self.n > 1 and self.rule.several and not self.sampling:
            raise ValueError(
                f"n is {self.n} · the policy {self.policy!r} writes one text, whatever it could say instead"
                " · ask for one, give a temperature above 0, or take another policy"
            )
        if self.beam > 1 and (self.sampling or self.rule.several):
            raise ValueError(
                f"a beam of {self.beam} · it follows one edit at a time and draws nothing"
                " · leave out beam, or temperature and a policy that takes several places at once"
            )

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
