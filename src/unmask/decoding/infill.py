"""The one decoding loop: any number of requests, any family, any policy; greedy, sampling and beam."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unmask.decoding import beam
from unmask.decoding.beam import Hypotheses
from unmask.decoding.blocks import Blocks, check
from unmask.decoding.combined import ways
from unmask.decoding.constraints import allowed, hit_limit, together
from unmask.decoding.expansion import Expansion
from unmask.decoding.policies import Progress, places
from unmask.decoding.reading import Reader
from unmask.decoding.remasking import masked_again, remasking_quota, taken_back
from unmask.decoding.requests import Finished, Request, State
from unmask.decoding.rules import Rules, TokenClasses
from unmask.decoding.search import Search
from unmask.model import Model
from unmask.noise import Noise
from unmask.objectives import Proposal, Shape, Sites
from unmask.objectives.orders import chunks
from unmask.results import Status

CHUNK = 16_384  # elements a forward pass
CROWD = 512  # rows that are open at once; requests beyond wait
DRAWS = 4  # samples for each that is asked for, at most, until they are distinct
MOST_SAMPLES = 1_000_000  # of one request: groups are numbered by request and sample


@dataclass(frozen=True)
class Moment:
    """What the loop yields after every forward pass of all open rows."""

    open: Hypotheses | None  # the rows still open; None at the end
    finished: dict[int, list[Finished]]  # requests that ended in this step, best first
    passes: int


def infill(
    model: Model, requests: Sequence[Request], rules: Rules, classes: TokenClasses, search: Search
) -> Iterator[Moment]:
    """Fill every request; the last moment has none open, and each request has appeared among the finished once.

    Rows join as others leave. A request that no text can fill within its limits appears with an empty list.

    Args:
        model: In evaluation mode.
        requests: What to fill.
        rules: One row for each start, on the model's device.
        classes: On the model's device.
        search: How.
    """
    loop = _Loop(model, requests, rules, classes, search)
    while loop.waiting or loop.open is not None:
        with torch.inference_mode():
            moment = loop.step()
        yield moment


class _Loop:
    def __init__(
        self, model: Model, requests: Sequence[Request], rules: Rules, classes: TokenClasses, search: Search
    ) -> None:
        self.model, self.rules, self.classes, self.search = model, rules, classes, search
        self.states = [State(request) for request in requests]
        self.waiting = list(range(len(requests)))
        self.open: Hypotheses | None = None
        self.passes = 0
        self.reader, self.expansion = Reader(model, search), Expansion.of(model, rules, search)
        self.deadline = None if search.timeout is None else time.monotonic() + search.timeout
        keys = [request.key for request in requests]
        self.price = torch.zeros(rules.min_words.shape[0], dtype=torch.float64, device=model.device)
        self.keys = torch.tensor(keys, dtype=torch.int64, device=model.device)

    def step(self) -> Moment:
        """Let rows join, read them all once, write, and let rows leave."""
        rows = self._admit()
        if not rows.n_rows:
            return self._leave(rows)
        parts: list[Hypotheses] = []
        for some in chunks(rows.canvas.lengths, CHUNK):
            parts.append(self._expand(rows if some.numel() == rows.n_rows else rows.take(some)))
        self.passes += 1
        grown = beam.join(parts)
        if len(parts) > 1 and not self.search.at_once:  # so that chunks change nothing
            best = beam.top_of(self._outlook(grown), grown.group, self._width).sort().values
            grown = grown.take(best)
        grown = self._without_closed(grown if self.search.sampling else beam.merge(grown, self.model.objective.recalls))
        if grown.compete:
            grown = grown.take(beam.top_of(self._outlook(grown), grown.group, self.search.beam).sort().values)
        return self._leave(grown)

    def _outlook(self, rows: Hypotheses) -> Tensor:
        """What each row is expected to come to, `[B]`."""
        return rows.score - self.price[rows.canvas.request] * rows.n_signs

    @property
    def _width(self) -> int:
        """How many children of a group are made before equal ones merge."""
        return 4 * self.search.beam

    def _without_closed(self, rows: Hypotheses) -> Hypotheses:
        """The rows that are still open; finished ones are set aside."""
        closed = torch.ones(rows.n_rows, dtype=torch.bool, device=rows.score.device)
        closed[self.model.objective.sites(rows.canvas).row] = False
        if bool(closed.any()):
            self._set_aside(rows.take(closed), "finished")
        return rows.take(~closed)

    def _admit(self) -> Hypotheses:
        """The open rows; requests that wait become some while there is room."""
        joining: list[Hypotheses] = [] if self.open is None else [self.open]
        crowd = 0 if self.open is None else self.open.n_rows
        while self.waiting and (crowd < CROWD or not joining):
            number = self.waiting.pop(0)
            joining.append(self._start(number, self.search.n if self.search.sampling else 1))
            crowd += max(joining[-1].n_rows, self.search.beam)
        return beam.join(joining)

    def _start(self, number: int, n_samples: int) -> Hypotheses:
        """Fresh rows of a request: its starts, or as many samples, each with a start drawn or given."""
        state, device = self.states[number], self.model.device
        request = state.request
        n_starts = request.starts.n_rows
        if self.search.sampling:
            n_samples = max(n_samples, n_starts) if request.apart else n_samples
            samples = torch.arange(state.n_drawn, state.n_drawn + n_samples, device=device)
            state.n_drawn += n_samples
            rows = samples % n_starts if request.apart else self._drawn_starts(request, samples)
        else:
            rows = torch.arange(n_starts, device=device)
            samples = rows if request.apart else torch.zeros_like(rows)
        score, merged = request.score.to(device)[rows], request.merged.to(device)[rows]
        canvas = request.starts.take(rows)
        check(canvas, self.search.masks.block, self.reader.whole, self.search.steps)
        group = number * MOST_SAMPLES + samples
        return self._without_closed(Hypotheses.begun(canvas, score, merged, group))

    def _drawn_starts(self, request: Request, samples: Tensor) -> Tensor:
        noise = Noise(self.search.seed, samples * 7919 + request.key).rows("start")
        mass = request.score.to(samples.device).softmax(0).cumsum(0)
        return torch.searchsorted(mass, noise).clamp(max=mass.numel() - 1)

    def _expand(self, rows: Hypotheses) -> Hypotheses:
        """Read rows once and write what the policy chooses: the best children of each group."""
        search, canvas = self.search, rows.canvas
        sites = self.model.objective.sites(canvas)
        blocks = Blocks.cut(canvas, sites, search.masks.block, self.reader.whole)
        if not search.rule.charges_place:
            rows = rows.choosing(sites if self.reader.whole is None else sites.take(blocks.open))
        which = blocks.open if self.expansion is None else self.expansion.read(rows, sites, blocks)
        noise = self._noise(rows) if search.sampling else None
        seen = self._propose(rows, sites.take(which), blocks, noise)
        proposal, sites = seen.take(blocks.open[which]), sites.take(blocks.open)
        if search.rule.charges_place:  # by the model's own price, whatever has to wait
            proposal = replace(proposal, place=places(proposal, rows.n_rows))
        if self.rules.closes != "never":  # of slots some may have to wait until others are written
            proposal, sites = proposal.take(can := (proposal.score > -torch.inf).any(1)), sites.take(can)
        back = self._back(rows, noise)
        progress = Progress(rows.n_rows, self._quota(rows, sites, blocks, back), search.rule.level or 0.0)
        chosen = search.rule.choose(proposal, progress, noise)
        total, alive = self._totals(rows, proposal, chosen)
        if search.at_once and search.beam > 1:
            return self._written_in_ways(rows, proposal, total, chosen, alive)
        if search.at_once or self.expansion is not None:
            chosen = together(proposal, canvas, self.rules, self.classes, chosen & alive[sites.row])
            site = chosen.nonzero().squeeze(1)
            child = (alive.long().cumsum(0) - 1)[sites.row[site]]
            pick = proposal.score[site].argmax(1)
            written = self._write(rows, proposal, site, pick, alive.nonzero().squeeze(1), child)
            if back is not None:
                written = masked_again(self.model, rows, written, back, self.passes + 1)
            if self.expansion is None:
                return written
            slots = self.expansion.slots(rows, seen, proposal, chosen, blocks)
            return self.expansion.widened(rows, written, slots, self.passes + 1)
        self._look_ahead(rows, proposal, total)
        total = torch.where(alive[proposal.sites.row][:, None], total - self._due(rows, proposal), -torch.inf)
        site, pick = beam.grow(total, proposal, rows.group, self._width)
        return self._write(rows, proposal, site, pick, sites.row[site], torch.arange(site.numel(), device=site.device))

    def _written_in_ways(
        self, rows: Hypotheses, proposal: Proposal, total: Tensor, chosen: Tensor, alive: Tensor
    ) -> Hypotheses:
        """The best ways to write all that is chosen, each in a child of its own; what does not fit there waits.

        Ways that differ in nothing but what had to wait, or went away again, are one: its cost is paid once.
        """
        row = proposal.sites.row
        found = ways(total - rows.score[row][:, None], row, chosen, alive, 2 * self.search.beam)
        canvas = rows.canvas.take(found.parent)
        each = beam.forked(proposal, rows.canvas, canvas, found.parent, found.site, found.pick, found.child)
        every = torch.ones_like(found.site, dtype=torch.bool)
        each = replace(each, score=each.log_prob, best=each.log_prob[:, 0])
        found = found.fitting(together(each, canvas, self.rules, self.classes, every))
        written = self._write(rows, proposal, found.site, found.pick, found.parent, found.child)
        return beam.best_of_equals(written, found.parent)

    def _propose(self, rows: Hypotheses, sites: Sites, blocks: Blocks, noise: Noise | None) -> Proposal:
        """What the model would write at the sites, within the rules."""
        search, canvas = self.search, rows.canvas
        may = allowed(canvas, sites, self.rules, self.classes, search.alone)
        full = may[:, -1, 0] & ~may[:, :-1][:, self.classes.spaced].flatten(1).any(1)
        shape = Shape(
            self.classes.of, may, search.temperature, search.top_p, search.top_k, None, search.masks.guidance,
            search.masks.ending == "late", full, self.classes.breaks, search.end_penalty, search.rule.reads,
        )  # fmt: skip
        n, draws = 1 if search.sampling else self._width, noise if search.temperature > 0 else None
        if self.reader.settled is not None and draws is None:
            return self.reader.settled.propose(canvas, sites, shape, n, self.passes)
        prediction, against = self.reader.read(rows, sites, blocks, self.passes)
        return self.model.objective.propose(prediction, canvas, n, replace(shape, against=against), draws)

    def _look_ahead(self, rows: Hypotheses, proposal: Proposal, total: Tensor) -> None:
        """At the first step of a start: what closing one place costs at best, over its places on average.

        A beam compares rows that have as many edits behind them, but not as many before them. Without this, writing a
        comma that leaves both sides open looks cheap next to a word that closes its place. What is due chooses what to
        follow; it is no part of any number that is reported.
        """
        row = proposal.sites.row
        cost = rows.score[row] - total.amax(1)
        closes = total.masked_fill(proposal.left | proposal.right, -torch.inf).amax(1)
        cost = torch.where(closes > -torch.inf, rows.score[row] - closes, cost)
        known = cost.isfinite() & (rows.age[row] == 0)
        start = rows.canvas.request[row[known]]
        sums = torch.zeros_like(self.price).index_add(0, start, cost[known])
        counts = torch.zeros_like(self.price).index_add(0, start, torch.ones_like(cost[known]))
        self.price = torch.where(counts > 0, sums / counts.clamp(min=1), self.price)

    def _due(self, rows: Hypotheses, proposal: Proposal) -> Tensor:
        """What is still to be paid after each alternative, by the first step's prices, `[S, A]`."""
        row = proposal.sites.row
        more = proposal.left.long() + proposal.right.long() - 1
        return self.price[rows.canvas.request[row]][:, None] * (rows.n_signs[row][:, None] + more)

    def _totals(self, rows: Hypotheses, proposal: Proposal, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """What each alternative would come to `[S, A]`, and which rows have no dead end `[B]`."""
        row = proposal.sites.row
        total = rows.score[row][:, None] + proposal.price(self.search.rule.charges_place)
        open_ways = chosen[:, None] & (proposal.score > -torch.inf)
        live = (proposal.score > -torch.inf).any(1)  # shaped scores of a site where all is barred are no numbers
        alive = torch.zeros(rows.n_rows, dtype=torch.bool, device=row.device)
        alive[row] = True
        alive[row[~live]] = False  # every place is to be written
        return torch.where(open_ways, total, -torch.inf), alive

    def _write(
        self, rows: Hypotheses, proposal: Proposal, site: Tensor, pick: Tensor, parent: Tensor, child: Tensor
    ) -> Hypotheses:
        """Make the edits: alternative `pick [E]` at `site [E]` in row `child [E]` of those that `parent [C]` become."""
        children = rows.take(parent)
        cost = proposal.price(self.search.rule.charges_place)[site, pick]
        chosen = beam.forked(proposal, rows.canvas, children.canvas, parent, site, pick, child)
        every = torch.arange(site.numel(), device=site.device)
        edits = self.model.objective.edits(chosen, children.canvas, every, torch.zeros_like(every), self.passes + 1)
        score = children.score.index_add(0, child, cost)
        canvas = children.canvas.apply(edits)
        if canvas.n_elements < children.canvas.n_elements:  # what went away is not paid for
            paid = chosen.log_prob[:, 0].float().double()
            kept = canvas.row_log_prob - children.canvas.row_log_prob.index_add(0, child, paid)
            score = score + torch.where(canvas.lengths < children.canvas.lengths, kept, 0.0)
        return replace(children, canvas=canvas, score=score, age=children.age + 1)

    def _back(self, rows: Hypotheses, noise: Noise | None) -> Tensor | None:
        """The written elements that become masks again in this step, `[T]`; None: nothing ever does."""
        remask, steps = self.search.masks.remask, self.search.steps
        if remask is None or steps is None or noise is None:
            return None
        return taken_back(rows.canvas, rows.age, steps, remask, noise)

    def _noise(self, rows: Hypotheses) -> Noise:
        """Keyed by the request's own name, the sample and the row's age: company changes nothing.

        The factors are primes, so that small samples and ages do not fall on one key.
        """
        number, sample = rows.group // MOST_SAMPLES, rows.group % MOST_SAMPLES
        return Noise(self.search.seed, self.keys[number] + sample * 1_000_003 + rows.age * 7_368_787)

    def _quota(self, rows: Hypotheses, sites: Sites, blocks: Blocks, back: Tensor | None) -> Tensor | None:
        """How many sites a row takes now so that what is open now is closed by the last step."""
        steps, remask = self.search.steps, self.search.masks.remask
        if steps is None or self.search.beam > 1:
            return None
        if back is not None and remask is not None:
            return remasking_quota(rows.canvas, back, rows.age, steps, remask)
        return blocks.quota(sites, rows.age, steps)

    def _set_aside(self, rows: Hypotheses, status: Status) -> None:
        """Keep finished rows; those from one start that say the same are one answer.

        Each start is an answer of its own: candidates that a vocabulary writes alike (`Cat` and `cat`) are two.
        """
        if not rows.n_rows:
            return
        capped = hit_limit(rows.canvas, self.rules, self.classes).tolist()
        canvas = rows.canvas
        ends = canvas.offsets.tolist()
        ids, roles, holes = canvas.ids.tolist(), canvas.role.tolist(), canvas.hole.tolist()
        facts = zip(
            (rows.group // MOST_SAMPLES).tolist(), rows.score.tolist(), rows.merged.tolist(), rows.unpaid.tolist(),
            canvas.request.tolist(), capped, strict=True,
        )  # fmt: skip
        for row, (number, score, merged, unpaid, start, full) in enumerate(facts):
            state = self.states[number]
            here = slice(ends[row], ends[row + 1])
            name = start, state.request.identity(ids[here], roles[here], holes[here])
            ended: Status = "capped" if full and status == "finished" else status
            known = state.done.get(name)
            if known is None or (self.search.sampling and score > known.score):
                state.done[name] = Finished(canvas, row, score, merged, unpaid, ended, status == "finished", start)
            elif not self.search.sampling:
                known.add(score, unpaid)

    def _leave(self, grown: Hypotheses) -> Moment:
        """Requests that are done leave with all their rows; others go on, or draw again."""
        numbers = grown.group // MOST_SAMPLES
        late = self.deadline is not None and time.monotonic() > self.deadline
        spent = torch.zeros_like(numbers, dtype=torch.bool)
        if self.search.steps is not None:
            spent = grown.age >= self.search.steps
        if late or bool(spent.any()):
            self._give_up(grown.take(spent | late), "timeout" if late else "capped")
            grown = grown.take(~(spent | late))
            numbers = grown.group // MOST_SAMPLES
        grown = self._without_beaten(grown)
        numbers = grown.group // MOST_SAMPLES
        open_scores: dict[int, float] = {}
        for number, score in zip(numbers.tolist(), grown.score.tolist(), strict=True):
            open_scores[number] = max(score, open_scores.get(number, -torch.inf))
        active = {i for i, state in enumerate(self.states) if not state.over} - (set() if late else set(self.waiting))
        if late:
            for number in self.waiting:
                self._give_up(self._start(number, 1), "timeout")
            self.waiting.clear()
            for one in (one for i in active for one in self.states[i].done.values()):
                one.status = "timeout"  # better ones may have been still to come
        ended = {i: self.states[i].ranked for i in sorted(active) if late or self._is_done(i, open_scores.get(i))}
        for number in ended:
            self.states[number].over = True
        stay = torch.tensor([number not in ended for number in numbers.tolist()], dtype=torch.bool)
        grown = grown.take(stay.to(grown.score.device))
        again = [i for i in sorted(active) if i not in ended and i not in open_scores]  # samples that fell together
        fresh = [self._start(i, self._missing(i)) for i in again]
        parts = ([grown] if grown.n_rows else []) + fresh
        self.open = beam.join(parts) if parts else None
        self.reader.forget(None if self.open is None else self.open.canvas)
        return Moment(self.open, ended, self.passes)

    def _without_beaten(self, rows: Hypotheses) -> Hypotheses:
        """Without rows that enough finished ones have passed: a row's score only falls from here on.

        Where starts do not compete, only finished ones from the same start count.
        """
        if self.search.sampling or not rows.n_rows:
            return rows
        keep = []
        least: dict[tuple[int, int], float] = {}
        facts = (rows.group // MOST_SAMPLES).tolist(), rows.canvas.request.tolist(), rows.score.tolist()
        for number, start, score in zip(*facts, strict=True):
            state = self.states[number]
            name = number, start if state.request.apart else -1
            if name not in least:
                least[name] = state.worst(self.search.n, name[1])
            keep.append(score > least[name])
        return rows.take(torch.tensor(keep, dtype=torch.bool, device=rows.score.device))

    def _missing(self, number: int) -> int:
        """How many more samples to draw at once: as many as before, or what is left."""
        n, drawn = self.search.n, self.states[number].n_drawn
        return max(1, min(drawn, DRAWS * n + DRAWS - drawn))

    def _is_done(self, number: int, best_open: float | None) -> bool:
        state, n = self.states[number], self.search.n
        if best_open is not None:
            return False
        return not self.search.sampling or len(state.done) >= n or state.n_drawn >= DRAWS * n + DRAWS

    def _give_up(self, rows: Hypotheses, status: Status) -> None:
        """Open rows at a limit: they count, marked so, for requests that have not enough finished ones."""
        numbers = (rows.group // MOST_SAMPLES).tolist()
        needy = [len(self.states[number].done) < self.search.n for number in numbers]
        kept = rows.take(torch.tensor(needy, dtype=torch.bool, device=rows.score.device))
        self._set_aside(kept, status)


def run(
    model: Model, requests: Sequence[Request], rules: Rules, classes: TokenClasses, search: Search
) -> list[list[Finished]]:
    """All requests to their end: for each, what was found, best first."""
    found: dict[int, list[Finished]] = {}
    for moment in infill(model, requests, rules, classes, search):
        found |= moment.finished
    return [found[number] for number in range(len(requests))]
