"""How a canvas of masks is written: for families that are told how many tokens are missing. Read without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

LENGTHS = ("probe", "grow")
ENDINGS = ("free", "late", "never")
CACHES = ("prefix", "dual", "delayed")
REMASKS = {"cap": 0.02, "rescale": 0.015, "confidence": 0.02, "loop": 0.02}  # and the level of each, unless told


@dataclass(frozen=True)
class Masks:
    """What a caller may choose of a model that writes tokens into masks.

    Raises:
        ValueError: when one is not what can be, or two do not go together.
    """

    length: int | str | None = None  # tokens of each free blank; `probe`, `grow`; None: grow at the end, else probe
    block: int | None = None  # masks that are written before those behind them may be; None: all are open
    guidance: float = 0.0  # weight w of classifier-free guidance; 0: none
    ending: str = "free"  # when the end of a text may be written: as it comes, after all else, never
    remask: str | None = None  # takes written tokens back: cap, rescale, confidence or loop, as `cap:0.02`
    cache: str | None = None  # what keeps its keys and values within a block; None: nothing
    refresh: int | None = None  # steps after which all is computed anew within a block; None: at its start alone
    suffix: int | None = None  # masks behind the block that are read; None: all

    def __post_init__(self) -> None:
        if isinstance(self.length, str) and self.length not in LENGTHS:
            raise ValueError(
                f"no length {self.length!r} · a canvas has so many tokens, or finds its length · write a number,"
                f" {' or '.join(LENGTHS)}"
            )
        _choice("ending", self.ending, ENDINGS)
        _choice("cache", self.cache, CACHES)
        least = {"length": 1, "block": 1, "refresh": 1, "suffix": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is None or (name == "length" and isinstance(value, str)):
                continue
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise ValueError(f"{name} is {value!r} · it is a whole number · change it")
            if value < bound:
                raise ValueError(f"{name} is {value} · it cannot be less than {bound} · change it")
        if not isinstance(self.guidance, Real) or not 0 <= self.guidance < math.inf:
            raise ValueError(f"guidance is {self.guidance!r} · it is a weight of 0 or more · change it")
        if self.remask is not None:
            remask_of(self.remask)
            if self.block is not None:
                raise ValueError("remask with a block · what is taken back may lie outside it · leave out one of them")
        if self.block is None and (self.cache or self.suffix is not None):
            name = "cache" if self.cache else "suffix"
            raise ValueError(f"{name} without a block · it is a block that is read anew · say how long: block=32")
        if self.refresh is not None and self.cache is None:
            raise ValueError("refresh without a cache · there is nothing to compute anew · name one: cache='dual'")

    @property
    def one_row(self) -> bool:
        """Whether a text is one row that is written on and on: nothing to compare hypotheses by, or to keep of them."""
        return self.cache is not None or self.guidance > 0

    @property
    def plain(self) -> bool:
        """Whether nothing was chosen."""
        return self == Masks()


def remask_of(name: str) -> tuple[str, float]:
    """The way of remasking that `name` or `name:level` means, and its level.

    Raises:
        ValueError: when there is none, or the level is no share.
    """
    kind, colon, level = name.partition(":")
    _choice("remask", kind, tuple(REMASKS))
    try:
        value = float(level) if colon else REMASKS[kind]
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise ValueError(f"remask {name!r} · {level!r} is no share above 0, at most 1 · write {kind}:{REMASKS[kind]}")
    return kind, value


def _choice(name: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise ValueError(f"no {name} {value!r} · choose of {', '.join(known)}")
