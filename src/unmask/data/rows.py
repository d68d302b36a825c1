"""Rows by where they lie, and how those of a batch become a canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from unmask.canvas import Canvas, Role
from unmask.data.corpus import Corpus, Ints

SIGNS_A_ROW = 2  # start and end
TEXT = -1  # `given` of a row that is text and no dialogue


@dataclass(frozen=True)
class Rows:
    """Rows of sources that are not yet read."""

    source: NDArray[np.int16]  # [R]
    start: Ints  # [R], first token in the source's ids
    length: Ints  # [R], tokens
    ids: Ints  # [R]
    given: Ints  # [R], how many tokens at its beginning ask for the rest of it; -1: it is text, of which none does
    pads: Ints  # [R], signs behind its tokens: of a dialogue whose end is written one at least, which is that end
    apart: Ints  # [R], 1: a separator stands before the answer, 0: none does

    @classmethod
    def of(
        cls, k: int, start: Ints, length: Ints, given: Ints | None = None, apart: bool = False, ended: bool = True
    ) -> Rows:
        """Rows of source `k`, without numbers; `given` of dialogues, whose answers stand `apart` or get `ended`."""
        none = np.zeros(len(start), np.int64)
        source = np.full(len(start), k, np.int16)
        if given is None:
            return cls(source, start, length, none, none + TEXT, none, none)
        return cls(source, start, length, none, given, none + ended, none + apart)

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """Rows of all parts, in their order."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @property
    def n(self) -> int:
        """How many rows (`R`)."""
        return len(self.start)

    @property
    def size(self) -> Ints:
        """Elements of each row, its signs and pads among them, `[R]`."""
        return self.length + self.pads + self.apart + SIGNS_A_ROW

    def take(self, which: Ints | slice) -> Rows:
        """Some of them."""
        return Rows(*(getattr(self, field.name)[which] for field in fields(self)))

    def numbered(self, first: int) -> Rows:
        """With the numbers from `first` on."""
        return replace(self, ids=first + np.arange(self.n))

    def padded(self) -> Rows:
        """Dialogues filled up to the longest of them."""
        dialogue = self.given != TEXT
        longest = self.length[dialogue].max() if dialogue.any() else 0
        return replace(self, pads=np.where(dialogue, 1 + longest - self.length, 0))

    def read(
        self,
        corpora: Sequence[Corpus],
        start: int,
        end: int,
        pads: Sequence[int] = (),
        ask: bool = False,
        separator: int = -1,
    ) -> Canvas:
        """Their canvas: each row between a start and an end sign.

        An answer that stands apart is a segment of its own, which the separator begins.

        Args:
            corpora: The sources.
            start: Id of the sign before each row.
            end: Id of the sign after it.
            separator: Id of the sign before an answer that stands apart.
            pads: Ids that fill up a dialogue behind the sign that ends its answer, in turn; they are a part of its
                text, as that sign is.
            ask: What is given in a dialogue may be asked for, too; else it is fixed.
        """
        size = self.size
        offsets = np.zeros(self.n + 1, np.int64)
        np.cumsum(size, out=offsets[1:])
        row = np.repeat(np.arange(self.n), size)
        place = np.arange(offsets[-1]) - offsets[row] - 1  # -1 is the start sign, then tokens, pads and the end sign
        ids = np.full(len(row), end, np.int64)
        ids[offsets[:-1]] = start
        apart, given = self.apart[row] > 0, self.given[row]
        between = apart & (place == given)
        ids[between] = separator
        segment = apart & (place >= given)
        place -= segment  # of a token among the tokens
        token = (place >= 0) & (place < self.length[row]) & ~between
        for k in np.unique(self.source):
            mine = token & (self.source[row] == k)
            ids[mine] = corpora[k].ids[self.start[row[mine]] + place[mine]]
        beyond = place - self.length[row]
        pad = (beyond >= 0) & (beyond < self.pads[row]) & ~between
        if pads:
            behind = pad & (beyond > 0)
            ids[behind] = np.asarray(pads)[(beyond[behind] - 1) % len(pads)]
        scaffold = torch.from_numpy(~(token | pad))
        fixed = scaffold if ask else scaffold | torch.from_numpy(token & (place < given))
        role = torch.where(scaffold, int(Role.SCAFFOLD), int(Role.TEXT))
        columns = {"role": role, "fixed": fixed, "segment": torch.from_numpy(segment.astype(np.int64))}
        return Canvas.build(torch.from_numpy(ids), torch.from_numpy(offsets), **columns)
