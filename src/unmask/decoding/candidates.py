"""Candidates whole: of families with one path exactly, in one packed pass; of those with slots by their likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from unmask.backbone.cache import Cache
from unmask.canvas import Canvas, Edits, Role, concat
from unmask.decoding.infill import CHUNK
from unmask.decoding.score import Scored, score
from unmask.masking.hidden import Hidden
from unmask.model import Model
from unmask.noise import Noise
from unmask.objectives.orders import chunks


def write_whole(model: Model, canvas: Canvas, told: Sequence[dict[int, list[int]]]) -> Canvas:
    """Rows as decoding would leave them, were it to write just this; what each token costs stands beside it.

    Rows that begin alike, as those of one text do, are read up to where they part only once.

    Args:
        model: Of a family with one path, in evaluation mode.
        canvas: Rows as the tokenizer reads them, on the model's device.
        told: For each row the tokens of every hole; none is empty.
    """
    clean = _filled(canvas, told)
    cache = Cache()
    return concat([_written(model, clean.take(some), cache) for some in chunks(clean.lengths, CHUNK)])


def priced(
    model: Model, rows: Sequence[Canvas], told: Sequence[dict[int, list[int]]], keys: Sequence[int]
) -> tuple[Canvas, list[Scored]]:
    """One-row canvases with their holes filled, and how likely that is, by the family's own best estimator.

    Args:
        model: In evaluation mode.
        rows: As the tokenizer reads them.
        told: For each the tokens of every hole; none is empty.
        keys: What names the draws of each, alike for those of one text.
    """
    filled = [_filled(row, [some]) for row, some in zip(rows, told, strict=True)]
    hidden = [(row.role == Role.TEXT) & (row.hole >= 0) for row in filled]
    return concat(filled), score(model, filled, hidden, keys=keys)


def _filled(canvas: Canvas, told: Sequence[dict[int, list[int]]]) -> Canvas:
    """Each row with the tokens of its holes in the place of their signs."""
    site = (canvas.role == Role.SIGN).nonzero().squeeze(1)
    pairs = zip(canvas.rows[site].tolist(), canvas.hole[site].tolist(), strict=True)
    tokens = [told[row][hole] for row, hole in pairs]
    counts = torch.tensor([len(some) for some in tokens], device=site.device)
    ids = torch.tensor([token for some in tokens for token in some], device=site.device)
    return canvas.apply(Edits.emit(site, counts, ids, Role.TEXT))


def _written(model: Model, clean: Canvas, cache: Cache) -> Canvas:
    hidden = (clean.role == Role.TEXT) & (clean.hole >= 0)
    one = torch.ones(clean.n_rows, dtype=torch.float64, device=hidden.device)
    noise = Noise(0, torch.zeros_like(clean.request))  # nothing is drawn
    canvas, targets = model.objective.corrupt(clean, Hidden(hidden, one, one, one > 0), noise)
    cache.keep(model.objective.view(canvas, targets).names)  # of the rows before it what these begin with
    found = model.objective.likelihood(partial(model.predict, cache=cache), clean, hidden, None, 1, noise)
    assert found.tokens is not None  # one path: each token has its cost
    answers = (canvas.role == Role.TEXT) & (canvas.hole >= 0)  # in the order of the hidden tokens
    return replace(canvas, log_prob=canvas.log_prob.masked_scatter(answers, found.tokens.to(canvas.log_prob.dtype)))
