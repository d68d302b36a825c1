"""The likelihood of masked diffusion by draws: counts without bias, shared draws, honest errors."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from families import clean_canvas, tiny_model
from unmask.canvas import Canvas, Role
from unmask.masking import Hidden
from unmask.noise import Noise
from unmask.objectives import orders
from unmask.objectives.masked_likelihood import counts

LENGTHS, DRAWS = (5, 8, 12, 24, 30, 100), (4, 8, 16)


def rounded(length: int, n_draws: int) -> list[int]:
    """How often each count is drawn, over every start k, by rounding k + i L / b with halves to even (LLaDA's code)."""
    start = torch.arange(1, length + 1, dtype=torch.float64)[:, None]
    count = (start + torch.arange(n_draws) * (length / n_draws)).round().long()
    return ((count - 1) % length).flatten().bincount(minlength=length).tolist()


def stratified(length: int, n_draws: int) -> torch.Tensor:
    """Our counts `[n_draws, cells]`, a column for each cell of U(0, 1) in which they are constant."""
    cells = math.lcm(length, n_draws)
    return counts((torch.arange(cells) + 0.5) / cells, torch.full((cells,), length), n_draws)


@pytest.mark.parametrize("n_draws", DRAWS)
@pytest.mark.parametrize("length", LENGTHS)
def test_every_count_is_as_likely(length: int, n_draws: int) -> None:
    drawn = stratified(length, n_draws)
    assert len(set((drawn - 1).flatten().bincount(minlength=length).tolist())) == 1
    for column in drawn.t():  # and each draw is even in itself
        often = (column - 1).bincount(minlength=length)
        assert set(often.tolist()) <= {n_draws // length, -(-n_draws // length)}


@pytest.mark.parametrize("n_draws", DRAWS)
@pytest.mark.parametrize("length", LENGTHS)
def test_rounding_halves_to_even_is_biased(length: int, n_draws: int) -> None:
    often = rounded(length, n_draws)
    halves = any(2 * i * length % (2 * n_draws) == n_draws for i in range(n_draws))
    assert (len(set(often)) > 1) == halves


@pytest.mark.parametrize(
    ("length", "n_draws", "ratio"), [(8, 16, 3.0), (24, 16, 3.0), (12, 8, 3.0), (4, 8, 3.0), (100, 16, 20 / 12)]
)
def test_even_counts_come_up_to_three_times_as_often(length: int, n_draws: int, ratio: float) -> None:
    often = rounded(length, n_draws)
    assert sum(often[1::2]) / sum(often[::2]) == pytest.approx(ratio)
    mean = sum((i + 1) * n for i, n in enumerate(often)) / sum(often)
    assert (length + 1) / 2 < mean <= (length + 1) / 2 + 0.25
    assert stratified(length, n_draws).double().mean() == (length + 1) / 2


def hidden_costs(model: Any, row: list[int], mask: tuple[bool, ...]) -> dict[int, float]:
    """The log-probability of each masked token, by place."""
    clean = clean_canvas([row])
    where = torch.tensor([False, *mask, False])
    one = torch.ones(1, dtype=torch.float64)
    canvas, targets = model.objective.corrupt(clean, Hidden(where, one, one, one > 0), Noise(0, torch.zeros(1).long()))
    with torch.inference_mode():
        words = model.predict(canvas).words()
    at = [i for i, is_hidden in enumerate(mask) if is_hidden]
    return {i: words[k, targets.word[k]].item() for k, i in enumerate(at)}


@pytest.fixture(scope="module")
def enumerated() -> tuple[Any, list[int], float]:
    """A model, a text of four tokens, and its bound, over every set of masks of every count."""
    model, row = tiny_model("masked_diffusion", seed=2), [3, 1, 4, 1]
    costs = {mask: hidden_costs(model, row, mask) for mask in itertools.product([False, True], repeat=4) if any(mask)}
    by_count = [[len(row) / n * sum(costs[m].values()) for m in costs if sum(m) == n] for n in (1, 2, 3, 4)]
    bound = sum(sum(some) / len(some) for some in by_count) / 4
    orders = []  # the same number: every order, one token after the other
    for order in itertools.permutations(range(4)):
        states = [tuple(place in order[step:] for place in range(4)) for step in range(4)]
        orders.append(sum(costs[state][place] for state, place in zip(states, order, strict=True)))
    assert sum(orders) / len(orders) == pytest.approx(bound, abs=1e-9)
    return model, row, bound


@pytest.mark.parametrize("n_draws", [2, 3, 8])
def test_the_draws_have_the_bound_as_their_mean(enumerated: tuple[Any, list[int], float], n_draws: int) -> None:
    model, row, bound = enumerated
    clean = clean_canvas([row] * 600)
    with torch.inference_mode():
        found = model.objective.likelihood(
            model.predict, clean, clean.role == Role.TEXT, "bound", n_draws, Noise(5, torch.arange(600))
        )
    strays = found.log_prob.std().item()
    assert abs(found.log_prob.mean().item() - bound) < 4 * strays / 600**0.5
    reported = found.std_error.square().mean().sqrt().item()
    assert strays * 0.8 < reported < strays * 1.5, "the error that is reported is the one that is made"
    assert (found.kind, found.given) == ("bound", "length")


def spied(model: Any, clean: Canvas, n_draws: int, key: list[int]) -> tuple[Any, list[Canvas]]:
    """The likelihood of rows with these keys, and the rows of each draw that were read for it."""
    seen: list[Canvas] = []

    def predict(canvas: Canvas, targets: Any = None) -> Any:
        seen.extend(canvas.take(some) for some in torch.arange(canvas.n_rows).split(clean.n_rows))
        return model.predict(canvas)

    with torch.inference_mode():
        noise = Noise(1, torch.tensor(key))
        return model.objective.likelihood(predict, clean, clean.role == Role.TEXT, None, n_draws, noise), seen


def test_rows_of_one_key_share_their_draws() -> None:
    model = tiny_model("masked_diffusion")
    clean = clean_canvas([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6, 7, 8, 9, 0], [1, 2, 3, 4, 5]])
    _, seen = spied(model, clean, 4, [7, 7, 7, 8])
    differ = False
    for canvas in seen:
        signs = [canvas.role[a:b] == Role.SIGN for a, b in itertools.pairwise(canvas.offsets.tolist())]
        assert torch.equal(signs[0], signs[1])
        assert int(signs[2].sum()) in (2 * int(signs[0].sum()) - 1, 2 * int(signs[0].sum()))  # one uniform number
        both, short = signs[2][1:6], signs[0][1:6]
        assert not (both & ~short).any() or not (short & ~both).any()  # one order of the places
        differ = differ or not torch.equal(signs[0], signs[3])
    assert differ


def test_sharing_draws_tells_answers_apart_sooner() -> None:
    model = tiny_model("masked_diffusion", seed=4)
    rows = [[3, 1, 4, 1, 5, 9, 2, 6], [3, 1, 4, 1, 5, 9, 2, 5]]
    clean = clean_canvas(rows * 200)
    pairs = list(range(200))
    shared, _ = spied(model, clean, 4, [key for key in pairs for _ in rows])
    apart, _ = spied(model, clean, 4, list(range(400)))
    leads = [found.log_prob.view(200, 2).diff(dim=1).std().item() for found in (shared, apart)]
    assert leads[0] < 0.8 * leads[1]


def test_a_row_of_one_token_is_told_without_error_by_one_pass() -> None:
    model = tiny_model("masked_diffusion")
    found, seen = spied(model, clean_canvas([[4]]), 3, [0])
    assert found.log_prob.item() == pytest.approx(hidden_costs(model, [4], (True,))[0], abs=1e-12)
    assert (found.std_error.item(), len(seen)) == (0, 1)


def test_draws_share_passes_as_far_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clean = tiny_model("masked_diffusion"), clean_canvas([[1, 2, 3, 4, 5], [5, 4, 3]])
    together, seen = spied(model, clean, 8, [0, 1])
    assert len(seen) == 8
    passes: list[int] = []
    monkeypatch.setattr(
        model, "predict", lambda canvas: passes.append(canvas.n_rows) or type(model).predict(model, canvas)
    )
    for room, rows in ((1, 2), (3 * clean.n_elements, 6)):
        passes.clear()
        monkeypatch.setattr(orders, "CHUNK", room)
        apart, _ = spied(model, clean, 8, [0, 1])
        assert apart.log_prob.tolist() == pytest.approx(together.log_prob.tolist(), abs=1e-9)
        assert max(passes) == rows
        assert sum(passes) == 16


def test_a_method_it_does_not_have_is_refused() -> None:
    model, clean = tiny_model("masked_diffusion"), clean_canvas([[4]])
    with pytest.raises(ValueError, match=r"'jackknife' here .* method='bound' or 'duel'"):
        model.objective.likelihood(
            model.predict, clean, clean.role == Role.TEXT, "jackknife", 2, Noise(0, clean.request)
        )
