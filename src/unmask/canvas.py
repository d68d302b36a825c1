"""A canvas is a text that is partly known: ragged rows of elements, laid end to end, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from functools import cached_property

import torch
from torch import Tensor


class Role(IntEnum):
    """What an element is for."""

    TEXT = 0  # a token of the text, printed
    SIGN = 1  # a mask, blank or slot: stands for what is missing, or may be
    SCAFFOLD = 2  # separator, start, end, anchor: never printed


@dataclass(frozen=True)
class Canvas:
    """A batch of partly known texts. Nothing but `apply` writes in one; it returns a new canvas, as `take` and `to` do.

    `N` elements lie end to end in `B` rows; row `b` is `offsets[b]:offsets[b + 1]`.
    """

    ids: Tensor  # [N] int64, vocabulary indices
    offsets: Tensor  # [B + 1] int64
    request: Tensor  # [B] int64, whose row this is; in decoding, which start it grew from (a row of `Rules`)
    role: Tensor  # [N] int64, a Role
    fixed: Tensor  # [N] bool, the user's own
    hole: Tensor  # [N] int64, which of the user's holes it belongs to, -1: none
    segment: Tensor  # [N] int64, 0: a text, or the source of another; 1: what is written for a source
    birth: Tensor  # [N] int64, the step that wrote it
    log_prob: Tensor  # [N] float32, what writing it cost, nats
    key: Tensor  # [N] int64, identity for life
    next_key: int  # the one allocator of keys

    @classmethod
    def build(cls, ids: Tensor, offsets: Tensor, **columns: Tensor) -> Canvas:
        """Make a canvas of `ids [N]` in rows `offsets [B + 1]`; columns not given take their neutral value.

        Raises:
            ValueError: when the offsets do not cut the ids, or a column has another length.
        """
        n, n_rows = ids.numel(), offsets.numel() - 1
        if n_rows < 0 or int(offsets[0]) != 0 or int(offsets[-1]) != n or bool((offsets.diff() < 0).any()):
            raise ValueError(f"offsets {offsets.tolist()} do not cut {n} ids into rows · they run from 0 to {n}")
        full = ids.new_full
        neutral = {
            "request": torch.arange(n_rows, device=ids.device),
            "role": full((n,), Role.TEXT),
            "fixed": torch.zeros(n, dtype=torch.bool, device=ids.device),
            "hole": full((n,), -1),
            "segment": full((n,), 0),
            "birth": full((n,), 0),
            "log_prob": torch.zeros(n, dtype=torch.float32, device=ids.device),
            "key": torch.arange(n, device=ids.device),
        }
        if unknown := columns.keys() - neutral.keys():
            raise ValueError(f"a canvas has no column {sorted(unknown)[0]!r} · its columns are {', '.join(neutral)}")
        for name, column in columns.items():
            if column.shape != neutral[name].shape:
                want = tuple(neutral[name].shape)
                raise ValueError(f"column {name!r} has shape {tuple(column.shape)} · this canvas needs {want}")
        columns = neutral | columns
        next_key = int(columns["key"].max()) + 1 if n else 0
        return cls(ids, offsets, next_key=next_key, **columns)

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int]], **columns: Tensor) -> Canvas:
        """Make a canvas of rows of token ids."""
        lengths = torch.tensor([0, *(len(row) for row in rows)])
        ids = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
        return cls.build(ids, lengths.cumsum(0), **columns)

    @property
    def n_rows(self) -> int:
        """How many rows (`B`)."""
        return self.offsets.numel() - 1

    @property
    def n_elements(self) -> int:
        """How many elements in all rows (`N`)."""
        return self.ids.numel()

    @property
    def lengths(self) -> Tensor:
        """Elements a row, `[B]`."""
        return self.offsets.diff()

    @cached_property
    def rows(self) -> Tensor:
        """The row of each element, `[N]`."""
        return row_of(self.offsets)

    @cached_property
    def index(self) -> Tensor:
        """The place of each element in its row, `[N]`."""
        return torch.arange(self.n_elements, device=self.ids.device) - self.offsets[self.rows]

    @cached_property
    def place(self) -> Tensor:
        """The place of each element in its segment of its row, `[N]`; the elements of a segment stand together."""
        if not bool(self.segment.any()):
            return self.index
        element, begins = torch.arange(self.n_elements, device=self.ids.device), self.index == 0
        begins[1:] |= self.segment[1:] != self.segment[:-1]
        return element - torch.where(begins, element, 0).cummax(0).values

    @cached_property
    def begin(self) -> Tensor:
        """The element that each one's segment of its row begins with, `[N]`."""
        return torch.arange(self.n_elements, device=self.ids.device) - self.place

    @property
    def in_holes(self) -> Tensor:
        """What stands in a hole, written or still to be, `[N]` bool: not the user's own."""
        return (self.hole >= 0) & ~self.fixed

    @property
    def row_log_prob(self) -> Tensor:
        """What writing each row cost, `[B]` float64, nats."""
        return self.sum_rows(self.log_prob.double())

    def sum_rows(self, values: Tensor) -> Tensor:
        """Sum `values [N]` over each row, `[B]`."""
        return values.new_zeros(self.n_rows).index_add_(0, self.rows, values)

    def to(self, device: torch.device | str) -> Canvas:
        """The same canvas on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in (*COLUMNS, "offsets", "request")})

    def cut(self, size: int) -> Canvas:
        """The same elements, a row for each block of `size`; `request` says of which row. The last may be shorter."""
        n_blocks = (self.lengths + size - 1) // size
        row = torch.arange(self.n_rows, device=self.ids.device).repeat_interleave(n_blocks)
        within = torch.arange(row.numel(), device=row.device) - (n_blocks.cumsum(0) - n_blocks)[row]
        ends = torch.cat([self.offsets[:-1][row] + within * size, self.offsets[-1:]])
        return replace(self, offsets=ends, request=row)

    def row(self, number: int) -> Canvas:
        """One row alone; nothing is copied."""
        begin, end = self.offsets[number : number + 2].tolist()
        columns = {name: getattr(self, name)[begin:end] for name in COLUMNS}
        offsets = torch.tensor([0, end - begin], device=self.offsets.device)
        return replace(self, offsets=offsets, request=self.request[number : number + 1], **columns)

    def take(self, rows: Tensor) -> Canvas:
        """Rows by number, `[R]`; a row may come several times (fork), in any order, or not at all (drop)."""
        lengths = self.lengths[rows]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        source = self.source(rows)
        columns = {name: getattr(self, name)[source] for name in COLUMNS}
        return replace(self, offsets=offsets, request=self.request[rows], **columns)

    def source(self, rows: Tensor) -> Tensor:
        """Which elements those of `take(rows)` are here."""
        lengths = self.lengths[rows]
        before = lengths.cumsum(0) - lengths
        within = torch.arange(int(lengths.sum()), device=rows.device) - before.repeat_interleave(lengths)
        return within + self.offsets[:-1][rows].repeat_interleave(lengths)

    def _put(self, edits: Edits) -> Canvas:
        """Apply edits that are all one for one, as in most steps: nothing moves."""
        if bool(self.fixed[edits.site].any()):
            raise ValueError("an edit would change the user's own text · fixed elements are emitted exactly once")
        birth = torch.full_like(edits.site, edits.birth)
        stated = {"ids": edits.ids, "role": edits.role, "birth": birth, "log_prob": edits.log_prob}
        columns = {name: getattr(self, name).index_copy(0, edits.site, value) for name, value in stated.items()}
        return replace(self, **columns)

    def apply(self, edits: Edits) -> Canvas:
        """Every edited element gives way to its run; all others stay.

        Raises:
            ValueError: when an edit would change, drop or double an element that is fixed.
        """
        n, site = self.n_elements, edits.site
        if edits.hole is None and bool((edits.counts == 1).all()) and not bool(edits.kept.any()):
            return self._put(edits)
        counts = self.ids.new_ones(n)
        counts[site] = edits.counts
        source = torch.arange(n, device=self.ids.device).repeat_interleave(counts)  # [N'] whose place it takes
        edited = torch.zeros(n, dtype=torch.bool, device=self.ids.device)
        edited[site] = True
        fresh = edited[source]  # [N'] elements the edits speak of
        origin = source[fresh]  # [M]
        n_kept = self.ids.new_zeros(n).index_add_(0, origin, edits.kept.long())
        if bool((self.fixed[site] & (n_kept[site] != 1)).any()):
            raise ValueError("an edit would change the user's own text · fixed elements are emitted exactly once")

        columns = {name: getattr(self, name)[source] for name in COLUMNS}
        new = ~edits.kept
        put = new & (counts[origin] == 1)  # one for one: the same element says something else
        born = new & ~put
        key = columns["key"][fresh]
        key[born] = self.next_key + torch.arange(int(born.sum()), device=key.device)
        stated = {
            "ids": torch.where(new, edits.ids, columns["ids"][fresh]),
            "role": torch.where(new, edits.role, columns["role"][fresh]),
            "fixed": columns["fixed"][fresh] & edits.kept,
            "birth": torch.where(new, edits.birth, columns["birth"][fresh]),
            "log_prob": torch.where(new, edits.log_prob, columns["log_prob"][fresh] + edits.log_prob),
            "key": key,
        }
        if edits.hole is not None:
            stated["hole"] = torch.where(new, edits.hole, columns["hole"][fresh])
        for name, values in stated.items():
            columns[name][fresh] = values
        ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return replace(self, offsets=ends[self.offsets], next_key=self.next_key + int(born.sum()), **columns)


COLUMNS = tuple(f.name for f in fields(Canvas) if f.name not in ("offsets", "request", "next_key"))


@dataclass(frozen=True)
class Edits:
    """All changes of one step, as emissions: element `site[e]` gives way to `counts[e]` elements.

    The `M = counts.sum()` emitted elements follow each other in the order of `site`. Itself alone: nothing but its
    cost changes; nothing: deleted; another id: put; itself and new ones: inserted; `[blank?] word [blank?]`:
    filled and split; several masks: grown. New elements inherit `segment`, and `hole` where none is stated.
    """

    site: Tensor  # [E] int64, elements of the canvas, ascending, each once
    counts: Tensor  # [E] int64
    kept: Tensor  # [M] bool, this emitted element is the site itself
    ids: Tensor  # [M] int64
    role: Tensor  # [M] int64
    log_prob: Tensor  # [M] float32, its cost; a kept element's is added to what it cost before
    birth: int  # the step
    hole: Tensor | None = None  # [M] int64

    @classmethod
    def emit(
        cls,
        site: Tensor,
        counts: Tensor,
        ids: Tensor,
        role: Tensor | Role,
        birth: int = 0,
        *,
        kept: Tensor | None = None,
        log_prob: Tensor | None = None,
        hole: Tensor | None = None,
    ) -> Edits:
        """Edits whose columns are neutral where not given: nothing kept, at no cost, of the site's hole."""
        return cls(
            site,
            counts,
            torch.zeros_like(ids, dtype=torch.bool) if kept is None else kept,
            ids,
            torch.full_like(ids, role) if isinstance(role, Role) else role,
            torch.zeros(ids.shape, dtype=torch.float32, device=ids.device) if log_prob is None else log_prob,
            birth,
            hole,
        )

    @classmethod
    def put(
        cls, site: Tensor, ids: Tensor, role: Tensor | Role, birth: int = 0, log_prob: Tensor | None = None
    ) -> Edits:
        """One for one: each element of `site [E]` says `ids [E]` from now on."""
        return cls.emit(site, torch.ones_like(site), ids, role, birth, log_prob=log_prob)


def concat(canvases: Sequence[Canvas]) -> Canvas:
    """Rows of several canvases in one; keys are allotted anew so that no two elements share one by accident."""
    next_key, parts, offsets, n = 0, [], [torch.zeros(1, dtype=torch.int64, device=canvases[0].ids.device)], 0
    for canvas in canvases:
        parts.append(replace(canvas, key=canvas.key + next_key))
        offsets.append(canvas.offsets[1:] + n)
        next_key, n = next_key + canvas.next_key, n + canvas.n_elements
    columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in (*COLUMNS, "request")}
    return Canvas(offsets=torch.cat(offsets), next_key=next_key, **columns)


def row_of(offsets: Tensor) -> Tensor:
    """The row of each element, `[N]`, from `offsets [B + 1]`."""
    n_rows = offsets.numel() - 1
    return torch.arange(n_rows, device=offsets.device).repeat_interleave(offsets.diff())
