"""Masks that are added while a text is written: where, how many, and what stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from families import tiny_model
from test_masks import ending, same
from unmask.canvas import Canvas, Role
from unmask.decoding import expansion, lengths
from unmask.decoding.beam import Hypotheses
from unmask.decoding.blocks import Blocks
from unmask.decoding.expansion import Expansion, Slots, within
from unmask.decoding.masks import Masks
from unmask.decoding.rules import Rules
from unmask.decoding.search import Search
from unmask.holes import Blank, Hole
from unmask.objectives import Proposal, Sites

MASK, END, W = 10, 13, 1  # of `tiny_model`
N, S, X = Role.TEXT, Role.SIGN, Role.SCAFFOLD


def rows_of(*rows: list[int], room: int = 30, grows: bool = True, age: int = 0) -> tuple[Hypotheses, Rules]:
    """Rows that begin with a word of the user's, and then have a hole at their end."""
    ids = [[2, *row, END] for row in rows]
    role = [r for row in rows for r in (N, *(S if i == MASK else X if i == END else N for i in row), X)]
    hole = [h for row in rows for h in (-1, *[0] * len(row), -1)]
    fixed = torch.tensor(hole) < 0
    canvas = Canvas.from_rows(ids, role=torch.tensor(role), hole=torch.tensor(hole), fixed=fixed)
    number = torch.arange(len(rows))
    holes = [Hole(0, Blank(), True, False, False)]
    told, most = [{0: len(row)} for row in rows], [{0: room}] * len(rows) if grows else ()
    rules = Rules.build([holes] * len(rows), None, [{}] * len(rows), [[room]] * len(rows), told, grows=most)
    return Hypotheses(canvas, number.double(), number < 0, number < 0, number, torch.full_like(number, age)), rules


def proposed(rows: Hypotheses, sure: list[float], ended: list[float]) -> tuple[Proposal, Sites]:
    """A proposal at every mask, with the probability of the best word and that of an end."""
    element = (rows.canvas.role == S).nonzero().squeeze(1)
    sites = Sites(element, rows.canvas.rows[element], rows.canvas.hole[element])
    one = torch.zeros(len(sure), 1)
    value = torch.tensor(sure, dtype=torch.float64).log()
    no = one.bool()
    said = torch.tensor(ended, dtype=torch.float64)
    return Proposal(sites, one[:, 0], one.long(), no, no, one, one, -value, value, value, value, said), sites


def slots(rows: Hypotheses, rules: Rules, sure: list[float], ended: list[float], taken: list[int] = [], **how: Any):  # noqa: B006
    """Which sites grow, and by how much."""
    model = tiny_model("masked_diffusion", options={"ends": True})
    grown = Expansion.of(model, rules, Search(**how))
    if grown is None:
        return None
    proposal, sites = proposed(rows, sure, ended)
    blocks = Blocks.cut(rows.canvas, sites, grown.search.masks.block)
    chosen = torch.zeros(len(sure), dtype=torch.bool)
    chosen[taken] = True
    seen, proposal, chosen = proposal, proposal.take(blocks.open), chosen[blocks.open]
    found = grown.slots(rows, seen, proposal, chosen, blocks)
    return [(sites.element.tolist().index(e), n) for e, n in zip(found.element.tolist(), found.n.tolist(), strict=True)]


def test_the_worst_mask_grows_where_the_end_is_not_sure() -> None:
    masks = [MASK] * 6
    rows, rules = rows_of(masks, masks[:2], [W, MASK, END, END, END, END])
    sure = [0.5, 0.05, 0.3, 0.02, 0.6, 0.7, 0.2, 0.09, 0.01]
    ended = [0.0, 0.1, 0.1, 0.99, 0.8, 0.8, 0.9, 0.3, 0.0]
    assert slots(rows, rules, sure, ended) == [(3, 8), (7, 8)]  # ends that are written are sure ones
    assert slots(rows, rules, sure, ended, taken=[3]) == [(1, 8), (7, 8)]
    assert slots(rows, rules, sure, [0.95] * 9) == []
    assert slots(rows, rules, [0.1] * 9, ended) == []
    assert slots(rows, rules, sure, ended, masks=Masks(block=2)) == [
        (1, 8),
        (7, 8),
    ]  # of what is open, by all of the end
    late = [0.0, 0.1, 0.1, 0.99, 0.99, 0.99, 0.9, 0.95, 0.0]
    assert slots(rows, rules, sure, late, masks=Masks(block=2)) == []


def test_it_grows_within_its_room_and_its_steps() -> None:
    sure, ended = [0.05] * 6, [0.0] * 6
    for room, n in ((30, 8), (13, 8), (9, 4), (7, 2)):
        assert slots(*rows_of([MASK] * 6, room=room), sure, ended) == [(0, n)]
    assert slots(*rows_of([MASK] * 6, room=6), sure, ended) == []
    assert slots(*rows_of([MASK] * 6, age=2), sure, ended, steps=4) == [(0, 8)]
    assert slots(*rows_of([MASK] * 6, age=3), sure, ended, steps=4) == []  # what is added could not be written
    blocks = {"steps": 5, "masks": Masks(block=3)}  # 13 masks are 5 blocks; one of them is written in this step
    assert slots(*rows_of([MASK] * 6), sure, ended, **blocks) == []
    assert slots(*rows_of([MASK] * 6), sure, ended, **(blocks | {"steps": 6})) == [(0, 8)]


def test_with_a_cache_it_grows_when_all_is_computed_anew() -> None:
    begun, rules = rows_of([W, W, MASK, MASK, MASK], age=2)
    sure, ended = [0.05] * 3, [0.0] * 3
    for block, refresh, grows in ((2, None, True), (3, None, False), (3, 2, True), (3, 3, False), (3, 1, True)):
        masks = Masks(block=block, cache="dual", refresh=refresh)
        assert slots(begun, rules, sure, ended, masks=masks) == ([(0, 8)] if grows else [])


@pytest.mark.parametrize("how", [{"beam": 4}, {"masks": Masks(ending="never")}, {"masks": Masks(block=2, suffix=1)}])
def test_where_nothing_is_added(how: dict[str, Any]) -> None:
    assert slots(*rows_of([MASK] * 2), [0.05] * 2, [0.0] * 2, **how) is None
    assert slots(*rows_of([MASK] * 2, grows=False), [0.05] * 2, [0.0] * 2) is None


def test_slots_give_way_to_masks() -> None:
    rows, rules = rows_of([MASK] * 3, [W, MASK])
    grown = Expansion.of(tiny_model("masked_diffusion", options={"ends": True}), rules, Search())
    assert grown is not None
    second = rows.canvas.offsets[1] + 2
    wide = grown.widened(rows, rows, Slots(torch.tensor([second, 2]), torch.tensor([3, 2])), 7).canvas
    assert [wide.take(torch.tensor([b])).ids.tolist() for b in (0, 1)] == [
        [2, MASK, MASK, MASK, MASK, END],
        [2, W, MASK, MASK, MASK, END],
    ]
    assert wide.birth.tolist() == [0, 0, 7, 7, 0, 0, 0, 0, 7, 7, 7, 0]
    assert wide.key.unique().numel() == wide.n_elements and not wide.log_prob.any()
    assert grown.widened(rows, rows, Slots(second[None][:0], second[None][:0]), 7) is rows


def test_the_last_elements() -> None:
    size = torch.tensor([1, 5, 0, 80])
    last = within(size, torch.arange(4).repeat_interleave(size))
    assert [part.sum().item() for part in last.split(size.tolist())] == [1, 2, 0, 32]
    assert last[-32:].all() and not last[6]


HOW: list[dict[str, Any]] = [
    {}, {"policy": "leftmost"}, {"policy": "threshold:0.3"}, {"policy": "parallel"}, {"steps": 9}, {"temperature": 1.0},
    {"policy": "random", "steps": 30}, {"masks": Masks(block=3)}, {"masks": Masks(block=4), "steps": 12},
    {"masks": Masks(block=4, cache="dual")}, {"masks": Masks(guidance=1.0)}, {"masks": Masks(ending="late")},
    {"steps": 24, "temperature": 1.0, "masks": Masks(remask="cap:0.3")},
]  # fmt: skip


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Four masks at first, whatever the end; and every mask is bad."""
    monkeypatch.setattr(lengths, "FIRST", 4)
    monkeypatch.setattr(lengths, "ENOUGH", 0.0)
    monkeypatch.setattr(expansion, "DOUBT", 1.0)
    yield


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("how", HOW)
def test_texts_grow_as_they_are_written(how: dict[str, Any]) -> None:
    lm = ending()
    texts = ["the cat", "a big old dog ran to", "the mat. ", "she"]
    together = lm.generate(texts, max_words=21, **how)
    n_tokens = []
    for text, fills in zip(texts, together, strict=True):
        (fill,) = fills
        assert fill.status == "finished" and "[MASK]" not in fill.text and "___" not in fill.text
        assert fill.text.startswith(text) and fill.given == "length" and fill.kind == "estimate"
        n_tokens.append(len(lm.tokenizer.encode(fill.holes[0].text)))
        same(lm.generate(text, max_words=21, **how), fills)
    assert max(n_tokens) <= 22  # a spelling of its own may take one more
    assert (max(n_tokens) > 5) == (how.get("policy") != "parallel")  # what is written at once has no time to grow
    if "policy" not in how:
        (plain,) = lm.generate("the cat", max_words=21, **(how | {"masks": Masks(length=4)}))
        assert len(lm.tokenizer.encode(plain.text)) < max(n_tokens)


@pytest.mark.usefixtures("short")
def test_a_cache_that_is_refreshed_every_step_changes_nothing() -> None:
    for kind in ("prefix", "dual", "delayed"):
        plain = ending().generate(["the cat", "she saw"], max_words=14, masks=Masks(block=3))
        cached = ending().generate(["the cat", "she saw"], max_words=14, masks=Masks(block=3, cache=kind, refresh=1))
        for a, b in zip(plain, cached, strict=True):
            same(a, b)


@pytest.mark.usefixtures("short")
def test_it_is_watched_and_bounded_by_the_context() -> None:
    lm = ending()
    steps = [step.text for step in lm.watch("the cat sat ___ ", beam=1, max_words=12)]
    assert "___" in steps[0] and "___" not in steps[-1]
    (fill,) = lm.generate("the cat " * 56, max_words=60)
    assert fill.status == "finished"
    assert lm.tokenizer.read(fill.text).canvas.n_elements <= 128
