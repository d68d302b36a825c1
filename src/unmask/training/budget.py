"""How long a run is, and how its learning rate runs over it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from unmask.training.config import ScheduleChoice

FIRST, TIMED = 3, 12  # steps before the clock starts (memory and caches settle), and steps it then times


@dataclass(frozen=True)
class Budget:
    """How many steps a run takes. Minutes become steps once the speed is known, and stay so."""

    limit: int | None = None  # steps, at most
    minutes: float | None = None
    bought: int | None = None  # steps that the minutes became
    known_at: int = 0  # the step from which on that was known; the schedule asks
    warmup: int | None = None  # steps of it, where the run began with another budget; None: as the schedule says

    @property
    def timing(self) -> bool:
        """Whether what the minutes buy is not known yet."""
        return self.minutes is not None and self.bought is None

    @property
    def steps(self) -> int | None:
        """The least of the limits that are known; None before there is one."""
        return min((n for n in (self.limit, self.bought) if n is not None), default=None)

    def at(self, step: int) -> int | None:
        """All steps, as far as they were known at `step`."""
        return self.steps if step >= self.known_at else self.limit

    def settled(self, step: int, seconds: float, per_step: float) -> Budget:
        """The budget now that a step is known to take `per_step` seconds; `seconds` are spent."""
        left = max(0.0, (self.minutes or 0.0) * 60 - seconds)
        return replace(self, bought=step + int(left / per_step), known_at=step)


def rate(step: int, steps: int | None, schedule: ScheduleChoice, warmup: int | None = None) -> float:
    """The share of the full learning rate at `step` (from 0) of `steps`; none: the end is not known yet.

    Warm-up: linear, at most a fifth of the run, unless it is given. Cosine: Loshchilov and Hutter 2017, eq. 5, to 0.
    WSD: constant, then linear to 0 (Hu et al. 2024, section 4; Haegele et al. 2024).
    """
    warmup = _warmup(steps, schedule) if warmup is None else warmup
    up = min(1.0, (step + 1) / (warmup + 1))
    if steps is None:
        return up
    if schedule.kind == "cosine":
        share = max(0, step - warmup) / max(1, steps - warmup)
        return up * 0.5 * (1 + math.cos(math.pi * share))
    return up * min(1.0, (steps - step) / max(1.0, steps * schedule.decay))


def _warmup(steps: int | None, schedule: ScheduleChoice) -> int:
    return schedule.warmup if steps is None else min(schedule.warmup, steps // 5)


def extended(old: Budget, new: Budget, step: int, schedule: ScheduleChoice) -> Budget:
    """The budget of a run that goes on at `step` with another one than it had; its warm-up stays as it was.

    Raises:
        ValueError: when steps already taken would have had another learning rate.
    """
    if (old.minutes, old.limit) == (new.minutes, new.limit):
        return old
    if step == 0:
        return new
    mend = "keep the budget it had, or begin a new run from its model with model=RUN/model"
    if schedule.kind != "wsd":
        raise ValueError(f"the budget cannot change · a {schedule.kind} schedule bends from the first step on · {mend}")
    for budget in (old, new):
        if budget.steps is not None and step > budget.steps * (1 - schedule.decay):
            raise ValueError(
                f"the budget cannot change at step {step} · with {budget.steps} steps the learning rate falls from step"
                f" {int(budget.steps * (1 - schedule.decay))} on · {mend}"
            )
    return replace(new, warmup=_warmup(old.at(step), schedule) if old.warmup is None else old.warmup)


class Clock:
    """Measures how long a step takes, the first ones left out."""

    def __init__(self) -> None:
        """Start before the first step."""
        self.times = [time.perf_counter()]

    def tick(self, minutes: float) -> float | None:
        """Call after each step; seconds a step once they are known (sooner when a good part of the minutes is gone)."""
        self.times.append(time.perf_counter())
        taken = len(self.times) - 1
        share = (self.times[-1] - self.times[0]) / max(minutes * 60, 1e-9)
        if taken < FIRST + TIMED and share < (0.2 if taken > FIRST else 0.6):
            return None
        skipped = min(FIRST, taken - 1)
        return (self.times[-1] - self.times[skipped]) / (taken - skipped)
