"""How likely whole texts are: batches for the families' own estimators."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import torch
from torch import Tensor

from unmask.canvas import Canvas, Role, concat
from unmask.decoding.choices import check_method, check_seed
from unmask.decoding.duel import duel
from unmask.decoding.infill import CHUNK
from unmask.decoding.masks import Masks
from unmask.decoding.search import Search
from unmask.model import Model
from unmask.noise import Noise
from unmask.objectives import Likelihood
from unmask.objectives.orders import chunks
from unmask.results import Kind

ORDERS = 16
LOGITS = 2**27  # of one pass, at most: tokens times words
EMPTY = "the text is empty · there is nothing to score · give at least one character"


class Asked(TypedDict, total=False):
    """What a caller may say of how to score; as in `score`."""

    method: str | None
    orders: int
    seed: int
    policy: str | None
    steps: int | None
    masks: Masks | None


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
    policy: str | None = None,
    steps: int | None = None,
    masks: Masks | None = None,
    keys: Sequence[int] | None = None,
) -> list[Scored]:
    """Score one-row canvases.

    Rows with as many hidden tokens share batches, so that company never changes the method that suits a row.

    Args:
        model: In evaluation mode.
        canvases: Clean rows: start, text, end.
        hidden: Which elements of each are scored, `[N]` bool each; None: all text.
        method: One of the family's estimators, or `duel`; None: the family's best for the size.
        orders: How many random orders, where the estimator draws some; two at least are drawn, for one alone does not
            say how far it strays.
        seed: For the draws.
        policy: By DUEL: whose path; None: `confident`.
        steps: By DUEL: in how many forward passes; None: one token each.
        masks: By DUEL: blocks, guidance and caches of the sampler.
        keys: What names the randomness of each row; None: its text. Rows of one key share their draws, as answers to
            one question should.

    Raises:
        ValueError: for a method that the family does not have, an empty text, or one too long for the model.
    """
    if orders < 1:
        raise ValueError(f"orders is {orders} · an estimate is drawn from one at least · give 1 or more")
    check_seed(seed)
    check_method(method, policy, steps)
    search = Search(policy or "confident", steps=steps, masks=masks or Masks()) if method == "duel" else None
    hidden = hidden or [canvas.role == Role.TEXT for canvas in canvases]
    sizes = [int(some.sum()) for some in hidden]
    for canvas, size in zip(canvases, sizes, strict=True):
        if size == 0:
            raise ValueError(EMPTY)
        _fits(model, canvas.lengths)  # before anything is read: a text that is far too long would cost much
    keys = keys or [key_of(canvas) for canvas in canvases]
    room = max(1, min(CHUNK, LOGITS // model.config.backbone.vocab_size))
    out: dict[int, Scored] = {}
    for size in sorted(set(sizes)):
        mine = [i for i, one in enumerate(sizes) if one == size]
        lengths = torch.tensor([canvases[i].n_elements for i in mine])
        for some in chunks(lengths, room):
            part = [mine[i] for i in some.tolist()]
            clean = concat([canvases[i] for i in part]).to(model.device)
            missing = torch.cat([hidden[i] for i in part]).to(model.device)
            noise = Noise(seed, torch.tensor([keys[i] for i in part], device=model.device))
            found = _likelihood(model, clean, missing, search or method, orders, noise)
            out.update(zip(part, _scored(found, size), strict=True))
    return [out[i] for i in range(len(canvases))]


def _likelihood(
    model: Model, clean: Canvas, hidden: Tensor, how: Search | str | None, orders: int, noise: Noise
) -> Likelihood:
    """By one of the family's methods, or by DUEL as a search writes."""
    clean = replace(clean, fixed=clean.fixed & ~hidden)
    with torch.inference_mode():
        if not isinstance(how, Search):
            return model.objective.likelihood(_predict(model), clean, hidden, how, orders, noise)
        value = duel(model, clean, hidden, how)
    return Likelihood(value, torch.zeros_like(value), "exact", "duel", given="length")


def _scored(found: Likelihood, n_tokens: int) -> list[Scored]:
    pairs = zip(found.log_prob.tolist(), found.std_error.tolist(), strict=True)
    return [Scored(*pair, found.kind, found.given, found.method, n_tokens) for pair in pairs]


def key_of(canvas: Canvas) -> int:
    """A number from the text itself."""
    digest = hashlib.blake2b(repr(canvas.ids.tolist()).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _predict(model: Model) -> Any:
    """As the model does, where what a family shows fits; it may be longer than the text."""

    def predict(canvas: Canvas, targets: Any = None) -> Any:
        view = model.objective.view(canvas, targets)
        _fits(model, view.offsets.diff())
        return model(view, canvas)

    return predict


def _fits(model: Model, lengths: Tensor) -> None:
    most = model.config.backbone.max_length
    longest = int(lengths.max()) if lengths.numel() else 0
    if longest > most:
        raise ValueError(f"the text needs {longest} places · the model reads {most} at a time · shorten it")
