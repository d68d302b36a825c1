"""The likelihood of a model that may write its tokens in any order: exact, bounded and estimated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unmask.canvas import Canvas
from unmask.noise import Noise
from unmask.objectives.objective import Likelihood, Predict

MOST_EXACT = 14  # hidden tokens; 2^14 canvases
CHUNK = 16_384  # elements a forward pass


@dataclass(frozen=True)
class Actions:
    """What the next edit costs at each missing token, element by element."""

    element: Tensor  # [R] int64, places in the clean canvas
    log_prob: Tensor  # [R] float64


class AnyOrder(Protocol):
    """A family that can price every next edit of a canvas."""

    def actions(self, predict: Predict, clean: Canvas, mask: Tensor, noise: Noise) -> Actions:
        """The price of each token that `mask` hides, were it written next."""
        ...

    def finished(self, predict: Predict, clean: Canvas, hidden: Tensor) -> Tensor:
        """The price of ending when nothing of `hidden` is missing any more, `[B]`; 0 where that says itself."""
        ...


def likelihood(
    family: AnyOrder,
    predict: Predict,
    clean: Canvas,
    hidden: Tensor,
    method: str | None,
    n_orders: int,
    noise: Noise,
) -> Likelihood:
    """Give log p(hidden | rest) of each row of `clean`, by `method`.

    `exact`: the subset dynamic programme over all canvases, at most 14 hidden tokens a row.
    `bound`: log n! - log m + logsumexp over m uniform orders in reversed pairs (Shen et al. 2020, eq. 5; Burda et
        al. 2016): its expectation is never above the truth.
    `jackknife`: the bound with its first-order bias taken off (Nowozin 2018); an estimate.
    None: exact where every row has at most 10 hidden tokens, else the bound.

    Raises:
        ValueError: for another method, or too many tokens for the exact one.
    """
    methods: dict[str, Callable[[], Likelihood]] = {
        "exact": lambda: _exact(family, predict, clean, hidden, noise),
        "bound": lambda: _by_orders(family, predict, clean, hidden, n_orders, noise, "bound"),
        "jackknife": lambda: _by_orders(family, predict, clean, hidden, n_orders, noise, "jackknife"),
    }
    most = int(clean.sum_rows(hidden.long()).max()) if clean.n_rows else 0
    if method is None:
        method = "exact" if most <= 10 else "bound"
    if method not in methods:
        raise ValueError(f"no likelihood method {method!r} here · methods: {', '.join(methods)} · name one of them")
    if method == "exact" and most > MOST_EXACT:
        raise ValueError(
            f"{most} hidden tokens are too many for the exact method · it visits 2^n canvases, n at most {MOST_EXACT}"
            " · take method='bound' or 'jackknife'"
        )
    return methods[method]()


def _exact(family: AnyOrder, predict: Predict, clean: Canvas, hidden: Tensor, noise: Noise) -> Likelihood:
    """f(S) = logsumexp over i not in S of a(i | S) + f(S + i), f(all) = 0, f(none) = log p."""
    out = torch.zeros(clean.n_rows, dtype=torch.float64, device=hidden.device)
    ended = family.finished(predict, clean, hidden)
    for row in range(clean.n_rows):  # each row has a lattice of its own
        places = (hidden & (clean.rows == row)).nonzero().squeeze(1)
        n = places.numel()
        if n == 0:
            continue
        bit = clean.ids.new_zeros(clean.n_elements)
        bit[places] = 2 ** torch.arange(n, device=places.device)
        price = torch.full((2**n, n), -math.inf, dtype=torch.float64, device=places.device)
        for seen in torch.arange(2**n - 1, device=places.device).split(max(CHUNK // int(clean.lengths[row]), 1)):
            copies = _keyed(clean).take(torch.full_like(seen, row))
            missing = (bit[copies.key] > 0) & ((bit[copies.key] & seen[copies.rows]) == 0)
            actions = family.actions(predict, copies, missing, _repeat(noise, copies.n_rows))
            which = bit[copies.key[actions.element]].log2().round().long()
            price[seen[copies.rows[actions.element]], which] = actions.log_prob
        rest = torch.full((2**n,), -math.inf, dtype=torch.float64, device=places.device)
        rest[-1] = 0.0
        steps = 2 ** torch.arange(n, device=places.device)
        for seen in range(2**n - 2, -1, -1):
            after = rest[(seen | steps)]
            rest[seen] = torch.where((seen & steps) == 0, price[seen] + after, -math.inf).logsumexp(0)
        out[row] = rest[0] + ended[row]
    return Likelihood(out, torch.zeros_like(out), "exact", "exact")


def _by_orders(
    family: AnyOrder, predict: Predict, clean: Canvas, hidden: Tensor, n_orders: int, noise: Noise, method: str
) -> Likelihood:
    n_pairs = max(1, -(-n_orders // 2))
    n = clean.sum_rows(hidden.long())
    paths = torch.stack(list(_path_log_probs(family, predict, clean, hidden, n_pairs, noise)), 1)  # [B, 2 n_pairs]
    pairs = paths.view(clean.n_rows, n_pairs, 2).logsumexp(-1) - math.log(2)
    base = torch.lgamma(n.double() + 1) + family.finished(predict, clean, hidden)
    bound = base + pairs.logsumexp(1) - math.log(n_pairs)
    if n_pairs == 1:
        spread = (paths[:, 0] - paths[:, 1]).abs() / 2
    else:
        relative = (pairs - pairs.logsumexp(1, keepdim=True)).exp() * n_pairs  # weights with mean 1
        spread = relative.std(1) / n_pairs**0.5
    if method == "bound":
        return Likelihood(bound, spread, "bound", method)
    if n_pairs < 2:
        raise ValueError("the jackknife has too few orders · it leaves out one pair at a time · give orders=4 or more")
    others = torch.stack(
        [torch.cat([pairs[:, :j], pairs[:, j + 1 :]], 1).logsumexp(1) - math.log(n_pairs - 1) for j in range(n_pairs)]
    )
    value = n_pairs * bound - (n_pairs - 1) * (base + others.mean(0))
    return Likelihood(value, spread, "estimate", method)


def _path_log_probs(
    family: AnyOrder, predict: Predict, clean: Canvas, hidden: Tensor, n_pairs: int, noise: Noise
) -> Iterator[Tensor]:
    """Yield log p(hidden, order) of random orders, each followed by its reverse, `[B]` each."""
    rows = clean.rows
    n = clean.sum_rows(hidden.long())
    keyed = _keyed(clean)
    for pair in range(n_pairs):
        rank = ranks(noise.elements(clean, f"order {pair}"), rows, hidden)
        for place in (rank, torch.where(hidden, n[rows] - 1 - rank, rank)):
            total = torch.zeros(clean.n_rows, dtype=torch.float64, device=n.device)
            row = torch.arange(clean.n_rows, device=n.device).repeat_interleave(n)  # one canvas a token
            done = torch.arange(row.numel(), device=n.device) - (n.cumsum(0) - n)[row]
            for part in chunks(clean.lengths[row], CHUNK):
                copies, k = keyed.take(row[part]), done[part]
                missing = hidden[copies.key] & (place[copies.key] >= k[copies.rows])
                actions = family.actions(predict, copies, missing, _repeat(noise, copies.n_rows))
                of = copies.rows[actions.element]
                now = place[copies.key[actions.element]] == k[of]
                total.index_add_(0, row[part][of[now]], actions.log_prob[now])
            yield total


def ranks(draws: Tensor, rows: Tensor, hidden: Tensor) -> Tensor:
    """The place of each hidden element in its row's order, `[N]`."""
    places = hidden.nonzero().squeeze(1)
    order = (rows[places].double() + draws[places]).argsort()
    rank = torch.empty_like(order)
    per_row = torch.bincount(rows[places], minlength=int(rows.max()) + 1 if rows.numel() else 0)
    first = (per_row.cumsum(0) - per_row)[rows[places]]
    rank[order] = torch.arange(order.numel(), device=order.device)
    out = torch.zeros_like(rows)
    out[places] = rank - first
    return out


def _keyed(clean: Canvas) -> Canvas:
    """With keys that are places, so that copies know where their elements came from."""
    return Canvas.build(
        clean.ids,
        clean.offsets,
        role=clean.role,
        hole=clean.hole,
        request=clean.request,
        segment=clean.segment,
        fixed=clean.fixed,
    )


def _repeat(noise: Noise, n_rows: int) -> Noise:
    return Noise(noise.seed, torch.zeros(n_rows, dtype=torch.int64, device=noise.key.device))


def chunks(lengths: Tensor, most: int) -> Iterator[Tensor]:
    """Which rows go through the backbone together, about `most` elements at a time."""
    part = lengths.cumsum(0) // most
    for number in part.unique():
        yield (part == number).nonzero().squeeze(1)
