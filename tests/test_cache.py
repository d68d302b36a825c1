"""The cache of beginnings: what it gives is what reading everything gives, and nothing is computed twice."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toys import toy
from unmask.backbone import Backbone, BackboneConfig, gathered
from unmask.backbone.cache import ROOM, SPARE, Cache, Plan
from unmask.decoding import candidates, infill
from unmask.view import View, beginnings

SHAPES = {
    "plain": {},
    "grouped": {"n_heads": 4, "n_kv_heads": 2, "width": 32},
    "local": {"global_every": 2, "window": 2},
    "segments": {"n_segments": 3},
}


def backbone(name: str) -> Backbone:
    made = Backbone(BackboneConfig(vocab_size=9, **{"width": 16, "n_layers": 3, "n_heads": 2} | SHAPES[name]))
    made.initialise(torch.Generator().manual_seed(0))
    return made.double().eval()


def causal(rows: list[list[int]]) -> View:
    lengths = torch.tensor([len(row) for row in rows])
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    ids = torch.tensor([one for row in rows for one in row], dtype=torch.int64)
    index = torch.cat([torch.arange(n) for n in lengths.tolist()])
    return View(ids, offsets, index, torch.arange(ids.numel()), stage=index, causal=True, segment=ids % 3)


rows_of_ids = st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=9), min_size=1, max_size=5)


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_sequence_of_views_gives_what_no_cache_gives(shape: str, data: st.DataObject) -> None:
    model, cache = backbone(shape), Cache()
    with torch.no_grad():
        for _ in range(3):
            rows = data.draw(rows_of_ids)
            rows += [[*rows[0], 1], [*rows[0], 2, 3]]  # rows that grow out of another
            view = causal(rows)
            torch.testing.assert_close(model(view, cache=cache), model(view, dense=True))
            if data.draw(st.booleans()):
                cache.keep(causal(rows[:1]).names)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kept", [True, False])
def test_rows_that_go_on_are_gathered_once(shape: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows grow, leave, fork, change places and give slots back: what is read side by side is what there is."""
    if not kept:
        monkeypatch.setattr(gathered, "MOST", 1)
    model, cache, generator = backbone(shape), Cache(), torch.Generator().manual_seed(0)

    def some(n: int) -> list[int]:
        return torch.randint(0, 9, (n,), generator=generator).tolist()

    rows, where = [some(n) for n in (30, 34, 31, 33)], []
    with torch.no_grad():
        for step in range(60):
            rows = [row + some(1 + (i == step % 4)) for i, row in enumerate(rows)]
            if step == 20:
                rows = [rows[2], rows[0], [*rows[2][:-1], 3], rows[1]]
            if step == 30:
                cache.keep(causal(rows[1:]).names)
                rows = [some(12), *rows[1:]]
            if step == 40:
                rows = rows[1:]
            if step == 50:
                rows = [row[:20] for row in rows]
            view = causal(rows)
            torch.testing.assert_close(model(view, cache=cache), model(view, dense=True))
            (*_, latest) = cache.gathered.values()
            where.append(latest.states[-1].data_ptr() if latest.states else 0)
    again = sum(now != before for before, now in pairwise(where))
    assert (0 not in where[3:20]) == kept and again < 20


def test_a_beginning_is_computed_once() -> None:
    model, cache = backbone("plain"), Cache()
    with torch.no_grad():
        model(causal([[1, 2, 3], [1, 2, 4], [1, 2, 3]]), cache=cache)
        assert cache.n_computed == 4
        model(causal([[5], [1, 2, 3, 5]]), cache=cache)
        assert cache.n_computed == 6
        cache.keep(causal([[1, 2, 3]]).names)
        model(causal([[1, 2, 4], [1, 2, 3]]), cache=cache)
        assert cache.n_computed == 7
    room = cache.hidden.shape[0]
    with torch.no_grad():
        for i in range(2 * room):  # slots that were given back are used again
            model(causal([[6, 7, i // 81, i // 9 % 9, i % 9]]), cache=cache)
            cache.keep(causal([[6, 7]]).names)
    assert cache.hidden.shape[0] == room


def test_a_beginning_is_all_that_its_elements_say() -> None:
    view = causal([[1, 2, 3], [1, 2, 3], [2, 1, 3], [1, 3]])
    names = beginnings(view)
    assert torch.equal(names[:3], names[3:6])
    assert names.unique().numel() == 3 + 3 + 1
    moved = replace(view, position=view.position + 1)
    assert not torch.isin(beginnings(moved), names).any()
    other = replace(view, segment=view.segment + 1)
    assert not torch.isin(beginnings(other), names).any()


def test_long_rows_and_short_ones_are_not_padded_to_each_other() -> None:
    cache = Cache()
    rows = [[i % 9, 3, 5] for i in range(9)] + [[1] * 200, [2, 1]]
    plans = [cache.plan(causal(rows)), cache.plan(causal([[*row, 4] for row in rows]))]
    for plan, new, work in zip(plans, (rows, [[0]] * 11), (9 * 9 + 200 * 200, 9 * 4 + 201 + 3), strict=True):
        assert sum(block.queries.numel() for block in plan.blocks) == sum(map(len, new)) - (2 if new is rows else 0)
        assert sum(block.sees.numel() for block in plan.blocks) <= 2 * work
        assert len(plan.blocks) <= 3


def test_a_view_that_is_not_causal_goes_past_the_cache() -> None:
    model, cache = backbone("plain"), Cache()
    view = causal([[1, 2, 3]])
    full = replace(view, stage=None, causal=False)
    with torch.no_grad():
        torch.testing.assert_close(model(full, cache=cache), model(full))
    assert cache.n_computed == 0


@pytest.mark.parametrize("hole", ["___", "___{cat|dog|old man}"])
def test_many_texts_leave_little_behind_and_a_batch_that_is_cut_says_the_same(
    hole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = toy("left_to_right")
    names = ["cat", "dog", "man", "mat", "old", "saw"]
    texts = [f"the {a} and the {b} sat on the mat {hole} and ran" for a in names for b in names]
    whole = lm.fill(texts, n=3, max_words=2)
    held, used = [], []
    plan = Cache.plan

    def watched(self: Cache, view: View) -> Plan:
        made = plan(self, view)
        held.append(self.n_held)
        used.append(beginnings(view).unique().numel())
        return made

    monkeypatch.setattr(Cache, "plan", watched)
    monkeypatch.setattr(infill, "CROWD", 24)  # three texts at a time
    monkeypatch.setattr(candidates, "CHUNK", 150)
    cut = lm.fill(texts, n=3, max_words=2)
    assert len(used) > 5
    assert max(held) <= max((SPARE + 1) * max(used), ROOM + max(used))
    for ours, theirs in zip(cut, whole, strict=True):
        assert [fill.text for fill in ours] == [fill.text for fill in theirs]
        assert [fill.log_prob for fill in ours] == pytest.approx([fill.log_prob for fill in theirs], abs=1e-6)


def test_candidates_share_what_they_begin_with_and_nothing_else_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = toy("left_to_right")
    texts = [f"the {name} sat on the mat ___{{cat|dog|old man}} and ran" for name in ("man", "dog", "cat")]
    computed, held, names = [], [], []
    plan = Cache.plan

    def watched(self: Cache, view: View) -> Plan:
        made = plan(self, view)
        computed.append(made.new.numel())
        held.append(self.n_held)
        names.append(beginnings(view))
        return made

    monkeypatch.setattr(Cache, "plan", watched)
    monkeypatch.setattr(candidates, "CHUNK", 1)  # each row alone
    lm.fill(texts, n=3)
    assert len(computed) == 9
    assert held == [some.numel() for some in names]
    assert sum(computed) == torch.cat(names).unique().numel()


def test_named_elements_lie_in_one_piece_and_are_found_wherever_they_lie() -> None:
    """A row that has gone makes room in the middle; what comes next lies in two pieces, and reads the same."""
    model, cache, generator = backbone("grouped"), Cache(), torch.Generator().manual_seed(0)

    def named(lengths: list[int], first: int) -> View:
        view = causal([torch.randint(0, 9, (n,), generator=generator).tolist() for n in lengths])
        names = first + torch.arange(view.ids.numel())
        return replace(view, stage=None, causal=False, name=names, fresh=view.position % 3 == 0)

    def pieces(view: View) -> list[bool]:
        return [isinstance(block.slots, slice) for block in cache.plan(view).blocks]

    with torch.no_grad():
        for lengths, first, keep, whole in (([4, 5], 0, 4, True), ([9], 100, 9, False), ([3], 200, 0, True)):
            view = named(lengths, first)
            everything = replace(view, name=None, fresh=None)
            torch.testing.assert_close(model(view, cache=cache)[view.fresh], model(everything)[view.fresh])
            assert pieces(view) == [whole] * len(lengths)
            changed = replace(view, ids=torch.where(view.fresh, (view.ids + 1) % 9, view.ids))
            some = replace(changed, read=view.fresh.nonzero().squeeze(1))
            again, seen = model(some, cache=cache), model(some, cache=Cache())  # others keep what they were
            assert cache.plan(some).new.numel() == some.read.numel()
            assert again.shape == seen.shape and (again - seen).abs().max() > 1e-3
            whole_again = replace(some, fresh=torch.ones_like(view.fresh))
            torch.testing.assert_close(model(whole_again, cache=cache), seen)
            cache.keep(view.names[-keep:] if keep else view.ids[:0])
