"""From texts with holes to the rows a search starts from: limits, candidates, and fills that may be empty."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unmask.canvas import Canvas, Role, concat
from unmask.decoding import emptiness
from unmask.decoding.candidates import priced, write_whole
from unmask.decoding.infill import CHUNK
from unmask.decoding.lengths import Blanks, Found, at_end, choose_lengths, length_bounds
from unmask.decoding.masks import Masks
from unmask.decoding.replay import Told, keep_of, replay, signs_for
from unmask.decoding.requests import Request
from unmask.decoding.rules import Rules, TokenClasses
from unmask.decoding.score import key_of
from unmask.decoding.starts import Start, all_told, appends_behind, kind_of_hole, starts_of
from unmask.holes import Blank, Hole, Mask
from unmask.model import Model
from unmask.objectives import OBJECTIVES, called, told
from unmask.objectives.orders import chunks
from unmask.tokenizer import Reading, Tokenizer


@dataclass(frozen=True)
class Opened:
    """Requests ready for the loop, and what is needed to read its answers."""

    requests: list[Request]
    rules: Rules
    classes: TokenClasses
    starts: list[Start]  # of all requests, as the rules number them
    score: Tensor  # [Q] float64, of each start
    summed: list[bool]  # of each request: its candidates were summed over all orders, and it has no other holes
    estimated: list[bool]  # of each request: an empty fill's likelihood was inferred


def open_all(
    model: Model,
    tokenizer: Tokenizer,
    readings: Sequence[Reading],
    max_words: int | None = None,
    masks: Masks = Masks(),  # noqa: B008
) -> Opened:
    """Everything before the first step.

    Raises:
        ValueError: when the model cannot fill a hole of that kind, or a text is too long for it.
    """
    if max_words is not None and max_words < 1:
        raise ValueError(f"max_words is {max_words} · a blank holds a word at least · give 1 or more")
    device, max_words = model.device, None if isinstance(masks.length, int) else max_words  # it is limit enough
    plans = [starts_of(model, tokenizer, reading) for reading in readings]
    counts = [len(plan) for plan in plans]
    known = _lengths(model, readings, plans, masks, max_words)
    rows = [_rows(model, *one) for one in zip(readings, plans, known, strict=True)]
    starts = [start for plan in plans for start in plan]
    canvas = concat([row.to(device) for row in rows]) if rows else Canvas.from_rows([])
    canvas = replace(canvas, request=torch.arange(canvas.n_rows, device=device))
    appends = appends_behind(model, canvas)
    score = torch.zeros(len(starts), dtype=torch.float64, device=device)
    merged = torch.zeros(len(starts), dtype=torch.bool, device=device)
    holes = [reading.holes for reading, n in zip(readings, counts, strict=True) for _ in range(n)]
    lost = [False] * len(starts)
    # Before anything is read: a text that is far too long would cost much only to be refused.
    by_row = [one.lengths for one, n in zip(known, counts, strict=True) for _ in range(n)]
    room = [_room(model, *one) for one in zip(_taken(canvas, appends), starts, holes, by_row, strict=True)]
    if not appends:
        score = score + _emptiness(model, canvas, starts, holes, counts)
        canvas = emptiness.without_holes(canvas, [start.empty for start in starts])
        if any(start.forced for start in starts):
            canvas, found, merged, lost = _forced(model, canvas, readings, plans)
            score = score + found
    elif any(whole := [all_told(start, some) for start, some in zip(starts, holes, strict=True)]):
        canvas = _written(model, canvas, readings, plans, whole)
        score = canvas.row_log_prob
    told_by = _told_by(model, readings, known, counts, masks)
    rules = Rules.build(holes, max_words, [start.forced for start in starts], room, **told_by).to(device)
    classes = _classes(model, tokenizer, starts).to(device)
    requests, first = [], 0
    for reading, plan in zip(readings, plans, strict=True):
        mine = torch.arange(first, first + len(plan), device=device)
        unread = any(start.forced for start in plan) and not all_told(plan[0], reading.holes)
        requests.append(
            Request(canvas.take(mine), score[mine], merged[mine], _key(reading), _Identity(tokenizer, reading),
                    apart=appends and unread)
        )  # fmt: skip
        first += len(plan)
    summed = [
        all(kind_of_hole(hole) == "candidates" for hole in reading.holes)
        and not any(lost[int(q)] for q in request.starts.request)
        for reading, request in zip(readings, requests, strict=True)
    ]
    estimated = [not appends and any(start.empty for start in plan) for plan in plans]
    return Opened(requests, rules, classes, starts, score, summed, estimated)


def _written(
    model: Model, canvas: Canvas, readings: Sequence[Reading], plans: Sequence[Sequence[Start]], whole: Sequence[bool]
) -> Canvas:
    """The opened rows; those with candidates alone are written already."""
    device = canvas.ids.device
    asked = [(reading.canvas, start.forced) for reading, plan in zip(readings, plans, strict=True) for start in plan]
    asked = [one for one, told_all in zip(asked, whole, strict=True) if told_all]
    rows = concat([row for row, _ in asked]).to(device)
    at = [i for i, told_all in enumerate(whole) if told_all]
    return _with_rows(canvas, at, write_whole(model, rows, [forced for _, forced in asked]))


def _with_rows(canvas: Canvas, at: Sequence[int], rows: Canvas) -> Canvas:
    """A canvas with other rows in the places `at`."""
    number = torch.arange(canvas.n_rows, device=canvas.ids.device)
    request = number.clone()
    number[at] = canvas.n_rows + torch.arange(len(at), device=number.device)
    return replace(concat([canvas, rows]).take(number), request=request)


def _forced(
    model: Model, canvas: Canvas, readings: Sequence[Reading], plans: Sequence[Sequence[Start]]
) -> tuple[Canvas, Tensor, Tensor, list[bool]]:
    """The opened rows with their candidates written, what that costs, where orders were summed, and some were lost."""
    if model.objective.closes != "never":
        canvas, score, loose = _priced(model, canvas, readings, plans)
        return canvas, score, loose, loose.tolist()
    starts = [start for plan in plans for start in plan]
    keep = [keep_of(len(plan)) for plan in plans for _ in plan]
    written, lost = replay(model, canvas, [Told.of(start.forced) for start in starts], keep)
    request = torch.arange(canvas.n_rows, device=canvas.ids.device)
    return replace(written.canvas, request=request), written.score, written.merged, lost


def _priced(
    model: Model, canvas: Canvas, readings: Sequence[Reading], plans: Sequence[Sequence[Start]]
) -> tuple[Canvas, Tensor, Tensor]:
    """The same of a family with slots: texts whole, by their likelihood; of which rows that is no exact number.

    Raises:
        ValueError: when a text has other holes, too: a place that is still open has no likelihood.
    """
    pairs = [(reading, start) for reading, plan in zip(readings, plans, strict=True) for start in plan]
    at = [i for i, (_, start) in enumerate(pairs) if start.forced]
    if not all(all_told(pairs[i][1], pairs[i][0].holes) for i in at):
        able = [
            name for name, family in OBJECTIVES.items() if "candidates" in family.holes and family.closes == "never"
        ]
        raise ValueError(
            f"candidates beside other holes, and {called(model.objective)} · it prices whole texts, and no place"
            f" that is still open · fill the other holes first, or use a model of {' or '.join(able)}"
        )
    device = canvas.ids.device
    told = [(pairs[i][0].canvas.to(device), pairs[i][1].forced, key_of(pairs[i][0].canvas)) for i in at]
    rows, found = priced(model, *(list(column) for column in zip(*told, strict=True)))
    score = torch.zeros(canvas.n_rows, dtype=torch.float64, device=device)
    loose = torch.zeros(canvas.n_rows, dtype=torch.bool, device=device)
    score[at] = torch.tensor([one.log_prob for one in found], dtype=torch.float64, device=device)
    loose[at] = torch.tensor([one.kind != "exact" for one in found], device=device)
    return _with_rows(canvas, at, rows), score, loose


@dataclass(frozen=True)
class _Identity:
    """Rows that write the same into the same holes are one answer."""

    tokenizer: Tokenizer
    reading: Reading

    def __call__(self, ids: list[int], roles: list[int], holes: list[int]) -> Hashable:
        return tuple(self.tokenizer.fills(self.reading, ids, roles, holes, signs=True))


def _rows(model: Model, reading: Reading, starts: Sequence[Start], known: Found) -> Canvas:
    """A row for each start, in the family's dialect; one that is told lengths has a sign for each token."""
    if told(model.objective) is None:
        opened = model.objective.open(reading.canvas, reading.holes)
        return opened.take(torch.zeros(len(starts), dtype=torch.int64))
    holes = [hole if isinstance(hole.sign, Mask) else replace(hole, sign=Mask()) for hole in reading.holes]
    counts = [known.lengths | {h: len(ids) for h, ids in start.forced.items()} for start in starts]
    return model.objective.open(concat([signs_for(reading.canvas, some) for some in counts]), holes)


def _lengths(
    model: Model,
    readings: Sequence[Reading],
    plans: Sequence[Sequence[Start]],
    masks: Masks,
    max_words: int | None,
) -> list[Found]:
    """How many tokens each blank of each text has, where the family is told that."""
    family = told(model.objective)
    if family is None:
        return [Found({}, {}) for _ in readings]
    asked = [_measured(model, reading, plan) for reading, plan in zip(readings, plans, strict=True)]
    return choose_lengths(model, family, asked, masks, max_words)


def _told_by(
    model: Model, readings: Sequence[Reading], known: Sequence[Found], counts: Sequence[int], masks: Masks
) -> dict[str, Any]:
    """What the rules are told of the family, and, where it is told lengths, of those of each row's holes."""
    family: dict[str, Any] = {"ends": masks.ending != "never", "closes": model.objective.closes}
    if told(model.objective) is None:
        return family
    each = [pair for pair, n in zip(zip(readings, known, strict=True), counts, strict=True) for _ in range(n)]
    return family | {
        "lengths": [one.lengths for _, one in each],
        "grows": [one.room for _, one in each],
        "last": [at_end(reading.canvas) for reading, _ in each],
    }


def _measured(model: Model, reading: Reading, plan: Sequence[Start]) -> Blanks:
    """What is to be known of the blanks of a text before their lengths can be chosen."""
    longest = max(sum(len(ids) for ids in start.forced.values()) for start in plan)
    blanks = [hole for hole in reading.holes if kind_of_hole(hole) == "blank"]
    n_signs = len(reading.holes)
    others = reading.canvas.n_elements - n_signs + longest + sum(isinstance(h.sign, Mask) for h in reading.holes)
    fewest = {hole.index: max(1, hole.sign.words[0]) for hole in blanks if isinstance(hole.sign, Blank)}
    each = _left(model, others + sum(fewest.values())) // max(1, len(blanks))
    limits = {hole.index: length_bounds(hole, fewest[hole.index] + each) for hole in blanks}
    least, most = ({h: pair[i] for h, pair in limits.items()} for i in (0, 1))
    return Blanks(reading.canvas, reading.holes, least, most)


def _emptiness(
    model: Model, canvas: Canvas, starts: Sequence[Start], holes: Sequence[Sequence[Hole]], counts: Sequence[int]
) -> Tensor:
    """What is known of each start from which of its holes stay empty, `[Q]`."""
    score = torch.zeros(len(starts), dtype=torch.float64, device=canvas.ids.device)
    pairs = [
        (row, hole.index)
        for row, some in enumerate(holes)
        for hole in some
        if isinstance(hole.sign, Blank) and hole.sign.words[0] == 0 and not hole.sign.candidates
    ]
    if not pairs or model.objective.closes != "never":
        return score
    first: list[int] = []  # the starts of a text are still alike: its first is asked for all
    for n in counts:
        first += [len(first)] * n
    asked = list(dict.fromkeys((first[row], hole) for row, hole in pairs))
    alike = canvas.take(torch.tensor([row for row, _ in asked], device=score.device))
    known: dict[tuple[int, int], Tensor] = {}
    for some in chunks(alike.lengths, CHUNK):
        part = [asked[i] for i in some.tolist()]
        known |= zip(part, emptiness.log_empty(model, alike.take(some), [hole for _, hole in part]), strict=True)
    rows = torch.tensor([row for row, _ in pairs], device=score.device)
    empty = torch.stack([known[first[row], hole] for row, hole in pairs])
    stays = torch.tensor([hole in starts[row].empty for row, hole in pairs], device=score.device)
    filled = (-empty.exp()).log1p()
    return score.index_add(0, rows, torch.where(stays, empty, filled))


def _taken(canvas: Canvas, appends: bool) -> list[int]:
    """How many places each row takes without what is to be written in its holes.

    A sign gives way to the first token; where answers stand behind the row it stays, and each answer has an end.
    """
    n_signs = canvas.sum_rows((canvas.role == Role.SIGN).long())
    taken: list[int] = (canvas.lengths + (n_signs if appends else -n_signs)).tolist()
    return taken


def _room(model: Model, taken: int, start: Start, holes: Sequence[Hole], lengths: dict[int, int]) -> list[int]:
    """How many tokens each hole of a row may have so that the row stays within the model's context.

    A token for each word that a blank must have, and an equal share of what is left; or its length where that is told.
    """
    fewest = {hole.index: max(1, hole.sign.words[0]) for hole in holes if isinstance(hole.sign, Blank)}
    fewest = {h: lengths.get(h, n) for h, n in fewest.items() if h not in start.empty and h not in start.forced}
    told = sum(len(tokens) for tokens in start.forced.values()) + sum(isinstance(hole.sign, Mask) for hole in holes)
    left = _left(model, taken + told + sum(fewest.values()))
    share = 0 if lengths else left // max(len(fewest), 1)
    return [fewest.get(hole.index, 0) + share for hole in holes]


def _left(model: Model, needed: int) -> int:
    """How many places are left of what the model reads at a time."""
    most = model.config.backbone.max_length
    if most < needed:
        raise ValueError(f"the text needs {needed} places · the model reads {most} at a time · shorten it")
    return most - needed


def _classes(model: Model, tokenizer: Tokenizer, starts: Sequence[Start]) -> TokenClasses:
    """Classes of the tokens; told ones have their own."""
    told = sorted({token for start in starts for tokens in start.forced.values() for token in tokens})
    table = tokenizer.table.resized(model.config.backbone.vocab_size)
    return TokenClasses.build(table, told)


def _key(reading: Reading) -> int:
    """A number from the text itself."""
    said = repr((reading.canvas.ids.tolist(), reading.canvas.hole.tolist())).encode()
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "little", signed=True)
