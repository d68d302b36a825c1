"""How likely whole texts are: batches for the families' own estimators."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unmask.canvas import Canvas, Role, concat
from unmask.decoding.choices import check_seed
from unmask.decoding.infill import CHUNK, chunks
from unmask.model import Model
from unmask.noise import Noise
from unmask.results import Kind

ORDERS = 16


@dataclass(frozen=True)
class Scored:
    """log p of one row's hidden tokens given the rest, nats."""

    log_prob: float
    std_error: float
    kind: Kind
    given: str | None
    method: str
    tokens: int


def score(
    model: Model,
    canvases: Sequence[Canvas],
    hidden: Sequence[Tensor] | None = None,
    *,
    method: str | None = None,
    orders: int = ORDERS,
    seed: int = 0,
) -> list[Scored]:
    """Score one-row canvases.

    Rows with as many hidden tokens share batches, so that company never changes the method that suits a row.

    Args:
        model: In evaluation mode.
        canvases: Clean rows: start, text, end.
        hidden: Which elements of each are scored, `[N]` bool each; None: all text.
        method: One of the family's estimators; None: its best for the size.
        orders: How many random orders, where the estimator draws some; two at least are drawn, for one alone does not
            say how far it strays.
        seed: For the draws.

    Raises:
        ValueError: for a method that the family does not have, an empty text, or one too long for the model.
    """
    if orders < 1:
        raise ValueError(f"orders is {orders} · an estimate is drawn from one at least · give 1 or more")
    check_seed(seed)
    masks = hidden or [canvas.role == Role.TEXT for canvas in canvases]
    sizes = [int(mask.sum()) for mask in masks]
    for canvas, size in zip(canvases, sizes, strict=True):
        if size == 0:
            raise ValueError("the text is empty · there is nothing to score · give at least one character")
        _fits(model, canvas)  # before anything is read: a text that is far too long would cost much
    out: dict[int, Scored] = {}
    for size in sorted(set(sizes)):
        mine = [i for i, one in enumerate(sizes) if one == size]
        lengths = torch.tensor([canvases[i].n_elements for i in mine])
        for some in chunks(lengths, CHUNK):
            part = [mine[i] for i in some.tolist()]
            values = _batch(model, [canvases[i] for i in part], [masks[i] for i in part], method, orders, seed)
            out.update(zip(part, values, strict=True))
    return [out[i] for i in range(len(canvases))]


def _batch(
    model: Model, canvases: list[Canvas], masks: list[Tensor], method: str | None, orders: int, seed: int
) -> list[Scored]:
    device = model.device
    clean, hidden = concat(canvases).to(device), torch.cat(masks).to(device)
    clean = replace(clean, fixed=clean.fixed & ~hidden)
    keys = [hashlib.blake2b(repr(canvas.ids.tolist()).encode(), digest_size=8).digest() for canvas in canvases]
    key = torch.tensor([int.from_bytes(one, "little", signed=True) for one in keys], device=device)

    def predict(canvas: Canvas, targets: Any = None) -> Any:
        _fits(model, canvas)  # as the family shows it, which may be longer than the text
        return model.predict(canvas, targets)

    with torch.inference_mode():
        found = model.objective.likelihood(predict, clean, hidden, method, orders, Noise(seed, key))
    tokens = clean.sum_rows(hidden.long()).tolist()
    rows = zip(found.log_prob.tolist(), found.std_error.tolist(), tokens, strict=True)
    return [Scored(value, error, found.kind, found.given, found.method, n) for value, error, n in rows]


def _fits(model: Model, canvas: Canvas) -> None:
    most = model.config.backbone.max_length
    longest = int(canvas.lengths.max()) if canvas.n_rows else 0
    if longest > most:
        raise ValueError(f"the text needs {longest} places · the model reads {most} at a time · shorten it")
