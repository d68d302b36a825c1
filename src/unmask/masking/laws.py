"""Masking laws: each says which units of each row are hidden, and how their losses weigh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unmask.canvas import Canvas
from unmask.masking.hidden import Hidden, units
from unmask.masking.levels import Levels
from unmask.masking.settings import check
from unmask.noise import Noise
from unmask.schedules import SCHEDULES

Law = Callable[..., Hidden]


UNIFORM = Levels()
WHOLES = frozenset({"bernoulli", "suffix"})  # laws that leave some rows whole; `exact_count` does with `least` 0


def exact_count(
    clean: Canvas,
    noise: Noise,
    levels: Levels = UNIFORM,
    begins: Tensor | None = None,
    bound: bool = True,
    least: int = 1,
) -> Hidden:
    """Hide m ~ U{1..n} of a row's n units, all sets alike: the law of a uniform random order of insertion.

    With `least` 0 it is m ~ U{0..n}, for families that say of a whole text that it is whole: n + 1 steps, of which a
    row takes one, so that its weight is (n + 1) / m, or n + 1 where nothing is hidden.

    Over tokens the weight n / m makes it a bound (Shen et al. 2020, eq. 5; LLaDA, eq. 14). Over whole words the
    same weight keeps rows of all lengths comparable, but it is a bound only where each word is one token. With
    `bound=False` each token weighs 1, as under the other laws: beside them in a mixture, rows that hide nearly all
    would else outweigh the rest. `levels` say how m / n is drawn where it is not uniform.
    """
    check("exact_count", {"bound": bound, "least": least})
    kinds = units(clean, begins)
    n = kinds.per_row
    steps = n + 1 - least
    m = torch.minimum(least + (levels(noise, "count") * steps).long(), n)
    mask = kinds.spread(_lowest(kinds.row, _per_unit(noise.elements(clean, "order"), kinds.of), m))
    n_tokens, n_hidden = _totals(clean, kinds.of >= 0), _totals(clean, mask)
    if not bound:
        return Hidden(mask, torch.ones_like(n_hidden), n_hidden, n < 0, level=n_hidden / n_tokens.clamp(min=1))
    low, high = ((m - least + more) / steps.clamp(min=1) for more in (0, 1))
    weight = (n_tokens + 1 - least) / n_hidden.clamp(min=1) * levels.weight_between(low, high)
    is_bound = torch.full_like(n, begins is None and levels.whole, dtype=torch.bool)
    return Hidden(mask, weight, n_tokens, is_bound, level=n_hidden / n_tokens.clamp(min=1))


def bernoulli(
    clean: Canvas, noise: Noise, levels: Levels = UNIFORM, schedule: str = "linear", epsilon: float = 1e-3
) -> Hidden:
    """Hide each token with probability a(t), t = epsilon + (1 - epsilon) u, u by `levels`: uniform unless they say so.

    A hidden token weighs (1 - epsilon) a'(t) / a(t), and a row counts all its tokens: under the linear schedule LLaDA's
    p = (1 - epsilon) u + epsilon and its loss over B L (Nie et al. 2025, eq. 3 and appendix). Its code weighs by 1 / p,
    which is 1 / (1 - epsilon) too much; here the mean is the integral over t from epsilon to 1, and what lies below
    epsilon, about that share of the whole, is left out.
    """
    if not isinstance(schedule, str) or schedule not in SCHEDULES:
        raise ValueError(f"no schedule {schedule!r} · schedules: {', '.join(SCHEDULES)} · name one of them")
    check("bernoulli", {"epsilon": epsilon})
    kinds, law = units(clean), SCHEDULES[schedule]
    u = levels(noise, "t")
    t = epsilon + (1 - epsilon) * u
    mask = (noise.elements(clean, "hide") < law.hidden(t)[clean.rows]) & (kinds.of >= 0)
    bound = torch.full_like(t, levels.whole, dtype=torch.bool)
    n, weight = kinds.per_row.double(), (1 - epsilon) * law.weight(t) * levels.weight(u)
    whole = weight * law.hidden(t) * (n + 1)  # of n + 1 rows one lacks nothing: it counts once, as each step does
    return Hidden(mask, weight, n, bound, level=law.hidden(t), whole=whole)


def runs(
    clean: Canvas,
    noise: Noise,
    begins: Tensor | None = None,
    lengths: tuple[float, ...] = (1.0,),
    rate: tuple[float, float] = (0.0, 0.3),
    single: float = 0.0,
) -> Hidden:
    """Hide runs of words: a share ~ U(*rate) of a row's words begin one, at least one does.

    A share `single` of the rows has just one. `lengths[i]` is the probability of a run of i + 1 words. A run takes the
    punctuation inside it, not around it. Runs that touch are one run. Each token weighs 1.
    """
    check("runs", {"lengths": lengths, "rate": rate, "single": single})
    kinds = units(clean, begins)
    words = kinds.word.nonzero().squeeze(1)  # [W] units
    row = kinds.row[words]
    n = torch.bincount(row, minlength=clean.n_rows)
    last = n.cumsum(0) - 1
    low, high = rate
    wanted = (n * (low + (high - low) * noise.rows("rate"))).round().long().clamp(min=1)
    wanted = torch.where(noise.rows("single") < single, 1, wanted)
    draws = _per_unit(noise.elements(clean, "start"), kinds.of)[words]
    first = _lowest(row, draws, wanted).nonzero().squeeze(1)
    law = torch.tensor(lengths, dtype=torch.float64, device=n.device).cumsum(0)
    more = torch.searchsorted(law / law[-1], _per_unit(noise.elements(clean, "length"), kinds.of)[words[first]])
    end = torch.minimum(first + more, last[row[first]])
    edge = torch.zeros(kinds.row.numel() + 1, dtype=torch.int64, device=n.device)
    edge.index_add_(0, words[first], torch.ones_like(first))
    edge.index_add_(0, words[end] + 1, -torch.ones_like(first))
    mask = kinds.spread(edge.cumsum(0)[:-1] > 0)
    return Hidden(mask, torch.ones_like(n, dtype=torch.float64), _totals(clean, mask), n < 0)


def suffix(clean: Canvas, noise: Noise) -> Hidden:
    """Hide the last m ~ U{0..n} of a row's n tokens: a step of a left-to-right order. Each token weighs 1."""
    kinds = units(clean)
    n = kinds.per_row
    shown = (noise.rows("count") * (n + 1)).long()
    place = kinds.of - (n.cumsum(0) - n)[clean.rows]  # of each token in its row, from 0
    mask = (kinds.of >= 0) & (place >= shown[clean.rows])
    return Hidden(mask, torch.ones_like(n, dtype=torch.float64), _totals(clean, mask), n < 0)


def everything(clean: Canvas, noise: Noise) -> Hidden:
    """Hide the whole row: what is written from nothing, as a left-to-right model does."""
    mask = units(clean).of >= 0
    one = torch.ones(clean.n_rows, dtype=torch.float64, device=mask.device)
    return Hidden(mask, one, _totals(clean, mask), one > 0)


def in_blocks(law: Law, clean: Canvas, noise: Noise, size: int, **settings: Any) -> Hidden:
    """What `law` says of each block of `size` elements of a row, drawn for itself.

    Source: Arriola et al. 2025 (BD3-LM), section 3: each block has a noise level of its own; if the law makes the loss
    of every block a bound given the blocks before it, their sum is one of the row.
    """
    blocks = clean.cut(size)
    hidden = law(blocks, noise.cut(blocks), **settings)

    def summed(values: Tensor) -> Tensor:
        return values.new_zeros(clean.n_rows).index_add_(0, blocks.request, values)

    count, one = summed(hidden.count), torch.ones(clean.n_rows, dtype=torch.float64, device=clean.ids.device)
    level = None if hidden.level is None else summed(hidden.level * hidden.count) / count.clamp(min=1)
    bound = summed((~hidden.bound).long()) == 0
    return Hidden(hidden.mask, one, count, bound, level=level, within=hidden.weight[blocks.rows])


LAWS: dict[str, Law] = {
    "exact_count": exact_count,
    "bernoulli": bernoulli,
    "runs": runs,
    "suffix": suffix,
    "all": everything,
}


def _totals(clean: Canvas, mask: Tensor) -> Tensor:
    return clean.sum_rows(mask.double())


def _per_unit(draws: Tensor, of: Tensor) -> Tensor:
    """The draw of each unit's first token, `[U]`."""
    begins = torch.cat([of.new_full((1,), -1), of[:-1]]) != of
    return draws[begins & (of >= 0)]


def _lowest(row: Tensor, draws: Tensor, m: Tensor) -> Tensor:
    """Which of `U` units hold the `m [B]` lowest draws `[U]` of their row."""
    order = (row.double() + draws).argsort()
    per_row = torch.bincount(row, minlength=m.numel())
    rank = torch.arange(row.numel(), device=row.device) - (per_row.cumsum(0) - per_row)[row]
    chosen = torch.zeros_like(row, dtype=torch.bool)
    chosen[order] = rank < m[row]  # units come row after row, and so do the sorted ones
    return chosen
