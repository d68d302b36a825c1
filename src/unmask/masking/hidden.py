"""What a masking law says of a batch: which tokens are hidden, and what their loss weighs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.canvas import Canvas, Role


@dataclass(frozen=True)
class Hidden:
    """Which elements are hidden, and how the losses of each row are to be weighed.

    Under a law that makes the loss a bound on -log p(row), the weighted sum of a row's token losses (plus the
    objective's offset) is that bound, and the count is its number of tokens; other laws weigh each token 1.
    """

    mask: Tensor  # [N] bool
    weight: Tensor  # [B] float64
    count: Tensor  # [B] float64, the row's share of the denominator
    bound: Tensor  # [B] bool, the law makes the row's loss such a bound
    starts: Tensor | None = None  # [N] bool, the token begins with white space; none: nobody counts words
    level: Tensor | None = None  # [B] float64, the share that the law meant to hide; none: it does not mean one
    within: Tensor | None = None  # [N] float64, what a token weighs beside its row, drawn by blocks; none: all alike
    whole: Tensor | None = None  # [B] float64, what a row weighs as one that lacks nothing; none: as `weight` says

    def weigh(self, clean: Canvas, element: Tensor) -> Tensor:
        """What the loss of each of some elements `[R]` of `clean` weighs, `[R]`."""
        weight = self.weight[clean.rows[element]]
        return weight if self.within is None else weight * self.within[element]

    def take(self, clean: Canvas, rows: Tensor) -> Hidden:
        """What it says of some rows of `clean`, by number `[R]`; a row may come several times."""
        at = clean.source(rows)
        columns = {name: getattr(self, name) for name in ("weight", "count", "bound", "level", "whole")}
        own = {name: None if column is None else column[rows] for name, column in columns.items()}
        each = {name: getattr(self, name) for name in ("mask", "starts", "within")}
        own |= {name: None if column is None else column[at] for name, column in each.items()}
        return Hidden(**own)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Units:
    """Runs of tokens that are hidden or shown together: tokens or whole words."""

    of: Tensor  # [N] int64, the unit of each element (-1: scaffold)
    row: Tensor  # [U] int64
    per_row: Tensor  # [B] int64
    word: Tensor  # [U] bool, it is a word and not punctuation

    def spread(self, values: Tensor) -> Tensor:
        """From one value a unit `[U]` to one an element `[N]`; False or 0 at scaffold."""
        if values.numel() == 0:
            return values.new_zeros(self.of.numel())
        out = values[self.of.clamp(min=0)]
        return torch.where(self.of >= 0, out, torch.zeros_like(out))


def units(clean: Canvas, begins: Tensor | None = None) -> Units:
    """The tokens of `clean`, or its words and signs of punctuation.

    `begins [V]` says what a token begins: 0 nothing (it goes on), 1 a word, 2 a sign of punctuation. What follows
    such a sign, or the row's start, without white space is a word of its own.
    """
    text = (clean.role == Role.TEXT) & ~clean.fixed
    kind = torch.ones_like(clean.ids)
    if begins is not None:
        kind = begins[clean.ids]
        before = torch.cat([kind.new_full((1,), 2), torch.where(text, kind, 2)[:-1]])[: kind.numel()]
        kind = torch.where((kind == 0) & (before == 2), 1, kind)
    first = text & (kind > 0)
    number = first.long().cumsum(0) - 1
    row = clean.rows[first]
    per_row = torch.bincount(row, minlength=clean.n_rows)
    return Units(torch.where(text, number, -1), row, per_row, kind[first] == 1)
