"""Keys and values of rows that are read together, side by side: gathered once, and from then on only what is new.

Rows that go on step by step find nearly all that they read where it stood: 32 rows of 256 tokens from left to right
took 15.5 CPU seconds when all was gathered in every step, and take 10.8 to 13.6 (LOG.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

SPARE = 16  # places that a row may grow by before all is gathered again, at least
MOST = 2**28  # bytes of a block in all layers; more than that is gathered in every step and not kept


class Gathered:
    """What the rows of one block read, from one step to the next."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.slots: Tensor | None = None  # [b, L] of the last step
        self.turn = 0  # of that step
        self.states: list[Tensor] = []  # of each layer [b, room, 2, G, d]
        self.wide: Tensor | None = None  # [b, room] what to gather, where all is
        self.stale: tuple[Tensor, ...] | None = None  # rows and columns of what is not as it was, and
        self.source: Tensor | None = None  # the slots to take it from

    def follow(self, slots: Tensor, written: Tensor, turn: int, size: int) -> bool:
        """Go on to a step that reads `slots [b, L]`; False: it shares too little with the last one, or is too much.

        Args:
            slots: Where the states of each row lie.
            written: `[room]`, the turn in which each slot was written last.
            turn: The present one.
            size: Bytes of one slot in all layers; 0: not known yet.
        """
        before, since, self.slots, self.turn = self.slots, self.turn, slots, turn
        rows, length = slots.shape
        shared = 0 if before is None or before.shape[0] != rows else min(before.shape[1], length)
        stale = torch.ones_like(slots, dtype=torch.bool)
        if before is not None and shared:
            some = slots[:, :shared]
            stale[:, :shared] = (before[:, :shared] != some) | (written[some] > since)
        changed = stale.nonzero(as_tuple=True)
        spare = max(SPARE, length // 4)
        if 2 * changed[0].numel() > slots.numel() or not 0 < rows * (length + spare) * size <= MOST:
            self.states = []
            return False
        if self.states and length <= self.states[0].shape[1]:
            self.stale, self.source = changed, slots[changed]
        else:
            self.states, self.wide = [], torch.cat([slots, slots[:, :1].expand(-1, spare)], 1)
        return True

    def read(self, layer: int, store: Tensor) -> Tensor:
        """The states of a layer, whose `store [room, 2, G, d]` has what is new already: `[b, L, 2, G, d]`."""
        assert self.slots is not None
        if layer == len(self.states):
            assert self.wide is not None
            wide = store.index_select(0, self.wide.flatten())
            self.states.append(wide.view(*self.wide.shape, *store.shape[1:]))
        else:
            assert self.stale is not None and self.source is not None
            self.states[layer][self.stale] = store[self.source]
        return self.states[layer][:, : self.slots.shape[1]]
