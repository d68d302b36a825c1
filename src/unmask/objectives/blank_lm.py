"""Blank LM: each run of missing words shows as one blank, filled word by word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from unmask.canvas import Canvas, Edits, Role
from unmask.holes import Hole
from unmask.masking.hidden import Hidden
from unmask.noise import Noise
from unmask.objectives import orders
from unmask.objectives.objective import Likelihood, Loss, Predict, Proposal, Shape, Sites, Vocabulary, open_signs
from unmask.objectives.orders import Actions
from unmask.objectives.words import WordHead, barred, certainty, choose, segment_logsumexp
from unmask.view import View

SPARE = 8  # words looked at beyond the number of pairs that is asked for, at first
TABLE = 2_048  # pairs of blank and word whose splits are worked out at a time: what fits a cache


@dataclass(frozen=True)
class Targets:
    """The `R` missing tokens of a batch, run after run."""

    run: Tensor  # [R] int64, which blank (of all in the batch) hides it
    row: Tensor  # [R] int64
    word: Tensor  # [R] int64
    split: Tensor  # [R] int64, 2 * (more on its left) + (more on its right)
    weight: Tensor  # [R] float64
    offset: Tensor  # [B] float64, -log n! where the row's loss is a bound
    count: Tensor  # scalar


class Head(nn.Module):
    """Location, word and split heads (Shen et al. 2020, section 3.1)."""

    def __init__(self, width: int, embedding: nn.Embedding, special: Tensor) -> None:
        """Make the heads of a backbone of `width`; words share its output matrix, `embedding`."""
        super().__init__()
        self.location = nn.Linear(width, 1)
        self.words = WordHead(embedding, special)
        self.split_blank = nn.Linear(width, 2 * width)  # the two halves of the first layer, [h_b ; emb(w)] apart
        self.split_word = nn.Linear(width, 2 * width, bias=False)
        self.split_out = nn.Linear(2 * width, 4)


class Prediction:
    """What the model says of the `K` blanks of a canvas, worked out when asked."""

    def __init__(self, head: Head, hidden: Tensor, canvas: Canvas) -> None:
        """`hidden [K, D]`, in the order of the blanks in the canvas."""
        self.head, self.hidden = head, hidden
        self.sites = open_signs(canvas)
        self.row = self.sites.row  # [K]
        self.n_rows = canvas.n_rows

    @cached_property
    def places(self) -> Tensor:
        """Give log p(b | canvas), `[K]`: one softmax over the blanks of each row."""
        scores: Tensor = self.head.location(self.hidden).squeeze(1)
        return scores - segment_logsumexp(scores, self.row, self.n_rows)[self.row]

    def words(self) -> Tensor:
        """Give log p(w | b), `[K, V]`."""
        return self.head.words.log_probs(self.hidden)

    def splits(self, run: Tensor, word: Tensor) -> Tensor:
        """Give log p(left, right | b, w) of `R` words `word [R]` at blanks `run [R]`, `[R, 4]`."""
        from_word = self.head.split_word(self.head.words.embedding(word))
        return self._split(self.head.split_blank(self.hidden)[run] + from_word)

    def table(self, word: Tensor) -> Tensor:
        """The same for `A` words of every blank, `word [K, A]`, `[K, A, 4]`; a word's half is worked out once."""
        distinct, which = word.unique(return_inverse=True)
        from_word = self.head.split_word(self.head.words.embedding(distinct))
        from_blank = self.head.split_blank(self.hidden)
        parts = zip(from_blank.split(size := -(-TABLE // word.shape[1])), which.split(size), strict=True)
        mixed = (F.embedding(words, from_word).add_(blank[:, None]) for blank, words in parts)
        return torch.cat([self._split(each) for each in mixed])

    def _split(self, mixed: Tensor) -> Tensor:
        """From the sum of both halves, which is overwritten."""
        logits: Tensor = self.head.split_out(mixed.relu_())
        return logits.log_softmax(-1)


class BlankLM:
    """Blank LM (Shen, Quach, Barzilay and Jaakkola 2020).

    Corrupts: each run of hidden tokens becomes one blank.
    Predicts: p(b, w, l, r | canvas) = p(b) p(w | b) p(l, r | b, w): which blank is filled next, by which word, and
        whether a blank stays on its left and right.
    Fills: blanks of one word or more, masks of exactly one token, candidates.
    Loss: n * mean over missing i of -log p(b_i, x_i, l_i, r_i) - log n! (eq. 5), an upper bound on -log p(x).
    Policies that suit: `confident`, `location`, beam with merging.
    Relation to the others: masked diffusion is the case in which blanks never merge and never split; left to right
        is the case in which only the last blank is ever filled and never leaves one on its left.
    """

    name: ClassVar[str] = "blank_lm"
    holes: ClassVar[frozenset[str]] = frozenset({"blank", "mask", "candidates"})
    paths: ClassVar[str] = "many"
    lengths: ClassVar[str] = "free"
    closes: ClassVar[str] = "never"
    recalls: ClassVar[bool] = False

    def __init__(self, vocabulary: Vocabulary, width: int, embedding: nn.Embedding) -> None:
        """Make the family's head for a backbone of `width` whose output matrix is `embedding`."""
        self.blank = vocabulary.signs["blank"]
        self.head = Head(width, embedding, vocabulary.special)

    def corrupt(self, clean: Canvas, hidden: Hidden, noise: Noise) -> tuple[Canvas, Targets]:
        """One blank for each run of `hidden.mask [N]`."""
        mask, rows = hidden.mask, clean.rows
        left = mask & _shifted(mask, 1) & (rows == _shifted(rows, 1))  # its left neighbour is missing too
        right = mask & _shifted(mask, -1) & (rows == _shifted(rows, -1))
        begins = mask & ~left
        site = mask.nonzero().squeeze(1)
        counts = begins[site].long()
        blanks = site.new_full((int(counts.sum()),), self.blank)
        n_hidden = clean.sum_rows(mask.double())
        targets = Targets(
            run=begins.long().cumsum(0)[site] - 1,
            row=rows[site],
            word=clean.ids[site],
            split=2 * left[site].long() + right[site].long(),
            weight=hidden.weight[rows[site]],
            offset=torch.where(hidden.bound & (n_hidden > 0), -torch.lgamma(hidden.count + 1), 0.0),
            count=hidden.count.sum(),
        )
        return clean.apply(Edits.emit(site, counts, blanks, Role.SIGN)), targets

    def view(self, canvas: Canvas, targets: Targets | None = None) -> View:
        """The canvas as it stands; blanks are read."""
        read = (canvas.role == Role.SIGN).nonzero().squeeze(1)
        return View(canvas.ids, canvas.offsets, canvas.place, read, segment=canvas.segment)

    def sites(self, canvas: Canvas) -> Sites:
        """Its blanks."""
        return open_signs(canvas)

    def predict(self, hidden: Tensor, canvas: Canvas) -> Prediction:
        """Of every blank, from its hidden state."""
        return Prediction(self.head, hidden, canvas)

    def loss(self, prediction: Prediction, canvas: Canvas, targets: Targets) -> Loss:
        """Location, word and split cross-entropies of all missing tokens; one log-normaliser a blank."""
        weight = targets.weight.to(prediction.hidden.dtype)
        location = -(weight * prediction.places[targets.run]).sum()
        word = self.head.words.nll(prediction.hidden, targets.run, targets.word, weight)
        splits = prediction.splits(targets.run, targets.word).gather(1, targets.split[:, None]).squeeze(1)
        split = -(weight * splits).sum()
        total = location + word + split + targets.offset.sum().to(word.dtype)
        parts = {"location": location, "word": word, "split": split}
        return Loss(total, targets.count, {name: part.detach() for name, part in parts.items()})

    def open(self, canvas: Canvas, holes: Sequence[Hole]) -> Canvas:
        """Every hole is a blank; a hole that is a mask is closed by the shape of what may fill it."""
        site = (canvas.role == Role.SIGN).nonzero().squeeze(1)
        return canvas.apply(Edits.put(site, torch.full_like(site, self.blank), Role.SIGN))

    def propose(
        self, prediction: Prediction, canvas: Canvas, n: int, shape: Shape, noise: Noise | None = None
    ) -> Proposal:
        """The `n` best (word, split) pairs at every blank; when sampling, `n` words drawn, each with a split drawn."""
        words = prediction.words()  # [K, V]
        allowed = shape.allowed[:, :-1]  # [K, C, 4]
        may_words = words + barred(allowed.any(-1), shape.token_class, words)
        place = canvas.index[prediction.sites.element]
        if shape.temperature > 0:
            word, score = choose(may_words, n, shape, noise, prediction.row, place)
            joint = self._with_splits(prediction, words, word, shape, allowed)  # [K, n, 4]
            split = self._drawn(joint, shape, noise, prediction.row, place)
            log_prob = joint.gather(2, split[..., None]).squeeze(2)
        else:
            word, split, log_prob = self._best(prediction, words, may_words, n, shape, allowed)
            score = log_prob.double()
        return Proposal(
            sites=prediction.sites,
            place=prediction.places,
            word=word,
            left=split >= 2,
            right=split % 2 == 1,
            log_prob=log_prob,
            score=score,
            **certainty(words, may_words, shape.tells),
        )

    def _with_splits(
        self, prediction: Prediction, words: Tensor, word: Tensor, shape: Shape, allowed: Tensor
    ) -> Tensor:
        """Log p(w, l, r | b) of words `word [K, A]`, `[K, A, 4]`; -inf where barred."""
        joint = words.gather(1, word)[..., None] + prediction.table(word)
        may = allowed.gather(1, shape.token_class[word][..., None].expand(-1, -1, 4))
        return torch.where(may, joint, -math.inf)

    def _best(
        self, prediction: Prediction, words: Tensor, may_words: Tensor, n: int, shape: Shape, allowed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The `n` likeliest pairs of all words and splits, exactly: a pair is no likelier than its word.

        So only words above the n-th pair found among a few are wanted; the search among those raises that bar again.
        """
        n_words = words.shape[1]
        ranked = may_words.topk(min(4 * (n + SPARE), n_words), -1).indices
        joint, wanted = words[:, :0], min(n + SPARE, n_words)
        while (width := joint.shape[1] // 4) < wanted:
            if wanted > ranked.shape[1]:
                ranked, width = may_words.topk(n_words, -1).indices, 0  # afresh: ties may come in another order
            more = self._with_splits(prediction, words, ranked[:, width:wanted], shape, allowed).flatten(1)
            joint = torch.cat([joint[:, : 4 * width], more], 1)
            top = joint.topk(min(n, joint.shape[1]), -1)
            above = (may_words > top.values[:, -1:]).sum(1)
            wanted = min(int(above.max()) if above.numel() else 0, 4 * wanted)
        return ranked.gather(1, top.indices // 4), top.indices % 4, top.values

    def _drawn(self, joint: Tensor, shape: Shape, noise: Noise | None, row: Tensor, place: Tensor) -> Tensor:
        """A split for each word, `[K, A]`, by Gumbel noise in float64."""
        score = joint.double() / shape.temperature
        if noise is not None:
            uniform = noise.grid(row, place, 4 * score.shape[1], "split").view(score.shape)
            score = score - (-uniform.log()).log()
        return score.argmax(-1)

    def edits(self, proposal: Proposal, canvas: Canvas, site: Tensor, alternative: Tensor, step: int) -> Edits:
        """`[blank?] word [blank?]` in the place of each chosen blank."""
        left, right = proposal.left[site, alternative].long(), proposal.right[site, alternative].long()
        counts = 1 + left + right
        first = counts.cumsum(0) - counts
        total = int(counts.sum())
        ids = site.new_full((total,), self.blank)
        role = torch.full_like(ids, Role.SIGN)
        log_prob = torch.zeros(total, device=ids.device)
        at = first + left
        ids[at] = proposal.word[site, alternative]
        role[at] = Role.TEXT
        log_prob[at] = proposal.log_prob[site, alternative].float()
        return Edits.emit(proposal.sites.element[site], counts, ids, role, step, log_prob=log_prob)

    def likelihood(
        self,
        predict: Predict,
        clean: Canvas,
        hidden: Tensor,
        method: str | None,
        n_orders: int,
        noise: Noise,
    ) -> Likelihood:
        """By all canvases (`exact`), by random orders (`bound`), or the same with its bias cut (`jackknife`)."""
        return orders.likelihood(self, predict, clean, hidden, method, n_orders, noise)

    def actions(self, predict: Predict, clean: Canvas, mask: Tensor, noise: Noise) -> Actions:
        """What the next edit costs, for every token that `mask [N]` hides of `clean`."""
        one = torch.ones(clean.n_rows, dtype=torch.float64, device=mask.device)
        canvas, targets = self.corrupt(clean, Hidden(mask, one, one, one < 0), noise)
        prediction = predict(canvas)
        splits = prediction.splits(targets.run, targets.word).gather(1, targets.split[:, None]).squeeze(1)
        words = prediction.words()[targets.run, targets.word]
        return Actions(mask.nonzero().squeeze(1), (prediction.places[targets.run] + words + splits).double())

    def finished(self, predict: Predict, clean: Canvas, hidden: Tensor) -> Tensor:
        """Nothing: where no blank is left, the text is whole."""
        return torch.zeros(clean.n_rows, dtype=torch.float64, device=hidden.device)

    def restore(self, canvas: Canvas, targets: Targets) -> Canvas:
        """Each blank gives way to the tokens it hides."""
        site = (canvas.role == Role.SIGN).nonzero().squeeze(1)
        counts = torch.bincount(targets.run, minlength=site.numel())
        return canvas.apply(Edits.emit(site, counts, targets.word, Role.TEXT))


def _shifted(values: Tensor, by: int) -> Tensor:
    """`values` with its neighbour's at each place; the end that has none reads zero."""
    out = torch.roll(values, by, 0)
    if values.numel():
        out[0 if by > 0 else -1] = 0
    return out
