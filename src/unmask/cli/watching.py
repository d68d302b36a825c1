"""`--watch`: the text as it is written, redrawn on a terminal, a line a step elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.text import Text

from unmask.cli.drawing import console, shown

if TYPE_CHECKING:
    from unmask.language_model import LanguageModel
    from unmask.results import Step

PAUSE = 0.12  # seconds a step stays on a terminal at least, so that an eye can follow


def watch_one(lm: LanguageModel, text: str, how: dict[str, Any]) -> list[Any]:
    """Show every step of one text; there is nothing left to show, hence the empty list."""
    steps = lm.watch(text, **{name: value for name, value in how.items() if name != "n"})
    to = console()
    if not to.is_terminal:
        for step in steps:
            print(f"{step.passes:3d}  {step.text}", flush=True)
    else:
        _live(steps)
    return []


def _live(steps: Iterable[Step]) -> None:
    import time

    before, to = "", console()
    with Live(console=to, auto_refresh=False, transient=False) as live:
        for step in steps:
            now = shown(step.text, to)
            live.update(Text.assemble((f"{step.passes:3d}  ", "dim"), highlighted(now, before)), refresh=True)
            before = now
            time.sleep(PAUSE)
        live.update(Text(before), refresh=True)


def highlighted(now: str, before: str) -> Text:
    """The text with what changed since the last step made visible."""
    start = 0
    while start < min(len(now), len(before)) and now[start] == before[start]:
        start += 1
    end = 0
    while end < min(len(now), len(before)) - start and now[-1 - end] == before[-1 - end]:
        end += 1
    text = Text(now)
    if before:
        text.stylize("bold reverse", start, len(now) - end)
    return text
