"""What a caller may choose of decoding and scoring: names, ranges, what goes together. Read without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Protocol

from unmask.decoding.masks import Masks

METHODS = ("exact", "bound", "jackknife", "duel")  # the estimators of scores; a family has some of them
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

    @property
    def wide(self) -> bool:
        """Whether a beam follows the best ways to do so."""
        ...

    @property
    def level(self) -> float | None:
        """Its own number; None: it has none."""
        ...


@dataclass(frozen=True)
class Named:
    """A policy of the package, by its manner alone."""

    deterministic: bool = True
    several: bool = False
    wide: bool = False
    level: float | None = None


# The policies of `policies.py`, for those who may not wait for torch; the house test holds the two tables equal.
POLICIES: dict[str, Named] = {
    "confident": Named(),
    "low_confidence": Named(),
    "margin": Named(),
    "location": Named(),
    "leftmost": Named(),
    "rightmost": Named(),
    "random": Named(deterministic=False),
    "parallel": Named(several=True, wide=True),
    "serial": Named(several=True),
    "threshold": Named(several=True, level=0.9),
    "factor": Named(several=True, level=1.0),
    "entropy_bound": Named(several=True, level=0.1),
}


def level_of(name: str) -> tuple[str, float | None]:
    """The policy that `name` or `name:level` means, and the level where one is told.

    Raises:
        ValueError: when there is no such policy, or the level is no number above 0, or it takes none.
    """
    kind, colon, level = name.partition(":")
    if kind not in POLICIES:
        raise ValueError(f"no policy {kind!r} · policies: {', '.join(POLICIES)} · name one of them")
    if not colon:
        return kind, None
    if POLICIES[kind].level is None:
        able = ", ".join(other for other, manner in POLICIES.items() if manner.level is not None)
        raise ValueError(f"policy {name!r} · {kind} has no level of its own · write {kind}, or take one of {able}")
    try:
        value = float(level)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(
            f"policy {name!r} · {level!r} is no level · write a number, as in {kind}:{POLICIES[kind].level}"
        )
    return kind, value


def draws(rule: Manner, temperature: float, masks: Masks) -> bool:
    """Whether anything is drawn: words, places, or what is taken back."""
    return temperature > 0 or not rule.deterministic or masks.remask is not None


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
    end_penalty: float = 0.0,
    masks: Masks | None = None,
) -> None:
    """See that a search can be made so; arguments as in `LanguageModel.fill`, policies by name.

    Raises:
        ValueError: when a name or number is not one that can be, or two of them do not go together.
    """
    kind, _ = level_of(policy)
    for name, value in {"n": n, "beam": beam, "steps": steps, "top_k": top_k}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
            raise ValueError(f"{name} is {value!r} · it is a whole number, 1 or more · change it")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature is {temperature} · it cannot be less than 0 or endless · change it")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p} · it is a share of the probability · take one above 0, at most 1")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout is {timeout} · it is a number of seconds above 0 · change it")
    if not math.isfinite(end_penalty):
        raise ValueError(f"end_penalty is {end_penalty} · it is a number of nats · change it")
    check_seed(seed)
    rule = policies[kind]
    masks = masks or Masks()
    drawn = draws(rule, temperature, masks)
    if n > 1 and rule.several and not drawn and (not rule.wide or (beam or 1) < n):
        raise ValueError(
            f"n is {n} · the policy {policy!r} writes one text, whatever it could say instead · ask for one, give a "
            + (f"beam of {n} or more, or a temperature above 0" if rule.wide else "temperature above 0")
            + ", or take another policy"
        )
    if beam is not None and beam > 1 and (drawn or (rule.several and not rule.wide)):
        raise ValueError(
            f"a beam of {beam} · it follows one edit at a time and draws nothing"
            " · leave out beam, or temperature and a policy that takes several places at once"
        )
    if end_penalty and not (drawn or (rule.several and (beam or 1) == 1)):
        raise ValueError(
            f"end_penalty with the policy {policy!r} and a beam · a search ranks whole texts by what the model says of"
            " them, and would undo it · take parallel, threshold or serial with one row, or draw"
        )
    if masks.remask is not None and steps is None:
        raise ValueError("remask without steps · how much is taken back depends on how many there are · say steps=64")
    if masks.one_row and ((beam or 1) > 1 or (n > 1 and not drawn)):
        what = "a cache" if masks.cache else "guidance"
        raise ValueError(
            f"{what} beside several hypotheses · with it a text is one row that is written on and on"
            " · ask for one fill with beam=1, or draw them"
        )


def check_method(method: str | None, policy: str | None = None, steps: int | None = None) -> None:
    """See that some family has such an estimator, and that only DUEL is given a policy or a number of steps.

    Raises:
        ValueError: when it is not so.
    """
    if method is not None and method not in METHODS:
        raise ValueError(f"no likelihood method {method!r} · methods: {', '.join(METHODS)} · name one of them")
    if method == "duel":
        check(POLICIES, policy=policy or "confident", steps=steps)
    elif policy is not None or steps is not None:
        raise ValueError("a policy or steps without method='duel' · no other method has them · add it, or leave them")


def check_seed(seed: int) -> None:
    """See that a seed is one.

    Raises:
        ValueError: when it is no whole number from 0 to 2^63 - 1.
    """
    if not isinstance(seed, Integral) or not 0 <= seed <= MOST_SEED:
        raise ValueError(f"seed is {seed!r} · it is a whole number of 63 bits · take one from 0 to {MOST_SEED}")
