"""Insertion with positions fixed at birth: a text grows while what was computed of it stays."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from unmask.canvas import Canvas, Role
from unmask.masking.hidden import Hidden
from unmask.noise import Noise
from unmask.objectives.insertion import Insertion, Targets
from unmask.objectives.objective import (
    Likelihood,
    Predict,
    Sites,
    Vocabulary,
    check_flag,
    check_number,
    open_signs,
)
from unmask.objectives.slots import Seen
from unmask.objectives.spans import Spans, central, drawn
from unmask.objectives.trees import bound_of
from unmask.view import View


@dataclass(frozen=True)
class Grown(Targets):
    """Targets of every slot that a text ever had; of its `T` tokens that were born, in order, first those born into."""

    chance: Tensor  # [T] float64, how likely it was that a token would come first in its slot


@dataclass(frozen=True)
class Births:
    """Of the `K` elements that the model sees, where each was born; the order of the canvas."""

    keep: Tensor  # [N] bool
    row: Tensor  # [K] int64
    birth: Tensor  # [K] int64, 0: given
    left: Tensor  # [K] int64, of what is born: the nearest older element on its left
    right: Tensor  # [K] int64, on its right

    @classmethod
    def of(cls, canvas: Canvas, keep: Tensor) -> Births:
        """Of the elements `keep [N]` bool, whose rows begin and end with a given one."""
        birth, row = canvas.birth[keep], canvas.rows[keep]
        left, mirrored = _nearest_elder(torch.stack([birth, birth.flip(0)]))
        return cls(keep, row, birth, left, birth.numel() - 1 - mirrored.flip(0))


@dataclass(frozen=True)
class Slots:
    """Places between two of the elements that the model sees, `S` of them."""

    row: Tensor  # [S] int64
    left: Tensor  # [S] int64, which of the seen elements
    right: Tensor  # [S] int64
    asked: Tensor  # [S] int64, after which round each is asked what is missing in it


@dataclass(frozen=True)
class Laid:
    """What is read, in the order of births: `K` elements, and a query for each slot, if there are queries."""

    row: Tensor  # [K + S] int64, elements first
    stage: Tensor  # [K + S] int64, what is of the same or a lower one is seen
    left: Tensor  # [K + S] int64, between which elements each was born
    right: Tensor  # [K + S] int64
    n_rows: int

    @classmethod
    def of(cls, births: Births, slots: Slots | None, n_rows: int) -> Laid:
        """The elements alone, or, at even stages, with queries of `slots` between them."""
        if slots is None:
            return cls(births.row, births.birth, births.left, births.right, n_rows)
        stage = torch.cat([2 * births.birth, 2 * slots.asked + 1])
        row, left, right = (
            torch.cat([getattr(births, name), getattr(slots, name)]) for name in ("row", "left", "right")
        )
        return cls(row, stage, left, right, n_rows)

    @cached_property
    def order(self) -> Tensor:
        """Row by row, the oldest first, `[K + S]`."""
        n = int(self.stage.max()) + 1 if self.stage.numel() else 1
        return (self.row * n + self.stage).argsort(stable=True)

    @cached_property
    def rank(self) -> Tensor:
        """Where each comes in that order, `[K + S]`."""
        return self.order.argsort()

    @cached_property
    def offsets(self) -> Tensor:
        """Where the rows lie in it, `[B + 1]`."""
        ends = torch.bincount(self.row, minlength=self.n_rows).cumsum(0)
        return torch.cat([ends.new_zeros(1), ends])


class Fractional(Insertion):
    """Insertion with fractional positional encoding (Zhisong Zhang, Yizhe Zhang and Bill Dolan 2023).

    Corrupts: nothing is taken away. A tree is drawn over what is hidden: in each round one token of every slot that
        lacks some, by softmax(-distance from the middle / `roll_in`); it says when each token is born. What is shown is
        given: it stands at k / (n + 1) of the way, the rest between the neighbours it was born between.
    Predicts: p(w | slot) of every slot that there ever was, from hidden states that see what is as old or older, in one
        pass over the whole text.
    Fills: as `insertion`; what was computed of an element is never computed again.
    Loss: the mean over all slots of -sum over missing i of w(i) log p(x_i | slot), or of -log p(end | slot).
        No bound; texts are scored by trees, one pass each.
    Policies that suit: `parallel`: then every slot lies beside an element of the last round, which has seen all.
        Slots that are left for later are blind to what was written meanwhile elsewhere.
    Relation to the others: another model than `insertion`: what is old never hears of what is new.
    Options: `order`, `tree` or `uniform`, and `tau`, as in `insertion`: which words a slot is taught. `roll_in`: the
        same of the tree that is drawn, `inf` for any. `queries`: what a slot says is read from an element of its own,
        which stands where its word would be born, sees all that is there when it is asked, and is seen by the other
        queries of that moment alone; so no slot is blind, whenever it is written, for a pass over all open slots in
        every step. It needs backbone.positions `affine`, or `average`, which trees of more than 20 rounds are too deep
        for.
    """

    name = "fractional"
    holes: ClassVar[frozenset[str]] = frozenset({"blank", "mask", "candidates"})
    settles = True
    recalls: ClassVar[bool] = True
    positions = "affine"  # of its backbone, unless a recipe says otherwise

    def __init__(
        self,
        vocabulary: Vocabulary,
        width: int,
        embedding: nn.Embedding,
        order: str = "tree",
        tau: float = 1.0,
        roll_in: float = 1.0,
        queries: bool = False,
    ) -> None:
        """Make the family's head for a backbone of `width` whose output matrix is `embedding`.

        Raises:
            ValueError: for an option there is not.
        """
        if order == "left_to_right":
            raise ValueError(
                "order=left_to_right of fractional positions · each is born beside the end, deeper than the last, and"
                " they fall together · say order=tree or uniform, or objective=left_to_right"
            )
        check_number("roll_in", roll_in)
        check_flag("queries", queries)
        super().__init__(vocabulary, width, embedding, order, tau, place="none")
        self.roll_in, self.queries = roll_in, queries
        if queries:
            self.settles = False
        self._last: tuple[Canvas, Births, Laid] | None = None

    def corrupt(self, clean: Canvas, hidden: Hidden, noise: Noise) -> tuple[Canvas, Grown]:
        """The same text with births, from a tree that is drawn, and what each of its slots lacked."""
        missing, birth = hidden.mask, torch.zeros_like(clean.ids)
        chance = torch.ones_like(birth, dtype=torch.float64)
        turn = 1
        while bool(missing.any()):
            spans = Spans.of(clean, missing)
            share = central(spans.size, spans.slot, spans.place, self.roll_in)
            draw = noise.elements(clean, f"birth {turn}")[missing]
            first = drawn(share, draw, spans.slot, spans.size.numel())
            at = missing.nonzero().squeeze(1)[first]
            birth[at], chance[at] = turn, share[first]
            missing, turn = missing.masked_scatter(missing, ~first), turn + 1
        canvas = replace(clean, birth=birth)
        return canvas, self._taught(canvas, chance[hidden.mask])

    def _taught(self, canvas: Canvas, chance: Tensor) -> Grown:
        """What every slot is to say."""
        births = Births.of(canvas, torch.ones_like(canvas.fixed))
        born = (births.birth > 0).nonzero().squeeze(1)
        left, size = births.left[born], (births.right - births.left - 1)[born]
        slot = torch.arange(born.numel(), device=born.device).repeat_interleave(size)
        place = torch.arange(slot.numel(), device=slot.device) - (size.cumsum(0) - size)[slot]
        tau = self.tau if self.order == "tree" else math.inf
        weight = central(size, slot, place, tau)
        n_slots = born.numel() + int(self._ends(canvas).sum())
        end = (torch.arange(n_slots, device=slot.device) >= born.numel()).double()
        nothing = torch.zeros(canvas.n_rows, dtype=torch.float64, device=slot.device)
        count = torch.tensor(float(n_slots), dtype=torch.float64, device=slot.device)
        word = canvas.ids[left[slot] + 1 + place]
        return Grown(slot, word, weight, end, nothing, nothing, nothing, count, chance)

    def _ends(self, canvas: Canvas) -> Tensor:
        """Behind which elements of a grown text a slot ended, `[N]` bool."""
        behind = torch.zeros_like(canvas.fixed)
        behind[:-1] = (canvas.rows[1:] == canvas.rows[:-1]) & ~(canvas.fixed[1:] & canvas.fixed[:-1])
        return behind

    def view(self, canvas: Canvas, targets: Targets | None = None) -> View:
        """The elements in the order of their births, each seeing what is as old or older."""
        births, laid = self._read(canvas)
        keep, given = births.keep, births.birth == 0
        count = (keep & (canvas.birth == 0)).long().cumsum(0)
        number = count - count[canvas.begin]  # of a given element in its segment, from 0
        most = torch.zeros_like(number).scatter_reduce(0, canvas.begin, number, "amax")[canvas.begin]
        place = torch.where(given, (number / most.clamp(min=1))[keep], 0.0)
        ids, segment = canvas.ids[keep], canvas.segment[keep]
        if n := laid.row.numel() - ids.numel():  # queries
            ids, place = torch.cat([ids, ids.new_full((n,), self.blank)]), torch.cat([place, place.new_zeros(n)])
            given, segment = torch.cat([given, given.new_zeros(n)]), torch.cat([segment, segment[laid.left[-n:]]])
        order, rank, first = laid.order, laid.rank, laid.offsets[:-1][laid.row]
        sides = (torch.where(given, -1, rank[side] - first) for side in (laid.left, laid.right))
        return View(
            ids[order],
            laid.offsets,
            place[order],
            self.reads(canvas),
            stage=laid.stage[order],
            transient=(torch.arange(order.numel(), device=order.device) >= births.birth.numel())[order] if n else None,
            segment=segment[order],
            born=torch.stack(list(sides), 1)[order],
        )

    def reads(self, canvas: Canvas, sites: Sites | None = None) -> Tensor:
        """Which elements of the view are read for `sites`; none: for all slots."""
        return self._read(canvas)[1].rank[self._seen(canvas, sites).read]

    def _read(self, canvas: Canvas) -> tuple[Births, Laid]:
        """What the model reads of a canvas; that of the last one is kept, for a step asks several times."""
        if self._last is None or self._last[0] is not canvas:
            births = Births.of(canvas, canvas.ids != self.blank)
            laid = Laid.of(births, self._slots(canvas, births) if self.queries else None, canvas.n_rows)
            self._last = canvas, births, laid
        return self._last[1:]

    def beside(self, canvas: Canvas, sites: Sites) -> tuple[Tensor, Tensor]:
        """The two elements of the view that each slot lies between."""
        births, laid = self._read(canvas)
        right = births.keep.long().cumsum(0)[sites.element]
        return laid.rank[right - 1], laid.rank[right]

    def _slots(self, canvas: Canvas, births: Births) -> Slots:
        """The open slots of a canvas, or, where none is, all that it ever had: born into, then ended."""
        if bool((canvas.role == Role.SIGN).any()):
            sites = open_signs(canvas)
            left = births.keep.long().cumsum(0)[sites.element] - 1
            last = torch.zeros_like(canvas.request).scatter_reduce(0, births.row, births.birth, "amax")
            return Slots(sites.row, left, left + 1, last[sites.row])
        birth = births.birth
        born, ends = ((some).nonzero().squeeze(1) for some in (birth > 0, self._ends(canvas)))
        left, right = torch.cat([births.left[born], ends]), torch.cat([births.right[born], ends + 1])
        asked = torch.cat([birth[born] - 1, torch.maximum(birth[ends], birth[ends + 1])])
        return Slots(canvas.rows[torch.cat([born, ends])], left, right, asked)

    def _seen(self, canvas: Canvas, sites: Sites | None = None) -> Seen:
        """Where what is said of slots is read: beside them, or at their queries."""
        if not self.queries and bool((canvas.role == Role.SIGN).any()):
            return super()._seen(canvas, sites)
        births, laid = self._read(canvas)
        n, keep = births.birth.numel(), births.keep
        firsts = keep.long().cumsum(0)[canvas.offsets[:-1]] - 1
        if not self.queries:
            slots = self._slots(canvas, births)
            return Seen(keep, torch.arange(n, device=firsts.device), slots.row, slots.left, slots.right, firsts)
        number = torch.arange(laid.row.numel() - n, device=firsts.device)
        if sites is not None:
            number = torch.searchsorted(open_signs(canvas).element, sites.element)
        at = torch.arange(number.numel(), device=number.device)
        first = number.numel() + torch.arange(canvas.n_rows, device=number.device)
        return Seen(keep, torch.cat([n + number, firsts]), laid.row[n:][number], at, at, first)

    def likelihood(
        self,
        predict: Predict,
        clean: Canvas,
        hidden: Tensor,
        method: str | None,
        n_orders: int,
        noise: Noise,
    ) -> Likelihood:
        """By random trees, one pass each, as `trees.likelihood` says.

        Raises:
            ValueError: for a method there is not.
        """
        if method not in (None, "bound"):
            raise ValueError(f"no likelihood method {method!r} here · methods: bound · name it, or none")
        one = torch.ones(clean.n_rows, dtype=torch.float64, device=hidden.device)
        given = clean.sum_rows(hidden.long()) == 0
        shown = replace(clean, fixed=clean.fixed | given[clean.rows])  # of a row that lacks nothing nothing ends
        paths = []
        for number in range(max(n_orders, 2)):
            own = Noise(noise.seed, noise.key * 1_000_003 + number)
            canvas, targets = self.corrupt(shown, Hidden(hidden, one, one, one < 0), own)
            prediction = predict(canvas, targets)
            born = canvas.birth > 0
            word = torch.cat([canvas.ids[born], canvas.ids.new_full((int((targets.end > 0).sum()),), self.end)])
            each = torch.arange(word.numel(), device=word.device)
            cost = prediction.words()[each, word].double()
            cost[: targets.chance.numel()] -= targets.chance.log()
            paths.append(torch.zeros_like(one).index_add_(0, prediction.row, cost))
        return bound_of(torch.stack(paths, 1))

    def restore(self, canvas: Canvas, targets: Targets) -> Canvas:
        """The text as it was before anything was born."""
        return replace(canvas, birth=torch.zeros_like(canvas.birth))


def _nearest_elder(birth: Tensor) -> Tensor:
    """Of each element the last one before it that is older, `[2, K]`; of what is given, which has none, something else.

    By the least of each stretch of 1, 2, 4, ... elements: those that hold no elder are passed over, the longest first.
    """
    n = birth.shape[1]
    at = torch.arange(n, device=birth.device)
    least, stretches = birth, [birth]  # of the 2^k elements up to each
    while 2 ** len(stretches) < n:
        before = least.roll(size := 2 ** (len(stretches) - 1), 1)
        least = torch.where(at >= size, torch.minimum(least, before), -1)
        stretches.append(least)
    near = (at - 1).clamp(min=0).expand_as(birth)
    born = birth > 0
    for k in range(len(stretches) - 1, -1, -1):
        near = torch.where((stretches[k].gather(1, near) >= birth) & born, near - 2**k, near).clamp(min=0)
    return near
