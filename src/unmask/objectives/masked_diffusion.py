"""Masked diffusion: each missing token shows as one mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unmask.canvas import Canvas, Edits, Role
from unmask.holes import Hole, Mask
from unmask.masking.hidden import Hidden
from unmask.noise import Noise
from unmask.objectives import masked_likelihood
from unmask.objectives.objective import Likelihood, Loss, Predict, Proposal, Shape, Sites, Vocabulary, open_signs
from unmask.objectives.words import Head, certainty, choose
from unmask.view import View


@dataclass(frozen=True)
class Targets:
    """The `R` missing tokens of a batch."""

    word: Tensor  # [R] int64
    weight: Tensor  # [R] float64
    count: Tensor  # scalar


class Prediction:
    """What the model says of the `K` masks of a canvas."""

    def __init__(self, head: Head, hidden: Tensor, canvas: Canvas) -> None:
        """`hidden [K, D]`, in the order of the masks in the canvas."""
        self.head, self.hidden = head, hidden
        self.sites = open_signs(canvas)

    def words(self) -> Tensor:
        """Give log p(w | mask), `[K, V]`."""
        return self.head.words.log_probs(self.hidden)


class MaskedDiffusion:
    """Masked diffusion (Sahoo et al. 2024; Nie et al. 2025, LLaDA).

    Corrupts: each hidden token becomes one mask.
    Predicts: p(w | mask) at every mask, all at once.
    Fills: masks of exactly one token, and candidates (their length is told).
    Loss: -(1/t) sum over masked i of log p(x_i | canvas), t ~ U(0, 1) (LLaDA, eq. 3), or the exact-count form
        -(L/l) sum ..., l ~ U{1..L} (LLaDA, eq. 14): the masking law's weights say which.
    Policies that suit: `confident`, `parallel`.
    Relation to the others: Blank LM with blanks that neither merge nor split, told the length.

    With `ends` the `end` sign, and the pads behind it where the vocabulary has them, are words: an answer may be
    shorter than its masks (LLaDA, section 2.3; the pads: Rainbow Padding, Kim et al. 2025).
    """

    name: ClassVar[str] = "masked_diffusion"
    holes: ClassVar[frozenset[str]] = frozenset({"mask", "candidates"})
    paths: ClassVar[str] = "many"

    def __init__(self, vocabulary: Vocabulary, width: int, embedding: nn.Embedding, ends: bool = False) -> None:
        """Make the family's head."""
        self.mask = vocabulary.signs["mask"]
        special = vocabulary.special.clone()
        if ends:
            signs = vocabulary.signs.items()
            special[[number for name, number in signs if name == "end" or name.startswith("pad")]] = False
        self.head = Head(embedding, special)

    def corrupt(self, clean: Canvas, hidden: Hidden, noise: Noise) -> tuple[Canvas, Targets]:
        """One mask for each hidden token."""
        site = hidden.mask.nonzero().squeeze(1)
        targets = Targets(clean.ids[site], hidden.weight[clean.rows[site]], hidden.count.sum())
        return clean.apply(Edits.put(site, torch.full_like(site, self.mask), Role.SIGN)), targets

    def view(self, canvas: Canvas, targets: Targets | None = None) -> View:
        """The canvas as it stands; masks are read."""
        return View(canvas.ids, canvas.offsets, canvas.index, (canvas.role == Role.SIGN).nonzero().squeeze(1))

    def sites(self, canvas: Canvas) -> Sites:
        """Its masks."""
        return open_signs(canvas)

    def predict(self, hidden: Tensor, canvas: Canvas) -> Prediction:
        """Of every mask, from its hidden state."""
        return Prediction(self.head, hidden, canvas)

    def loss(self, prediction: Prediction, canvas: Canvas, targets: Targets) -> Loss:
        """Weighted cross-entropy at the masks."""
        return self.head.loss(prediction.hidden, targets.word, targets.weight, targets.count)

    def open(self, canvas: Canvas, holes: Sequence[Hole]) -> Canvas:
        """Every hole is a mask; a blank of unknown length it cannot hold."""
        for hole in holes:
            if not isinstance(hole.sign, Mask):
                raise ValueError(
                    f"hole {hole.index} is a blank of unknown length · this model fills masks of one token each"
                    " · write [MASK] for each token, give candidates, or use a model that fills blanks"
                )
        site = (canvas.role == Role.SIGN).nonzero().squeeze(1)
        return canvas.apply(Edits.put(site, torch.full_like(site, self.mask), Role.SIGN))

    def propose(
        self, prediction: Prediction, canvas: Canvas, n: int, shape: Shape, noise: Noise | None = None
    ) -> Proposal:
        """The `n` best words at every mask."""
        words = prediction.words()
        may = shape.allowed[:, :-1, 0].gather(1, shape.token_class.expand(words.shape[0], -1))
        log_prob = words.masked_fill(~may, -math.inf)
        picked, score = choose(log_prob, n, shape, noise, prediction.sites.row, canvas.index[prediction.sites.element])
        return Proposal(
            sites=prediction.sites,
            place=torch.zeros(words.shape[0], device=words.device),
            word=picked,
            left=torch.zeros_like(picked, dtype=torch.bool),
            right=torch.zeros_like(picked, dtype=torch.bool),
            log_prob=log_prob.gather(1, picked),
            score=score,
            **certainty(words),
        )

    def edits(self, proposal: Proposal, canvas: Canvas, site: Tensor, alternative: Tensor, step: int) -> Edits:
        """The chosen word in the place of each chosen mask."""
        word = proposal.word[site, alternative]
        cost = proposal.log_prob[site, alternative].float()
        return Edits.put(proposal.sites.element[site], word, Role.TEXT, step, cost)

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
