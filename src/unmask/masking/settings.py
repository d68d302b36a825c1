"""What may be said of a masking law: the kind and range of each setting, looked at before anything is hidden."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """What a setting is."""

    holds: Callable[[Any], bool]
    what: str
    example: str


def is_number(said: object) -> bool:
    """A finite number; true and false are none."""
    return isinstance(said, int | float) and not isinstance(said, bool) and math.isfinite(said)


def are_numbers(said: object) -> bool:
    """A list of finite numbers."""
    return isinstance(said, tuple | list) and all(is_number(one) for one in said)


def is_truth(said: object) -> bool:
    """True or false, and no word for it."""
    return isinstance(said, bool)


def _is_range(said: Any) -> bool:
    return are_numbers(said) and len(said) == 2 and 0 <= said[0] <= said[1] <= 1


def _are_shares(said: Any) -> bool:
    return are_numbers(said) and min(said, default=-1) >= 0 and sum(said) > 0


OF_LAWS: dict[str, dict[str, Setting]] = {
    "exact_count": {
        "bound": Setting(is_truth, "true or false", "bound: false"),
        "least": Setting(
            lambda said: type(said) is int and said in (0, 1), "0 or 1, how many are hidden at least", "least: 0"
        ),
    },
    "bernoulli": {
        "epsilon": Setting(
            lambda said: is_number(said) and 0 <= said < 1,
            "the least level, from 0 to less than 1",
            "epsilon: 0.001",
        ),
    },
    "runs": {
        "lengths": Setting(
            _are_shares, "how likely a run of one word, two words and so on is, one above 0", "lengths: [0.5, 0.3, 0.2]"
        ),
        "rate": Setting(_is_range, "the least and the largest share of words that begin a run", "rate: [0.1, 0.3]"),
        "single": Setting(
            lambda said: is_number(said) and 0 <= said <= 1, "a share of the rows, from 0 to 1", "single: 0.2"
        ),
    },
}


def check(law: str, settings: Mapping[str, Any]) -> None:
    """See that the settings of a law are of their kind and range; what is not known here the law itself looks at.

    Raises:
        ValueError: when one is not.
    """
    for name, said in settings.items():
        setting = OF_LAWS.get(law, {}).get(name)
        if setting is not None and not setting.holds(said):
            raise ValueError(f"{name} is {said!r} · of {law} it is {setting.what} · as in {setting.example}")
