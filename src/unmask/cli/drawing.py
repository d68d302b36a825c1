"""What a terminal shows: fills in their sentence, a bar for each, a canvas as it is written."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from unmask.results import Fill, Score

BAR = 12  # cells
PLAIN_WIDTH = 100  # of a table that goes into a file or a pipe
EIGHTHS = " ▏▎▍▌▋▊▉"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a terminal obeys; line ends and tabs are text


def console() -> Console:
    """Standard output as it is now: a terminal, or something that keeps plain text."""
    made = Console(highlight=False, markup=False, emoji=False)
    return made if made.is_terminal else Console(highlight=False, markup=False, emoji=False, width=PLAIN_WIDTH)


def shown(text: str, to: Console) -> str:
    """A text that a terminal only shows: what it would obey is spelt out; a file or a pipe gets the text itself."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text) if to.is_terminal else text


def draw_fills(to: Console, fills: Sequence[Fill], title: str) -> None:
    """A table of fills, best first: the text, its share among those shown, its log-probability."""
    kinds = sorted({fill.kind for fill in fills})
    to.print(Text(shown(title, to), style="bold"))
    if not fills:
        to.print(Text("nothing fits within the limits", style="yellow"))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("text", overflow="fold")
    if not to.is_terminal:
        table.add_column("written", overflow="fold")
    table.add_column("share", no_wrap=True)
    for kind in kinds:  # a bound and an estimate cannot be compared: each kind has its column
        table.add_column(f"log p ({kind})", justify="right", no_wrap=True)
    for number, (fill, share) in enumerate(zip(fills, shares(fills), strict=True), 1):
        text = Text(shown(fill.text, to))
        for hole in fill.holes:
            start, end = (len(shown(fill.text[:place], to)) for place in (hole.start, hole.end))
            text.stylize("bold reverse", start, end)
        if fill.status != "finished":
            text.append(f"  ({fill.status})", style="yellow")
        written = [] if to.is_terminal else [Text(" · ".join(hole.text for hole in fill.holes))]
        log_probs = [f"{fill.log_prob:.2f}" if fill.kind == kind else "" for kind in kinds]
        table.add_row(str(number), text, *written, f"{bar(share)} {share:4.0%}", *log_probs)
    to.print(table)


def shares(fills: Sequence[Fill]) -> list[float]:
    """Each fill's probability among the fills of its kind that are shown; the sum of a kind is one.

    With candidates in a single hole the model's own probability over all of them is at hand, and is shown instead.
    """
    own = [fill.holes[0].prob for fill in fills if len(fill.holes) == 1]
    if own and len(own) == len(fills) and None not in own:
        return [prob for prob in own if prob is not None]
    best = {kind: max(fill.log_prob for fill in fills if fill.kind == kind) for kind in {fill.kind for fill in fills}}
    weights = [math.exp(fill.log_prob - best[fill.kind]) for fill in fills]
    total = {kind: sum(w for w, fill in zip(weights, fills, strict=True) if fill.kind == kind) for kind in best}
    return [weight / total[fill.kind] for weight, fill in zip(weights, fills, strict=True)]


def bar(share: float, width: int = BAR) -> str:
    """A bar of `width` cells, as full as `share` says, to an eighth of a cell."""
    eighths = round(max(0.0, min(share, 1.0)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(width)


def draw_scores(to: Console, scored: Sequence[tuple[str, Score]]) -> None:
    """A table of scores, one text a row; each kind has its own column."""
    kinds = sorted({score.kind for _, score in scored})
    table = Table(box=None, pad_edge=False)
    table.add_column("text", overflow="fold")
    for kind in kinds:
        table.add_column(f"log p ({kind})", justify="right", no_wrap=True)
    for name in ("std. error", "a word", "words"):
        table.add_column(name, justify="right", no_wrap=True)
    for text, score in scored:
        log_probs = [f"{score.log_prob:.2f}" if score.kind == kind else "" for kind in kinds]
        error = f"{score.std_error:.2f}"
        a_word = f"{score.log_prob / score.words:.2f}" if score.words else ""
        table.add_row(Text(shown(text, to)), *log_probs, error, a_word, str(score.words))
    to.print(table)
