"""Keys and values that are computed once, or once in a while.

Where nothing sees what comes after it, or after its block, an element's state depends on its row up to there alone, and
a cache is exact. Where everyone sees everyone, a view names its elements and says which are computed anew: the others
stand for what they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from unmask.backbone.gathered import Gathered
from unmask.view import View

ROOM = 256  # slots a cache grows by, at least
WASTE = 2  # times the work of some rows that reading them together may take
RECENT = 4  # plans; what none of so many read is no longer kept gathered
SPARE = 2  # times as much as was kept last may be held before it is time to forget again


class Cache:
    """What a backbone computed of elements that have a name.

    In a causal view that is each beginning of a row, in one of stages each beginning up to the end of one: the state
    depends on the ids and positions up to there and on nothing else, so it is found by a hash of these: rows that begin
    alike share their states, whether they are beams, samples or candidates of one text, and joining or leaving a batch
    changes nothing. Two of 10,000 beginnings share a 64-bit hash with probability 3e-12.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.names = torch.empty(0, dtype=torch.int64)  # [C] hashes, ascending
        self.slots = torch.empty(0, dtype=torch.int64)  # [C] where each lies
        self.states: list[Tensor] = []  # of each layer [room, 2, G, d]: keys and values
        self.hidden: Tensor | None = None  # [room, D] after the last layer
        self.places: Tensor | None = None  # [room, P] where positions are fixed at birth
        self.last: tuple[Tensor, Tensor] | None = None  # names of the last view, and the slot of each
        self.gathered: dict[tuple[int, int], Gathered] = {}  # of a block, by its number and its first slot
        self.written = torch.empty(0, dtype=torch.int64)  # [room] the plan that wrote each slot last
        self.turn = 0  # plans so far
        self.n_computed = 0  # elements that went through the layers, ever
        self.n_kept = 0  # elements that the last `keep` left

    @property
    def n_held(self) -> int:
        """Elements it knows."""
        return self.names.numel()

    @property
    def full(self) -> bool:
        """Whether much of it may be of no more use, so that it is time to `keep` what is."""
        return self.n_held > max(SPARE * self.n_kept, ROOM)

    def plan(self, view: View) -> Plan:
        """What of a view is known, and what must be computed; its elements get their slots."""
        names = view.names
        if self.last is not None and view.fresh is not None and torch.equal(self.last[0], names):  # in most steps
            again = view.fresh.nonzero().squeeze(1)
            self.n_computed += again.numel()
            return Plan(self, view, self.last[1], again)
        order, first = _first_of(names)
        self._join(names.device)
        at = torch.searchsorted(self.names, order).clamp(max=max(self.names.numel() - 1, 0))
        known = self.names[at] == order if self.names.numel() else torch.zeros_like(order, dtype=torch.bool)
        unknown = (~known).nonzero().squeeze(1)
        unknown = unknown[first[unknown].argsort()]  # what stands side by side in a row does so here
        fresh = self._free(unknown.numel())
        slot = self.slots[at] if self.slots.numel() else torch.empty_like(order)
        slot[unknown] = fresh
        stale = ~known if view.fresh is None else ~known | view.fresh[first]
        new = first[stale].sort()
        self.names, turn = torch.cat([self.names, order[unknown]]).sort()
        self.slots = torch.cat([self.slots, fresh])[turn]
        self.n_computed += new.values.numel()
        self.last = names, slot[torch.searchsorted(order, names)]
        return Plan(self, view, self.last[1], new.values)

    def keep(self, names: Tensor) -> None:
        """Forget all but the elements of these `names`; their slots are used again."""
        self._join(names.device)
        live, self.last = torch.isin(self.names, names), None
        self.names, self.slots = self.names[live], self.slots[live]
        self.n_kept = self.n_held

    def _join(self, device: torch.device) -> None:
        """Be where the elements are: a new cache cannot know."""
        self.names, self.slots = self.names.to(device), self.slots.to(device)

    def _free(self, n: int) -> Tensor:
        """`n` slots that hold nothing, `[n]`."""
        most = int(self.slots.max()) + 1 if self.slots.numel() else 0
        used = torch.zeros(most + n, dtype=torch.bool, device=self.slots.device)
        used[self.slots] = True
        return (~used).nonzero().squeeze(1)[:n]

    def mark(self, slot: Tensor, room: int) -> None:
        """Begin another plan, which writes these slots of `room`."""
        self.turn += 1
        self.written = _grown(self.written.to(slot.device), room).index_fill_(0, slot, self.turn)

    def follow(self, number: int, slots: Tensor) -> Gathered | None:
        """What block `number` of a view, which reads `slots [b, L]`, kept of the last one; None: gather all.

        The rows of one step may come in several views, which are told apart by where their first row begins.
        """
        name = number, int(slots[0, 0])
        kept = self.gathered.pop(name, None) or Gathered()
        recent = {other: one for other, one in self.gathered.items() if one.turn > self.turn - RECENT}
        self.gathered = recent | {name: kept}  # the latest last
        size = len(self.states) * self.states[0][:1].nbytes if self.states else 0
        return kept if kept.follow(slots, self.written, self.turn, size) else None

    def write(self, number: int, slot: Tensor, room: int, k: Tensor, v: Tensor) -> Tensor:
        """Store keys and values `[K, G, d]` of layer `number`, of `room` slots at least; gives its whole store."""
        if number == len(self.states):
            self.states.append(k.new_empty(0, 2, *k.shape[1:]))
        self.states[number] = _grown(self.states[number], room).index_copy_(0, slot, torch.stack([k, v], 1))
        return self.states[number]


@dataclass
class Plan:
    """One pass over a view with a cache: only `new` elements go through the layers."""

    cache: Cache
    view: View
    slot: Tensor  # [M] where each element's state lies
    new: Tensor  # [K] elements to compute, ascending; of those that share a beginning the first

    def __post_init__(self) -> None:
        """Lay the new elements and what they see into a few blocks."""
        view = self.view
        self.at = self.slot[self.new]
        self.room = int(self.slot.max()) + 1 if self.slot.numel() else 0
        self.cache.mark(self.at, self.room)
        row = view.rows[self.new]
        per_row = torch.bincount(row, minlength=view.n_rows)
        rows = per_row.nonzero().squeeze(1)
        if view.name is None:
            parts = _alike(per_row[rows], view.offsets.diff()[rows])
        else:  # alone, a row needs neither padding nor a mask, and its states often lie in one piece
            parts = list(torch.arange(rows.numel(), device=rows.device).split(1))
        self.blocks = [_Block(i, rows[part], row, per_row[rows[part]], self) for i, part in enumerate(parts)]

    def of(self, column: Tensor) -> Tensor:
        """The elements to compute of a column `[M]`, `[K]`."""
        return column[self.new]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, window: int | None, layer: int) -> Tensor:
        """Store keys and values of the new elements and attend from them, `[K, H, d]`."""
        store = self.cache.write(layer, self.at, self.room, k, v)
        if len(self.blocks) == 1:
            return self.blocks[0].attend(q, store, window, layer)
        out = torch.empty_like(q)
        for block in self.blocks:
            out[block.queries] = block.attend(q, store, window, layer)
        return out

    def places(self, like: Tensor, width: int) -> Tensor:
        """Where what is known stands, `[room, P]`, by slot; to be written in."""
        store = like.new_empty(0, width) if self.cache.places is None else self.cache.places
        self.cache.places = _grown(store, self.room)
        return self.cache.places

    @property
    def wanted(self) -> Tensor | None:
        """Which of the new elements the view reads, `[R]`, where it names its elements: these are computed in any case.

        None: what it reads may have been computed before, so that the last states of all are kept.
        """
        return None if self.view.name is None else torch.searchsorted(self.new, self.view.read)

    def read(self, hidden: Tensor) -> Tensor:
        """The states of the elements the view reads, `[R, D]`, from those of all new ones, or of those `wanted`."""
        if self.view.name is not None:
            return hidden
        cache = self.cache
        store = hidden.new_empty(0, hidden.shape[1]) if cache.hidden is None else cache.hidden
        cache.hidden = _grown(store, self.room).index_copy_(0, self.at, hidden)
        return cache.hidden[self.slot[self.view.read]]


class _Block:
    """Rows with their new elements as `[b, Q]` queries over `[b, L]` slots."""

    def __init__(self, number: int, rows: Tensor, row: Tensor, n: Tensor, plan: Plan) -> None:
        """Block `number`: of the new elements, each in row `row [K]`, those in `rows [b]`, which have `n [b]`."""
        view, starts = plan.view, plan.view.offsets[:-1][rows]
        self.queries = torch.isin(row, rows).nonzero().squeeze(1)  # of the new elements
        self.shape = rows.numel(), int(n.max())
        within = torch.arange(self.queries.numel(), device=rows.device) - (n.cumsum(0) - n).repeat_interleave(n)
        block_row = torch.arange(rows.numel(), device=rows.device).repeat_interleave(n)
        self.flat = block_row * self.shape[1] + within  # of each query, its place among b * Q
        lengths = view.offsets.diff()[rows]
        column = torch.arange(int(lengths.max()), device=rows.device)
        grid = starts[:, None] + torch.where(column < lengths[:, None], column, 0)  # padding reads the first element
        slots = plan.slot[grid]
        self.slots: Tensor | slice = slots.flatten()
        self.kept: Gathered | None = None
        if rows.numel() == 1 and bool((slots.diff() == 1).all()):  # in one piece: read where they lie
            self.slots = slice(int(slots[0, 0]), int(slots[0, 0]) + slots.numel())
        else:
            self.kept = plan.cache.follow(number, slots)
        at = starts.repeat_interleave(self.shape[1])  # padded queries see the first element
        at[self.flat] = plan.new[self.queries]
        at = at.view(self.shape)
        real = (column < lengths[:, None])[:, None]
        if view.stage is None:
            self.sees = real.expand(-1, self.shape[1], -1)  # [b, Q, L]
        else:
            self.sees = real & (view.stage[grid][:, None] <= view.stage[at][..., None])
        self.masks: dict[int | None, Tensor | None] = {}
        self.position = view.position[at], view.position[grid]  # [b, Q] and [b, L]

    def attend(self, q: Tensor, store: Tensor, window: int | None, layer: int) -> Tensor:
        """`q [K, H, d]` of all new elements over a layer's store; of this block's, `[k, H, d]`."""
        (b, n), (heads, width) = self.shape, q.shape[1:]
        if self.flat.numel() == b * n:
            padded = q.index_select(0, self.queries)
        else:
            padded = q.new_zeros(b * n, heads, width)
            padded[self.flat] = q.index_select(0, self.queries)
        if self.kept is not None:
            seen = self.kept.read(layer, store)
        else:
            some = store[self.slots] if isinstance(self.slots, slice) else store.index_select(0, self.slots)
            seen = some.view(b, -1, *store.shape[1:])
        k, v = (part.transpose(1, 2) for part in seen.unbind(2))  # [b, G, L, d] each
        groups = k.shape[1]
        # The heads that share keys stand behind each other as if they were more queries.
        q = padded.view(b, n, groups, heads // groups, width).permute(0, 2, 3, 1, 4).reshape(b, groups, -1, width)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self._mask(window, heads // groups))
        out = out.view(b, groups, heads // groups, n, width).permute(0, 3, 1, 2, 4).reshape(b * n, heads, width)
        return out if self.flat.numel() == b * n else out.index_select(0, self.flat)

    def _mask(self, window: int | None, repeat: int) -> Tensor | None:
        """What the queries of one key head see, `[b, 1, repeat * Q, L]`; None: everything."""
        if window not in self.masks:
            sees, (mine, theirs) = self.sees, self.position
            if window is not None:
                sees = sees & ((mine[..., None] - theirs[:, None]).abs() <= window)
            self.masks[window] = None if bool(sees.all()) else sees.repeat(1, repeat, 1)[:, None]
        return self.masks[window]


def _alike(n: Tensor, lengths: Tensor) -> list[Tensor]:
    """Rows with `n [B]` new elements of `lengths [B]`, in few parts that are not much more work for their padding."""
    order = (n * (lengths.amax() + 1) + lengths).argsort() if n.numel() else n
    cuts, total, longest = [0], 0, 0
    for i, (new, length) in enumerate(zip(n[order].tolist(), lengths[order].tolist(), strict=True)):
        total, longest = total + new * length, max(longest, length)
        if new * longest * (i + 1 - cuts[-1]) > WASTE * total:
            cuts.append(i)
            total, longest = new * length, length
    return [order[a:b].sort().values for a, b in pairwise([*cuts, n.numel()]) if b > a]


def _first_of(names: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct names, ascending, and where each comes first."""
    order, inverse = names.unique(return_inverse=True)
    first = torch.full_like(order, names.numel())
    return order, first.scatter_reduce(0, inverse, torch.arange(names.numel(), device=names.device), "amin")


def _grown(store: Tensor, room: int) -> Tensor:
    """The store with so many slots at least."""
    if room <= store.shape[0]:
        return store
    room = max(room, store.shape[0] * 3 // 2, ROOM)
    return torch.cat([store, store.new_empty(room - store.shape[0], *store.shape[1:])])
