"""Reading a canvas between two steps: with guidance or without, whole or only where something changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unmask.backbone.cache import Cache
from unmask.canvas import Canvas, Role
from unmask.decoding.beam import Hypotheses
from unmask.decoding.blocks import Blocks
from unmask.decoding.search import Search
from unmask.decoding.settled import Settled
from unmask.model import Model
from unmask.noise import scattered
from unmask.objectives import OBJECTIVES, Sites, called, settling, told
from unmask.view import View


class Reader:
    """Reads rows for the loop; what is kept between steps lives here.

    A cache of keys and values is exact where nothing sees what comes after it, or after its block. Where everyone sees
    everyone it is not: what is kept is what an element was when it was last computed. A block begins by computing all;
    within it only some are computed anew (Wu et al. 2025, Fast-dLLM; Ma et al. 2025, dKV-Cache):

    - `prefix`: all from the first element of the block on
    - `dual`: the elements of the block
    - `delayed`: its masks, and what was written in the step before
    """

    def __init__(self, model: Model, search: Search) -> None:
        """Read with `model`.

        Raises:
            ValueError: when something is asked of a family that cannot do it.
        """
        self.model, self.masks = model, search.masks
        masks = search.masks
        if search.end_penalty and model.objective.closes == "never":
            able = [name for name, family in OBJECTIVES.items() if family.closes != "never"]
            raise ValueError(
                f"end_penalty with {called(model.objective)} · its places do not end by themselves · leave it out,"
                f" or use a model of {' or '.join(able)}"
            )
        if model.objective.closes == "row" and search.rule.several and not search.rule.weighs_place:
            raise ValueError(
                f"the policy {search.policy!r} with a model that ends a whole text at once · it would write into every"
                " place, since none of them says that it is empty · take location or serial, or a model of finish=slot"
            )
        self.family = told(model.objective)
        if self.family is None and not masks.plain:
            chosen = next(name for name, value in vars(masks).items() if value != getattr(type(masks)(), name))
            able = [name for name, family in OBJECTIVES.items() if family.lengths == "told"]
            raise ValueError(
                f"{chosen} with {called(model.objective)} · it is for models that write tokens into masks"
                f" · leave out {chosen}, or use a model of {' or '.join(able)}"
            )
        self.whole = None if self.family is None else self.family.block  # elements of a family's own block
        if self.whole is not None and masks.block is not None:
            raise ValueError(
                f"blocks of {masks.block} with a model that writes block by block · its blocks have {self.whole}"
                " elements, and what it keeps of them is exact · leave out block, cache and suffix"
            )
        if self.whole is not None and masks.remask is not None:
            raise ValueError(
                "remask with a model that writes block by block · what is taken back may lie in a block that is kept"
                " · leave it out"
            )
        if masks.ending == "late" and not search.rule.waits and not search.sampling:
            raise ValueError(
                f"ending='late' with the policy {search.policy!r} · it does not go by how sure the model is of a place,"
                " which is what makes an end wait · leave out one of them, or take confident"
            )
        self.cache, self.unguided = Cache(), Cache()
        family = settling(model.objective)
        self.settled = None if family is None else Settled(model, family, self.cache)
        self.seen: list[Tensor] = []  # names of what was read since the last `forget`

    def read(self, rows: Hypotheses, sites: Sites, blocks: Blocks, step: int) -> tuple[Any, Any]:
        """What the model predicts at `sites`, and what it predicts there without the user's text, if guidance asks.

        Args:
            rows: To be read.
            sites: Where.
            blocks: Of its canvas.
            step: Forward passes before this one.
        """
        canvas, family = rows.canvas, self.family
        if family is None:
            return self.model.predict(canvas, cache=self.cache), None
        view = self._narrowed(family.view(canvas, sites=sites), rows, blocks, step)
        prediction = family.predict(self._through(view, self.cache), canvas, sites=sites)
        if not self.masks.guidance:
            return prediction, None
        view = self._narrowed(family.view(canvas, sites=sites, hide=given(canvas)), rows, blocks, step)
        return prediction, family.predict(self._through(view, self.unguided), canvas, sites=sites)

    def forget(self, canvas: Canvas | None) -> None:
        """Drop what no open row needs any more."""
        if self.family is not None:
            for cache in (self.cache, self.unguided):
                if self.seen and cache.full:
                    cache.keep(torch.cat(self.seen))
            self.seen = []
        elif canvas is not None and self.cache.full:
            self.cache.keep(self.model.objective.view(canvas).names)

    def _through(self, view: View, cache: Cache) -> Tensor:
        """Hidden states of what the view reads."""
        keeps = self.masks.cache is not None or self.whole is not None
        if keeps:
            self.seen.append(view.names)
        hidden: Tensor = self.model.backbone(view, cache=cache if keeps else None)
        return hidden

    def _narrowed(self, view: View, rows: Hypotheses, blocks: Blocks, step: int) -> View:
        """The view, without masks far behind the block, and with what may be kept of it."""
        canvas, masks = rows.canvas, self.masks
        if masks.cache is not None:
            fresh = self._fresh(canvas, blocks, step).index_fill(0, view.read, True)  # what is read is never kept
            view = replace(view, name=self._names(rows, blocks), fresh=fresh)
        if masks.suffix is None or masks.block is None:
            return view
        own = blocks.of >= 0
        count = own.long().cumsum(0)
        within = torch.where(own, blocks.of - blocks.active[canvas.rows], 0)
        behind = within > 0
        first = torch.where(behind, count, canvas.n_elements + 1)
        nearest = first.new_full((canvas.n_rows,), canvas.n_elements + 1).scatter_reduce(0, canvas.rows, first, "amin")
        far = behind & (count - nearest[canvas.rows] >= masks.suffix) & (canvas.role == Role.SIGN)
        return view.only(~far)

    def _names(self, rows: Hypotheses, blocks: Blocks) -> Tensor:
        """A name for each element, `[N]`: it changes when all of its row is to be computed anew."""
        canvas = rows.canvas
        every = self.masks.refresh
        epoch = rows.age // every if every else torch.zeros_like(rows.age)
        row = rows.group
        for part in (blocks.active, canvas.lengths, epoch):
            row = scattered(row) + part
        return scattered(scattered(row)[canvas.rows] + canvas.index)

    def _fresh(self, canvas: Canvas, blocks: Blocks, step: int) -> Tensor:
        """Which elements are computed in every step, `[N]`."""
        here = blocks.of == blocks.active[canvas.rows]
        if self.masks.cache == "prefix":
            first = torch.where(here, canvas.index, canvas.n_elements)
            start = first.new_full((canvas.n_rows,), canvas.n_elements).scatter_reduce(0, canvas.rows, first, "amin")
            return canvas.index >= start[canvas.rows]
        if self.masks.cache == "delayed":
            return here & ((canvas.role == Role.SIGN) | (canvas.birth == step))
        return here


def given(canvas: Canvas) -> Tensor:
    """The user's own text, `[N]` bool: what guidance hides (Nie et al. 2025, LLaDA, appendix A.2)."""
    return canvas.fixed & (canvas.role == Role.TEXT)
