"""Left to right: a text with blanks, a separator, then the answers in order."""

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
from unmask.objectives.objective import Likelihood, Loss, Predict, Proposal, Shape, Sites, Vocabulary
from unmask.objectives.words import WordHead, certainty, choose
from unmask.view import View


@dataclass(frozen=True)
class Targets:
    """The `R` answer tokens of a batch, the end of each answer included."""

    read: Tensor  # [R] int64, the element before each
    word: Tensor  # [R] int64
    weight: Tensor  # [R] float64
    count: Tensor  # scalar


class Head(nn.Module):
    """The next word of an answer, or its end."""

    def __init__(self, embedding: nn.Embedding, special: Tensor) -> None:
        """Share the backbone's `embedding`."""
        super().__init__()
        self.words = WordHead(embedding, special)


class Prediction:
    """What the model says comes next, at each element read."""

    def __init__(self, head: Head, hidden: Tensor) -> None:
        """`hidden [R, D]`."""
        self.head, self.hidden = head, hidden

    def words(self) -> Tensor:
        """Give log p(w | all before), `[R, V]`."""
        return self.head.words.log_probs(self.hidden)


class LeftToRight:
    """Left-to-right language model in the infilling arrangement (Donahue, Lee and Liang 2020, section 3).

    Corrupts: each run of hidden tokens becomes one blank; after a separator follow the runs in order, each with an end
        sign: `text with blanks | sep | answer 1 | end | answer 2 | end`. A row all hidden is plain language modelling.
    Predicts: the next token of the answers.
    Fills: blanks of any length, masks of exactly one token, candidates; the probability is an exact chain.
    Loss: -sum log p(answer token | all before), eq. 1.
    Policies that suit: any; there is one place to write at a time.
    Relation to the others: the baseline. Blank LM with one fixed order and a close symbol in the place of splits.
    """

    name: ClassVar[str] = "left_to_right"
    holes: ClassVar[frozenset[str]] = frozenset({"blank", "mask", "candidates"})
    paths: ClassVar[str] = "one"

    def __init__(self, vocabulary: Vocabulary, width: int, embedding: nn.Embedding) -> None:
        """Make the family's head."""
        signs = vocabulary.signs
        self.blank, self.separator, self.end = signs["blank"], signs["sep"], signs["answer"]
        special = vocabulary.special.clone()
        special[self.end] = False
        self.head = Head(embedding, special)

    def corrupt(self, clean: Canvas, hidden: Hidden, noise: Noise) -> tuple[Canvas, Targets]:
        """Blanks in the text; behind each row's last element the separator and the answers."""
        mask, rows, device = hidden.mask, clean.rows, clean.ids.device
        before = torch.cat([mask.new_zeros(1), mask[:-1]]) & (rows == torch.roll(rows, 1, 0))
        after = torch.cat([mask[1:], mask.new_zeros(1)]) & (rows == torch.roll(rows, -1, 0))
        begins, ends = mask & ~before, mask & ~after
        last = torch.zeros_like(mask)
        last[clean.offsets[1:] - 1] = True  # every row closes with a scaffold element, which is never hidden
        n_answer = clean.sum_rows(mask.long() + ends.long())  # [B]
        site = (mask | last).nonzero().squeeze(1)
        counts = torch.where(last[site], 2 + n_answer[rows[site]], begins[site].long())
        run = begins.long().cumsum(0)
        run = run - 1 - (run - begins.long())[clean.offsets[:-1]][rows]  # number of the run in its row

        total = int(counts.sum())
        first = counts.cumsum(0) - counts
        ids = torch.full((total,), self.blank, device=device)
        role = torch.full((total,), int(Role.SCAFFOLD), device=device)
        hole = torch.full((total,), -1, device=device)
        blank_at = first[begins[site]]
        hole[blank_at] = run[begins]
        tail = first[last[site]]  # [B]
        kept = torch.zeros(total, dtype=torch.bool, device=device)
        kept[tail] = True
        ids[tail + 1] = self.separator
        size = mask.long() + ends.long()
        within = size.cumsum(0) - size
        within = within - within[clean.offsets[:-1]][rows]  # place of each hidden token among its row's answers
        at = tail[rows[mask]] + 2 + within[mask]
        ids[at], role[at], hole[at] = clean.ids[mask], Role.TEXT, run[mask]
        closing = tail[rows[ends]] + 3 + within[ends]
        ids[closing], hole[closing] = self.end, run[ends]
        edits = Edits.emit(site, counts, ids, role, kept=kept, hole=hole)
        canvas = clean.apply(edits)
        answers = canvas.index > canvas.index[canvas.ids == self.separator][canvas.rows]
        word = answers.nonzero().squeeze(1)
        weight = hidden.weight[canvas.rows[word]]
        return canvas, Targets(word - 1, canvas.ids[word], weight, (hidden.count + clean.sum_rows(ends.double())).sum())

    def view(self, canvas: Canvas, targets: Targets | None = None) -> View:
        """Causal; the elements before the answers' are read, or the last of each row."""
        index = canvas.index
        read = canvas.offsets[1:] - 1 if targets is None else targets.read
        return View(canvas.ids, canvas.offsets, index, read, stage=index, causal=True)

    def sites(self, canvas: Canvas) -> Sites:
        """The end of each row; it writes into the first hole without an answer."""
        signs = (canvas.role == Role.SIGN).nonzero().squeeze(1)
        row = canvas.rows[signs]
        first = torch.cat([row.new_full((1,), -1), row[:-1]]) != row
        row, hole = row[first], canvas.hole[signs[first]]
        return Sites(canvas.offsets[1:][row] - 1, row, hole)

    def predict(self, hidden: Tensor, canvas: Canvas) -> Prediction:
        """Of what follows each element read."""
        return Prediction(self.head, hidden)

    def loss(self, prediction: Prediction, canvas: Canvas, targets: Targets) -> Loss:
        """Weighted cross-entropy of the answers."""
        weight = targets.weight.to(prediction.hidden.dtype)
        each = torch.arange(weight.numel(), device=weight.device)
        word = self.head.words.nll(prediction.hidden, each, targets.word, weight)
        return Loss(word, targets.count, {"word": word.detach()})

    def open(self, canvas: Canvas, holes: Sequence[Hole]) -> Canvas:
        """Blanks in the text and a separator behind it."""
        signs = canvas.role == Role.SIGN
        last = torch.zeros_like(signs)
        last[canvas.offsets[1:] - 1] = True
        site = (signs | last).nonzero().squeeze(1)
        counts = 1 + last[site].long()
        first = counts.cumsum(0) - counts
        ids = torch.full((int(counts.sum()),), self.blank, device=site.device)
        role = torch.full_like(ids, Role.SIGN)
        kept = torch.zeros_like(ids, dtype=torch.bool)
        tail = first[last[site]]
        kept[tail], ids[tail + 1], role[tail + 1] = True, self.separator, Role.SCAFFOLD
        return canvas.apply(Edits.emit(site, counts, ids, role, kept=kept))

    def propose(
        self, prediction: Prediction, canvas: Canvas, n: int, shape: Shape, noise: Noise | None = None
    ) -> Proposal:
        """The `n` best next tokens, or the end of the answer, of every open row."""
        sites = self.sites(canvas)
        words = prediction.words()[sites.row]
        classes = shape.token_class.clone()
        classes[self.end] = shape.allowed.shape[1] - 1
        openness = torch.ones_like(classes)
        openness[self.end] = 0
        may = shape.allowed[:, classes, openness]
        log_prob = words.masked_fill(~may, -math.inf)
        picked, score = choose(log_prob, n, shape, noise, sites.row, canvas.index[sites.element])
        ended = picked == self.end
        return Proposal(
            sites=sites,
            place=torch.zeros(words.shape[0], device=words.device),
            word=picked.masked_fill(ended, -1),
            left=torch.zeros_like(ended),
            right=~ended,
            log_prob=log_prob.gather(1, picked),
            score=score,
            **certainty(words),
        )

    def edits(self, proposal: Proposal, canvas: Canvas, site: Tensor, alternative: Tensor, step: int) -> Edits:
        """The token behind the row's last element; an ended answer also closes its hole's sign."""
        word = proposal.word[site, alternative]
        cost = proposal.log_prob[site, alternative].float()
        hole, row, last = (getattr(proposal.sites, name)[site] for name in ("hole", "row", "element"))
        ended = word < 0
        signs = (canvas.role == Role.SIGN).nonzero().squeeze(1)
        answered = row.new_full((canvas.n_rows,), -2).index_copy(0, row[ended], hole[ended])
        signs = signs[canvas.hole[signs] == answered[canvas.rows[signs]]]
        where = torch.cat([last, signs])
        order = where.argsort()
        counts = torch.cat([torch.full_like(last, 2), torch.ones_like(signs)])[order]
        first = (counts.cumsum(0) - counts)[order.argsort()]  # of `where`
        tail, closed = first[: last.numel()], first[last.numel() :]
        ids = torch.full((int(counts.sum()),), self.blank, device=word.device)
        role = torch.full_like(ids, Role.SCAFFOLD)
        kept = torch.zeros_like(ids, dtype=torch.bool)
        holes, log_prob = torch.full_like(ids, -1), torch.zeros(ids.numel(), device=ids.device)
        kept[tail] = True
        ids[tail + 1] = torch.where(ended, self.end, word)
        role[tail + 1] = torch.where(ended, int(Role.SCAFFOLD), int(Role.TEXT))
        holes[tail + 1], log_prob[tail + 1] = hole, cost
        holes[closed] = canvas.hole[signs]
        return Edits.emit(where[order], counts, ids, role, step, kept=kept, log_prob=log_prob, hole=holes)

    def likelihood(
        self,
        predict: Predict,
        clean: Canvas,
        hidden: Tensor,
        method: str | None,
        n_orders: int,
        noise: Noise,
    ) -> Likelihood:
        """The exact chain over the answers and their ends."""
        if method not in (None, "exact"):
            raise ValueError(f"no likelihood method {method!r} here · this model's chain is exact · use method='exact'")
        one = torch.ones(clean.n_rows, dtype=torch.float64, device=hidden.device)
        canvas, targets = self.corrupt(clean, Hidden(hidden, one, one, one > 0), noise)
        answers = (canvas.index > canvas.index[canvas.ids == self.separator][canvas.rows]).nonzero().squeeze(1)
        prediction = predict(canvas, targets)
        costs = prediction.words().gather(1, targets.word[:, None]).squeeze(1).double()
        out = one.new_zeros(clean.n_rows).index_add_(0, canvas.rows[answers], costs)
        return Likelihood(out, torch.zeros_like(out), "exact", "exact")

    def restore(self, canvas: Canvas, targets: Targets) -> Canvas:
        """Each blank gives way to its answer; separator and answers go."""
        index, rows = canvas.index, canvas.rows
        behind = index >= index[canvas.ids == self.separator][rows]
        sign = ~behind & (canvas.hole >= 0)
        answer = behind & (canvas.role == Role.TEXT)
        first_sign = (sign.long().cumsum(0) - sign.long())[canvas.offsets[:-1]]
        run = (first_sign[rows] + canvas.hole)[answer]
        sizes = torch.zeros_like(index)
        sizes[sign] = torch.bincount(run, minlength=int(sign.sum()))
        site = (sign | behind).nonzero().squeeze(1)
        counts = sizes[site]
        return canvas.apply(Edits.emit(site, counts, canvas.ids[answer], Role.TEXT))
