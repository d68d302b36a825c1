"""What may come into slots, which words are put between and which may also stay empty.

A word that begins a hole may get one before it, and one that ends it one behind it, while the slot there is open. So
the edges of a hole are looked at when those slots close.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.canvas import Canvas
from unmask.decoding.policies import ranked
from unmask.decoding.rules import Rules, Tally, TokenClasses, edges
from unmask.objectives import Proposal, Sites


@dataclass(frozen=True)
class _Around:
    """What stands in the holes of `S` slots, and on which side of it each lies."""

    n_tokens: Tensor  # [S] int64
    n_words: Tensor  # [S] int64
    first: Tensor  # [S] bool, nothing of the hole stands before it
    last: Tensor  # [S] bool, nothing behind it
    pushed: Tensor  # [S] bool, the hole's first token begins with a space: a word before it makes one more
    begins_well: Tensor  # [S] bool, the hole's first token may be the first
    ends_well: Tensor  # [S] bool, its last the last
    begins: Tensor  # [S, C] bool, which classes may be the first
    ends: Tensor  # [S, C] bool, which the last

    @classmethod
    def of(cls, canvas: Canvas, sites: Sites, rules: Rules, classes: TokenClasses, count: Tally) -> _Around:
        """Of the slots of a canvas."""
        pair = sites.row * count.n_holes + sites.hole
        n_tokens, first_text = count.n_tokens[pair], count.first_text[pair]
        kind = classes.of[canvas.ids[first_text.clamp(max=canvas.n_elements - 1)]]
        tail = classes.of[count.last_token[pair].clamp(min=0)]
        opens, closes = edges(sites, canvas, rules, classes)
        each = torch.arange(pair.numel(), device=pair.device)
        some = n_tokens > 0
        return cls(
            n_tokens,
            count.n_words[pair],
            sites.element < first_text,
            sites.element > count.rightmost[pair],
            some & (classes.spaced | classes.breaks)[kind],
            ~some | opens[each, kind],
            ~some | closes[each, tail],
            opens,
            closes,
        )

    def words_after(self, spaced: Tensor) -> Tensor:
        """How many words the hole has with one token more, `spaced [S, C]` or `[S]` if that begins with a space."""
        wide = (slice(None), None) if spaced.dim() == 2 else slice(None)
        more = torch.where(self.first[wide], (self.pushed | (self.n_tokens == 0))[wide], spaced)
        return self.n_words[wide] + more.long()

    def bad_edges(self, begins: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Whether the hole begins badly with one token more, and whether it ends so, `[S, C]` or `[S]` each.

        Args:
            begins: Whether that token may be the first.
            ends: Whether it may be the last.
        """
        wide = (slice(None), None) if begins.dim() == 2 else slice(None)
        bad_start = torch.where(self.first[wide], ~begins, ~self.begins_well[wide])
        return bad_start, torch.where(self.last[wide], ~ends, ~self.ends_well[wide])

    def owed_before(self, spaced: Tensor, bad_start: Tensor) -> Tensor:
        """How many words have to come before what is first then: one, where that has a space; shapes as above."""
        wide = (slice(None), None) if spaced.dim() == 2 else slice(None)
        return (bad_start & torch.where(self.first[wide], spaced, self.pushed[wide])).long()


def allowed(canvas: Canvas, sites: Sites, rules: Rules, classes: TokenClasses, count: Tally) -> Tensor:
    """`Shape.allowed [S, C + 1, 4]` of the slots of a canvas; `count`: its tokens alone."""
    here = canvas.request[sites.row], sites.hole
    around = _Around.of(canvas, sites, rules, classes, count)
    spaced = (classes.spaced | classes.breaks)[None, :].expand_as(around.begins)
    words = around.words_after(spaced)
    bad_start, bad_end = around.bad_edges(around.begins, around.ends)
    least, most = rules.min_words[here][:, None], rules.max_words[here][:, None]
    need = (least - words).clamp(min=0) + bad_start.long() + bad_end.long()
    may = around.n_tokens[:, None] + 1 + need <= rules.max_tokens[here][:, None]
    may = may & classes.usable & (words + around.owed_before(spaced, bad_start) <= most)
    may = may & ~(spaced & (rules.joins_left & rules.joins_right)[here][:, None])
    enough = around.n_words >= rules.min_words[here]
    closes = enough & (around.begins_well | ~around.first) & (around.ends_well | ~around.last)
    if rules.closes == "row":  # and with it all other slots of its row
        whole = enough & around.begins_well & around.ends_well
        bad = torch.zeros(canvas.n_rows, dtype=torch.bool, device=whole.device)
        bad[sites.row[~whole]] = True
        closes = whole & ~bad[sites.row]
    closing = torch.zeros(may.shape[0], 1, 4, dtype=torch.bool, device=may.device)
    closing[:, 0, 0] = closes
    words_here = may[:, :, None].repeat(1, 1, 4)  # where no slot stays on a side nothing can mend the edge there
    words_here[:, :, :2] &= ~(around.first[:, None] & ~around.begins)[:, :, None]
    words_here[:, :, ::2] &= ~(around.last[:, None] & ~around.ends)[:, :, None]
    return torch.cat([words_here, closing], 1)


def together(
    proposal: Proposal, canvas: Canvas, rules: Rules, classes: TokenClasses, chosen: Tensor, count: Tally
) -> Tensor:
    """Of the slots that are to be written at once, `chosen [S]` bool, those that fit: ends all, words by their score.

    One word of a hole does in any case: `allowed` has seen to that.
    """
    sites, pick = proposal.sites, proposal.score.argmax(1, keepdim=True)
    word = proposal.word.gather(1, pick).squeeze(1)
    writes = chosen & (word >= 0)
    around = _Around.of(canvas, sites, rules, classes, count)
    here = canvas.request[sites.row], sites.hole
    kind = classes.of[word.clamp(min=0)]
    spaced = (classes.spaced | classes.breaks)[kind]
    begins, ends = (one.gather(1, kind[:, None]).squeeze(1) for one in (around.begins, around.ends))
    bad_start, bad_end = around.bad_edges(begins, ends)
    due = (~around.begins_well & around.pushed).long()  # a word that has to come first, whatever is written now
    more = around.words_after(spaced) - around.n_words + around.owed_before(spaced, bad_start) - due
    bad_edges = (~around.begins_well).long() + (~around.ends_well).long()
    # What it takes of the room: itself, and what has to follow at an edge that it makes a bad one, or mends.
    takes = 1 + bad_start.long() + bad_end.long() - bad_edges
    owed = (rules.min_words[here] - around.n_words).clamp(min=0) + bad_edges
    room = rules.max_tokens[here] - around.n_tokens - owed
    words = rules.max_words[here] - around.n_words - due
    pair = sites.row * count.n_holes + sites.hole
    score = torch.where(writes, proposal.score.gather(1, pick).squeeze(1), -torch.inf)
    order, rank = ranked(score, pair, int(pair.max()) + 1 if pair.numel() else 0)
    first = torch.arange(rank.numel(), device=rank.device) - rank

    def up_to(each: Tensor) -> Tensor:
        """Sums within the hole, up to and with each."""
        running = torch.where(writes, each, 0)[order]
        sums = running.cumsum(0)
        return sums - (sums - running)[first]

    fits = torch.zeros_like(writes)
    fits[order] = (rank == 0) | ((up_to(takes) <= room[order]) & (up_to(more) <= words[order]))
    return chosen & (~writes | fits)
