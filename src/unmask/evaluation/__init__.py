"""What a model can do, in figures: one file a task, and this table. Nothing heavy is imported by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unmask.evaluation.asking import Filler
    from unmask.evaluation.report import Report

Tell = Callable[[int, int, str], None]  # done, of how many, of what


@dataclass(frozen=True)
class Task:
    """A row of the table: the module whose `evaluate` does it, and what it needs."""

    module: str
    needs_text: bool
    asks: bool = True  # whether a model that fills nothing may be asked in words

    def run(self, lm: Filler, text: Sequence[Path], counts: Sequence[Path], n: int, seed: int, tell: Tell) -> Report:
        """Measure `lm`.

        Args:
            lm: The model, or one that is asked in words.
            text: Held-out files or facts, for the tasks that need them.
            counts: Files of training text, to count words in.
            n: How many sentences at most.
            seed: Of the choice of sentences and blanks.
            tell: Called as the work goes on.
        """
        report: Report = import_module(self.module).evaluate(lm, text, counts, n, seed, tell)
        return report


TASKS = {
    "blanks": Task("unmask.evaluation.blanks", needs_text=True),
    "facts": Task("unmask.evaluation.facts", needs_text=True),
    "questions": Task("unmask.evaluation.questions", needs_text=True, asks=False),
    "prompts": Task("unmask.evaluation.prompts", needs_text=False, asks=False),
}
