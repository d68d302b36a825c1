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
from unmask.tokenizer import Reading, Tokenizer


def rank(
    model: Model, tokenizer: Tokenizer, questions: Sequence[Sequence[str | Sign] | Reading], **how: Unpack[Asked]
) -> list[list[Scored]]:
    """Give log p(candidate | the rest of its text), nats, for each candidate of each question.

    The candidates of one question share their draws (one uniform number, one order of the places), so that what tells
    them apart is not the luck of the draw.

    Args:
        model: In evaluation mode.
        tokenizer: The model's.
        questions: Pieces of each text, or what was read of them; one piece is a blank with candidates, no other a hole.
        how: The estimator, as in `score`.

    Raises:
        ValueError: when a question has not just that one hole, or a candidate cannot be written.
    """
    rows: list[Canvas] = []
    keys: list[int] = []
    counts: list[int] = []
    for asked in questions:
        reading = asked if isinstance(asked, Reading) else tokenizer.read(asked)
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
        counts.append(len(sign.candidates))
    hidden = [(row.role == Role.TEXT) & (row.hole >= 0) for row in rows]
    found = iter(score(model, rows, hidden, keys=keys, **how))
    return [[next(found) for _ in range(n)] for n in counts]
