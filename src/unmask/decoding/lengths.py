"""How many tokens a blank has, for families that are told: found by the model itself before the first step."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from unmask.canvas import Canvas, Role, concat
from unmask.decoding.expansion import within
from unmask.decoding.infill import CHUNK
from unmask.decoding.masks import Masks
from unmask.decoding.replay import signs_for
from unmask.decoding.rules import TOKENS_A_WORD
from unmask.holes import Blank, Hole, Mask
from unmask.model import Model
from unmask.objectives import Told
from unmask.objectives.objective import open_signs
from unmask.objectives.orders import chunks

MOST = 64  # tokens of a blank inside a text, unless its words are told
PATIENCE = 4  # lengths that may be no better before the climb ends
FIRST, STEP, ENOUGH = 32, 16, 0.5  # growth: masks at first and at a time, and how sure the last of them must end it
SURE = 0.9  # of an end, to leave out what stands behind it
LOGITS = 2**27  # of one pass, at most: tokens times words


@dataclass(frozen=True)
class Blanks:
    """The blanks of one text: between how many tokens each has."""

    canvas: Canvas  # one row, each hole one sign
    holes: Sequence[Hole]
    least: dict[int, int]  # blank to fewest tokens
    most: dict[int, int]


@dataclass(frozen=True)
class Look:
    """What is asked of the model: rows of one text, and numbers of each by the words at the masks of one hole."""

    rows: Sequence[Canvas]
    hole: int
    measure: Measure


Measure = Callable[[Told, Tensor, Tensor, int], Tensor]  # of words [S, V], rows [S] and how many rows: [B, M] float64
Numbers = list[list[float]]
Asking = Generator[Look, Numbers, "Found"]


@dataclass(frozen=True)
class Found:
    """The blanks of one text: how many tokens each has, and how many those may come to that grow on."""

    lengths: dict[int, int]
    room: dict[int, int]


def choose_lengths(
    model: Model, family: Told, texts: Sequence[Blanks], masks: Masks, max_words: int | None
) -> list[Found]:
    """Tokens of each blank of each text; all texts ask at once, and share the passes.

    A number that was told holds for all; else a blank at the end of its text grows if the family writes ends, up to a
    token for each of `max_words`, and has as many from the start if it does not; one inside a text is probed.

    Raises:
        ValueError: when a blank cannot have the length that was told, or there are no ends to grow by.
    """
    found: dict[int, Found] = {}
    waiting: list[tuple[int, Asking, Numbers | None]] = [
        (number, _asking(family, blanks, masks, max_words), None) for number, blanks in enumerate(texts)
    ]
    while waiting:
        asked: list[tuple[int, Asking, Look]] = []
        for number, asking, numbers in waiting:
            try:
                asked.append((number, asking, next(asking) if numbers is None else asking.send(numbers)))
            except StopIteration as end:
                found[number] = end.value
        answers = _looked(model, family, [look for *_, look in asked])
        waiting = [(number, asking, numbers) for (number, asking, _), numbers in zip(asked, answers, strict=True)]
    return [found[number] for number in range(len(texts))]


def _asking(family: Told, blanks: Blanks, masks: Masks, max_words: int | None) -> Asking:
    """The lengths of one text, blank by blank; those not yet settled have their fewest."""
    lengths: dict[int, int] = {}
    room: dict[int, int] = {}
    for hole in blanks.least:
        how = masks.length or _usual(family, blanks, hole)
        if how == "grow":
            _check_grows(family)
            most = max(blanks.least[hole], min(blanks.most[hole], max_words or blanks.most[hole]))
            lengths[hole] = yield from _grown(family, blanks, hole, lengths, most)
            if at_end(blanks.canvas) == hole and masks.ending != "never":
                room[hole] = most
        elif how == "probe":
            lengths[hole] = yield from _probed(family, blanks, hole, lengths)
        else:
            wanted = how if isinstance(how, int) else max_words or FIRST
            lengths[hole] = _fitting(wanted, blanks, hole, told=isinstance(how, int))
    return Found(lengths, room)


def _check_grows(family: Told) -> None:
    if not family.ends:
        raise ValueError(
            "length grow · it asks how sure the model is that the text has ended, and this one writes no ends"
            " · use length='probe', or say a number"
        )
    if family.block is not None:
        raise ValueError(
            "length grow · it asks what stands far ahead, and this model writes block by block without a look there"
            " · say a number: what stands behind the end costs nothing"
        )


def at_end(canvas: Canvas) -> int:
    """The hole that ends the text of a row, -1: none does."""
    printed = (canvas.role != Role.SCAFFOLD).nonzero()
    return int(canvas.hole[printed[-1]]) if printed.numel() else -1


def _usual(family: Told, blanks: Blanks, hole: int) -> str:
    if at_end(blanks.canvas) != hole:
        return "probe"
    return "grow" if family.ends and family.block is None else "whole"  # what is far ahead costs nothing in blocks


def _fitting(wanted: int, blanks: Blanks, hole: int, told: bool) -> int:
    least, most = blanks.least[hole], blanks.most[hole]
    if told and not least <= wanted <= most:
        raise ValueError(
            f"length {wanted} of hole {hole} · within its words and the model's context it has {least} to {most} tokens"
            " · change length"
        )
    return max(least, min(wanted, most))


def bias(length: Tensor) -> Tensor:
    """How confident a model is of a blank of so many tokens, whatever stands around it.

    Source: CAL (2026, arXiv 2602.00476), the curve fitted there to masked diffusion models.
    """
    n = length.double()
    return (-1.77 * n).exp() + 0.56 * (-0.06 * n).exp() + 0.24


def _probed(family: Told, blanks: Blanks, hole: int, known: dict[int, int]) -> Generator[Look, Numbers, int]:
    """The length at which the model is most confident of the blank's words, for its length (CAL, 2602.00476).

    One look at each length, from the shortest up, a number of them at a time. The climb ends where the last few were no
    better.
    """
    least, most = blanks.least[hole], min(blanks.most[hole], max(MOST, blanks.least[hole]))
    best, best_value, at = least, -math.inf, least
    while at <= most and at <= best + PATIENCE:
        some = list(range(at, min(at + 2 * PATIENCE, most + 1)))
        sure = yield Look([_row(family, blanks, known | {hole: k}) for k in some], hole, _confidence)
        values = torch.tensor(sure, dtype=torch.float64).squeeze(1) / bias(torch.tensor(some))
        for k, value in zip(some, values.tolist(), strict=True):
            if value > best_value:
                best, best_value = k, value
            elif k > best + PATIENCE:
                return best
        at = some[-1] + 1
    return best


def _grown(family: Told, blanks: Blanks, hole: int, known: dict[int, int], most: int) -> Generator[Look, Numbers, int]:
    """The length behind which the model is sure that the text has ended.

    It grows while the end is not sure within it, and what stands behind the first mask from which on each is one is
    left out. Source: DAEDAL (Li et al. 2025, arXiv 2508.00819), its first stage; that ends shrink a canvas too is after
    rho-EOS (2026).
    """
    least = blanks.least[hole]
    length = max(least, min(FIRST, most))
    while True:
        ((ended, behind),) = yield Look([_row(family, blanks, known | {hole: length})], hole, _ended)
        if ended >= ENOUGH or length == most:
            return max(least, length - round(behind))
        length = min(length + STEP, most)


def _row(family: Told, blanks: Blanks, lengths: dict[int, int]) -> Canvas:
    """The text with as many masks as that; blanks not yet settled have their fewest."""
    counts = blanks.least | lengths
    holes = [hole if isinstance(hole.sign, Mask) else replace(hole, sign=Mask()) for hole in blanks.holes]
    return family.open(signs_for(blanks.canvas, counts), holes)


def _looked(model: Model, family: Told, looks: Sequence[Look]) -> list[Numbers]:
    """The numbers that each look asks for, row by row; the rows of all share forward passes."""
    if not looks:
        return []
    canvas = concat([row for look in looks for row in look.rows])
    number = torch.tensor([i for i, look in enumerate(looks) for _ in look.rows])
    out: Numbers = [[]] * canvas.n_rows
    with torch.inference_mode():
        for some in chunks(canvas.lengths, max(1, min(CHUNK, LOGITS // model.config.backbone.vocab_size))):
            part, of = canvas.take(some).to(model.device), number[some].to(model.device)
            every = open_signs(part)  # of a family that writes block by block all blocks
            hole = torch.tensor([look.hole for look in looks], device=model.device)[of]
            sites = every.take(every.hole == hole[every.row])
            hidden = model.backbone(family.view(part, sites=sites))
            words = family.predict(hidden, part, sites=sites).words()
            for measure in dict.fromkeys(look.measure for look in looks):
                values = measure(family, words, sites.row, part.n_rows).tolist()
                for row, look, value in zip(some.tolist(), of.tolist(), values, strict=True):
                    out[row] = value if looks[look].measure is measure else out[row]
    each = iter(out)
    return [list(islice(each, len(look.rows))) for look in looks]


def _confidence(family: Told, words: Tensor, row: Tensor, n_rows: int) -> Tensor:
    """The mean probability of the best word, `[B, 1]`."""
    return _mean(words.amax(-1).double().exp(), row, n_rows)[:, None]


def _ended(family: Told, words: Tensor, row: Tensor, n_rows: int) -> Tensor:
    """The mean probability of an end at the last masks; and how many stand behind a mask from which on each is one.

    `[B, 2]`.
    """
    ends = words[:, family.ends].double().exp().sum(-1)
    n = torch.bincount(row, minlength=n_rows)
    last = within(n, row)
    place = torch.arange(row.numel(), device=row.device) - (n.cumsum(0) - n)[row]
    unsure = torch.full_like(n, -1).scatter_reduce(0, row, torch.where(ends < SURE, place, -1), "amax")
    return torch.stack([_mean(ends[last], row[last], n_rows), (n - 2 - unsure).clamp(min=0).double()], 1)


def _mean(values: Tensor, row: Tensor, n_rows: int) -> Tensor:
    sums = values.new_zeros(n_rows).index_add(0, row, values)
    return sums / torch.bincount(row, minlength=n_rows).clamp(min=1)


def length_bounds(hole: Hole, room: int) -> tuple[int, int]:
    """Fewest and most tokens of a blank, by its words and the room there is."""
    assert isinstance(hole.sign, Blank)
    fewest, most = hole.sign.words
    fewest = max(1, fewest)
    return fewest, max(fewest, room if most is None else min(room, TOKENS_A_WORD * most))
