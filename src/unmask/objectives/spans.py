"""Slots between neighbours, and the spans of missing tokens that belong into them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.canvas import Canvas
from unmask.objectives.words import segment_logsumexp


@dataclass(frozen=True)
class Spans:
    """The `S` slots of a canvas of which `R` tokens are missing."""

    opens: Tensor  # [N] bool, a slot lies behind this element; never behind a missing one
    row: Tensor  # [S] int64
    size: Tensor  # [S] int64, how many tokens are missing there
    slot: Tensor  # [R] int64, where each missing token belongs
    place: Tensor  # [R] int64, its place in its span, from 0
    last: Tensor  # [B] int64, the last slot of each row that has some

    @classmethod
    def of(cls, clean: Canvas, missing: Tensor, only_last: bool = False) -> Spans:
        """Of the tokens `missing [N]` bool; rows begin and end with an element that is there.

        There is a slot between two neighbours unless both are given and nothing is missing between them; `only_last`:
        where something is missing alone, or at a row's end where nothing is.
        """
        there = (~missing).nonzero().squeeze(1)  # [K]
        row = clean.rows[there]
        inner = torch.zeros_like(there, dtype=torch.bool)
        inner[:-1] = row[1:] == row[:-1]
        size = torch.zeros_like(there)
        size[:-1] = there[1:] - there[:-1] - 1
        given = clean.fixed[there]
        both = given.clone()
        both[:-1] &= given[1:]
        slots = inner & ((size > 0) | ~both)
        if only_last:
            end = inner.clone()
            end[:-1] &= ~inner[1:]  # before the row's last element
            nothing = clean.sum_rows(missing.long()) == 0
            slots &= (size > 0) | (end & nothing[row])
        opens = torch.zeros_like(missing)
        opens[there[slots]] = True
        number = opens.long().cumsum(0) - 1  # of the slot each missing token belongs to
        here = missing.nonzero().squeeze(1)
        slot, of = number[here], row[slots]
        begin = there[slots] + 1
        return cls(opens, of, size[slots], slot, here - begin[slot], last_of_row(of).nonzero().squeeze(1))


def central(size: Tensor, slot: Tensor, place: Tensor, tau: float) -> Tensor:
    """Shares of the tokens of each slot, `[R]`, falling with the distance from its middle: softmax(-distance / tau).

    Args:
        size: `[S]`, how many tokens each slot has.
        slot: `[R]`, that of each token.
        place: `[R]`, where a token stands in it, from 0.
        tau: Infinite: all alike.
    """
    score = -(place - (size[slot].double() - 1) / 2).abs() / tau
    return (score - segment_logsumexp(score, slot, size.numel())[slot]).exp()


def drawn(share: Tensor, draw: Tensor, slot: Tensor, n_slots: int) -> Tensor:
    """One token of each slot, by its share, `[R]` bool, from uniform draws `[R]`."""
    score = share.log() - (-draw.log()).log()
    best = score.new_full((n_slots,), -math.inf).scatter_reduce(0, slot, score, "amax")
    return (score == best[slot]) & (score > -math.inf)


def last_of_row(row: Tensor) -> Tensor:
    """Which of `row [S]`, in order, is the last of its row, `[S]` bool."""
    last = torch.ones_like(row, dtype=torch.bool)
    last[:-1] = row[1:] != row[:-1]
    return last
