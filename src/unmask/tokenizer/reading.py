"""A text with holes as one row of a canvas, and what was written in it as text again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from unmask.canvas import Canvas, Role
from unmask.holes import Hole, Sign


@dataclass(frozen=True)
class Reading:
    """What the user typed, as a row the models can read."""

    canvas: Canvas  # one row: start, the text and one sign a hole, end
    holes: tuple[Hole, ...]
    pieces: tuple[str | Sign, ...]  # as typed, unescaped; what lies outside the holes comes back from here

    def apart(self, separator: int) -> Reading:
        """The same, the hole at its end a segment of its own, which a separator begins.

        Raises:
            ValueError: when there is another hole, or text behind it.
        """
        if len(self.holes) != 1 or self.canvas.role[-2] != Role.SIGN:
            raise ValueError(
                f"a source with {len(self.holes)} holes, or text behind the last · what is written for it stands"
                " behind it · give the source alone"
            )
        n, last = self.canvas.n_elements, self.canvas.n_elements - 2
        source = torch.tensor([*range(last), last, last, last + 1])
        columns = {name: getattr(self.canvas, name)[source].clone() for name in ("ids", "role", "fixed", "hole")}
        columns |= {"segment": (torch.arange(n + 1) >= last).long()}
        for name, value in (("ids", separator), ("role", Role.SCAFFOLD), ("fixed", True), ("hole", -1)):
            columns[name][last] = value
        return replace(self, canvas=Canvas.build(columns.pop("ids"), torch.tensor([0, n + 1]), **columns))


@dataclass(frozen=True)
class Written:
    """A text whose holes are filled."""

    text: str
    spans: tuple[
        tuple[int, int, str], ...
    ]  # of each hole: where its fill starts and ends, in code points, and the fill


def join(pieces: Sequence[str | Sign], fills: Sequence[str]) -> Written:
    """Put each hole's fill in its place among the pieces.

    Raises:
        ValueError: when there are not as many fills as holes.
    """
    parts: list[str] = []
    spans: list[tuple[int, int, str]] = []
    at, waiting = 0, iter(fills)
    for piece in pieces:
        part = piece if isinstance(piece, str) else next(waiting, None)
        if part is None:
            raise ValueError(f"{len(fills)} fills are too few for this text · every hole needs one, if only ''")
        if not isinstance(piece, str):
            spans.append((at, at + len(part), part))
        parts.append(part)
        at += len(part)
    if len(spans) < len(fills):
        raise ValueError(f"{len(fills)} fills are too many for a text of {len(spans)} holes · every hole needs one")
    return Written("".join(parts), tuple(spans))
