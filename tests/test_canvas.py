"""Laws of the canvas: what an edit may do, and what it takes back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unmask.canvas import COLUMNS, Canvas, Edits, Role, concat

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=5)


def emission(canvas: Canvas, site: list[int], runs: list[list[int | None]], cost: float = -1.0) -> Edits:
    """Each site gives way to a run; None stands for the site itself."""
    flat = [token for run in runs for token in run]
    kept = torch.tensor([token is None for token in flat], dtype=torch.bool)
    ids = torch.tensor([-1 if token is None else token for token in flat], dtype=torch.int64)
    return Edits(
        torch.tensor(site, dtype=torch.int64),
        torch.tensor([len(run) for run in runs], dtype=torch.int64),
        kept,
        ids,
        torch.zeros_like(ids),
        torch.where(kept, 0.0, cost),
        birth=3,
    )


@given(ROWS, st.data())
def test_apply_is_list_surgery(rows: list[list[int]], data: st.DataObject) -> None:
    canvas = Canvas.from_rows(rows)
    n = canvas.n_elements
    site = sorted(data.draw(st.sets(st.integers(0, n - 1)))) if n else []
    runs = [data.draw(st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=3)) for _ in site]
    runs = [run if run.count(None) <= 1 else [x for x in run if x is not None] for run in runs]
    after = canvas.apply(emission(canvas, site, runs))
    at, flat, ends = dict(zip(site, runs, strict=True)), [], [0]
    place = 0
    for row in rows:
        for token in row:
            flat += [token if x is None else x for x in at.get(place, [None])]
            place += 1
        ends.append(len(flat))
    assert after.ids.tolist() == flat
    assert after.offsets.tolist() == ends
    assert len(set(after.key.tolist())) == after.n_elements  # a key is an identity
    assert all(getattr(after, name).numel() == after.n_elements for name in COLUMNS)


@given(ROWS)
def test_taking_back_takes_back_its_cost(rows: list[list[int]]) -> None:
    canvas = Canvas.from_rows(rows)
    site = torch.arange(0, canvas.n_elements, 2)
    cost = -torch.rand(site.numel(), generator=torch.Generator().manual_seed(1))
    words = Edits.put(site, torch.full_like(site, 5), Role.TEXT, 1, cost)
    written = canvas.apply(words)
    expected = canvas.sum_rows(torch.zeros(canvas.n_elements).index_add(0, site, cost).double())
    torch.testing.assert_close(written.row_log_prob, expected)
    back = Edits.put(site, canvas.ids[site], canvas.role[site], 2)
    again = written.apply(back)
    assert again.row_log_prob.abs().sum() == 0
    assert torch.equal(again.ids, canvas.ids)
    assert torch.equal(again.key, canvas.key)  # one for one keeps the identity


def test_fixed_text_is_safe() -> None:
    canvas = Canvas.from_rows([[1, 2, 3]])
    canvas = Canvas.build(canvas.ids, canvas.offsets, fixed=torch.tensor([True, False, True]))
    grown = canvas.apply(emission(canvas, [0, 1], [[None, 7], []]))
    assert grown.ids.tolist() == [1, 7, 3]
    assert grown.fixed.tolist() == [True, False, True]
    for run in ([], [7], [7, 8]):
        with pytest.raises(ValueError, match="the user's own text"):
            canvas.apply(emission(canvas, [0], [run]))
    with pytest.raises(ValueError, match="the user's own text"):
        canvas.apply(emission(canvas, [2], [[None, None]]))


@given(ROWS, st.data())
def test_take_and_concat(rows: list[list[int]], data: st.DataObject) -> None:
    canvas = Canvas.from_rows(rows)
    pick = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6))
    taken = canvas.take(torch.tensor(pick, dtype=torch.int64))
    assert [taken.ids[a:b].tolist() for a, b in zip(taken.offsets, taken.offsets[1:], strict=False)] == [
        rows[i] for i in pick
    ]
    assert taken.request.tolist() == pick
    for place, number in enumerate(pick):
        alone, same = taken.row(place), canvas.take(torch.tensor([number]))
        assert all(torch.equal(getattr(alone, name), getattr(same, name)) for name in (*COLUMNS, "offsets", "request"))
    both = concat([canvas, taken])
    assert both.ids.tolist() == canvas.ids.tolist() + taken.ids.tolist()
    assert not set(both.key[: canvas.n_elements].tolist()) & set(both.key[canvas.n_elements :].tolist())


@given(ROWS)
def test_edits_of_a_row_do_not_ask_for_company(rows: list[list[int]]) -> None:
    canvas = Canvas.from_rows(rows)
    whole = canvas.apply(emission(canvas, list(range(canvas.n_elements)), [[None, 4]] * canvas.n_elements))
    for number in range(canvas.n_rows):
        alone = canvas.take(torch.tensor([number]))
        alone = alone.apply(emission(alone, list(range(alone.n_elements)), [[None, 4]] * alone.n_elements))
        assert whole.take(torch.tensor([number])).ids.tolist() == alone.ids.tolist()


def test_build_refuses_what_does_not_fit() -> None:
    ids = torch.arange(3)
    with pytest.raises(ValueError, match="do not cut"):
        Canvas.build(ids, torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="no column 'colour'"):
        Canvas.build(ids, torch.tensor([0, 3]), colour=ids)
    with pytest.raises(ValueError, match="has shape"):
        Canvas.build(ids, torch.tensor([0, 3]), hole=torch.zeros(2))
