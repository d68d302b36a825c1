"""What a person sees of a run while it goes, and how they stop it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """A bar on standard error: steps, loss, tokens a second, time left."""

    def __init__(self, shown: bool, done: int = 0) -> None:
        """Begin at step `done`; where it is not `shown`, it does nothing."""
        columns = (
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.3f} · {task.fields[speed]:,.0f} tokens/s · left"),
            TimeRemainingColumn(),
        )
        self.bar = Bar(*columns, console=Console(stderr=True), disable=not shown, refresh_per_second=4)
        self.task = self.bar.add_task("train", total=None, completed=done, loss=float("nan"), speed=0.0)
        self.loss: float | None = None
        self.speed: float | None = None

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def tell(self, entry: Mapping[str, Any], steps: int | None) -> None:
        """After a step, with its log entry and all steps where they are known; numbers are smoothed."""
        self.loss = entry["loss"] if self.loss is None else 0.95 * self.loss + 0.05 * entry["loss"]
        speed = entry["tokens_per_second"]
        self.speed = speed if self.speed is None else 0.95 * self.speed + 0.05 * speed
        self.bar.update(self.task, completed=entry["step"], total=steps, loss=self.loss, speed=self.speed)


class StopSignal:
    """SIGTERM and SIGINT ask the run to save and end; a second SIGINT ends it at once."""

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self.number: int | None = None
        self.before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self.number is not None

    @property
    def interrupted(self) -> bool:
        """Whether it was a person at the keyboard."""
        return self.number == signal.SIGINT

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, _: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
