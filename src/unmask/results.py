"""What comes back: fills, scores, steps. Plain values, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["exact", "bound", "estimate"]
Status = Literal["finished", "capped", "timeout"]


class NoFillError(ValueError):
    """A text that can be read, but not filled within its limits."""


@dataclass(frozen=True)
class HoleFill:
    """What was written into one hole; `start` and `end` count characters of the whole text."""

    index: int
    start: int
    end: int
    text: str
    log_prob: float | None = None  # nats; None where orders were summed and no split over holes is defined
    prob: float | None = None  # over the candidates, where they were given


@dataclass(frozen=True)
class Fill:
    """One filled text.

    `log_prob` (nats) is the model's own, before temperature, candidates or limits. `kind`: `exact`; `bound`, never
    above the true value in expectation; `estimate`, neither. `status`: `finished`; `capped`, at a limit; `timeout`.
    """

    text: str
    log_prob: float
    kind: Kind
    given: str | None  # what the number takes as told: "length", or nothing
    status: Status
    holes: tuple[HoleFill, ...]


@dataclass(frozen=True)
class Score:
    """How likely a text is, nats."""

    log_prob: float
    kind: Kind
    given: str | None
    std_error: float
    tokens: int
    words: int


@dataclass(frozen=True)
class Step:
    """A moment of decoding: the text, with `___` or `[MASK]` for what is open, and what the last step did."""

    text: str
    written: tuple[str, ...]
    taken_back: tuple[str, ...]  # nothing, in the families there are
    passes: int  # forward passes so far
