"""Insertion: what is missing leaves no trace; words go into the slots between what is there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unmask.canvas import Canvas, Edits, Role
from unmask.holes import Hole
from unmask.masking.hidden import Hidden
from unmask.noise import Noise
from unmask.objectives import orders, trees
from unmask.objectives.objective import (
    Likelihood,
    Loss,
    Predict,
    Proposal,
    Shape,
    Sites,
    Vocabulary,
    check_flag,
    check_number,
    open_signs,
)
from unmask.objectives.orders import Actions
from unmask.objectives.slots import Head, Prediction, Seen
from unmask.objectives.spans import Spans, central, last_of_row
from unmask.objectives.words import bars, certainty, choose
from unmask.view import View

ORDERS = ("tree", "uniform", "left_to_right")
PLACES = ("joint", "factorised", "none")
FINISHES = ("slot", "sequence", "last", "stop")


@dataclass(frozen=True)
class Targets:
    """The `R` missing tokens of a batch, and which of its `S` slots are to say that nothing is missing in them."""

    slot: Tensor  # [R] int64, which slot (of all in the batch) a token is missing from
    word: Tensor  # [R] int64
    weight: Tensor  # [R] float64; 0: it comes later
    end: Tensor  # [S] float64, the weight of the end of each slot
    stop: Tensor  # [B] float64, the weight of "all is there", where the row has a say of its own
    go_on: Tensor  # [B] float64, that of its contrary
    offset: Tensor  # [B] float64, -log n! where the row's loss is a bound
    count: Tensor  # scalar


class Insertion:
    """Insertion Transformer (Stern, Chan, Kiros and Uszkoreit 2019).

    Corrupts: hidden tokens go without a trace. A slot lies between any two neighbours that are left, unless both are
        given and nothing is missing between them. The model never sees slots: they are places of the canvas.
    Predicts: p(w, s | canvas), which word comes into which slot; one of the words is the end, "nothing is missing".
    Fills: blanks of any length, masks of exactly one token; all slots at once, in about log n rounds, or one by one.
        Candidates, where a text has no other holes, by its likelihood.
    Loss: by `finish`, the mean over slots of -sum over missing i of w(i) log p(x_i, slot), which trains
        parallel decoding and is no bound; or, of `last` and `stop`, -log of the order's price, a bound (eq. 5 of Shen
        et al. 2020 with one action more).
    Policies that suit: `parallel`, `threshold`, `serial`; of `last` and `stop`, where no slot says that it is empty,
        `location` and `serial`.
    Relation to the others: Blank LM without the signs that say where words are missing, and an end in the place of
        splits. With `uniform`, `factorised` and `last` the InsT of Shen et al. 2020; with `stop` the insertion language
        model of Patel et al. 2025, with features of both neighbours in the place of one.
    Options: `order`: which word of a slot comes first in training: `tree`, the middle one (weights softmax of
        -distance / `tau`); `uniform`, any; `left_to_right`, the first, and only the last slot of a row is ever open.
        `place`: `joint`, one softmax over all words of all slots; `factorised`, p(slot) p(w | slot);
        `none`, p(w | slot) alone, for slots that are all written at once.
        `finish`: `slot`, an empty slot says its end; `sequence`, all slots do, once nothing is missing in any; `last`,
        the last slot does so for the whole row; `stop`, a head of its own does.
        `context`: what all slots of a row have in common, the maximum of each feature, is added to each (its
        contextual vocabulary bias). `mixture`: so many softmaxes are mixed (not in `joint`).
    """

    name = "insertion"
    holes: ClassVar[frozenset[str]] = frozenset({"blank", "mask", "candidates"})
    paths = "many"  # of one order it is "one"
    lengths = "free"
    closes = "slot"  # of a model that ends by row it is "row"
    recalls: ClassVar[bool] = False

    def __init__(
        self,
        vocabulary: Vocabulary,
        width: int,
        embedding: nn.Embedding,
        order: str = "tree",
        tau: float = 1.0,
        place: str = "joint",
        finish: str = "slot",
        context: bool = False,
        mixture: int = 1,
    ) -> None:
        """Make the family's head for a backbone of `width` whose output matrix is `embedding`.

        Raises:
            ValueError: for an option there is not, or two that contradict each other.
        """
        for option, said, known in (("order", order, ORDERS), ("place", place, PLACES), ("finish", finish, FINISHES)):
            if said not in known:
                raise ValueError(f"{option} {said!r} is not known · it is one of {', '.join(known)} · name one of them")
        check_number("tau", tau)
        check_flag("context", context)
        if isinstance(mixture, bool) or not isinstance(mixture, int) or mixture < 1:
            raise ValueError(f"mixture is {mixture!r} · it is a whole number, 1 or more · mend the recipe")
        if mixture > 1 and place == "joint":
            raise ValueError("mixture with place=joint · softmaxes are mixed slot by slot · say place=factorised")
        if place == "none" and finish != "slot":
            raise ValueError(f"finish={finish} with place=none · every slot stands alone there · say finish=slot")
        if finish in ("last", "stop") and order == "tree":
            raise ValueError(
                f"finish={finish} with order=tree · one word comes at a time there, and all orders alike · say"
                " order=uniform"
            )
        if order == "left_to_right" and finish == "stop":
            raise ValueError("finish=stop with order=left_to_right · its only slot says the end · say finish=slot")
        self.order, self.tau, self.place, self.finish = order, tau, place, finish
        self.context, self.mixture = context, mixture
        self.paths = "one" if order == "left_to_right" else "many"
        self.closes = "row" if finish in ("last", "stop") else "slot"
        self.blank, self.end = vocabulary.signs["blank"], vocabulary.signs["answer"]
        special = vocabulary.special.clone()
        special[self.end] = False
        self.head = Head(
            width, embedding, special,
            place=place, context=context, mixture=mixture, stop=finish == "stop",
        )  # fmt: skip

    @staticmethod
    def learns_wholes(options: Mapping[str, Any]) -> bool:
        """Whether a model with these options learns when all is there from texts that lack nothing."""
        return bool(options.get("finish", "slot") != "slot")

    def corrupt(self, clean: Canvas, hidden: Hidden, noise: Noise) -> tuple[Canvas, Targets]:
        """Slots in the place of what is hidden, and wherever else something could be."""
        spans = Spans.of(clean, hidden.mask, only_last=self.order == "left_to_right")
        site = (hidden.mask | spans.opens).nonzero().squeeze(1)
        counts = torch.where(hidden.mask, 0, 1 + spans.opens.long())[site]
        kept = torch.ones(int(counts.sum()), dtype=torch.bool, device=site.device)
        first = counts.cumsum(0) - counts
        kept[first[spans.opens[site]] + 1] = False
        canvas = clean.apply(Edits.emit(site, counts, torch.full_like(kept, self.blank, dtype=torch.int64),
                                        Role.SIGN, kept=kept))  # fmt: skip
        return canvas, self._targets(clean, hidden, spans)

    def _targets(self, clean: Canvas, hidden: Hidden, spans: Spans) -> Targets:
        """What is missing from each slot, and what each token and each end weighs."""
        nothing, n_rows = clean.sum_rows(hidden.mask.double()) == 0, clean.n_rows  # [B]
        row, empty = spans.row, spans.size == 0  # [S]
        n_slots = torch.bincount(row, minlength=n_rows).clamp(min=1).double()
        share = self.shares(spans)  # [R]
        stop = go_on = offset = torch.zeros_like(n_slots)
        end = torch.zeros_like(row, dtype=torch.float64)
        if self.closes == "slot":
            if self.finish == "slot":
                each, end = n_slots, (empty / n_slots[row])
            else:
                each = torch.bincount(row[~empty], minlength=n_rows).clamp(min=1).double()
                end = nothing[row] / n_slots[row]
            weight, count = share / each[row[spans.slot]], torch.tensor(float(n_rows), dtype=torch.float64)
        elif self.order == "left_to_right":  # one order: the next word, or the end
            weight, count = share, torch.tensor(float(n_rows), dtype=torch.float64)
            end[spans.last] = nothing[row[spans.last]].double()
        else:
            weight = hidden.weigh(clean, hidden.mask.nonzero().squeeze(1))
            offset = torch.where(hidden.bound, -torch.lgamma(hidden.count + 1), 0.0)
            done = torch.where(nothing, hidden.weight if hidden.whole is None else hidden.whole, 0.0)
            if self.finish == "last":
                end[spans.last] = done[row[spans.last]]
            else:
                stop, go_on = done, torch.zeros_like(done).index_add(0, row[spans.slot], weight)
            count = hidden.count.sum()
        word = clean.ids[hidden.mask]
        return Targets(spans.slot, word, weight, end, stop, go_on, offset, count.to(weight.device))

    def shares(self, spans: Spans) -> Tensor:
        """How often each missing token comes first in its slot, `[R]`: its share of the slot's target."""
        size = spans.size[spans.slot].double()
        if self.order == "left_to_right":
            return (spans.place == 0).double()
        if self.order == "uniform":
            return 1 / size
        return central(spans.size, spans.slot, spans.place, self.tau)

    def view(self, canvas: Canvas, targets: Targets | None = None) -> View:
        """All but the slots; what stands beside one is read."""
        seen = self._seen(canvas)
        before = torch.cat([seen.left.new_zeros(1), seen.keep.long().cumsum(0)])
        place = before[:-1] - before[canvas.begin]
        ids, place, segment = (column[seen.keep] for column in (canvas.ids, place, canvas.segment))
        return View(ids, before[canvas.offsets], place, seen.read, segment=segment)

    def _seen(self, canvas: Canvas, sites: Sites | None = None) -> Seen:
        return Seen.of(canvas, canvas.ids != self.blank, sites, every=self.context)

    def sites(self, canvas: Canvas) -> Sites:
        """Its open slots."""
        return open_signs(canvas)

    def predict(self, hidden: Tensor, canvas: Canvas, *, sites: Sites | None = None) -> Prediction:
        """Of every open slot, or of `sites`, from the hidden states of its neighbours."""
        seen = self._seen(canvas, sites)
        quiet = torch.zeros_like(seen.row, dtype=torch.bool)
        if self.finish in ("last", "stop"):  # only the last slot of a row says its end, or none does
            quiet = ~last_of_row(seen.row) if self.finish == "last" else ~quiet
        slot = quiet.nonzero().squeeze(1)
        silent = torch.stack([slot, torch.full_like(slot, self.end)], 1)
        return Prediction(self.head, hidden, seen, silent, sites)

    def loss(self, prediction: Prediction, canvas: Canvas, targets: Targets) -> Loss:
        """Cross-entropy of words and ends at their slots, and of what says that all is there."""
        ends = targets.end.nonzero().squeeze(1)
        slot = torch.cat([targets.slot, ends])
        word = torch.cat([targets.word, torch.full_like(ends, self.end)])
        weight = torch.cat([targets.weight, targets.end[ends]]).to(prediction.slots.dtype)
        parts: dict[str, Tensor] = {}
        if self.mixture > 1:
            parts["word"] = -(weight * prediction.words()[slot, word]).sum()
        else:
            rows = prediction.row if self.place == "joint" else None
            parts["word"] = self.head.words.nll(prediction.slots, slot, word, weight, rows, prediction.silent)
        if self.place == "factorised":
            parts["location"] = -(weight * prediction.places[slot]).sum()
        if self.finish == "stop":
            done, more = prediction.all_there
            parts["stop"] = -(targets.stop.to(done.dtype) * done + targets.go_on.to(done.dtype) * more).sum()
        total = torch.stack([part.double() for part in parts.values()]).sum() + targets.offset.sum()
        return Loss(total, targets.count, {name: part.detach() for name, part in parts.items()})

    def open(self, canvas: Canvas, holes: Sequence[Hole]) -> Canvas:
        """Every hole is one slot.

        Raises:
            ValueError: when the order or the end of this model asks for another place.
        """
        site = (canvas.role == Role.SIGN).nonzero().squeeze(1)
        ends_row = torch.zeros_like(canvas.ids, dtype=torch.bool)
        ends_row[canvas.offsets[1:] - 2] = True
        if (self.order == "left_to_right" or self.finish == "last") and not bool(ends_row[site].all()):
            raise ValueError(
                "this model writes at the end of a text alone · it was trained with order=left_to_right or finish=last"
                " · put the hole last, or use a model trained with finish=slot"
            )
        return canvas.apply(Edits.put(site, torch.full_like(site, self.blank), Role.SIGN))

    def propose(
        self, prediction: Prediction, canvas: Canvas, n: int, shape: Shape, noise: Noise | None = None
    ) -> Proposal:
        """The `n` best words of every slot, its end among them where it may say so."""
        sites, words = prediction.sites or open_signs(canvas), prediction.words()
        if self.finish == "stop":
            words = self._stopping(prediction, words)
        one_side = self.order == "left_to_right"
        log_prob = words + bars(shape, [self.end], 1 if one_side else 3, words)
        if self.closes == "row":
            log_prob[~last_of_row(prediction.row), self.end] = -math.inf
        choice = log_prob if not shape.end_penalty else log_prob.clone()
        if shape.end_penalty:
            choice[:, self.end] -= shape.end_penalty
        picked, score = choose(choice, n, shape, noise, sites.row, canvas.index[sites.element])
        ended = picked == self.end
        return Proposal(
            sites=sites,
            place=prediction.places,
            word=picked.masked_fill(ended, -1),
            left=~ended & (not one_side),
            right=~ended,
            log_prob=log_prob.gather(1, picked),
            score=score,
            **certainty(words, choice, shape.tells),
            ended=choice[:, self.end].exp() if self.closes == "slot" else None,
            rowwise=ended if self.finish == "stop" else None,
        )

    def _stopping(self, prediction: Prediction, words: Tensor) -> Tensor:
        """Words if something is missing, and in the end's place that nothing is."""
        done, more = prediction.all_there
        words = words + more[prediction.row, None]
        words[:, self.end] = done[prediction.row]
        return words

    def edits(self, proposal: Proposal, canvas: Canvas, site: Tensor, alternative: Tensor, step: int) -> Edits:
        """`slot word slot` in the place of each chosen slot; one that ends stays as a mark that nobody sees."""
        word = proposal.word[site, alternative]
        element, cost = proposal.sites.element[site], proposal.log_prob[site, alternative].float()
        left, right = proposal.left[site, alternative].long(), proposal.right[site, alternative].long()
        ended = word < 0
        if self.closes == "row" and bool(ended.any()):  # it ends for all slots of its row
            over = torch.zeros(canvas.n_rows, dtype=torch.bool, device=word.device)
            over[proposal.sites.row[site[ended]]] = True
            signs = open_signs(canvas)
            rest = signs.element[over[signs.row] & ~torch.isin(signs.element, element[ended])]
            stays = ended | ~over[proposal.sites.row[site]]
            element, order = torch.cat([element[stays], rest]).sort()
            ended, word, cost, left, right = (
                torch.cat([column[stays], column.new_full(rest.shape, fill)])[order]
                for column, fill in ((ended, True), (word, -1), (cost, 0), (left, 0), (right, 0))
            )
        counts = 1 + left + right
        at = counts.cumsum(0) - counts + left
        total = int(counts.sum())
        ids = word.new_full((total,), self.blank)
        role = torch.full_like(ids, Role.SIGN)
        log_prob = torch.zeros(total, device=ids.device)
        ids[at] = torch.where(ended, self.blank, word)
        role[at] = torch.where(ended, int(Role.SCAFFOLD), int(Role.TEXT))
        log_prob[at] = cost
        return Edits.emit(element, counts, ids, role, step, log_prob=log_prob)

    def likelihood(
        self,
        predict: Predict,
        clean: Canvas,
        hidden: Tensor,
        method: str | None,
        n_orders: int,
        noise: Noise,
    ) -> Likelihood:
        """By orders where one word comes at a time; by trees where all slots are filled in every round.

        Raises:
            ValueError: for a method there is not, or a model whose ends have no probability.
        """
        if self.finish == "sequence":
            raise ValueError(
                "this model has no likelihood · it was trained with finish=sequence, so that what no slot lacks is not"
                " told slot by slot · use one trained with finish=slot, last or stop"
            )
        if self.closes == "row" and self.order == "uniform":
            return orders.likelihood(self, predict, clean, hidden, method, n_orders, noise)
        return trees.likelihood(self, predict, clean, hidden, method, n_orders, noise)

    def actions(self, predict: Predict, clean: Canvas, mask: Tensor, noise: Noise) -> Actions:
        """What the next edit costs, for every token that `mask [N]` hides of `clean`."""
        one = torch.ones(clean.n_rows, dtype=torch.float64, device=mask.device)
        canvas, targets = self.corrupt(clean, Hidden(mask, one, one, one < 0), noise)
        prediction = predict(canvas)
        words = self._stopping(prediction, prediction.words()) if self.finish == "stop" else prediction.words()
        cost = prediction.places[targets.slot] + words[targets.slot, targets.word]
        return Actions(mask.nonzero().squeeze(1), cost.double())

    def finished(self, predict: Predict, clean: Canvas, hidden: Tensor) -> Tensor:
        """What it costs to say that nothing is missing any more of what `hidden [N]` was, `[B]` float64."""
        out = torch.zeros(clean.n_rows, dtype=torch.float64, device=hidden.device)
        spans = Spans.of(clean, torch.zeros_like(hidden))
        if not spans.size.numel():
            return out
        one = torch.ones_like(out)
        noise = Noise(0, torch.zeros_like(clean.request))  # nothing is drawn
        prediction = predict(self.corrupt(clean, Hidden(torch.zeros_like(hidden), one, one, one < 0), noise)[0])
        has = clean.sum_rows(hidden.long()) > 0
        if self.finish == "stop":
            return torch.where(has, prediction.all_there[0].double(), out)
        last = last_of_row(prediction.row)
        cost = (prediction.places + prediction.words()[:, self.end])[last].double()
        return torch.where(has, out.index_copy(0, prediction.row[last], cost), out)

    def restore(self, canvas: Canvas, targets: Targets) -> Canvas:
        """Each slot gives way to the tokens that are missing there."""
        site = (canvas.role == Role.SIGN).nonzero().squeeze(1)
        counts = torch.bincount(targets.slot, minlength=site.numel())
        return canvas.apply(Edits.emit(site, counts, targets.word, Role.TEXT))
