"""Whole answers to one question, each scored by itself: candidates of any lengths, by any estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch

from unmask.canvas import Canvas, Edits, Role
from unmask.decoding.score import Asked, Scored, key_of, score
from unmask.decoding.starts import candidate_of
from unmask.holes import Blank, Sign
from unmask.model import Model
from unmask.tokenizer import Tokenizer


def rank(
    model: Model, tokenizer: Tokenizer, questions: Sequence[Sequence[str | Sign]], **how: Unpack[Asked]
) -> list[list[Scored]]:
    """Give log p(candidate | the rest of its text), nats, for each candidate of each question.

    The candidates of one question share their draws (one uniform number, one order of the places), so that what tells
    them apart is not the luck of the draw.

    Args:
        model: In evaluation mode.
        tokenizer: The model's.
        questions: Pieces of each text, one of them a blank with candidates and no other hole.
        how: The estimator, as in `score`.

    Raises:
        ValueError: when a question has not just that one hole, or a candidate cannot be written.
    """
    rows: list[Canvas] = []
    keys: list[int] = []
    for pieces in questions:
        reading = tokenizer.read(pieces)
        holes = reading.holes
        sign = holes[0].sign if len(holes) == 1 else None
        if not isinstance(sign, Blank) or not sign.candidates:
            raise ValueError(
                f"a question with {len(holes)} holes · it has one, with candidates · write ___{{this|that}} in it once"
            )
        site = (reading.canvas.role == Role.SIGN).nonzero().squeeze(1)
        for text in sign.candidates:
            ids = torch.tensor(candidate_of(tokenizer, holes[0], text), dtype=torch.int64)
            rows.append(reading.canvas.apply(Edits.emit(site, torch.tensor([ids.numel()]), ids, Role.TEXT)))
            keys.append(key_of(reading.canvas))
    hidden = [(row.role == Role.TEXT) & (row.hole >= 0) for row in rows]
    found = iter(score(model, rows, hidden, keys=keys, **how))
    return [[next(found) for _ in _candidates(pieces)] for pieces in questions]


def _candidates(pieces: Sequence[str | Sign]) -> tuple[str, ...]:
    return next(piece.candidates for piece in pieces if isinstance(piece, Blank))
