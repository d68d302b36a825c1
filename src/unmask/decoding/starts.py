"""Ways to begin with a text: a candidate for each hole that has some, and the holes that stay empty."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from unmask.canvas import Canvas, Role
from unmask.holes import Blank, Hole, Mask
from unmask.model import Model
from unmask.objectives import OBJECTIVES, called, told
from unmask.tokenizer import Reading, Tokenizer

MOST_STARTS = 4096  # combinations of candidates and empty fills of one text


@dataclass(frozen=True)
class Start:
    """One way to begin: a candidate for each hole that has some, and the holes that stay empty."""

    choice: dict[int, int]  # hole to number of the candidate
    forced: dict[int, list[int]]  # hole to tokens
    empty: frozenset[int]


def starts_of(model: Model, tokenizer: Tokenizer, reading: Reading) -> list[Start]:
    """Every combination of candidates and empty fills of one text."""
    options: list[list[tuple[int, int | None, list[int]]]] = []  # (hole, candidate or -1 for empty or None, tokens)
    empties = model.objective.closes != "never" or _appends_at_all(model, reading)  # writes nothing of its own accord
    for hole in reading.holes:
        _check(model, hole)
        if isinstance(hole.sign, Blank) and hole.sign.candidates:
            ids = [candidate_of(tokenizer, hole, text) for text in hole.sign.candidates]
            options.append([(hole.index, i, tokens) for i, tokens in enumerate(ids)])
        elif isinstance(hole.sign, Blank) and hole.sign.words[0] == 0 and not empties:
            options.append([(hole.index, None, []), (hole.index, -1, [])])
    n = math.prod(len(some) for some in options)
    if n > MOST_STARTS:
        raise ValueError(
            f"{n} combinations of candidates and empty fills · each is a row of its own, at most {MOST_STARTS}"
            " · give fewer candidates, or fill some holes first"
        )
    starts = []
    for combination in itertools.product(*options):
        chosen = [(hole, which, tokens) for hole, which, tokens in combination if which is not None]
        starts.append(
            Start(
                {hole: which for hole, which, _ in chosen if which >= 0},
                {hole: tokens for hole, which, tokens in chosen if which >= 0},
                frozenset(hole for hole, which, _ in chosen if which < 0),
            )
        )
    return starts


def candidate_of(tokenizer: Tokenizer, hole: Hole, text: str) -> list[int]:
    """The ids of a candidate in a hole.

    Raises:
        ValueError: when it is empty, or the vocabulary lacks some of it.
    """
    ids = tokenizer.candidate_ids(hole, text)
    if not text or not ids or bool(tokenizer.special[ids].any()):
        raise ValueError(
            f"the candidate {text!r} cannot be written · it is empty, or the model's vocabulary lacks some of it"
            " · leave it out, or write ___{0,1} for perhaps nothing"
        )
    return ids


def all_told(start: Start, holes: Sequence[Hole]) -> bool:
    """Whether nothing is left to be searched for."""
    return bool(holes) and len(start.forced) == len(holes)


def kind_of_hole(hole: Hole) -> str:
    """The kind of a hole, as objectives name them."""
    if isinstance(hole.sign, Blank):
        return "candidates" if hole.sign.candidates else "blank"
    return "mask" if isinstance(hole.sign, Mask) else "lost"


def _check(model: Model, hole: Hole) -> None:
    kind, objective = kind_of_hole(hole), model.objective
    maybe = isinstance(hole.sign, Blank) and hole.sign.words[0] == 0 and kind == "blank"
    if maybe and told(objective) is not None:
        able = [name for name, family in OBJECTIVES.items() if kind in family.holes and family.lengths == "free"]
        raise ValueError(
            f"hole {hole.index} may be empty · {called(objective)} is told how many tokens it has, and of none"
            " there is nothing to be sure of · ask for a word at least, ___{1,3}, or use a model of"
            f" {' or '.join(able)}"
        )
    if kind in objective.holes:
        return
    if kind == "lost":
        raise ValueError(
            f"hole {hole.index} counts lost letters · no model here fills by letters · write [---], ___ or ___{{1,3}}"
        )
    able = [name for name, family in OBJECTIVES.items() if kind in family.holes]
    raise ValueError(
        f"hole {hole.index} is a {kind} · {called(objective)} fills {', '.join(sorted(objective.holes))}"
        f" · use a model of {' or '.join(able)}, or write another kind of hole"
    )


def appends_behind(model: Model, canvas: Canvas) -> bool:
    """Whether the family writes behind its rows rather than in the place of its signs."""
    sites = model.objective.sites(canvas)
    return bool((canvas.role[sites.element] != Role.SIGN).any())


def _appends_at_all(model: Model, reading: Reading) -> bool:
    if told(model.objective) is not None or not reading.holes:
        return False
    return appends_behind(model, model.objective.open(reading.canvas, reading.holes))
