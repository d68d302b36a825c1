"""Randomness by counter: each row draws from (seed, key), so its company and order change nothing."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

from unmask.canvas import Canvas

BLOCKS = 2**16  # more than any row is cut into, so that company does not hang on how many there are
_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number


@dataclass(frozen=True)
class Company:
    """Rows that share a draw: those of the whole batch of one step, in how many parts it may be read."""

    place: Tensor  # [B] int64, which of them each row is, from 0
    size: int  # how many there are in all
    number: int  # which draw it is: the step

    def to(self, device: torch.device | str) -> Company:
        """The same on another device."""
        return Company(self.place.to(device), self.size, self.number)


@dataclass(frozen=True)
class Noise:
    """A source of uniform numbers for the rows of a canvas.

    The same (seed, key, stream) gives the same numbers on any machine, in any batch. Numbers that are spread over the
    rows of a step (`strata`, `pairs`) also ask for a row's place among them, which is the same under any split.
    Source: Steele, Lea and Flood 2014 (SplitMix64), used as a counter-based generator.
    """

    seed: int
    key: Tensor  # [B] int64, what names each row: the number of the draw in training, of the request in decoding
    company: Company | None = None  # none: every row is alone

    def rows(self, stream: str) -> Tensor:
        """One number a row, `[B]` float64 in (0, 1); `stream` names what it is for."""
        return _unit(self._state(stream))

    def strata(self, stream: str) -> Tensor:
        """As `rows`, with one number in each of as many even parts of (0, 1) as the company has rows.

        Each row's number alone is uniform: which part is whose is turned by a draw of the company. Neighbours, which
        are of like length, get parts that lie apart.
        """
        if self.company is None:
            return self.rows(stream)
        size, number = self.company.size, torch.tensor([self.company.number], device=self.key.device)
        turn = (Noise(self.seed, number).rows(f"{stream}: turn") * size).long()
        stride = next(k for k in range(round(0.618 * size) or 1, size + 2) if gcd(k, size) == 1)
        return ((self.company.place * stride + turn) % size + self.rows(stream)) / size

    def pairs(self, stream: str) -> Tensor:
        """As `rows`, with u and 1 - u for each two rows of the company that follow each other."""
        if self.company is None:
            return self.rows(stream)
        place, number = self.company.place, torch.tensor([self.company.number], device=self.key.device)
        draw = Noise(self.seed, scattered(number) + place // 2).rows(f"{stream}: pair")
        return torch.where(place % 2 == 0, draw, 1 - draw)

    def cut(self, blocks: Canvas) -> Noise:
        """The noise of a canvas that was cut into `blocks`: each draws for itself, and all of a step are company."""
        row = blocks.request
        n = torch.bincount(row, minlength=self.key.numel())
        number = torch.arange(row.numel(), device=row.device) - (n.cumsum(0) - n)[row]
        company = self.company
        if company is not None:
            company = Company(company.place[row] * BLOCKS + number, company.size * BLOCKS, company.number)
        return Noise(self.seed, scattered(self.key)[row] + number, company)

    def elements(self, canvas: Canvas, stream: str) -> Tensor:
        """One number an element, `[N]` float64 in (0, 1)."""
        return _unit(scattered(self._state(stream)[canvas.rows] + canvas.index * _GOLDEN))

    def grid(self, rows: Tensor, place: Tensor, width: int, stream: str) -> Tensor:
        """`width` numbers for each of `S` places, `[S, width]`: `rows [S]` says whose, `place [S]` which of its."""
        start = scattered(self._state(stream)[rows] + place * _GOLDEN)
        return _unit(scattered(start[:, None] + torch.arange(width, device=rows.device) * _GOLDEN))

    def _state(self, stream: str) -> Tensor:
        seed = torch.tensor(self.seed, dtype=torch.int64, device=self.key.device)
        return scattered(scattered(scattered(seed) + self.key) + zlib.crc32(stream.encode()))


def scattered(x: Tensor) -> Tensor:
    """A bijection of 64-bit numbers without visible order: the finaliser of SplitMix64, `[...]` int64."""
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _unit(x: Tensor) -> Tensor:
    return (_shift(x, 11).double() + 0.5) * 2.0**-53
