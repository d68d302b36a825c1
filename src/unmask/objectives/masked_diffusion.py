"""Masked diffusion: each missing token shows as one mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unmask.canvas import Canvas, Edits, Role
from unmask.holes import Hole
from unmask.masking.hidden import Hidden
from unmask.noise import Noise
from unmask.objectives import blockwise, masked_likelihood
from unmask.objectives.objective import (
    Likelihood,
    Loss,
    Predict,
    Proposal,
    Shape,
    Sites,
    Vocabulary,
    check_flag,
    open_signs,
)
from unmask.objectives.words import Head, bars, certainty, choose
from unmask.view import View


@dataclass(frozen=True)
class Targets:
    """The `R` missing tokens of a batch."""

    word: Tensor  # [R] int64
    weight: Tensor  # [R] float64
    count: Tensor  # scalar


class Prediction:
    """What the model says of the `K` masks of a canvas."""

    def __init__(self, head: Head, hidden: Tensor, sites: Sites) -> None:
        """`hidden [K, D]`, one row for each of the `sites`."""
        self.head, self.hidden, self.sites = head, hidden, sites

    def words(self) -> Tensor:
        """Give log p(w | mask), `[K, V]`."""
        return self.head.words.log_probs(self.hidden)


class MaskedDiffusion:
    """Masked diffusion (Sahoo et al. 2024; Nie et al. 2025, LLaDA).

    Corrupts: each hidden token becomes one mask.
    Predicts: p(w | mask) at every mask, all at once.
    Fills: masks of exactly one token; candidates and blanks, once it is told or has found how many tokens they have.
    Loss: -(1/t) sum over masked i of log p(x_i | canvas), t ~ U(0, 1) (LLaDA, eq. 3), or the exact-count form
        -(L/l) sum ..., l ~ U{1..L} (LLaDA, eq. 14): the masking law's weights say which.
    Policies that suit: `low_confidence`, `margin`, `entropy_bound`, `threshold`.
    Relation to the others: Blank LM with blanks that neither merge nor split, told the length.

    With `ends` the signs `end` and `turn`, and the pads behind them where there are such, are words: an answer may be
    shorter than its masks (LLaDA, section 2.3; the pads: Rainbow Padding, Kim et al. 2025). What stands behind an end
    goes as soon as all before it is written.

    With `block` it is block diffusion (Arriola et al. 2025, BD3-LM, eq. 5 and 7): a row is cut into blocks of so many
    elements, each is written by masked diffusion given those before it, and nothing sees past its block. So what was
    computed of a block that is written stays right (an exact cache), and a text can be longer than any in training. A
    block of 1 is left to right. Every block has a noise level of its own, and is masked in a copy of its own.
    """

    name: ClassVar[str] = "masked_diffusion"
    holes: ClassVar[frozenset[str]] = frozenset({"mask", "candidates", "blank"})
    paths: ClassVar[str] = "many"
    lengths: ClassVar[str] = "told"
    closes: ClassVar[str] = "never"
    recalls: ClassVar[bool] = False

    def __init__(
        self, vocabulary: Vocabulary, width: int, embedding: nn.Embedding, ends: bool = False, block: int | None = None
    ) -> None:
        """Make the family's head.

        Raises:
            ValueError: for a block of less than an element.
        """
        check_flag("ends", ends)
        if block is not None and (isinstance(block, bool) or not isinstance(block, int) or block < 1):
            raise ValueError(
                f"a block of {block!r} · it has one element at least · say objective.block=8, or leave it out"
            )
        self.mask, self.block = vocabulary.signs["mask"], block
        signs = vocabulary.signs.items() if ends else ()
        self.ends = [number for name, number in signs if name in ("end", "turn") or name.startswith("pad")]
        special = vocabulary.special.clone()
        special[self.ends] = False
        self.head = Head(embedding, special)

    def corrupt(self, clean: Canvas, hidden: Hidden, noise: Noise) -> tuple[Canvas, Targets]:
        """One mask for each hidden token."""
        site = hidden.mask.nonzero().squeeze(1)
        targets = Targets(clean.ids[site], hidden.weigh(clean, site), hidden.count.sum())
        return clean.apply(Edits.put(site, torch.full_like(site, self.mask), Role.SIGN)), targets

    def view(
        self, canvas: Canvas, targets: Targets | None = None, *, sites: Sites | None = None, hide: Tensor | None = None
    ) -> View:
        """The canvas as it stands; masks are read, all or those of `sites`; what `hide [N]` says reads as masks.

        With blocks, no more of it than is seen; and in training the clean text beside it.
        """
        if self.block is not None and targets is not None:
            return blockwise.both(canvas, targets.word, self.block)
        ids = canvas.ids if hide is None else canvas.ids.masked_fill(hide, self.mask)
        read = (canvas.role == Role.SIGN).nonzero().squeeze(1) if sites is None else sites.element
        view = View(ids, canvas.offsets, canvas.place, read, segment=canvas.segment)
        return view if self.block is None else blockwise.ahead(view, canvas, self.block)

    def sites(self, canvas: Canvas) -> Sites:
        """Its masks; with blocks, those of the first block that has some."""
        sites = open_signs(canvas)
        return sites if self.block is None else blockwise.active(canvas, sites, self.block)

    def predict(self, hidden: Tensor, canvas: Canvas, *, sites: Sites | None = None) -> Prediction:
        """Of every mask, or of those of `sites`, from its hidden state."""
        return Prediction(self.head, hidden, open_signs(canvas) if sites is None else sites)

    def loss(self, prediction: Prediction, canvas: Canvas, targets: Targets) -> Loss:
        """Weighted cross-entropy at the masks."""
        return self.head.loss(prediction.hidden, targets.word, targets.weight, targets.count)

    def open(self, canvas: Canvas, holes: Sequence[Hole]) -> Canvas:
        """Every sign is a mask: how many a hole has was settled before."""
        site = (canvas.role == Role.SIGN).nonzero().squeeze(1)
        return canvas.apply(Edits.put(site, torch.full_like(site, self.mask), Role.SIGN))

    def propose(
        self, prediction: Prediction, canvas: Canvas, n: int, shape: Shape, noise: Noise | None = None
    ) -> Proposal:
        """The `n` best words at every mask that was read; `allowed` of no token is that of the ends."""
        words = prediction.words()
        leaning = words if shape.against is None else _guided(words, shape.against.words(), shape.guidance)
        barred = bars(shape, self.ends, 0, words)
        sites, may_words = prediction.sites, leaning + barred
        picked, score = choose(may_words, n, shape, noise, sites.row, canvas.index[sites.element])
        sure = certainty(leaning, may_words, shape.tells)
        if shape.waits and self.ends:
            late = torch.isin(picked[:, 0], picked.new_tensor(self.ends))
            sure = {name: value.masked_fill(late, -math.inf) for name, value in sure.items()}
            sure["entropy"] = sure["entropy"].masked_fill(late, math.inf)
        return Proposal(
            sites=sites,
            place=torch.zeros(words.shape[0], device=words.device),
            word=picked,
            left=torch.zeros_like(picked, dtype=torch.bool),
            right=torch.zeros_like(picked, dtype=torch.bool),
            log_prob=words.gather(1, picked) + barred.gather(1, picked),
            score=score,
            ended=words[:, self.ends].exp().sum(-1) if self.ends else None,
            leaning=None if shape.against is None else leaning.gather(1, picked),
            **sure,
        )

    def edits(self, proposal: Proposal, canvas: Canvas, site: Tensor, alternative: Tensor, step: int) -> Edits:
        """The chosen word in the place of each chosen mask; nothing in the place of what is behind a sure end."""
        word = proposal.word[site, alternative]
        cost = proposal.log_prob[site, alternative].float()
        element = proposal.sites.element[site]
        if not self.ends:
            return Edits.put(element, word, Role.TEXT, step, cost)
        closes = torch.isin(word, word.new_tensor(self.ends))
        role = torch.where(closes, int(Role.SCAFFOLD), int(Role.TEXT))
        after = canvas.role.index_copy(0, element, role)
        gone = _behind_ends(canvas, after)
        stays = ~gone[element]
        dropped = gone.nonzero().squeeze(1)
        place, order = torch.cat([element[stays], dropped]).sort()
        counts = torch.cat([stays[stays].long(), torch.zeros_like(dropped)])[order]
        return Edits.emit(place, counts, word[stays], role[stays], step, log_prob=cost[stays])

    def take_back(self, canvas: Canvas, element: Tensor, step: int) -> Edits:
        """A mask in the place of each written `element [T]`."""
        return Edits.put(element, torch.full_like(element, self.mask), Role.SIGN, step)

    def grow(self, canvas: Canvas, element: Tensor, n: Tensor, step: int) -> Edits:
        """So many masks in the place of each mask `element [T]`."""
        return Edits.emit(element, n, torch.full_like(element, self.mask).repeat_interleave(n), Role.SIGN, step)

    def likelihood(
        self,
        predict: Predict,
        clean: Canvas,
        hidden: Tensor,
        method: str | None,
        n_orders: int,
        noise: Noise,
    ) -> Likelihood:
        """A bound by `n_orders` random sets of masks (`masked_likelihood`)."""
        return masked_likelihood.likelihood(self, predict, clean, hidden, method, n_orders, noise)

    def restore(self, canvas: Canvas, targets: Targets) -> Canvas:
        """Each mask gives way to the token it hides."""
        return canvas.apply(Edits.put((canvas.role == Role.SIGN).nonzero().squeeze(1), targets.word, Role.TEXT))


def _guided(words: Tensor, without: Tensor, weight: float) -> Tensor:
    """Log-probabilities that lean towards what the context makes likelier, `[S, V]`.

    Source: Nie et al. 2025 (LLaDA), appendix A.2: without + (1 + w)(with - without), in logits.
    """
    leaning = without + (1 + weight) * (words - without)
    return torch.where(words > -math.inf, leaning, -math.inf).log_softmax(-1)


def _behind_ends(canvas: Canvas, role: Tensor) -> Tensor:
    """Which elements stand behind an end of their hole before which nothing is missing any more, `[N]` bool."""
    mine = canvas.in_holes.nonzero().squeeze(1)
    n = canvas.n_elements
    pair = canvas.rows[mine] * (int(canvas.hole.max()) + 1 if n else 1) + canvas.hole[mine]
    size = int(pair.max()) + 1 if pair.numel() else 0
    ends, missing = (
        mine.new_full((size,), n).scatter_reduce(0, pair, torch.where(role[mine] == kind, mine, n), "amin")
        for kind in (Role.SCAFFOLD, Role.SIGN)
    )
    gone = torch.zeros(n, dtype=torch.bool, device=mine.device)
    gone[mine] = ((ends < missing)[pair]) & (mine > ends[pair])
    return gone
