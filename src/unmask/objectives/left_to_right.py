"""Left to right: a text with blanks, a separator, then the answers in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unmask.canvas import Canvas, Edits, Role
from unmask.holes import Blank, Hole
from unmask.masking.hidden import Hidden
from unmask.noise import Noise
from unmask.objectives.objective import Likelihood, Loss, Predict, Proposal, Shape, Sites, Vocabulary
from unmask.objectives.words import Head, bars, certainty, choose
from unmask.view import View

PART = 256  # rows of words that are there at once where one word of each is asked for
MOST_MAYBE = (
    8  # signs of words that need not be there; wider ranges show as if they had no end, and are kept all the same
)


@dataclass(frozen=True)
class Targets:
    """The `R` answer tokens of a batch, the end of each answer included."""

    read: Tensor  # [R] int64, the element before each
    word: Tensor  # [R] int64
    weight: Tensor  # [R] float64
    count: Tensor  # scalar


class Prediction:
    """What the model says comes next, at each element read."""

    def __init__(self, head: Head, hidden: Tensor) -> None:
        """`hidden [R, D]`."""
        self.head, self.hidden = head, hidden

    def words(self) -> Tensor:
        """Give log p(w | all before), `[R, V]`."""
        return self.head.words.log_probs(self.hidden)

    def costs(self, word: Tensor) -> Tensor:
        """Give log p of one word at each, `word [R]` to `[R]`, float64; all words of all are never there."""
        parts = zip(self.hidden.split(PART), word.split(PART), strict=True)
        found = [self.head.words.log_probs(some).gather(1, its[:, None]).squeeze(1) for some, its in parts]
        return torch.cat(found).double()


class LeftToRight:
    """Left-to-right language model in the infilling arrangement (Donahue, Lee and Liang 2020, section 3).

    Corrupts: each run of hidden tokens becomes one blank; after a separator follow the runs in order, each closed by
        the sign `answer`: `text with blanks | sep | run 1 | answer | run 2 | answer`. A row all hidden is plain
        language modelling.
        Where the number of words is told, signs count them in the place of the blank: a `word` sign for each that must
        be there, then a `maybe` for each that may, or a blank where there is no limit. A hole of which all may be
        missing has an answer without words: its end alone.
    Predicts: the next token of the answers.
    Fills: blanks of any length, masks of exactly one token, candidates; the probability is an exact chain.
    Loss: -sum log p(answer token | all before), eq. 1.
    Policies that suit: any; there is one place to write at a time.
    Relation to the others: the baseline. Blank LM with one fixed order and a close symbol in the place of splits.
    Options: `told`, the share of holes whose number of words is told in training (0: never, nor in filling). `empty`:
        the share of rows that get one hole more, between two words, where nothing is missing; it is told that all of it
        may be missing, as `___{0,2}` then is in filling (0: such holes show as plain blanks). `plain`: a
        language model as it comes, which has seen no signs; it reads the text alone, behind the token `begin`, and
        ends it with `stop` or its line, or is cut where it may write no more. It goes on from a text, and fills nothing
        before its end; its probability is that of going on so, whatever comes after.
    """

    name: ClassVar[str] = "left_to_right"
    holes: ClassVar[frozenset[str]] = frozenset({"blank", "mask", "candidates"})
    paths: ClassVar[str] = "one"
    lengths: ClassVar[str] = "free"
    closes: ClassVar[str] = "never"
    recalls: ClassVar[bool] = False

    def __init__(
        self,
        vocabulary: Vocabulary,
        width: int,
        embedding: nn.Embedding,
        told: float = 0.0,
        empty: float = 0.0,
        plain: bool = False,
        begin: int | None = None,
        stop: int | None = None,
    ) -> None:
        """Make the family's head.

        Raises:
            ValueError: when the options contradict each other or the vocabulary.
        """
        signs = vocabulary.signs
        if told and not {"word", "maybe"} <= signs.keys():
            raise ValueError("told counts words by signs · this vocabulary has none for it · train a tokenizer anew")
        if empty and not told:
            raise ValueError("empty holes are told by signs · told is 0, so that nothing is · give told too, say 0.5")
        if plain and (told or begin is None or stop is None):
            raise ValueError(
                "a plain model has no signs, and begins and ends · give begin and stop, and leave told out"
            )
        self.told, self.empty, self.plain, self.begin, self.start = told, empty, plain, begin, signs["start"]
        self.blank, self.separator = signs["blank"], signs["sep"]
        self.end = stop if stop is not None else signs["answer"]
        self.counting = torch.tensor([signs.get("word", self.blank), signs.get("maybe", self.blank), self.blank])
        special = vocabulary.special.clone()
        special[self.end] = False
        self.head = Head(embedding, special)

    def corrupt(self, clean: Canvas, hidden: Hidden, noise: Noise) -> tuple[Canvas, Targets]:
        """Blanks in the text; behind each row's last element the separator and the answers.

        Raises:
            ValueError: when a plain model is to learn what is missing before the end of a text.
        """
        mask, rows, device = hidden.mask, clean.rows, clean.ids.device
        if self.plain and bool((mask[:-1] & ~mask[1:] & (clean.role[1:] == Role.TEXT))[rows[1:] == rows[:-1]].any()):
            raise ValueError(
                "a plain model learns how texts go on · something else is hidden · take the masking law all"
            )
        joined = mask[1:] & mask[:-1] & (rows[1:] == rows[:-1]) & (clean.hole[1:] == clean.hole[:-1])
        begins, ends = mask.clone(), mask.clone()
        begins[1:] &= ~joined
        ends[:-1] &= ~joined
        last = torch.zeros_like(mask)
        last[clean.offsets[1:] - 1] = True  # every row closes with a scaffold element, which is never hidden
        gap = self._gaps(clean, hidden, noise)  # before the hole behind it, of which nothing is missing
        size = mask.long() + ends.long() + gap.long()  # of the answers, their ends included
        n_answer = clean.sum_rows(size)  # [B]
        site = (mask | last | gap).nonzero().squeeze(1)
        leads = begins | gap
        told = self._told(clean, hidden, leads, noise)  # [runs, 3]
        n_signs = torch.zeros_like(rows).masked_scatter(leads, told.sum(1))
        counts = torch.where(last[site], 2 + n_answer[rows[site]], n_signs[site] + gap[site].long())
        run = leads.long().cumsum(0)
        run = run - 1 - (run - leads.long())[clean.offsets[:-1]][rows]  # number of the run in its row

        total = int(counts.sum())
        first = counts.cumsum(0) - counts
        ids = torch.full((total,), self.blank, device=device)
        role = torch.full((total,), int(Role.SCAFFOLD), device=device)
        hole = torch.full((total,), -1, device=device)
        shown = n_signs[leads]
        at = (first + gap[site].long())[leads[site]].repeat_interleave(shown) + _count(shown)
        ids[at], hole[at] = self._signs(told), run[leads].repeat_interleave(shown)
        tail = first[last[site]]  # [B]
        kept = torch.zeros(total, dtype=torch.bool, device=device)
        kept[tail] = kept[first[gap[site]]] = True
        ids[tail + 1] = self.separator
        within = size.cumsum(0) - size
        within = within - within[clean.offsets[:-1]][rows]  # place of each hidden token among its row's answers
        at = tail[rows[mask]] + 2 + within[mask]
        ids[at], role[at], hole[at] = clean.ids[mask], Role.TEXT, run[mask]
        closes = ends | gap
        closing = tail[rows[closes]] + 2 + (within + mask.long())[closes]
        ids[closing], hole[closing] = self.end, run[closes]
        edits = Edits.emit(site, counts, ids, role, kept=kept, hole=hole)
        canvas = clean.apply(edits)
        answers = canvas.index > self._behind(canvas)
        word = answers.nonzero().squeeze(1)
        weight = hidden.weight[canvas.rows[word]]
        count = (hidden.count + clean.sum_rows(closes.double())).sum()
        return canvas, Targets(word - 1, canvas.ids[word], weight, count)

    def _behind(self, canvas: Canvas) -> Tensor:
        """Where in its row the separator stands behind which the answers follow, of each element, `[N]`; the last."""
        at = torch.where(canvas.ids == self.separator, canvas.index, -1)
        return at.new_full((canvas.n_rows,), -1).scatter_reduce(0, canvas.rows, at, "amax")[canvas.rows]

    def view(self, canvas: Canvas, targets: Targets | None = None) -> View:
        """Causal; the elements before the answers' are read, or the last of each row."""
        index = canvas.index
        read = canvas.offsets[1:] - 1 if targets is None else targets.read
        if not self.plain:
            return View(canvas.ids, canvas.offsets, index, read, stage=index, segment=canvas.segment, causal=True)
        start = canvas.ids == self.start
        seen = start | (canvas.role == Role.TEXT) | (canvas.ids == self.end)
        before = torch.cat([index.new_zeros(1), seen.long().cumsum(0)])  # seen ones before each, and in all
        offsets = before[canvas.offsets]
        index = before[:-1][seen] - offsets[:-1][canvas.rows[seen]]
        ids = torch.where(start, int(self.begin or 0), canvas.ids)[seen]
        read, segment = before[read + 1] - 1, canvas.segment[seen]
        return View(ids, offsets, index, read, stage=index, segment=segment, causal=True)

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
        return self.head.loss(prediction.hidden, targets.word, targets.weight, targets.count)

    def open(self, canvas: Canvas, holes: Sequence[Hole]) -> Canvas:
        """Blanks in the text, or what counts their words, and a separator behind it.

        Raises:
            ValueError: when a plain model is to fill a hole before the end of a text.
        """
        signs = canvas.role == Role.SIGN
        last = torch.zeros_like(signs)
        last[canvas.offsets[1:] - 1] = True
        if self.plain and bool(signs[:-1][~last[1:]].any()):
            raise ValueError(
                "this model goes on from a text, and has not learned to fill before its end · put the hole last, or"
                " adapt it: unmask train adapt model=... data=..."
            )
        site = (signs | last).nonzero().squeeze(1)
        told = torch.tensor([self._shown(hole) for hole in holes], dtype=torch.int64, device=site.device).view(-1, 3)
        told = told[canvas.hole[signs]]
        counts = torch.zeros_like(site).masked_scatter(signs[site], told.sum(1)) + 2 * last[site]
        first = counts.cumsum(0) - counts
        ids = torch.full((int(counts.sum()),), self.blank, device=site.device)
        role = torch.full_like(ids, Role.SCAFFOLD)
        kept = torch.zeros_like(ids, dtype=torch.bool)
        lead, shown = first[signs[site]], told.sum(1)
        ids[lead.repeat_interleave(shown) + _count(shown)] = self._signs(told)
        role[lead] = int(Role.SIGN)  # one a hole: what follows it only counts
        tail = first[last[site]]
        kept[tail], ids[tail + 1] = True, self.separator
        return canvas.apply(Edits.emit(site, counts, ids, role, kept=kept))

    def propose(
        self, prediction: Prediction, canvas: Canvas, n: int, shape: Shape, noise: Noise | None = None
    ) -> Proposal:
        """The `n` best next tokens, or the end of the answer, of every open row."""
        sites = self.sites(canvas)
        words = prediction.words()[sites.row]
        barred = bars(shape, [self.end], 1, words)
        log_prob = words + barred
        sure = certainty(words, log_prob, shape.tells)
        if self.plain and shape.full is not None and shape.breaks is not None:
            # Cut where the line ends, or a further word would begin: the probability of going on so, and so far.
            beyond = (barred < 0) & (shape.full[:, None] | shape.breaks[shape.token_class])
            ends = torch.logaddexp(words[:, self.end], words.masked_fill(~beyond, -math.inf).logsumexp(-1))
            log_prob[:, self.end] = ends + barred[:, self.end]
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
            **sure,
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
        ids[closed] = canvas.ids[signs]
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
        """The exact chain over the answers and their ends; of a plain model how likely a text begins so."""
        if method not in (None, "exact"):
            raise ValueError(f"no likelihood method {method!r} here · this model's chain is exact · use method='exact'")
        one = torch.ones(clean.n_rows, dtype=torch.float64, device=hidden.device)
        canvas, targets = self.corrupt(clean, Hidden(hidden, one, one, one > 0), noise)
        answers = (canvas.index > self._behind(canvas)).nonzero().squeeze(1)
        prediction = predict(canvas, targets)
        costs = prediction.costs(targets.word)
        if self.plain:
            costs = costs.masked_fill(targets.word == self.end, 0.0)
        out = one.new_zeros(clean.n_rows).index_add_(0, canvas.rows[answers], costs)
        number = (canvas.role[answers] == Role.TEXT).long().cumsum(0) - 1  # an end is the last token's
        tokens = out.new_zeros(int(hidden.sum())).index_add_(0, number, costs)
        return Likelihood(out, torch.zeros_like(out), "exact", "exact", tokens=tokens)

    def restore(self, canvas: Canvas, targets: Targets) -> Canvas:
        """Each blank gives way to its answer; separator and answers go."""
        index, rows = canvas.index, canvas.rows
        behind = index >= self._behind(canvas)
        sign = ~behind & (canvas.hole >= 0)
        answer = behind & (canvas.role == Role.TEXT)
        lead = sign.clone()  # of the signs of a hole the first
        lead[1:] &= ~sign[:-1] | (canvas.hole[1:] != canvas.hole[:-1])
        first_sign = (lead.long().cumsum(0) - lead.long())[canvas.offsets[:-1]]
        run = (first_sign[rows] + canvas.hole)[answer]
        sizes = torch.zeros_like(index)
        sizes[lead] = torch.bincount(run, minlength=int(lead.sum()))
        site = (sign | behind).nonzero().squeeze(1)
        counts = sizes[site]
        return canvas.apply(Edits.emit(site, counts, canvas.ids[answer], Role.TEXT))

    def _gaps(self, clean: Canvas, hidden: Hidden, noise: Noise) -> Tensor:
        """The tokens behind which a hole is shown although nothing is missing there, `[N]` bool; at most one a row.

        Both its neighbours are seen, and the one behind it begins a word.
        """
        none = torch.zeros_like(hidden.mask)
        if not self.empty or hidden.starts is None:
            return none
        seen = (clean.role == Role.TEXT) & ~hidden.mask
        may = none.clone()
        may[:-1] = seen[:-1] & seen[1:] & hidden.starts[1:] & (clean.rows[1:] == clean.rows[:-1])
        draw = noise.elements(clean, "gap").masked_fill(~may, -1.0)
        best = draw.new_full((clean.n_rows,), -1.0).scatter_reduce(0, clean.rows, draw, "amax")
        return may & (draw == best[clean.rows]) & (noise.rows("empty") < self.empty)[clean.rows]

    def _told(self, clean: Canvas, hidden: Hidden, leads: Tensor, noise: Noise) -> Tensor:
        """How many signs of each kind (word, maybe, blank) stand for each run, `[runs, 3]`.

        Half of those that are told are told exactly, half by a range that holds the number; a quarter of the ranges
        has no upper end. Runs of no word are all told, by one `maybe` to four; beside them other ranges may begin at 0.
        """
        free = torch.tensor([[0, 0, 1]], device=leads.device).expand(int(leads.sum()), 3)
        if not self.told or hidden.starts is None:
            return free
        number = leads.long().cumsum(0) - 1  # of the run each hidden token is in
        word = (hidden.starts | leads)[hidden.mask].long()
        n = torch.zeros_like(free[:, 0]).index_add(0, number[hidden.mask], word)  # [runs] words
        draw, low, high = (noise.elements(clean, name)[leads] for name in ("told", "low", "high"))
        ranged = draw < self.told / 2
        least = torch.where(ranged, (low * (n + 1)).long() if self.empty else 1 + (low * n).long(), n)
        most = torch.where(ranged, n + (high * 4).long(), n)
        most = torch.where(n == 0, 1 + (high * 4).long(), most)
        endless = ranged & (least > 0) & (high * 4 % 1 < 0.25)
        told = torch.stack([least - endless.long(), (most - least).masked_fill(endless, 0), endless.long()], 1)
        return torch.where((((draw < self.told) & (n <= MOST_MAYBE)) | (n == 0))[:, None], told, free)

    def _shown(self, hole: Hole) -> list[int]:
        """How many signs of each kind (word, maybe, blank) show a hole."""
        sign = hole.sign
        if not self.told or not isinstance(sign, Blank) or sign.candidates or sign.words == (1, None):
            return [0, 0, 1]
        low, high = sign.words
        if low == 0:
            most = MOST_MAYBE if high is None else min(high, MOST_MAYBE)
            return [0, most, 0] if self.empty else [0, 0, 1]  # else an answer of no words was never asked for
        if high is None or high - low > MOST_MAYBE:
            return [low - 1, 0, 1]
        return [low, high - low, 0]

    def _signs(self, told: Tensor) -> Tensor:
        """The ids of so many signs of each kind, hole by hole, from `[runs, 3]`."""
        return self.counting.to(told.device).repeat(told.shape[0]).repeat_interleave(told.flatten())


def _count(n: Tensor) -> Tensor:
    """0, 1, ... `n[i]` - 1 for each i, end to end."""
    return torch.arange(int(n.sum()), device=n.device) - (n.cumsum(0) - n).repeat_interleave(n)
