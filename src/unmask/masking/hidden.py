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
    bound: Tensor  # [B] bool


@dataclass(frozen=True)
class Units:
    """Runs of tokens that are hidden or shown together: tokens or whole words."""

    of: Tensor  # [N] int64, the unit of each element (-1: scaffold)
    row: Tensor  # [U] int64
    per_row: Tensor  # [B] int64

    @property
    def first(self) -> Tensor:
        """The first unit of each row, `[B]`."""
        return self.per_row.cumsum(0) - self.per_row

    def spread(self, values: Tensor) -> Tensor:
        """From one value a unit `[U]` to one an element `[N]`; False or 0 at scaffold."""
        if values.numel() == 0:
            return values.new_zeros(self.of.numel())
        out = values[self.of.clamp(min=0)]
        return torch.where(self.of >= 0, out, torch.zeros_like(out))


def units(clean: Canvas, starts_word: Tensor | None = None) -> Units:
    """The tokens of `clean`, or its words where `starts_word [V]` is given."""
    rows, text = clean.rows, (clean.role == Role.TEXT) & ~clean.fixed
    begins = text
    if starts_word is not None:
        before = torch.cat([text.new_zeros(1), text[:-1]]) if text.numel() else text
        before[clean.offsets[:-1].clamp(max=max(text.numel() - 1, 0))] = False
        begins = text & (starts_word[clean.ids] | ~before)
    number = begins.long().cumsum(0) - 1
    row = rows[begins]
    per_row = torch.bincount(row, minlength=clean.n_rows)
    return Units(torch.where(text, number, torch.full_like(number, -1)), row, per_row)
