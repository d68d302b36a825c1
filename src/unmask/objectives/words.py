"""Distributions over the words of the vocabulary, on the needed rows only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from unmask.noise import Noise
from unmask.objectives.objective import STATISTICS, Loss, Shape

ROOM = {"cpu": 2**20, "cuda": 2**27}  # logits that are worked on at once, or as many as the matrix has numbers


class WordHead(nn.Module):
    """A softmax over the vocabulary by the backbone's output matrix; signs and scaffold are never words.

    That matrix, `embedding` here, is the input embedding where the backbone's two are tied.
    """

    barred: Tensor

    def __init__(self, embedding: nn.Embedding, special: Tensor) -> None:
        """Share `embedding`, the output matrix; `special [V]` bool says which ids are no words."""
        super().__init__()
        self.embedding = embedding
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings))
        self.register_buffer("barred", torch.where(special, -math.inf, 0.0), persistent=False)
        self.product: nn.Module | None = None  # where set, it stands in for the product with the embedding

    def logits(self, hidden: Tensor) -> Tensor:
        """`hidden [K, D]` to `[K, V]`."""
        if self.product is not None:
            product: Tensor = self.product(hidden)
            return product.add_(self.bias + self.barred)
        logits = F.linear(hidden, self.embedding.weight, self.bias + self.barred)
        rows, ids = self._rows()
        return logits if rows is None else logits.index_add(1, ids, F.linear(hidden, rows))

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Log-softmax of the logits."""
        return self.logits(hidden).log_softmax(-1)

    def nll(
        self,
        hidden: Tensor,
        run: Tensor,
        word: Tensor,
        weight: Tensor,
        group: Tensor | None = None,
        barred: Tensor | None = None,
    ) -> Tensor:
        """Weighted sum of -log p(`word[r]` | `hidden[run[r]]`) over the R targets: one normaliser a row of `hidden`.

        With `group [K]`, ascending from 0, those of a group share one: log p(`word[r]`, `run[r]` | group).
        `barred [P, 2]` are pairs of a row of `hidden` and a word that it cannot say.
        """
        bias = self.bias + self.barred
        how = run, word, weight, group, barred, *self._rows()
        loss: Tensor = _NLL.apply(hidden, self.embedding.weight, bias, *how)  # type: ignore[no-untyped-call]
        return loss

    def _rows(self) -> Any:
        """Rows that are trained apart from the embedding, which is zero there, `[S, D]`, and their ids `[S]`; or none.

        Such an embedding is a `RowEmbedding`, of the backbone.
        """
        return getattr(self.embedding, "rows", None), getattr(self.embedding, "ids", None)


class _NLL(torch.autograd.Function):
    """The loss and its gradients in one pass over the logits, some rows at a time, none of which are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        matrix: Tensor,
        bias: Tensor,
        run: Tensor,
        word: Tensor,
        weight: Tensor,
        group: Tensor | None,
        barred: Tensor | None,
        rows: Tensor | None,
        ids: Tensor,
    ) -> Tensor:
        wanted, kind = ctx.needs_input_grad, hidden.device.type
        if torch.is_autocast_enabled(kind):  # products alone are narrow
            hidden, matrix = (x.to(torch.get_autocast_dtype(kind)) for x in (hidden, matrix))
            rows = None if rows is None else rows.to(hidden.dtype)
        by_hidden, by_bias = torch.empty_like(hidden), weight.new_zeros(matrix.shape[0])
        by_matrix: Tensor | None = None
        by_rows = None if rows is None else weight.new_zeros(rows.shape)
        room, loss = max(ROOM.get(kind, ROOM["cuda"]), matrix.numel() if wanted[1] else 0), weight.new_zeros(())
        for part in _parts(hidden.shape[0], max(1, room // matrix.shape[0]), group):
            some = hidden[part]
            logits = F.linear(some, matrix).to(weight.dtype).add_(bias)
            if rows is not None:
                logits.index_add_(1, ids, F.linear(some, rows).to(weight.dtype))
            mine = (run >= part.start) & (run < part.stop)
            targets = run[mine] - part.start, word[mine], weight[mine]
            if barred is not None:
                out = barred[(barred[:, 0] >= part.start) & (barred[:, 0] < part.stop)]
                logits[out[:, 0] - part.start, out[:, 1]] = -math.inf
            loss += _softened(logits, *targets, None if group is None else group[part] - group[part.start])
            if not any(wanted):
                continue
            grad = logits.to(hidden.dtype)
            by_hidden[part] = grad @ matrix
            if wanted[2]:
                by_bias += logits.sum(0)
            if wanted[1]:  # half the work, which a frozen matrix saves
                each = grad.t() @ some
                by_matrix = each if by_matrix is None else by_matrix.to(weight.dtype).add_(each)
            if rows is not None and by_rows is not None:
                by_hidden[part] += grad[:, ids] @ rows
                by_rows += grad[:, ids].t() @ some
        if any(wanted):
            ctx.save_for_backward(by_hidden, by_matrix, by_bias if wanted[2] else None, by_rows)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        by_hidden, by_matrix, by_bias, by_rows = (
            None if grad is None else upstream * grad for grad in ctx.saved_tensors
        )
        return by_hidden, by_matrix, by_bias, None, None, None, None, None, by_rows, None


def _softened(logits: Tensor, run: Tensor, word: Tensor, weight: Tensor, group: Tensor | None) -> Tensor:
    """The loss of `logits [K, V]`, in whose place its gradient by them is written; as `WordHead.nll`."""
    top = logits.amax(-1, keepdim=True)
    mass = weight.new_zeros(logits.shape[0]).index_add_(0, run, weight)  # [K]
    picked = logits[run, word]
    probs = logits.sub_(top).exp_()
    total = probs.sum(-1, keepdim=True)
    normaliser = (total.log() + top).squeeze(1)
    if group is not None:
        n = int(group[-1]) + 1
        shared = segment_logsumexp(normaliser, group, n)[group]
        mass = mass.new_zeros(n).index_add_(0, group, mass)[group] * (normaliser - shared).exp()
        normaliser = shared
    probs.mul_(mass[:, None] / total)
    probs.view(-1).index_add_(0, run * probs.shape[1] + word, -weight)
    return (mass * normaliser).sum() - (weight * picked).sum()


def _parts(n: int, most: int, group: Tensor | None) -> list[slice]:
    """`n` rows in parts of about `most`; rows of one group, which stand behind each other, are not parted."""
    cuts = torch.tensor(range(most, n, most), dtype=torch.int64)
    if group is not None and cuts.numel():
        group = group.cpu()
        cuts = torch.searchsorted(group, group[cuts]).unique()
    ends = [0, *(cut for cut in cuts.tolist() if cut), n]
    return [slice(a, b) for a, b in pairwise(ends) if b > a]


class Head(nn.Module):
    """Words alone: the head of a family that predicts nothing else."""

    def __init__(self, embedding: nn.Embedding, special: Tensor) -> None:
        """Share the backbone's output matrix, `embedding`."""
        super().__init__()
        self.words = WordHead(embedding, special)

    def loss(self, hidden: Tensor, word: Tensor, weight: Tensor, count: Tensor) -> Loss:
        """Weighted cross-entropy of one word a row, from `hidden [R, D]`, `word [R]` and `weight [R]`."""
        each = torch.arange(word.numel(), device=word.device)
        total = self.words.nll(hidden, each, word, weight.to(hidden.dtype))
        return Loss(total, count, {"word": total.detach()})


def bars(shape: Shape, ends: Sequence[int], openness: int, like: Tensor) -> Tensor:
    """0 for what may come, -inf for the rest, `[S, V]` of the precision of `like`: what `barred` makes of a shape.

    A word leaves its site open as `openness` says; `ends` are the words that stand for "no token".
    """
    column = 4 * shape.token_class + openness
    column[ends] = 4 * (shape.allowed.shape[1] - 1)
    return barred(shape.allowed.flatten(1), column, like)


def barred(may: Tensor, token_class: Tensor, like: Tensor) -> Tensor:
    """0 for a word of a class that `may [S, C]` come, -inf for others, `[S, V]` of the precision of `like`.

    To be added to log-probabilities, which takes a fifth of the time of filling in what is barred.
    """
    each = like.new_zeros(may.shape).masked_fill_(~may, -math.inf)
    return each.index_select(1, token_class)


def certainty(words: Tensor, may: Tensor | None = None, tells: frozenset[str] = STATISTICS) -> dict[str, Tensor]:
    """How sure a model is of each site, from its unshaped `words [S, V]`: what a `Proposal` says of it.

    `may [S, V]` is the same with what is barred at -inf; none: nothing is. Statistics that `tells` leaves out are nan.
    """
    confidence = words.amax(-1)
    best = confidence if may is None else may.amax(-1)
    entropy = margin = torch.full_like(confidence, math.nan)
    if "entropy" in tells:
        entropy = -(words.exp() * words.clamp(min=-80)).sum(-1)  # a barred word, at -inf, adds 0
    if "margin" in tells:
        margin = confidence - words.topk(2, -1).values[:, 1]
    return {"entropy": entropy, "confidence": confidence, "margin": margin, "best": best}


def segment_logsumexp(scores: Tensor, row: Tensor, n_rows: int) -> Tensor:
    """The log of the summed exponentials of `scores [K]` within each row, `[B]`; -inf where a row has none."""
    top = scores.new_full((n_rows,), -math.inf).scatter_reduce(0, row, scores.detach(), "amax")
    safe = torch.where(top.isfinite(), top, 0.0)
    part = (scores - safe[row]).exp()  # in float32 where autocast on a GPU says so
    return part.new_zeros(n_rows).index_add(0, row, part).log() + safe


def choose(
    log_prob: Tensor, n: int, shape: Shape, noise: Noise | None, row: Tensor, place: Tensor
) -> tuple[Tensor, Tensor]:
    """The `n` best of `log_prob [S, A]` (barred: -inf) under the shape: places `[S, n]` and scores `[S, n]`.

    With noise and a temperature it draws without replacement by adding Gumbel noise in float64
    (Kool et al. 2019); greedy otherwise.
    """
    n = min(n, log_prob.shape[1])
    if shape.temperature == 0:  # the order is the same in any precision
        best = log_prob.topk(n, -1) if n > 1 else log_prob.max(-1, keepdim=True)
        return best.indices, best.values.double()
    score = _cut(log_prob.double() / shape.temperature, shape)
    if noise is not None:
        uniform = noise.grid(row, place, score.shape[1], "choose")
        score = score - (-uniform.log()).log()
    best = score.topk(n, -1)
    return best.indices, best.values


def _cut(score: Tensor, shape: Shape) -> Tensor:
    """Bar what lies outside the `top_k` likeliest or beyond the `top_p` mass."""
    if shape.top_k is not None and shape.top_k < score.shape[1]:
        least = score.topk(shape.top_k, -1).values[:, -1:]
        score = score.masked_fill(score < least, -math.inf)
    if shape.top_p is not None and shape.top_p < 1:
        ordered, order = score.sort(-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        score = score.scatter(1, order, ordered.masked_fill(before >= shape.top_p, -math.inf))
    return score
