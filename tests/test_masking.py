"""Masking laws: what a law calls a bound is the sum over all orders, however levels are drawn and rows are read."""

import itertools
import math
from functools import cache

import pytest
import torch

from families import N_WORDS, clean_canvas, noise_for, tiny_model
from unmask.canvas import Canvas, Role
from unmask.masking import Mixture
from unmask.masking.hidden import Hidden
from unmask.masking.levels import Levels
from unmask.noise import Company, Noise

STARTS = torch.zeros(N_WORDS + 6, dtype=torch.int64)
TEXT = [3, 1, 4, 1, 5]
LENGTH = len(TEXT)
DRAWN = [{}, {"draw": "stratified"}, {"draw": "antithetic"}, {"bell": [2, 3]}, {"bell": [3, 3], "draw": "stratified"}]
OTHERS = [{"clip": [0.3, 0.8]}, {"bell": [2, 3], "importance": False}, {"clip": [0.2, 1.0], "bell": [2, 2]}]


@cache
def costs() -> torch.Tensor:
    """-log p(token i | what mask m shows) of a random model, `[2 ** L, L]`, infinite where m shows i."""
    model, clean = tiny_model("masked_diffusion"), clean_canvas([TEXT] * 2**LENGTH)
    bits = (torch.arange(2**LENGTH)[:, None] >> torch.arange(LENGTH)) & 1
    mask = torch.zeros(2**LENGTH, LENGTH + 2, dtype=torch.bool)
    mask[:, 1:-1] = bits.bool()
    one = torch.ones(2**LENGTH, dtype=torch.float64)
    canvas, targets = model.objective.corrupt(clean, Hidden(mask.flatten(), one, one, one > 0), noise_for(clean))
    with torch.no_grad():
        words = model.predict(canvas, targets).words().gather(1, targets.word[:, None])[:, 0]
    out = torch.full((2**LENGTH, LENGTH), math.inf, dtype=torch.float64)
    out[bits.bool()] = -words
    return out


def over_orders() -> float:
    """The mean over all orders of the chain rule's sum."""
    table, total = costs(), 0.0
    for order in itertools.permutations(range(LENGTH)):
        hidden = 2**LENGTH - 1
        for token in order:
            total += float(table[hidden, token])
            hidden -= 2**token
    return total / math.factorial(LENGTH)


def by_mask() -> torch.Tensor:
    """The summed cost of what each mask hides, `[2 ** L]`."""
    return torch.where(costs().isinf(), 0.0, costs()).sum(1)


def test_three_forms_of_the_bound_are_one_number() -> None:
    number = torch.arange(2**LENGTH)
    n_hidden = ((number[:, None] >> torch.arange(LENGTH)) & 1).sum(1)
    cost, rates, counts = by_mask(), 0.0, 0.0
    for n in range(1, LENGTH + 1):
        these = cost[n_hidden == n]
        # the integral of 1/t t^n (1 - t)^(L - n) is a beta function
        rates += float(these.sum()) * math.gamma(n) * math.gamma(LENGTH - n + 1) / math.gamma(LENGTH + 1)
        counts += float(these.mean()) / n
    assert rates == pytest.approx(over_orders(), abs=1e-9)
    assert counts == pytest.approx(over_orders(), abs=1e-9)


def hidden_of(part: dict, n: int = 20_000, number: int = 0) -> tuple[Canvas, Hidden]:
    """What a law says of a text that comes `n` times in one step."""
    clean = clean_canvas([TEXT] * n)
    place = torch.arange(n)
    seen, hidden, _ = Mixture([part], STARTS).hide(clean, Noise(1, place + 77, Company(place, n, number)))
    return seen, hidden


def losses(seen: Canvas, hidden: Hidden) -> torch.Tensor:
    mask = hidden.mask.view(seen.n_rows, LENGTH + 2)[:, 1:-1]
    return hidden.weight * by_mask()[(mask.long() << torch.arange(LENGTH)).sum(1)]


@pytest.mark.parametrize("complement", [False, True])
@pytest.mark.parametrize("drawn", DRAWN, ids=str)
@pytest.mark.parametrize("law", [{"law": "bernoulli", "epsilon": 1e-4}, {"law": "exact_count"}], ids=str)
def test_the_mean_of_a_bound_is_the_sum_over_all_orders(law: dict, drawn: dict, complement: bool) -> None:
    seen, hidden = hidden_of({**law, **drawn, "complement": complement})
    assert hidden.bound.all()
    assert (hidden.count == LENGTH).all()
    each = losses(seen, hidden)
    if complement:
        each = each.view(-1, 2).mean(1)
    error = float(each.std()) / each.numel() ** 0.5
    assert error < 0.02 * over_orders()
    assert float(each.mean()) == pytest.approx(over_orders(), abs=4 * error + 1e-3)


def test_the_weight_of_a_level_makes_up_for_epsilon() -> None:
    epsilon = 0.2  # so much that what is left out shows: the integral over rates above it, by its masks
    seen, hidden = hidden_of({"law": "bernoulli", "epsilon": epsilon}, 60_000)
    rate = torch.linspace(epsilon, 1, 20_001, dtype=torch.float64)
    n_hidden = ((torch.arange(2**LENGTH)[:, None] >> torch.arange(LENGTH)) & 1).sum(1).double()
    mean = (rate[:, None] ** (n_hidden - 1) * (1 - rate[:, None]) ** (LENGTH - n_hidden) * by_mask()).sum(1)
    each = losses(seen, hidden)
    error = float(each.std()) / each.numel() ** 0.5
    assert float(each.mean()) == pytest.approx(float(torch.trapezoid(mean, rate)), abs=4 * error)
    assert float(each.mean()) < over_orders() - 4 * error


@pytest.mark.parametrize("drawn", OTHERS, ids=str)
@pytest.mark.parametrize("law", ["bernoulli", "exact_count"])
def test_what_leaves_levels_out_is_no_bound(law: str, drawn: dict) -> None:
    seen, hidden = hidden_of({"law": law, **drawn}, 4000)
    assert not hidden.bound.any()
    share = seen.sum_rows(hidden.mask.double()) / LENGTH
    assert hidden.level is not None
    low, high = drawn.get("clip", (0.0, 1.0))
    assert float(hidden.level.min()) >= low - 1e-9
    assert float(hidden.level.max()) <= high + (1 / LENGTH if law == "exact_count" else 1e-3)
    assert float(share.mean()) == pytest.approx(float(hidden.level.mean()), abs=0.02)


def test_a_bell_has_the_mean_and_spread_of_its_density() -> None:
    noise = Noise(0, torch.arange(20_000))
    for a, b in [(2.0, 3.0), (5.0, 5.0), (0.5, 0.5)]:
        level = Levels(bell=(a, b), importance=False)(noise, "t")
        assert float(level.mean()) == pytest.approx(a / (a + b), abs=0.01)
        assert float(level.var()) == pytest.approx(a * b / ((a + b) ** 2 * (a + b + 1)), abs=0.004)
        assert (Levels(bell=(a, b), importance=False).weight(level) == 1).all()
        weighed = Levels(bell=(a, b))
        weight = weighed.weight(weighed(noise, "t"))
        assert float(weight.mean()) == pytest.approx(1, abs=0.05)
        assert float(weight.max()) <= 10.0 + 1e-9


def test_levels_that_are_none_are_named() -> None:
    for given, said in [
        ({"draw": "even"}, "no draw 'even'"),
        ({"clip": (0.8, 0.3)}, "levels from"),
        ({"bell": (0.0, 3.0)}, "a bell of"),
    ]:
        with pytest.raises(ValueError, match=said):
            Levels(**given)
    for part, said in [
        ({"law": "runs", "complement": True}, "has no complement"),
        ({"law": "bernoulli", "unit": "word"}, "'word' is not known to 'bernoulli'"),
        ({"law": "bernoulli", "per": "row"}, "a loss per 'row'"),
        ({"law": "runs", "draw": "stratified"}, "no setting 'draw'"),
    ]:
        with pytest.raises(ValueError, match=said):
            Mixture([part], STARTS)


NO_RATE, NO_LENGTHS = "of runs it is the least and the largest share", "of runs it is how likely a run of one word"


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"unit": "word"}, "no masking law None"),
        ({"law": ["runs"]}, r"no masking law \['runs'\]"),
        ({"law": "bernoulli", "given": ["source"]}, "given is "),
        ({"law": "bernoulli", "draw": {"even": 1}}, "no draw"),
        ({"law": "bernoulli", "schedule": {"cosine": 1}}, "no schedule"),
        ({"law": "bernoulli", "complement": "false"}, "complement is 'false' · it is true or false"),
        ({"law": "bernoulli", "bell": [3, 3], "importance": "maybe"}, "importance is 'maybe' · it is true or false"),
        ({"law": "bernoulli", "bell": [math.inf, 3]}, "each is two numbers"),
        ({"law": "bernoulli", "clip": [False, True]}, "each is two numbers"),
        ({"law": "bernoulli", "share": math.inf}, "a share of inf"),
        ({"law": "bernoulli", "epsilon": True}, "epsilon is True"),
        ({"law": "exact_count", "bound": "no"}, "bound is 'no' · of exact_count it is true or false"),
        *(({"law": "exact_count", "least": least}, f"least is {least} · of ") for least in (True, 2, 1.0)),
        *(({"law": "runs", "rate": rate}, NO_RATE) for rate in (0.3, ["a", "b"], [0.5, 0.1], [0.1, 3.0], [0.1], [])),
        *(({"law": "runs", "lengths": of}, NO_LENGTHS) for of in ([], 3, [-1, 2], [0, 0], ["a"], [1, math.nan])),
        *(({"law": "runs", "single": single}, "of runs it is a share of the rows") for single in ("x", 7, -1, True)),
    ],
    ids=str,
)
def test_a_setting_of_a_law_has_its_kind_and_range(part: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said) as fault:
        mixture = Mixture([part], STARTS)
        mixture(clean := clean_canvas([TEXT]), noise_for(clean))
    assert str(fault.value).count(" · ") == 2


def test_something_is_hidden() -> None:
    with pytest.raises(ValueError, match="no masking law · something has to be hidden"):
        Mixture([], STARTS)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 64, 97])
def test_levels_are_spread_over_the_rows_of_a_step(size: int) -> None:
    place = torch.arange(size)
    first = []
    for number in range(200):
        noise = Noise(5, 1000 * number + place, Company(place, size, number))
        assert sorted((noise.strata("t") * size).long().tolist()) == place.tolist()
        pairs = noise.pairs("t")
        even = size // 2 * 2
        torch.testing.assert_close(pairs[:even:2] + pairs[1:even:2], torch.ones(even // 2, dtype=torch.float64))
        first.append(torch.stack([noise.strata("t")[0], pairs[0], pairs[-1]]))
    means = torch.stack(first).mean(0)  # whatever its place, a row's own level is uniform
    assert ((means - 0.5).abs() < 4 * (1 / 12 / 200) ** 0.5).all()


@pytest.mark.parametrize("draw", ["stratified", "antithetic"])
def test_how_a_step_is_split_changes_no_level(draw: str) -> None:
    mixture = Mixture([{"law": "bernoulli", "draw": draw, "complement": True}], STARTS)
    clean = clean_canvas([TEXT[:n] for n in (1, 2, 3, 4, 5, 5, 5)])
    place = torch.arange(7)
    whole = mixture(clean, Noise(3, place + 40, Company(place, 7, 9)))
    for rows in (torch.tensor([0, 1, 2]), torch.tensor([6, 3]), torch.tensor([5])):
        part = mixture(clean.take(rows), Noise(3, rows + 40, Company(place[rows], 7, 9)))
        assert torch.equal(part.mask, whole.mask[clean.source(rows)])
        assert torch.equal(part.weight, whole.weight[rows])
    alone = mixture(clean, Noise(3, place + 40))
    assert not torch.equal(alone.weight, whole.weight)


def test_a_complement_hides_what_its_row_showed() -> None:
    for part in ({"law": "bernoulli"}, {"law": "exact_count"}, {"law": "exact_count", "bound": False}):
        seen, hidden = hidden_of({**part, "complement": True}, 400)
        text = (seen.role == Role.TEXT).view(-1, 2, LENGTH + 2)[:, 0]
        first, second = hidden.mask.view(-1, 2, LENGTH + 2).unbind(1)
        weight, count = hidden.weight.view(-1, 2), hidden.count.view(-1, 2)
        again = (first == second).all(1)
        assert 0 < again.sum() < 200
        assert (first[again].sum(1) == LENGTH).all() or part["law"] == "bernoulli"
        assert torch.equal(second[~again], text[~again] & ~first[~again])
        assert torch.equal(weight[again][:, 0], weight[again][:, 1])
        if part == {"law": "exact_count"}:
            torch.testing.assert_close(weight[~again][:, 1], LENGTH / second[~again].sum(1).double())
        elif part["law"] == "bernoulli":
            torch.testing.assert_close(
                0.999 / weight[~again][:, 0] + 0.999 / weight[~again][:, 1], torch.ones(int((~again).sum())).double()
            )
        else:
            assert torch.equal(count[:, 1], second.sum(1).double())


def test_only_rows_whose_law_asks_for_it_are_read_twice() -> None:
    clean = clean_canvas([TEXT] * 400)
    parts = [{"law": "exact_count", "complement": True, "share": 0.25}, {"law": "all", "share": 0.75}]
    seen, hidden, noise = Mixture(parts, STARTS).hide(clean, noise_for(clean))
    assert 440 < seen.n_rows < 560
    assert seen.n_rows == noise.key.numel() == hidden.weight.numel()
    assert noise.key.unique().tolist() == list(range(400))


def test_losses_are_averaged_over_tokens_or_rows() -> None:
    clean = clean_canvas([[1, 2], [1, 2, 3, 4, 5, 6]])
    token, sequence, batch = (
        Mixture([{"law": "bernoulli", "per": per}], STARTS)(clean, noise_for(clean))
        for per in ("token", "sequence", "batch")
    )
    assert token.count.tolist() == [2, 6]
    assert sequence.count.tolist() == batch.count.tolist() == [1, 1]
    assert torch.equal(sequence.weight * torch.tensor([2, 6]), token.weight)
    assert torch.equal(batch.weight, token.weight)
    assert token.bound.all()
    assert not (sequence.bound | batch.bound).any()
    hidden = Mixture([{"law": "exact_count", "bound": False, "per": "sequence", "complement": True}], STARTS)
    seen, twice, _ = hidden.hide(clean, noise_for(clean))
    torch.testing.assert_close(seen.sum_rows(twice.mask.double()) * twice.weight, torch.ones(4).double())


def test_a_share_of_the_rows_has_a_single_run() -> None:
    for share in (0.0, 0.25, 1.0):
        _, hidden = hidden_of({"law": "runs", "rate": [0.6, 0.6], "single": share}, 4000)
        assert float((hidden.count == 1).double().mean()) == pytest.approx(share, abs=0.03)
        assert set(hidden.count.tolist()) <= {1.0, 3.0}  # three fifths of five words begin a run of one


def test_a_run_begins_anywhere() -> None:
    seen, hidden = hidden_of({"law": "runs", "single": 1.0}, 4000)
    places = seen.index[hidden.mask].bincount(minlength=LENGTH + 1)[1:] / 4000
    torch.testing.assert_close(places, torch.full((LENGTH,), 1 / LENGTH), atol=0.03, rtol=0)


def test_how_many_runs_begin_is_drawn_from_all_of_the_range() -> None:
    _, hidden = hidden_of({"law": "runs", "rate": [0.2, 1.0]}, 4000)
    shares = hidden.count.long().bincount(minlength=LENGTH + 1)[1:] / 4000  # of 1 + 4 u, rounded
    torch.testing.assert_close(shares, torch.tensor([1, 2, 2, 2, 1]) / 8, atol=0.03, rtol=0)


def test_what_is_given_is_never_hidden() -> None:
    clean = clean_canvas([TEXT] * 300)
    fixed = (clean.role != Role.TEXT) | (clean.index < 3)  # the prompt: the first two tokens
    given = Canvas.build(clean.ids, clean.offsets, role=clean.role, fixed=fixed)
    for part in ({"law": "bernoulli"}, {"law": "exact_count", "complement": True}, {"law": "all"}, {"law": "runs"}):
        seen, hidden, _ = Mixture([part], STARTS.clone().fill_(1)).hide(given, noise_for(given))
        assert not (hidden.mask & seen.fixed).any()
        assert part["law"] in ("runs",) or (hidden.count <= LENGTH - 2).all()
