"""What may come where: word limits, white space, whole characters and room, as a `Shape` of a canvas's sites.

A word begins at a fill's first token and at every later token that starts with a space. So a hole that holds anything
has one word, plus one for each token with a space that is not its first; a blank at its start still owes the first.
Some vocabularies have no digit with a space before it: there a space that is a token of its own begins a number, if
what comes behind it does not begin with one more. Lines break where a text goes on without bounds, in families that
know how long it may be; a break counts as a word, for one may begin behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.canvas import Canvas, Role
from unmask.decoding import slots
from unmask.decoding.policies import best_sites
from unmask.decoding.rules import Rules, TokenClasses, edges, tally, written
from unmask.objectives import Proposal, Sites


def allowed(canvas: Canvas, sites: Sites, rules: Rules, classes: TokenClasses, alone: bool = False) -> Tensor:
    """`Shape.allowed [S, C + 1, 4]` of the sites of a canvas; `alone`: one site of a row is written at a time.

    A site whose element is not its hole's own sign appends: what it writes comes after all of the hole's text, and
    more may always follow until the family writes its end.
    """
    n_holes = rules.min_words.shape[1]
    if rules.closes != "never":
        return slots.allowed(canvas, sites, rules, classes, written(canvas, classes, n_holes))
    pair = sites.row * n_holes + sites.hole
    here = canvas.request[sites.row], sites.hole
    element = sites.element
    appends = (canvas.role[element] != Role.SIGN) | (canvas.hole[element] != sites.hole)  # [S]
    appended = torch.zeros(canvas.n_rows * n_holes, dtype=torch.bool, device=pair.device)
    appended[pair] = appends
    count = tally(canvas, classes, n_holes, appended)

    left = torch.tensor([False, False, True, True], device=pair.device)  # [4]
    right = torch.tensor([False, True, False, True], device=pair.device)
    n_tokens, others = count.n_tokens[pair], torch.where(appends, 0, count.n_open[pair] - 1)
    first = torch.where(appends, n_tokens == 0, element == count.leftmost[pair])
    last = ~appends & (element == count.rightmost[pair])
    becomes_first = first[:, None] & (~left | appends[:, None])  # [S, 4]
    becomes_last = last[:, None] & ~right
    closes = (~appends & (others == 0))[:, None] & ~(left | right)
    spaced = (classes.spaced | classes.breaks)[None, :, None]  # [1, C, 1]
    words = count.n_words[pair].clamp(min=1)[:, None, None] + (spaced & ~becomes_first[:, None, :]).long()
    joins_left, joins_right = rules.joins_left[here], rules.joins_right[here]
    opens_well, ends_well = edges(sites, canvas, rules, classes)  # [S, C] each

    # Room: every open place takes a token, and so does every word still missing; the one owed at the start adds none.
    remaining = torch.where(appends[:, None], 0, others[:, None] + left.long() + right.long())  # [S, 4]
    owes = ~appends & (count.leftmost[pair] != count.first_text[pair])
    owes_after = torch.where(first[:, None], left & ~appends[:, None], owes[:, None])  # [S, 4]
    missing = rules.min_words[here][:, None, None] - words
    missing = torch.where(missing > 0, missing + owes_after[:, None, :].long(), 0)
    missing = torch.maximum(missing, (appends[:, None] & ~ends_well).long()[:, :, None])
    white = _White.around(canvas, sites, rules, classes, appends, count.last_token[pair], alone)
    missing = missing + torch.where(missing > 0, white.reserved[:, None, None], 0)
    need = torch.maximum(remaining[:, None, :], missing + white.owed[:, :, None])  # [S, C, 4]
    may = n_tokens[:, None, None] + 1 + need <= rules.max_tokens[here][:, None, None]

    may = may & white.usable[:, :, None]
    may = may & ~(classes.breaks[None, :, None] & (becomes_first | becomes_last)[:, None])
    may = may & (opens_well[:, :, None] | ~becomes_first[:, None, :]) & (ends_well[:, :, None] | ~becomes_last[:, None])
    may = may & ~(spaced & (joins_left & joins_right)[:, None, None])
    may = may & (words <= rules.max_words[here][:, None, None])
    may = may & ((words >= rules.min_words[here][:, None, None]) | ~closes[:, None, :])

    tail_well = classes.ends_alnum[classes.of[count.last_token[pair].clamp(min=0)]] | ~joins_right
    enough = torch.where(n_tokens == 0, 0, count.n_words[pair]) >= rules.min_words[here]
    ends = (others == 0) & enough & (tail_well | (n_tokens == 0))  # [S]
    if rules.told.any():  # the end may come early: whatever was to stand behind it goes
        early = (element != count.leftmost[pair]) & (rules.min_words[here] <= 1) & ~joins_right
        ends = torch.where(rules.told[here], early & rules.ends, ends)
    return _force(may, ends & ~white.hangs, n_tokens, rules, here, classes)


def together(proposal: Proposal, canvas: Canvas, rules: Rules, classes: TokenClasses, chosen: Tensor) -> Tensor:
    """Of the `chosen [S]` sites those that may be written in one step.

    Of each hole whose words count the surest: two could together break its limits. Slots are looked at one by one.
    """
    n_holes, sites = rules.min_words.shape[1], proposal.sites
    pair = sites.row * n_holes + sites.hole
    if rules.closes != "never":
        if pair[chosen].unique().numel() == int(chosen.sum()):  # one of a hole fits in any case
            return chosen
        return slots.together(proposal, canvas, rules, classes, chosen, written(canvas, classes, n_holes))
    value = torch.where(chosen, proposal.best, -torch.inf)
    counted = rules.counted[canvas.request[sites.row], sites.hole]
    return chosen & (~counted | best_sites(value, pair, int(pair.max()) + 1 if pair.numel() else 0))


@dataclass(frozen=True)
class _White:
    """What the white space beside each of `S` sites lets in."""

    usable: Tensor  # [S, C] bool
    hangs: Tensor  # [S] bool, a lone space stands before it and waits for its word
    owed: Tensor  # [S, C] int64, places that a token of the class leaves to its own word
    reserved: Tensor  # [S] int64, other places of its hole that are left to the word of a lone space

    @classmethod
    def around(
        cls,
        canvas: Canvas,
        sites: Sites,
        rules: Rules,
        classes: TokenClasses,
        appends: Tensor,
        tail: Tensor,
        alone: bool,
    ) -> _White:
        """Of the sites of a canvas, which of them append `[S]`, and the id of the last token of their holes `[S]`."""
        if rules.each:
            waiting = _waiting(canvas, classes)
            hangs, (leads, owes) = waiting[sites.element], _leads(canvas, sites, rules, classes, alone)
            n_holes = rules.min_words.shape[1]
            pair = canvas.rows[waiting] * n_holes + canvas.hole[waiting]
            of_hole = torch.bincount(pair, minlength=canvas.n_rows * n_holes)
            reserved = of_hole[sites.row * n_holes + sites.hole] - hangs.long()
        else:
            hangs = appends & (tail >= 0) & classes.lone[classes.of[tail.clamp(min=0)]]
            leads, owes, reserved = appends, appends, torch.zeros_like(sites.row)
        breaks = classes.breaks & rules.open[canvas.request[sites.row], sites.hole][:, None]
        usable = classes.usable | (classes.lone & leads[:, None]) | breaks
        usable = usable & ~((classes.spaced | classes.breaks) & hangs[:, None])
        return cls(usable, hangs, (classes.lone & owes[:, None]).long(), reserved)


def _waiting(canvas: Canvas, classes: TokenClasses) -> Tensor:
    """Which signs stand behind a lone space that was written, `[N]` bool."""
    lone = canvas.in_holes & (canvas.role == Role.TEXT) & classes.lone[classes.of[canvas.ids]]
    behind = lone.roll(1) & (canvas.index > 0)
    return behind & (canvas.role == Role.SIGN)


def _leads(canvas: Canvas, sites: Sites, rules: Rules, classes: TokenClasses, alone: bool) -> tuple[Tensor, Tensor]:
    """At which sites a lone space may stand, for what comes behind it, and where that is still to come, `[S]` bool.

    It is a token without white space at its beginning, in the same blank. Where other places may be written in the same
    step it has to be there already.
    """
    element = sites.element
    behind = (element + 1).clamp(max=canvas.n_elements - 1)
    inside = (behind > element) & (canvas.rows[behind] == sites.row)
    same = canvas.hole[behind] == sites.hole
    bare = ~(classes.spaced | classes.breaks)[classes.of[canvas.ids[behind]]] & (canvas.role[behind] == Role.TEXT)
    other = rules.spaced[canvas.request[sites.row], canvas.hole[behind].clamp(min=0)]
    open_behind = (canvas.role[behind] == Role.SIGN) & (same | ~other) & alone
    inside = inside & (same | ~rules.told[canvas.request[sites.row], sites.hole])
    return inside & (bare | open_behind), inside & open_behind & same


def _force(
    may: Tensor, ends: Tensor, n_tokens: Tensor, rules: Rules, here: tuple[Tensor, Tensor], classes: TokenClasses
) -> Tensor:
    """Where a hole's tokens are told, only the next of them may come, and its end only behind them."""
    n_forced = rules.n_forced[here]
    told = n_forced >= 0
    longest = rules.forced.shape[2]
    upcoming = rules.forced[here].gather(1, n_tokens.clamp(max=longest - 1)[:, None])  # [S, 1]
    upcoming = torch.where((n_tokens < n_forced)[:, None], upcoming, -2)
    match = classes.token[None, :] == upcoming  # [S, C]
    may = torch.where(told[:, None, None], match[:, :, None], may)
    ends = torch.where(told, n_tokens == n_forced, ends)
    closing = torch.zeros_like(may[:, :1])
    closing[:, 0, 0] = ends
    return torch.cat([may, closing], 1)


def hit_limit(canvas: Canvas, rules: Rules, classes: TokenClasses) -> Tensor:
    """Whether a limit of ours was reached in a row, `[B]` bool: more could not have been written."""
    n_holes = rules.min_words.shape[1]
    count = written(canvas, classes, n_holes)
    words, tokens = count.n_words.view(-1, n_holes), count.n_tokens.view(-1, n_holes)
    here = canvas.request
    full = (words >= rules.max_words[here]) & rules.free[here]
    long = (tokens >= rules.max_tokens[here]) & (rules.max_tokens[here] > 1) & ~rules.told[here]
    return ((full | long) & (rules.n_forced[here] < 0)).any(1)
