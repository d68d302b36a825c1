"""A mixture of masking laws: each row takes one of them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from unmask.canvas import Canvas
from unmask.masking.hidden import Hidden, units
from unmask.masking.laws import LAWS, Law, in_blocks
from unmask.masking.levels import Levels
from unmask.masking.settings import check, is_number, is_truth
from unmask.noise import Noise

PER = ("token", "sequence", "batch")
GIVEN = {"source": 0, "target": 1}  # segments of a pair
OWN = {"clean", "noise", "levels", "begins"}  # arguments of a law that no recipe names


@dataclass(frozen=True)
class Part:
    """One law with its settings, and what is done with what it says."""

    law: Law
    settings: dict[str, Any]
    share: float  # of the rows
    complement: bool  # each row comes twice, the second time with the rest of it hidden
    per: str  # token, sequence or batch: see `Mixture`
    given: int = -1  # the segment of a pair that stays; -1: none

    @property
    def weighed(self) -> bool:
        """Whether the law weighs tokens by how many it hides."""
        return bool(self.settings.get("bound", True))

    @property
    def alone(self) -> bool:
        """Whether rows count, whatever their length."""
        return self.per != "token"

    @property
    def mean(self) -> bool:
        """Whether the loss of a row is the mean of its tokens."""
        return self.per == "sequence"

    @property
    def least(self) -> float:
        """The level below which the law hides nothing."""
        default = inspect.signature(self.law).parameters.get("epsilon")
        return float(self.settings.get("epsilon", default.default if default is not None else 0.0))


class Mixture:
    """Hides what one law, drawn for each row by its share, says.

    `parts` are mappings with `law` (a name in `LAWS`), `share`, `unit` (`token` or `word`) and the law's own settings;
    for laws that draw a level those of `Levels`. `per` says how losses are averaged: `token`, over all tokens that may
    be hidden; `sequence`, over rows, of their mean (LLaDA, algorithm 2); `batch`, over rows, of their sum.
    With `given`, `source` or `target`, all of that side of a pair stays: beside parts without it, one model learns to
    write either side for the other and both (KERMIT, Chan et al. 2019). What is given anyway stays in any case.
    With `complement` a row is read twice, the second time with what the first time showed. For a model that writes
    block by block each block of `block` elements is hidden for itself.

    Raises:
        ValueError: for a law or setting there is not.
    """

    def __init__(
        self, parts: Sequence[dict[str, Any]], begins: Tensor, starts: Tensor | None = None, block: int | None = None
    ) -> None:
        """Bind each law to its settings; `begins [V]` as in `units`, `starts [V]`: which ids begin with white space."""
        if not parts:
            raise ValueError("no masking law · something has to be hidden · name one: masking=exact_count")
        self.starts, self.block = starts, block
        self.parts = [_part(part, begins) for part in parts]
        shares = torch.tensor([part.share for part in self.parts], dtype=torch.float64)
        self.borders = shares.cumsum(0) / shares.sum()
        if block is not None and any(part.complement for part in self.parts):
            raise ValueError(
                "complement for a model that writes block by block · the rest of a row has no level of its own there"
                " · leave out complement"
            )

    def __call__(self, clean: Canvas, noise: Noise) -> Hidden:
        """What is hidden of each row of `clean`, once."""
        hidden, part = self._hidden(clean, noise)
        return self._averaged(hidden, part)

    def hide(self, clean: Canvas, noise: Noise) -> tuple[Canvas, Hidden, Noise]:
        """The rows to be read, what is hidden of them, and their noise: those of `clean`, some of them twice.

        Of the two copies of a row each is weighed so that its mean alone is that of the law: the second hides a share
        1 - l where the first hides l, so it weighs l / (1 - l) times as much. Where the rest is nothing, or less than
        the law ever hides, the second copy is the first again.
        """
        hidden, part = self._hidden(clean, noise)
        if any(one.given >= 0 for one in self.parts):
            clean = _with_given(clean, self._told("given", part))
        twice = self._told("complement", part)
        if not bool(twice.any()):
            return clean, self._averaged(hidden, part), noise
        rows = torch.arange(clean.n_rows, device=part.device).repeat_interleave(1 + twice.long())
        second = torch.cat([rows.new_full((1,), -1), rows[:-1]]) == rows
        copies, both, part = clean.take(rows), hidden.take(clean, rows), part[rows]
        assert both.level is not None
        other = second & (1 - both.level > self._told("least", part).clamp(min=1e-9))
        rest = (units(copies).of >= 0) & ~both.mask
        factor, weighed = both.level / (1 - both.level).clamp(min=1e-9), self._told("weighed", part)
        both = replace(
            both,
            mask=torch.where(other[copies.rows], rest, both.mask),
            weight=torch.where(other & weighed, both.weight * factor, both.weight),
            count=torch.where(other & ~weighed, copies.sum_rows(rest.double()), both.count),
        )
        return copies, self._averaged(both, part), Noise(noise.seed, noise.key[rows])

    def _told(self, name: str, part: Tensor) -> Tensor:
        """A fact about the part of each row, `[B]`."""
        return torch.tensor([getattr(one, name) for one in self.parts], device=part.device)[part]

    def _averaged(self, hidden: Hidden, part: Tensor) -> Hidden:
        """Weights and counts as the parts say that losses are averaged."""
        alone, mean = self._told("alone", part), self._told("mean", part)
        share = torch.where(mean, 1 / hidden.count.clamp(min=1), 1.0)
        whole = None if hidden.whole is None else hidden.whole * share
        count = torch.where(alone, torch.ones_like(hidden.count), hidden.count)
        return replace(hidden, weight=hidden.weight * share, whole=whole, count=count, bound=hidden.bound & ~alone)

    def _hidden(self, clean: Canvas, noise: Noise) -> tuple[Hidden, Tensor]:
        """What is hidden, and which part said so of each row, `[B]`."""
        pick = torch.searchsorted(self.borders.to(clean.ids.device), noise.rows("law")).clamp(max=len(self.parts) - 1)
        starts = None if self.starts is None else self.starts[clean.ids]
        chosen = [self._said(part, clean, noise) for part in self.parts]
        if len(chosen) == 1:
            return replace(chosen[0], starts=starts), pick
        at = torch.arange(clean.n_rows, device=pick.device)
        nothing = torch.zeros(clean.n_rows, dtype=torch.float64, device=pick.device)
        whole = torch.stack([h.weight if h.whole is None else h.whole for h in chosen])[pick, at]
        level = torch.stack([nothing if h.level is None else h.level for h in chosen])[pick, at]
        stack = {name: torch.stack([getattr(h, name) for h in chosen]) for name in ("weight", "count", "bound")}
        at_mask = torch.arange(clean.n_elements, device=pick.device)
        mask = torch.stack([h.mask for h in chosen])[pick[clean.rows], at_mask]
        own = {name: column[pick, at] for name, column in stack.items()}
        within = None
        if self.block is not None:  # then every part has one
            within = torch.stack([h.within for h in chosen if h.within is not None])[pick[clean.rows], at_mask]
        return Hidden(mask, own["weight"], own["count"], own["bound"], starts, level, within, whole), pick

    def _said(self, part: Part, clean: Canvas, noise: Noise) -> Hidden:
        if part.given >= 0:
            clean = _with_given(clean, torch.full((clean.n_rows,), part.given, device=clean.ids.device))
        if self.block is None:
            return part.law(clean, noise, **part.settings)
        return in_blocks(part.law, clean, noise, self.block, **part.settings)


def _with_given(clean: Canvas, segment: Tensor) -> Canvas:
    """The same, with what lies in `segment [B]` of pairs fixed; -1: nothing more."""
    pair = clean.sum_rows((clean.segment > 0).long()) > 0
    return replace(clean, fixed=clean.fixed | (pair[clean.rows] & (clean.segment == segment[clean.rows])))


def _part(said: dict[str, Any], begins: Tensor) -> Part:
    settings = dict(said)
    name, unit, share = settings.pop("law", None), settings.pop("unit", "token"), settings.pop("share", 1.0)
    if not (is_number(share) and share > 0):
        raise ValueError(f"a share of {share!r} · it is a number above 0, of rows that take the law · mend the recipe")
    complement, per, given = (
        settings.pop("complement", False),
        settings.pop("per", "token"),
        settings.pop("given", None),
    )
    if not is_truth(complement):
        raise ValueError(f"complement is {complement!r} · it is true or false · as in complement: true")
    if not isinstance(name, str) or name not in LAWS:
        raise ValueError(f"no masking law {name!r} · laws: {', '.join(LAWS)} · name one of them")
    law = LAWS[name]
    takes = inspect.signature(law).parameters.keys()
    if unit not in ("token", "word") or (unit == "word" and "begins" not in takes):
        raise ValueError(f"masking unit {unit!r} is not known to {name!r} · units: token, word · name one of them")
    if per not in PER:
        raise ValueError(f"a loss per {per!r} is not known · it is per {', '.join(PER)} · name one of them")
    if given is not None and given not in tuple(GIVEN):
        raise ValueError(f"given is {given!r} · of a pair the source or the target may be given · say one of them")
    if complement and "levels" not in takes:
        raise ValueError(f"law {name!r} has no complement · it draws no level · take bernoulli or exact_count")
    levels = {field.name for field in fields(Levels)} if "levels" in takes else set()
    own = sorted((takes - OWN) | levels)
    if unknown := sorted(settings.keys() - set(own)):
        raise ValueError(
            f"masking law {name!r} has no setting {unknown[0]!r} · its settings: {', '.join(own) or 'none'}"
            " · mend the recipe"
        )
    check(name, settings)
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    if drawn := {key: settings.pop(key) for key in levels & settings.keys()}:
        settings["levels"] = Levels(**drawn)
    if unit == "word":
        settings["begins"] = begins
    return Part(law, settings, float(share), complement, per, GIVEN.get(given, -1))
