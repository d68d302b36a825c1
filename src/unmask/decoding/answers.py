"""From finished rows to what a caller gets: texts, spans, costs, probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from unmask.canvas import Canvas, Edits, Role
from unmask.decoding.kinds import given_of, kind_of
from unmask.decoding.opening import Opened
from unmask.decoding.requests import Finished
from unmask.decoding.search import Search
from unmask.holes import Blank, Mask
from unmask.objectives import Objective
from unmask.results import Fill, HoleFill, NoFillError
from unmask.tokenizer import Reading, Tokenizer, Written
from unmask.tokenizer.reading import join


def fills_of(
    tokenizer: Tokenizer,
    objective: Objective,
    reading: Reading,
    opened: Opened,
    number: int,
    found: Sequence[Finished],
    search: Search,
) -> list[Fill]:
    """The fills of one text.

    Args:
        tokenizer: Writes the rows.
        objective: Says what kind of number its paths give.
        reading: The text.
        opened: What the search began from.
        number: Which of its requests the text is.
        found: Best first.
        search: How it was searched.
    """
    grew = search.expands and bool(opened.rules.grows[opened.requests[number].starts.request].any())
    kind = kind_of(
        objective.paths,
        summed=opened.summed[number],
        several=search.rule.several or search.steps is not None or search.masks.remask is not None or grew,
        estimated=opened.estimated[number],
        unpaid=any(one.unpaid for one in found[: search.n]),  # so that all of one list are of one kind
    )
    probs = candidate_probs(opened, number, found)
    split = not (search.rule.charges_place or opened.estimated[number])
    fills = []
    for one in found[: search.n]:
        choice = opened.starts[one.start].choice
        written = write(tokenizer, one.canvas, reading, choice)
        parts = zip(written.spans, costs(one, len(reading.holes), split), strict=True)
        holes = [
            HoleFill(i, start, end, text, cost, probs.get((i, choice.get(i, -1))))
            for i, ((start, end, text), cost) in enumerate(parts)
        ]
        sort = kind if one.complete else "estimate"  # of an unfinished text not all has been paid for
        fills.append(Fill(written.text, one.score, sort, given_of(objective.lengths), one.status, tuple(holes)))
    return fills


def write(
    tokenizer: Tokenizer, canvas: Canvas, reading: Reading, choice: dict[int, int], *, signs: bool = False
) -> Written:
    """The first row of a canvas as text; candidates come back as they were typed, however the vocabulary spells them.

    Args:
        tokenizer: Writes the tokens.
        canvas: Whose first row is written.
        reading: The text.
        choice: Hole to number of the candidate it has.
        signs: Show what is still missing, as the user writes it, whatever sign the family has for it.
    """
    canvas = canvas.row(0)
    place = (canvas.role == Role.SIGN).nonzero().squeeze(1)
    unfinished = canvas.hole[place].tolist()
    names = ["mask" if isinstance(reading.holes[hole].sign, Mask) else "blank" for hole in unfinished]
    ids = canvas.ids.index_copy(0, place, place.new_tensor([tokenizer.signs[name] for name in names]))
    written = tokenizer.write(replace(canvas, ids=ids), 0, reading, signs=signs)
    fills = [text for _, _, text in written.spans]
    for hole in choice.keys() - set(unfinished):
        sign = reading.holes[hole].sign
        if isinstance(sign, Blank):
            fills[hole] = sign.candidates[choice[hole]]
    return join(reading.pieces, fills)


def history(canvas: Canvas, signs: dict[str, int]) -> Iterator[tuple[int, Canvas]]:
    """The moments of a finished row, by the births of its tokens: the pass, and the row as it stood after it.

    A run of tokens yet to come shows as one blank. Candidates, which are written before the first pass, show with it.
    """
    text = (canvas.role == Role.TEXT) & (canvas.hole >= 0)
    canvas = replace(canvas, birth=torch.where(text, canvas.birth.clamp(min=1), canvas.birth))
    for moment in sorted(set(canvas.birth[text].tolist())):
        later = text & (canvas.birth > moment)
        before = torch.cat([later.new_zeros(1), later[:-1]])
        begins = later & ~(before & (canvas.hole == canvas.hole.roll(1)))
        site = later.nonzero().squeeze(1)
        counts = begins[site].long()
        blank = site.new_full((int(counts.sum()),), signs["blank"])
        yield moment, canvas.apply(Edits.emit(site, counts, blank, Role.SIGN))


def some(found: Sequence[Finished]) -> Finished:
    """The best of what was found.

    Raises:
        NoFillError: when there is nothing.
    """
    if not found:
        raise NoFillError(
            "nothing fits the holes within their limits · every way to go on was barred · loosen the limits of words"
        )
    return found[0]


def costs(one: Finished, n_holes: int, split: bool) -> list[float | None]:
    """Each hole's own log-probability; None where no split is defined."""
    if n_holes == 1:
        return [one.score]
    if one.merged or not split:
        return [None] * n_holes
    canvas = one.canvas
    mine = canvas.hole >= 0
    sums = torch.zeros(n_holes, dtype=torch.float64, device=canvas.ids.device)
    return [*sums.index_add(0, canvas.hole[mine], canvas.log_prob[mine].double()).tolist()]


def candidate_probs(opened: Opened, number: int, found: Sequence[Finished]) -> dict[tuple[int, int], float]:
    """Probability of each candidate by (hole, number): softmax over all combinations, other holes summed out."""
    request = opened.requests[number]
    rules = request.starts.request.tolist()
    if not any(opened.starts[q].choice for q in rules):
        return {}
    score = request.score.clone()
    if request.apart:  # known only now: what the finished rows of each start come to
        for i, q in enumerate(rules):
            scores = [one.score for one in found if one.start == q]
            score[i] = torch.tensor(scores or [-torch.inf], dtype=torch.float64).logsumexp(0)
    probs: dict[tuple[int, int], float] = {}
    for q, prob in zip(rules, score.softmax(0).tolist(), strict=True):
        for pair in opened.starts[q].choice.items():
            probs[pair] = probs.get(pair, 0.0) + prob
    return probs
