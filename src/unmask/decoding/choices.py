"""What a caller may choose of decoding and scoring: names, ranges, what goes together. Read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Protocol

METHODS = ("exact", "bound", "jackknife")  # the estimators of scores; a family has some of them
MOST_SEED = 2**63 - 1


class Manner(Protocol):
    """What has to be known of a policy to say what goes with it."""

    @property
    def deterministic(self) -> bool:
        """Whether it draws nothing."""
        ...

    @property
    def several(self) -> bool:
        """Whether it may write several places of a row at once."""
        ...


@dataclass(frozen=True)
class Named:
    """A policy of the package, by its manner alone."""

    deterministic: bool = True
    several: bool = False


# The policies of `policies.py`, for those who may not wait for torch; the house test holds the two tables equal.
POLICIES: dict[str, Named] = {
    "confident": Named(),
    "location": Named(),
    "leftmost": Named(),
    "rightmost": Named(),
    "random": Named(deterministic=False),
    "parallel": Named(several=True),
    "threshold": Named(several=True),
}


def check(
    policies: Mapping[str, Manner],
    *,
    policy: str = "confident",
    n: int = 1,
    beam: int | None = None,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    timeout: float | None = None,
) -> None:
    """See that a search can be made so; arguments as in `LanguageModel.fill`, policies by name.

    Raises:
        ValueError: when a name or number is not one that can be, or two of them do not go together.
    """
    if policy not in policies:
        raise ValueError(f"no policy {policy!r} · policies: {', '.join(policies)} · name one of them")
    least = {"n": (n, 1), "beam": (beam, 1), "steps": (steps, 1), "top_k": (top_k, 1), "temperature": (temperature, 0)}
    for name, (value, bound) in least.items():
        if value is not None and not bound <= value < float("inf"):
            raise ValueError(f"{name} is {value} · it cannot be less than {bound} or endless · change it")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p} · it is a share of the probability · take one above 0, at most 1")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout is {timeout} · it is a number of seconds above 0 · change it")
    check_seed(seed)
    rule = policies[policy]
    drawn = temperature > 0 or not rule.deterministic
    if n > 1 and rule.several and not drawn:
        raise ValueError(
            f"n is {n} · the policy {policy!r} writes one text, whatever it could say instead"
            " · ask for one, give a temperature above 0, or take another policy"
        )
    if beam is not None and beam > 1 and (drawn or rule.several):
        raise ValueError(
            f"a beam of {beam} · it follows one edit at a time and draws nothing"
            " · leave out beam, or temperature and a policy that takes several places at once"
        )


def check_method(method: str | None) -> None:
    """See that some family has such an estimator.

    Raises:
        ValueError: when none has.
    """
    if method is not None and method not in METHODS:
        raise ValueError(f"no likelihood method {method!r} · methods: {', '.join(METHODS)} · name one of them")


def check_seed(seed: int) -> None:
    """See that a seed is one.

    Raises:
        ValueError: when it is no whole number from 0 to 2^63 - 1.
    """
    if not isinstance(seed, Integral) or not 0 <= seed <= MOST_SEED:
        raise ValueError(f"seed is {seed!r} · it is a whole number of 63 bits · take one from 0 to {MOST_SEED}")
