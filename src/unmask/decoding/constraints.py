"""What may come where: word limits, white space, whole characters and room, as a `Shape` of a canvas's sites.

A word begins at a fill's first token and at every later token that starts with a space. So a hole that holds anything
has one word, plus one for each token with a space that is not its first; a blank at its start still owes the first.
Some vocabularies have no digit with a space before it: there a space that is a token of its own begins a number, if
what comes behind it does not begin with one more. Lines break where a text goes on without bounds, in families that
know how long it may be; a break counts as a word, for one may begin behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unmask.canvas import Canvas, Role
from unmask.decoding import slots
from unmask.decoding.policies import best_sites
from unmask.holes import Blank, Hole, Mask
from unmask.objectives import Proposal, Sites
from unmask.tokenizer import TokenTable

MAX_WORDS = 8  # of a free blank, unless told
TOKENS_A_WORD = 4  # room for words of several tokens


@dataclass(frozen=True)
class TokenClasses:
    """Tokens that the rules cannot tell apart share a class; `C` classes."""

    of: Tensor  # [V] int64
    usable: Tensor  # [C] bool, may stand in a fill at all
    spaced: Tensor  # [C] bool, begins with the one space, or is it
    begins_alnum: Tensor  # [C] bool, first character is a letter or digit
    ends_alnum: Tensor  # [C] bool
    token: Tensor  # [C] int64, the one token of a class of its own, -1: many
    lone: Tensor  # [C] bool, the one space and nothing more
    breaks: Tensor  # [C] bool, other white space: what follows is no longer on the line

    @classmethod
    def build(cls, table: TokenTable, apart: Sequence[int] = ()) -> TokenClasses:
        """Classes of the vocabulary; each token of `apart` has one of its own."""
        white = table.has_inner_space | (table.starts_word & ~table.leading_space)
        usable = ~table.special & table.whole_characters & ~white
        lone = table.starts_word & ~(table.leading_space | table.has_inner_space | table.special)
        breaks = white & ~lone & ~table.special
        facts = (usable, table.leading_space | lone, table.first_alnum, table.last_alnum, lone, breaks)
        own = torch.full(usable.shape, -1, dtype=torch.int64)
        own[list(apart)] = torch.tensor(list(apart), dtype=torch.int64)
        code = own * 64 + sum(fact.long() << bit for bit, fact in enumerate(facts))  # one number a kind of token
        kinds, of = torch.unique(code, return_inverse=True)
        usable, spaced, begins, ends, lone, breaks = ((kinds >> bit & 1).bool() for bit in range(6))
        return cls(of, usable, spaced, begins, ends, kinds >> 6, lone, breaks)

    def to(self, device: torch.device) -> TokenClasses:
        """The same on another device."""
        return TokenClasses(**{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Rules:
    """What the holes of `Q` starting rows ask for, up to `H` holes each; a canvas's `request` says which row."""

    min_words: Tensor  # [Q, H] int64
    max_words: Tensor  # [Q, H] int64
    max_tokens: Tensor  # [Q, H] int64
    free: Tensor  # [Q, H] bool, the word limit is ours, not the user's
    spaced: Tensor  # [Q, H] bool
    joins_left: Tensor  # [Q, H] bool, its first character goes on with the word before it
    joins_right: Tensor  # [Q, H] bool, its last with the word behind it
    forced: Tensor  # [Q, H, L] int64, tokens a hole must have, in order; -1 behind them
    n_forced: Tensor  # [Q, H] int64, how many, -1: not forced
    told: Tensor  # [Q, H] bool, it has a sign for each of its tokens from the start
    open: Tensor  # [Q, H] bool, a free blank at the end of its text that is told: lines may break in it
    grows: Tensor  # [Q, H] bool, it may get more signs while it is written
    ends: bool = True  # whether a family that is told may write an end before all signs of a hole
    each: bool = False  # the family is told: whatever is missing has a sign of its own
    closes: str = "never"  # what an end without a token ends, as the family says

    @property
    def counted(self) -> Tensor:
        """Holes whose words are counted, `[Q, H]` bool: two of their places at once could break a limit."""
        return ~self.told | (self.min_words > 1) | (self.max_words < self.max_tokens)

    @classmethod
    def build(
        cls,
        holes: Sequence[Sequence[Hole]],
        max_words: int | None,
        forced: Sequence[dict[int, list[int]]],
        room: Sequence[Sequence[int]],
        lengths: Sequence[dict[int, int]] = (),
        ends: bool = True,
        last: Sequence[int] = (),
        grows: Sequence[dict[int, int]] = (),
        closes: str = "never",
    ) -> Rules:
        """Rules of `Q` starting rows.

        Args:
            holes: Of each row.
            max_words: The limit of free blanks; None: 8.
            forced: Tokens told to some holes of each row, by hole.
            room: How many tokens each blank of each row may have at most.
            lengths: How many signs some holes of each row have, by hole, where families are told; none elsewhere.
            ends: Whether such a family may end before them all.
            last: The hole of each row that ends its text, -1: none; nothing said: of all.
            grows: How many signs some holes of each row may come to, by hole, where they may grow; nothing said: none.
            closes: As `Objective.closes`.
        """
        width = max([1, *(len(row) for row in holes)])
        longest = max([1, *(len(tokens) for row in forced for tokens in row.values())])
        limits = torch.zeros(4, len(holes), width, dtype=torch.int64)
        flags = torch.zeros(6, len(holes), width, dtype=torch.bool)
        told = torch.full((len(holes), width, longest), -1, dtype=torch.int64)
        n_forced = torch.full((len(holes), width), -1, dtype=torch.int64)
        for q, row in enumerate(holes):
            for h, hole in enumerate(row):
                length = lengths[q].get(h) if lengths else None
                most = grows[q].get(h) if grows else None
                limits[:, q, h] = torch.tensor(_limits(hole, max_words, room[q][h], most or length))
                # A mask is whatever token stood there, a sign of punctuation too; a blank is words, and joins one.
                joins = (False, False) if isinstance(hole.sign, Mask) else (hole.joins_left, hole.joins_right)
                open_end = length is not None and hole.sign == Blank() and bool(last) and last[q] == h
                flags[:, q, h] = torch.tensor([hole.spaced, *joins, length is not None, open_end, most is not None])
                if h in forced[q]:
                    tokens = forced[q][h]
                    n_forced[q, h] = len(tokens)
                    told[q, h, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        spaced, joins_left, joins_right, by_length, open_end, growing = flags
        least, most, tokens, free = limits
        return cls(
            least, most, tokens, free.bool(), spaced, joins_left, joins_right, told, n_forced, by_length, open_end,
            growing, ends, bool(lengths), closes,
        )  # fmt: skip

    def to(self, device: torch.device) -> Rules:
        """The same on another device."""
        moved: dict[str, Any] = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **moved)


def _limits(hole: Hole, max_words: int | None, room: int, length: int | None) -> tuple[int, int, int, int]:
    """Fewest and most words, most tokens, and whether the most is ours."""
    if isinstance(hole.sign, Mask):
        return 1, 1, 1, 0
    if not isinstance(hole.sign, Blank):
        raise ValueError(
            f"hole {hole.index} is a stretch of lost letters · filling needs a count of words, not of letters"
            " · write ___ or ___{1,3} in its place"
        )
    fewest, most = hole.sign.words
    if length is not None:
        return fewest, min(length, most or max_words or length), length, 0
    if most is not None:
        return fewest, most, min(TOKENS_A_WORD * most + 4, room), 0
    most = max(fewest, MAX_WORDS if max_words is None else max_words)
    return fewest, most, min(TOKENS_A_WORD * most + 4, room), 1


@dataclass(frozen=True)
class Tally:
    """What stands in each hole of each row: `P = B * H` pairs, row by row."""

    n_holes: int
    n_tokens: Tensor  # [P] int64
    n_words: Tensor  # [P] int64, owed ones included
    n_open: Tensor  # [P] int64, signs
    leftmost: Tensor  # [P] int64, its first element that counts, or N
    rightmost: Tensor  # [P] int64, or -1
    first_text: Tensor  # [P] int64, its first token, or N
    last_token: Tensor  # [P] int64, the id of its last token, -1: none


def tally(canvas: Canvas, classes: TokenClasses, n_holes: int, appended: Tensor | None = None) -> Tally:
    """Count the holes of a canvas; signs of pairs in `appended [P]` bool stand elsewhere and do not count."""
    n_pairs = canvas.n_rows * n_holes
    mine = (canvas.hole >= 0).nonzero().squeeze(1)
    pair = canvas.rows[mine] * n_holes + canvas.hole[mine]
    text, sign = canvas.role[mine] == Role.TEXT, canvas.role[mine] == Role.SIGN
    if appended is not None:
        sign = sign & ~appended[pair]
    counts = text | sign
    zeros = pair.new_zeros(n_pairs)
    leftmost = zeros.new_full((n_pairs,), canvas.n_elements).scatter_reduce(0, pair[counts], mine[counts], "amin")
    rightmost = zeros.new_full((n_pairs,), -1).scatter_reduce(0, pair[counts], mine[counts], "amax")
    first_text = zeros.new_full((n_pairs,), canvas.n_elements).scatter_reduce(0, pair[text], mine[text], "amin")
    last_text = zeros.new_full((n_pairs,), -1).scatter_reduce(0, pair[text], mine[text], "amax")
    later = text & (classes.spaced | classes.breaks)[classes.of[canvas.ids[mine]]] & (mine != leftmost[pair])
    return Tally(
        n_holes,
        zeros.index_add(0, pair, text.long()),
        (rightmost >= 0).long().index_add(0, pair, later.long()),
        zeros.index_add(0, pair, sign.long()),
        leftmost,
        rightmost,
        first_text,
        torch.where(last_text >= 0, canvas.ids[last_text.clamp(min=0)], -1),
    )


def allowed(canvas: Canvas, sites: Sites, rules: Rules, classes: TokenClasses, alone: bool = False) -> Tensor:
    """`Shape.allowed [S, C + 1, 4]` of the sites of a canvas; `alone`: one site of a row is written at a time.

    A site whose element is not its hole's own sign appends: what it writes comes after all of the hole's text, and
    more may always follow until the family writes its end.
    """
    n_holes = rules.min_words.shape[1]
    if rules.closes != "never":
        return slots.allowed(canvas, sites, rules, classes, _written(canvas, classes, n_holes))
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
    opens_well = torch.where(
        rules.spaced[here][:, None], classes.spaced, ~classes.spaced & (classes.begins_alnum | ~joins_left[:, None])
    )  # [S, C]
    ends_well = classes.ends_alnum | ~joins_right[:, None]  # [S, C]

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
    if rules.closes != "never":
        return slots.together(proposal, canvas, rules, classes, chosen, _written(canvas, classes, n_holes))
    pair = sites.row * n_holes + sites.hole
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
    count = _written(canvas, classes, n_holes)
    words, tokens = count.n_words.view(-1, n_holes), count.n_tokens.view(-1, n_holes)
    here = canvas.request
    full = (words >= rules.max_words[here]) & rules.free[here]
    long = (tokens >= rules.max_tokens[here]) & (rules.max_tokens[here] > 1) & ~rules.told[here]
    return ((full | long) & (rules.n_forced[here] < 0)).any(1)


def _written(canvas: Canvas, classes: TokenClasses, n_holes: int) -> Tally:
    """What stands in each hole without its signs."""
    signs = torch.ones(canvas.n_rows * n_holes, dtype=torch.bool, device=canvas.ids.device)
    return tally(canvas, classes, n_holes, signs)
