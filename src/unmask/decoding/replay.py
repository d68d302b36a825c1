"""Candidates whole: what a family asks for to write told tokens into some holes, summed over all orders.

Each state is the set of told tokens that are written; f(S + i) += f(S) p(place) p(token i and its split | S). All 2^n
states are visited, which is exact, unless a step has more of them than a row may keep; then the likeliest are, and the
sum is a bound. The places of other holes do not count: the told holes come first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unmask.canvas import Canvas, Edits, Role
from unmask.decoding.beam import Hypotheses, forked, join, top_of
from unmask.decoding.infill import CHUNK
from unmask.model import Model
from unmask.objectives import Proposal, Shape, Sites
from unmask.objectives.objective import told as told_lengths
from unmask.objectives.orders import chunks
from unmask.objectives.words import segment_logsumexp

MOST_STATES = 256  # of a row in one step: every order of up to 10 tokens
ALL_STATES = 4096  # of all rows of a request in one step


@dataclass(frozen=True)
class Told:
    """The tokens that each hole of a row is to hold, hole by hole in a line; bit *i* of a state is token *i*."""

    tokens: list[int]
    hole: list[int]

    @classmethod
    def of(cls, forced: dict[int, list[int]]) -> Told:
        """From tokens by hole."""
        pairs = [(token, hole) for hole, tokens in sorted(forced.items()) for token in tokens]
        return cls([token for token, _ in pairs], [hole for _, hole in pairs])


@dataclass(frozen=True)
class Move:
    """One told token at one site."""

    site: int
    token: int
    left: bool
    right: bool
    state: int  # what is written after it


def keep_of(n_rows: int) -> int:
    """How many states a row may keep in one step, where its request has so many rows."""
    return max(4, min(MOST_STATES, ALL_STATES // n_rows))


def replay(
    model: Model, canvas: Canvas, told: Sequence[Told], keep: Sequence[int] | None = None
) -> tuple[Hypotheses, list[bool]]:
    """Write the told tokens of every row; `score` is the log of the sum over orders.

    Args:
        model: In evaluation mode.
        canvas: Opened rows.
        told: For each row.
        keep: How many states a row keeps in one step; None: all that a row alone may.

    Returns:
        The rows in order, `merged` where several orders led to one; and which rows lost states on the way.
    """
    width = torch.tensor(list(keep) if keep is not None else [MOST_STATES] * canvas.n_rows, device=canvas.ids.device)
    lost: set[int] = set()
    n = canvas.n_rows
    number = torch.arange(n, device=canvas.ids.device)
    rows = Hypotheses.begun(canvas, torch.zeros(n, dtype=torch.float64, device=number.device), number < 0, number)
    states = [0] * n
    ends: dict[int, Hypotheses] = {}
    while True:
        open_rows = [i for i, group in enumerate(rows.group.tolist()) if states[i] != 2 ** len(told[group].tokens) - 1]
        closed = sorted(set(range(rows.n_rows)) - set(open_rows))
        for i in closed:
            ends[int(rows.group[i])] = rows.take(torch.tensor([i], device=number.device))
        if not open_rows:
            break
        rows, states = rows.take(torch.tensor(open_rows, device=number.device)), [states[i] for i in open_rows]
        grown: list[tuple[Hypotheses, list[int]]] = []
        for some in chunks(rows.canvas.lengths, CHUNK):
            grown.append(_advance(model, rows.take(some), [states[i] for i in some.tolist()], told))
        if len({group for part, _ in grown for group in part.group.tolist()}) < len(set(rows.group.tolist())):
            raise ValueError(
                "a candidate cannot be written · the model gives it no probability, in any order · leave it out"
            )
        rows, states = _merged(grown)
        kept = top_of(rows.score, rows.group, width[rows.group]).sort().values
        if kept.numel() < rows.n_rows:
            n_before = torch.bincount(rows.group, minlength=n)
            lost |= set((n_before > width).nonzero().squeeze(1).tolist())
            rows, states = rows.take(kept), [states[i] for i in kept.tolist()]
    return join([ends[i] for i in range(n)]), [i in lost for i in range(n)]


def _advance(model: Model, rows: Hypotheses, states: list[int], told: Sequence[Told]) -> tuple[Hypotheses, list[int]]:
    """Every child of every row."""
    objective, canvas, device = model.objective, rows.canvas, rows.score.device
    sites = objective.sites(canvas)
    plan = [told[group] for group in rows.group.tolist()]
    moves = _moves(sites, states, plan, told_lengths(objective) is not None)
    if len({int(sites.row[move.site]) for move in moves}) < rows.n_rows:
        raise ValueError(
            "candidates behind a hole without any · this model writes block by block, and cannot weigh them before that"
            " is written · fill it first, or ask for one hole at a time"
        )
    proposal = proposed(model, canvas, sites, moves)
    site = torch.tensor([move.site for move in moves], dtype=torch.int64, device=device)
    place = _places(proposal, site.unique(), rows.n_rows)
    pick, cost = found(proposal, moves, site)
    cost = cost + place[site]
    live = cost > -torch.inf
    site, pick, cost = site[live], pick[live], cost[live]
    parent = proposal.sites.row[site]
    children = rows.take(parent)
    child = torch.arange(site.numel(), device=device)
    chosen = forked(proposal, canvas, children.canvas, parent, site, pick, child)
    edits = objective.edits(chosen, children.canvas, child, torch.zeros_like(child), 0)
    written = replace(children, canvas=children.canvas.apply(edits), score=children.score + cost)
    return written, [move.state for move, alive in zip(moves, live.tolist(), strict=True) if alive]


def _moves(sites: Sites, states: list[int], plan: Sequence[Told], each: bool) -> list[Move]:
    """What may be written where: a sign stands for a run of missing tokens, or with `each` for the next that lacks."""
    mine: dict[tuple[int, int], list[int]] = {}
    for number, (row, hole) in enumerate(zip(sites.row.tolist(), sites.hole.tolist(), strict=True)):
        mine.setdefault((row, hole), []).append(number)
    moves = []
    for (row, hole), numbers in mine.items():
        told, state = plan[row], states[row]
        missing = [i for i, where in enumerate(told.hole) if where == hole and not state >> i & 1]
        if not missing:
            continue
        runs = [[i] for i in missing[: len(numbers)]] if each else _runs(missing)
        for site, run in zip(numbers, runs, strict=True):
            for i in run:
                left, right = i > run[0], i < run[-1]
                moves.append(Move(site, told.tokens[i], left, right, state | 1 << i))
    return sorted(moves, key=lambda move: move.site)


def _runs(missing: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for i in missing:
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs


def proposed(model: Model, canvas: Canvas, sites: Sites, moves: list[Move]) -> Proposal:
    """A proposal that holds every move: told tokens have classes of their own, all else is barred."""
    device = canvas.ids.device
    size = model.config.backbone.vocab_size
    tokens = sorted({move.token for move in moves})
    number = {token: i + 1 for i, token in enumerate(tokens)}
    token_class = torch.zeros(size, dtype=torch.int64)
    token_class[tokens] = torch.arange(1, len(tokens) + 1)
    may = torch.zeros(sites.row.numel(), len(tokens) + 2, 4, dtype=torch.bool)
    for move in moves:
        may[move.site, number[move.token], 2 * move.left + move.right] = True
    n = int(may.sum((1, 2)).max())
    shape = Shape(token_class.to(device), may.to(device))
    if (family := told_lengths(model.objective)) is None:
        return model.objective.propose(model.predict(canvas), canvas, n, shape, None)
    hidden = model.backbone(family.view(canvas, sites=sites))  # of a family's own blocks the first is open alone
    return family.propose(family.predict(hidden, canvas, sites=sites), canvas, n, shape, None)


def _places(proposal: Proposal, sites: Tensor, n_rows: int) -> Tensor:
    """log p(site | the told holes' sites of its row), `[S]`; -inf for all others."""
    row = proposal.sites.row[sites]
    place = proposal.place[sites].double()
    place = place - segment_logsumexp(place, row, n_rows)[row]
    return torch.full_like(proposal.place, -torch.inf, dtype=torch.float64).index_copy(0, sites, place)


def found(proposal: Proposal, moves: list[Move], site: Tensor) -> tuple[Tensor, Tensor]:
    """Where each move stands among its site's alternatives, and its log-probability; -inf where it is not."""
    device = site.device
    token = torch.tensor([move.token for move in moves], device=device)
    left = torch.tensor([move.left for move in moves], device=device)
    right = torch.tensor([move.right for move in moves], device=device)
    same = (proposal.word[site] == token[:, None]) & (proposal.left[site] == left[:, None])
    same = same & (proposal.right[site] == right[:, None])
    pick = same.long().argmax(1)
    cost = proposal.log_prob[site, pick].double()
    return pick, torch.where(same.any(1), cost, -torch.inf)


def _merged(grown: list[tuple[Hypotheses, list[int]]]) -> tuple[Hypotheses, list[int]]:
    """One row for each state of each group; scores add up."""
    rows = join([part for part, _ in grown])
    states = [state for _, part in grown for state in part]
    names = list(zip(rows.group.tolist(), states, strict=True))
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    same = torch.tensor([number[name] for name in names], device=rows.score.device)
    first = same.new_full((len(number),), same.numel()).scatter_reduce(
        0, same, torch.arange(same.numel(), device=same.device), "amin"
    )
    score = segment_logsumexp(rows.score, same, len(number))
    several = (torch.bincount(same, minlength=len(number)) > 1) | rows.merged[first]
    return replace(rows.take(first), score=score, merged=several), [state for _, state in number]


def signs_for(canvas: Canvas, counts: dict[int, int]) -> Canvas:
    """Rows in which each hole of `counts` has as many signs as that says, for families with a sign a token."""
    site = (canvas.role == Role.SIGN).nonzero().squeeze(1)
    n = torch.tensor(
        [counts.get(hole, 1) for hole in canvas.hole[site].tolist()], dtype=torch.int64, device=site.device
    )
    return canvas.apply(Edits.emit(site, n, canvas.ids[site].repeat_interleave(n), Role.SIGN))
