"""What holes ask for, which tokens count as what, and what stands in holes so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unmask.canvas import Canvas, Role
from unmask.holes import Blank, Hole, Mask
from unmask.objectives import Sites
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


def written(canvas: Canvas, classes: TokenClasses, n_holes: int) -> Tally:
    """What stands in each hole without its signs."""
    signs = torch.ones(canvas.n_rows * n_holes, dtype=torch.bool, device=canvas.ids.device)
    return tally(canvas, classes, n_holes, signs)


def edges(sites: Sites, canvas: Canvas, rules: Rules, classes: TokenClasses) -> tuple[Tensor, Tensor]:
    """Which classes may begin the hole of a site, and which may end it, `[S, C]` bool each."""
    here = canvas.request[sites.row], sites.hole
    bare = ~classes.spaced & (classes.begins_alnum | ~rules.joins_left[here][:, None])
    begins = torch.where(rules.spaced[here][:, None], classes.spaced, bare)
    return begins, classes.ends_alnum | ~rules.joins_right[here][:, None]
