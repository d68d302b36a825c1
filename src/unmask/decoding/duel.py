"""DUEL: the decoding loop replayed on a known text: exactly how likely a deterministic policy is to write it.

A policy that chooses places by the model's distributions alone leads to each text by one path, whatever it draws.
So the costs of the true tokens along that path add up to log p(text) of that policy at that budget, and p sums to 1
over all texts of a length (DUEL, 2026, arXiv 2603.01367).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unmask.canvas import Canvas, Edits, Role
from unmask.decoding.beam import Hypotheses
from unmask.decoding.blocks import Blocks
from unmask.decoding.blocks import check as check_blocks
from unmask.decoding.policies import Progress
from unmask.decoding.reading import Reader
from unmask.decoding.search import Search
from unmask.holes import Hole, Mask
from unmask.model import Model
from unmask.objectives import Proposal, Shape, called, told


def duel(model: Model, clean: Canvas, hidden: Tensor, search: Search) -> Tensor:
    """Give log p(hidden | rest) of each row as `search` would draw it, `[B]` float64, nats; exact, given the lengths.

    Blocks, guidance and caches are followed as the loop follows them: the number is that of the sampler as it is.
    `low_confidence` goes by the best word of each place, as it does at temperature 0.

    Args:
        model: In evaluation mode, of a family that is told how many tokens are missing.
        clean: Rows of any lengths, on the model's device.
        hidden: `[N]` bool, the tokens that are to be written.
        search: The policy, its steps (none: one token each) and how masks are written.

    Raises:
        ValueError: for a family that is not told, a search that has no single path to a text, or a text that goes on
            behind an end.
    """
    check(model, search)
    _check_ends(model, clean, hidden)
    rows, truth = _opened(model, clean, hidden)
    reader, rule, step = Reader(model, search), search.rule, 0
    check_blocks(rows.canvas, search.masks.block, reader.whole, search.steps)
    total = torch.zeros(clean.n_rows, dtype=torch.float64, device=hidden.device)
    while rows.n_rows:
        canvas = rows.canvas
        sites = model.objective.sites(canvas)
        blocks = Blocks.cut(canvas, sites, search.masks.block, reader.whole)
        sites = sites.take(blocks.open)
        prediction, against = reader.read(rows, sites, blocks, step)
        word = truth[canvas.key[sites.element]]
        shape = replace(_only(model, word), against=against, guidance=search.masks.guidance)
        proposal = _of(model.objective.propose(prediction, canvas, _width(model, word), shape, None), word)
        quota = None if search.steps is None else blocks.quota(sites, rows.age, search.steps)
        chosen = rule.choose(_blind(proposal), Progress(rows.n_rows, quota, rule.level or 0.0), None)
        site = chosen.nonzero().squeeze(1)
        total.index_add_(0, rows.group[sites.row[site]], proposal.score[site, 0])
        step += 1
        edits = model.objective.edits(proposal, canvas, site, torch.zeros_like(site), step)
        rows = _open(model, replace(rows, canvas=canvas.apply(edits), age=rows.age + 1))
        reader.forget(rows.canvas)
    return total


def check(model: Model, search: Search) -> None:
    """See that the search has one path to each text of this model; errors as in `duel`."""
    rule, masks = search.rule, search.masks
    if told(model.objective) is None:
        raise ValueError(
            f"no likelihood method 'duel' here · {called(model.objective)} is not told how many tokens are missing"
            " · leave out the method, or use a model that writes tokens into masks"
        )
    if rule.all or not rule.deterministic:
        how = "offers every place to a beam" if rule.all else "draws its places"
        raise ValueError(
            f"DUEL by the policy {search.policy!r} · it {how}, so that many paths lead to a text"
            " · name a policy that chooses places by certainty or order"
        )
    if masks.remask is not None or masks.ending != "free":
        name = "remask" if masks.remask is not None else "ending"
        raise ValueError(
            f"DUEL with {name} · where to write next would hang on what was drawn, and many paths lead to a text"
            f" · leave out {name}"
        )


def _check_ends(model: Model, clean: Canvas, hidden: Tensor) -> None:
    """See that nothing is to be written behind an end: it would go, so that many paths lead to what stays."""
    site = hidden.nonzero().squeeze(1)
    row = clean.rows[site]
    goes_on = torch.isin(clean.ids[site], clean.ids.new_tensor(_ends(model))) & (row == row.roll(-1))
    goes_on[-1:] = False
    if bool(goes_on.any()):
        raise ValueError(
            f"DUEL of a text that goes on behind an end (row {int(row[goes_on][0])}) · what the model writes there goes"
            " once all before it is written, and many paths lead to what stays · cut the text off behind its first end"
        )


def _opened(model: Model, clean: Canvas, hidden: Tensor) -> tuple[Hypotheses, Tensor]:
    """The rows with every hidden token missing, each a hole of its own; and the true token of each element, by key."""
    key = torch.arange(clean.n_elements, device=hidden.device)
    number = torch.arange(clean.n_rows, device=hidden.device)
    clean = replace(clean, key=key, next_key=clean.n_elements, request=number, fixed=clean.fixed & ~hidden)
    n_hidden = clean.sum_rows(hidden.long())
    site = hidden.nonzero().squeeze(1)
    hole = torch.arange(site.numel(), device=site.device) - (n_hidden.cumsum(0) - n_hidden)[clean.rows[site]]
    signs = torch.full_like(site, model.config.signs["mask"])
    missing = clean.apply(Edits.emit(site, torch.ones_like(site), signs, Role.SIGN, hole=hole))
    holes = [Hole(i, Mask(), False, False, False) for i in range(int(n_hidden.max()) if clean.n_rows else 0)]
    canvas = model.objective.open(missing, holes)
    rows = Hypotheses.begun(canvas, torch.zeros_like(number, dtype=torch.float64), number < 0, number)
    return _open(model, rows), clean.ids


def _open(model: Model, rows: Hypotheses) -> Hypotheses:
    """The rows in which something is missing."""
    missing = torch.zeros(rows.n_rows, dtype=torch.bool, device=rows.age.device)
    missing[model.objective.sites(rows.canvas).row] = True
    return rows if bool(missing.all()) else rows.take(missing)


def _ends(model: Model) -> list[int]:
    family = told(model.objective)
    assert family is not None
    return family.ends


def _width(model: Model, word: Tensor) -> int:
    """How many alternatives hold each `word [S]`: a site that may end has every end."""
    ends = _ends(model)
    return len(ends) if bool(torch.isin(word, word.new_tensor(ends)).any()) else 1


def _of(proposal: Proposal, word: Tensor) -> Proposal:
    """The alternative `word [S]` of each site alone."""
    pick = (proposal.word == word[:, None]).long().argmax(1, keepdim=True)
    log_prob, score = proposal.log_prob.gather(1, pick), proposal.score.gather(1, pick)
    return replace(proposal, word=word[:, None], log_prob=log_prob, score=score)


def _only(model: Model, word: Tensor) -> Shape:
    """At each of `S` sites nothing may come but `word [S]`, or an end where that is one."""
    known, number = word.unique(return_inverse=True)
    each = torch.arange(word.numel(), device=word.device)
    token_class = word.new_zeros(model.config.backbone.vocab_size)
    token_class[known] = 1 + torch.arange(known.numel(), device=word.device)
    allowed = torch.zeros(word.numel(), known.numel() + 2, 4, dtype=torch.bool, device=word.device)
    ends = torch.isin(word, word.new_tensor(_ends(model)))
    allowed[each, 1 + number, 0] = ~ends
    allowed[:, -1, 0] = ends
    return Shape(token_class, allowed)


def _blind(proposal: Proposal) -> Proposal:
    """What a policy may know of it: at every site the model's best word in the place of the true one."""
    best = proposal.confidence[:, None]
    word = torch.full_like(proposal.word, -1)
    return replace(proposal, word=word, log_prob=best, score=best.double(), best=proposal.confidence, leaning=None)
