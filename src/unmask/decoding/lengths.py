"""How many tokens a blank has, for families that are told: found by the model itself before the first step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unmask.canvas import Canvas, Role, concat
from unmask.decoding.constraints import TOKENS_A_WORD
from unmask.decoding.infill import CHUNK, chunks
from unmask.decoding.masks import Masks
from unmask.decoding.replay import signs_for
from unmask.holes import Blank, Hole, Mask
from unmask.model import Model
from unmask.objectives import Sites, Told

MOST = 64  # tokens of a blank inside a text, unless its words are told
PATIENCE = 4  # lengths that may be no better before the climb ends
FIRST, STEP, WINDOW, ENOUGH = 32, 16, 32, 0.5  # growth: masks at first and at a time; the last, and how sure they end


@dataclass(frozen=True)
class Blanks:
    """The blanks of one text: between how many tokens each has."""

    canvas: Canvas  # one row, each hole one sign
    holes: Sequence[Hole]
    least: dict[int, int]  # blank to fewest tokens
    most: dict[int, int]


Measure = Callable[[Told, Tensor, Tensor, int], Tensor]  # of words [S, V], rows [S] and how many rows: [B]


def choose_lengths(
    model: Model, family: Told, texts: Sequence[Blanks], masks: Masks, max_words: int | None
) -> list[dict[int, int]]:
    """Tokens of each blank of each text.

    A number that was told holds for all; else a blank at the end of its text grows if the family writes ends, up to a
    token for each of `max_words`, and has as many from the start if it does not; one inside a text is probed.
    """
    found = []
    for blanks in texts:
        lengths = {}
        for hole in blanks.least:
            how = masks.length or _usual(family, blanks, hole)
            if how == "grow" and not family.ends:
                raise ValueError(
                    "length grow · it asks how sure the model is that the text has ended, and this one writes no ends"
                    " · use length='probe', or say a number"
                )
            if isinstance(how, int) or how == "whole":
                wanted = how if isinstance(how, int) else max_words or FIRST
                lengths[hole] = _fitting(wanted, blanks, hole, told=isinstance(how, int))
            elif how == "grow":
                lengths[hole] = _grown(model, family, blanks, hole, lengths, max_words)
            else:
                lengths[hole] = _probed(model, family, blanks, hole, lengths)
        found.append(lengths)
    return found


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


def _probed(model: Model, family: Told, blanks: Blanks, hole: int, known: dict[int, int]) -> int:
    """The length at which the model is most confident of the blank's words, for its length (CAL, 2602.00476).

    One look at each length, from the shortest up: a number of them share a forward pass. The climb ends where the last
    few were no better.
    """
    least, most = blanks.least[hole], min(blanks.most[hole], max(MOST, blanks.least[hole]))
    best, best_value, at = least, -math.inf, least
    while at <= most and at <= best + PATIENCE:
        some = list(range(at, min(at + 2 * PATIENCE, most + 1)))
        sure = _looked(model, family, [_row(family, blanks, known | {hole: k}) for k in some], hole, _confidence)
        for k, value in zip(some, (sure / bias(torch.tensor(some))).tolist(), strict=True):
            if value > best_value:
                best, best_value = k, value
            elif k > best + PATIENCE:
                return best
        at = some[-1] + 1
    return best


def _grown(model: Model, family: Told, blanks: Blanks, hole: int, known: dict[int, int], max_words: int | None) -> int:
    """The length behind which the model is sure that the text has ended.

    Source: DAEDAL (Li et al. 2025, arXiv 2508.00819), its first stage.
    """
    least = blanks.least[hole]
    most = max(least, min(blanks.most[hole], max_words or blanks.most[hole]))
    length = max(least, min(FIRST, most))
    while length < most:
        ended = _looked(model, family, [_row(family, blanks, known | {hole: length})], hole, _ended)
        if float(ended[0]) >= ENOUGH:
            break
        length = min(length + STEP, most)
    return length


def _row(family: Told, blanks: Blanks, lengths: dict[int, int]) -> Canvas:
    """The text with as many masks as that; blanks not yet settled have their fewest."""
    counts = blanks.least | lengths
    holes = [hole if isinstance(hole.sign, Mask) else replace(hole, sign=Mask()) for hole in blanks.holes]
    return family.open(signs_for(blanks.canvas, counts), holes)


def _looked(model: Model, family: Told, rows: Sequence[Canvas], hole: int, measure: Measure) -> Tensor:
    """A number for each of several rows, `[B]` float64: what `measure` says of the words at the masks of a hole."""
    canvas = concat(list(rows))
    out = torch.zeros(canvas.n_rows, dtype=torch.float64)
    with torch.inference_mode():
        for some in chunks(canvas.lengths, CHUNK):
            part = canvas.take(some).to(model.device)
            every = family.sites(part)
            mine = every.hole == hole
            sites = Sites(every.element[mine], every.row[mine], every.hole[mine])
            hidden = model.backbone(family.view(part, sites=sites))
            words = family.predict(hidden, part, sites=sites).words()
            out[some] = measure(family, words.double(), sites.row, part.n_rows).cpu()
    return out


def _confidence(family: Told, words: Tensor, row: Tensor, n_rows: int) -> Tensor:
    """The mean probability of the best word, `[B]`."""
    best = words.amax(-1).exp()
    return _mean(best, row, n_rows)


def _ended(family: Told, words: Tensor, row: Tensor, n_rows: int) -> Tensor:
    """The mean probability of an end at the last masks, `[B]`."""
    ends = words[:, family.ends].exp().sum(-1)
    per_row = torch.bincount(row, minlength=n_rows)
    from_end = (per_row.cumsum(0))[row] - torch.arange(row.numel(), device=row.device)
    last = from_end <= torch.minimum(per_row // 2, per_row.new_tensor(WINDOW)).clamp(min=1)[row]
    return _mean(ends[last], row[last], n_rows)


def _mean(values: Tensor, row: Tensor, n_rows: int) -> Tensor:
    sums = values.new_zeros(n_rows).index_add(0, row, values)
    return sums / torch.bincount(row, minlength=n_rows).clamp(min=1)


def length_bounds(hole: Hole, room: int) -> tuple[int, int]:
    """Fewest and most tokens of a blank, by its words and the room there is."""
    assert isinstance(hole.sign, Blank)
    fewest, most = hole.sign.words
    fewest = max(1, fewest)
    return fewest, max(fewest, room if most is None else min(room, TOKENS_A_WORD * most))
