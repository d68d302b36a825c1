"""Questions with given answers: how often the likeliest whole answer is the right one."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.evaluation.filling import batched
from unmask.evaluation.multiple_choice import calibration_error
from unmask.evaluation.report import Report, proportion
from unmask.holes import Blank, Sign, parse

if TYPE_CHECKING:
    from unmask.decoding.score import Scored
    from unmask.evaluation import Tell
    from unmask.language_model import LanguageModel

DRAWS = 16  # sets of masks, or orders, of an answer
POLICY = "low_confidence"  # of DUEL, one token a step: the likeliest place first


@dataclass(frozen=True)
class Question:
    """A text with one hole, what may stand in it, and which of that is right."""

    pieces: tuple[str | Sign, ...]
    answer: int


def evaluate(lm: LanguageModel, text: Sequence[Path], counts: Sequence[Path], n: int, seed: int, tell: Tell) -> Report:
    """Score every answer to `n` questions, and take the likeliest.

    Raises:
        ValueError: when a file holds no questions.
    """
    from unmask.decoding.ranking import rank

    found = [question for path in text for question in questions(path)]
    random.Random(seed).shuffle(found)
    found, rows = found[:n], []
    for by, how in ways(lm):
        scored = batched(
            lambda some, how=how: rank(lm.model, lm.tokenizer, some, seed=seed, **how),  # type: ignore[misc]
            [question.pieces for question in found],
            tell,
            by,
        )
        rows.append(row(by, found, scored))
    notes = [
        "top-1: the likeliest answer as a whole is the right one; a token: the likeliest by its mean over its tokens",
        f"draws: {DRAWS} sets of masks or orders, shared by the answers to a question; ECE over ten bins",
    ]
    return Report(rows, [*notes, f"DUEL: exact for the policy {POLICY}, one token a step"])


def ways(lm: LanguageModel) -> list[tuple[str, dict[str, Any]]]:
    """The estimators that suit a model, each with its name."""
    from unmask.objectives import told

    drawn = ("draws", {"method": "bound", "orders": DRAWS})
    if told(lm.model.objective) is not None:
        return [drawn, ("DUEL", {"method": "duel", "policy": POLICY})]
    return [drawn] if lm.model.objective.paths == "many" else [("model", {})]


def row(by: str, asked: Sequence[Question], scored: Sequence[Sequence[Scored]]) -> dict[str, Any]:
    """How often the likeliest answer is right, as a whole and by its mean a token; calibration of the former."""
    wholes = [[one.log_prob for one in some] for some in scored]
    means = [[one.log_prob / one.tokens for one in some] for some in scored]
    out: dict[str, Any] = {"by": by, "kind": scored[0][0].kind, "n": len(asked)}
    for name, values in (("top-1", wholes), ("a token", means)):
        right = [some.index(max(some)) == question.answer for some, question in zip(values, asked, strict=True)]
        share, error = proportion(right)
        out |= {name: share, f"± {name}": error}
    best = [1 / sum(math.exp(value - max(some)) for value in some) for some in wholes]
    right = [some.index(max(some)) == question.answer for some, question in zip(wholes, asked, strict=True)]
    return out | {"ECE": calibration_error(best, right)}


def questions(path: Path) -> list[Question]:
    """The questions of a JSONL file: `{"text": "It sat on the ___.", "choices": ["mat", "moon"], "answer": 0}` a line.

    Raises:
        ValueError: when a line is none, naming it.
    """
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(_question(json.loads(line.decode("utf-8"))))
        except ValueError as fault:
            why = "not UTF-8" if isinstance(fault, UnicodeDecodeError) else str(fault).partition(" · ")[0]
            raise ValueError(
                f"{path}, line {number}, is no question · {why}"
                ' · write {"text": "… ___ …", "choices": ["…", "…"], "answer": 0}'
            ) from None
    if not found:
        raise ValueError(f"{path} holds no questions · it is empty · write one a line")
    return found


def _question(said: Any) -> Question:
    """A question, of what a line says.

    Raises:
        ValueError: when it is none.
    """
    said = said if isinstance(said, dict) else {}
    text, choices, answer = (said.get(key) for key in ("text", "choices", "answer"))
    pieces = parse(text) if isinstance(text, str) else []
    if pieces.count(Blank()) != 1 or sum(isinstance(piece, Sign) for piece in pieces) != 1:
        raise ValueError("not one ___ in its text")
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice for choice in choices):
        raise ValueError(f"choices {choices!r:.60} are no list of texts")
    if type(answer) is not int or not 0 <= answer < len(choices):  # true is an int too
        raise ValueError(f"answer {answer!r:.60} is no number of a choice, from 0")
    blank = Blank(candidates=tuple(choices))
    return Question(tuple(blank if piece == Blank() else piece for piece in pieces), answer)
