"""Block diffusion: one pass for all blocks, an exact cache, a bound by blocks, text without an end in sight."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from families import clean_canvas, noise_for, tiny_model
from toys import toy, with_options
from unmask.backbone.attention import Pattern
from unmask.backbone.cache import Cache
from unmask.canvas import Canvas, Edits, Role
from unmask.decoding import lengths
from unmask.decoding.duel import duel
from unmask.decoding.masks import Masks
from unmask.decoding.search import Search
from unmask.language_model import LanguageModel
from unmask.masking import Hidden, Mixture
from unmask.masking.laws import bernoulli, exact_count, in_blocks
from unmask.masking.levels import Levels
from unmask.model import Model
from unmask.noise import Company, Noise
from unmask.view import visible

ROWS = [[1, 2, 3, 4, 5, 6, 7], [8, 9, 1], [2, 4, 6, 8, 1, 3, 5, 7, 9, 2, 4, 6]]


def model_of(block: int | None, seed: int = 1, n_words: int = 10, **backbone: object) -> Model:
    options = None if block is None else {"block": block}
    return tiny_model("masked_diffusion", seed, n_words=n_words, options=options, **backbone)


def hidden_of(clean: Canvas, mask: Tensor) -> Hidden:
    one = torch.ones(clean.n_rows, dtype=torch.float64)
    return Hidden(mask, one, one, one > 0)


def masked(model: Model, mask: Tensor, clean: Canvas) -> tuple[Canvas, Any]:
    return model.objective.corrupt(clean, hidden_of(clean, mask), noise_for(clean))


@cache
def writer(block: int | None = 4, ends: bool = False) -> LanguageModel:
    """A toy that writes block by block."""
    return with_options(toy("masked_diffusion", 3), block=block, ends=ends)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("block", [1, 2, 3, 5, 50])
def test_one_pass_is_a_pass_for_each_block(block: int, window: int | None) -> None:
    shape = {} if window is None else {"window": window, "global_every": 2}
    model, clean = model_of(block, **shape), clean_canvas(ROWS)
    mask = (clean.role == Role.TEXT) & (noise_for(clean).elements(clean, "some") < 0.6)
    canvas, targets = masked(model, mask, clean)
    at_once = model.predict(canvas, targets).words()
    element = mask.nonzero().squeeze(1)
    assert element.numel() > 8
    for place, site in enumerate(element.tolist()):
        row, which = int(clean.rows[site]), int(clean.index[site]) // block
        here = mask & (clean.rows == row) & (clean.index // block == which)  # all before its block is clean
        alone, its = masked(model, here[clean.rows == row], clean.take(torch.tensor([row])))
        words = model.predict(alone).words()
        assert words.shape[0] == its.word.numel()
        order = int((here.nonzero().squeeze(1) == site).nonzero())
        assert torch.allclose(at_once[place], words[order], atol=1e-12)


def test_nothing_is_seen_past_a_block() -> None:
    model, clean = model_of(3), clean_canvas(ROWS[2:])
    mask = clean.index == 7  # of block 2: elements 6 to 8
    words = model.predict(masked(model, mask, clean)[0]).words()
    for other in (1, 5, 6, 8, 9, 12):
        changed = replace(clean, ids=clean.ids.index_fill(0, torch.tensor([other]), 0))
        same = torch.allclose(words, model.predict(masked(model, mask, changed)[0]).words(), atol=1e-12)
        assert same == (other >= 9)


def test_one_block_for_all_is_masked_diffusion() -> None:
    clean = clean_canvas(ROWS)
    mask = (clean.role == Role.TEXT) & (clean.index % 2 == 1)
    losses = []
    for block in (None, 64):
        model = model_of(block)
        canvas, targets = masked(model, mask, clean)
        losses.append(model.objective.loss(model.predict(canvas, targets), canvas, targets).total)
    assert torch.allclose(*losses, atol=1e-12)


@pytest.mark.parametrize("window", [None, 2])
def test_rows_in_buckets_see_by_the_rule(window: int | None) -> None:
    model, clean = model_of(2), clean_canvas(ROWS)
    mask = (clean.role == Role.TEXT) & (noise_for(clean, 3).elements(clean, "some") < 0.5)
    canvas, targets = masked(model, mask, clean)
    generator = torch.Generator().manual_seed(0)
    for view in (model.objective.view(canvas, targets), model.objective.view(canvas)):
        q, k, v = (torch.randn(view.ids.numel(), 2, 8, generator=generator, dtype=torch.float64) for _ in range(3))
        fast, plain = Pattern(view), Pattern(view, dense=True)
        assert not fast.dense
        assert torch.allclose(fast.attend(q, k, v, window), plain.attend(q, k, v, window), atol=1e-12)
    sees, rows = visible(model.objective.view(canvas, targets)), model.objective.view(canvas, targets).rows
    assert not bool(sees[rows[:, None] != rows].any())


def every_order(model: Model, clean: Canvas, block: int) -> tuple[float, float]:
    """Log p(row) of one row, and the mean of the orders' own, each block written in every order with equal chance."""
    log_p = mean = 0.0
    index = clean.index
    for number in range(int(index[-1]) // block + 1):
        tokens = ((clean.role == Role.TEXT) & (index // block == number)).nonzero().squeeze(1).tolist()
        chains = []
        for order in itertools.permutations(tokens):
            total = 0.0
            for done, token in enumerate(order):
                mask = torch.zeros_like(clean.fixed)
                mask[list(order[done:])] = True
                words = model.predict(masked(model, mask, clean)[0]).words()
                total += float(words[sorted(order[done:]).index(token), clean.ids[token]])
            chains.append(total)
        log_p += float(torch.tensor(chains, dtype=torch.float64).logsumexp(0)) - math.log(len(chains))
        mean += sum(chains) / len(chains)
    return log_p, mean


def test_the_bound_is_the_mean_over_orders_and_below_the_exact() -> None:
    model, clean = model_of(3, n_words=4), clean_canvas([[1, 2, 3, 1, 0, 2, 1]], n_words=4)
    with torch.no_grad():
        exact, mean = every_order(model, clean, 3)
        found = model.objective.likelihood(model.predict, clean, clean.role == Role.TEXT, None, 4_000, noise_for(clean))
    assert found.kind == "bound"
    assert 0 < float(found.std_error) < 0.1
    assert float(found.log_prob) == pytest.approx(mean, abs=4 * float(found.std_error))
    assert mean < exact - 0.5


def test_a_block_of_one_is_left_to_right() -> None:
    model = model_of(1, n_words=3)
    texts = [list(text) for text in itertools.product(range(3), repeat=4)]
    clean = clean_canvas(texts, 3)
    with torch.inference_mode():
        found = model.objective.likelihood(model.predict, clean, clean.role == Role.TEXT, None, 7, noise_for(clean))
        chain = duel(model, clean, clean.role == Role.TEXT, Search("rightmost"))
    assert float(found.log_prob.exp().sum()) == pytest.approx(1, abs=1e-9)  # no bound: one set of masks each
    assert float(found.std_error.max()) == 0
    assert torch.allclose(found.log_prob, chain)


@pytest.mark.parametrize("steps", [None, 3, 4])
@pytest.mark.parametrize("policy", ["confident", "leftmost", "threshold:0.4", "entropy_bound:0.5"])
def test_duel_sums_to_one(policy: str, steps: int | None) -> None:
    model = model_of(2, n_words=3)
    clean = clean_canvas([list(text) for text in itertools.product(range(3), repeat=4)], 3)
    with torch.inference_mode():
        found = duel(model, clean, clean.role == Role.TEXT, Search(policy, steps=steps))
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("window", [None, 3])
def test_the_cache_is_exact(window: int | None) -> None:
    shape = {} if window is None else {"window": window, "global_every": 2}
    model, clean = model_of(3, **shape), clean_canvas(ROWS)
    hide = (clean.role == Role.TEXT) & (clean.index > 2)
    canvas = clean.apply(Edits.put(hide.nonzero().squeeze(1), torch.full((int(hide.sum()),), 10), Role.SIGN))
    store, computed = Cache(), []
    while (sites := model.objective.sites(canvas)).element.numel():
        view = model.objective.view(canvas, sites=sites)  # type: ignore[call-arg]
        before = store.n_computed
        kept, anew = model.backbone(view, cache=store), model.backbone(view)
        assert torch.allclose(kept, anew, atol=1e-12)
        computed.append(store.n_computed - before)
        first = sites.element[torch.cat([sites.row.new_full((1,), -1), sites.row[:-1]]) != sites.row]
        canvas = canvas.apply(Edits.put(first, clean.ids[first], Role.TEXT))
    assert max(computed) <= 3 * 6  # a block that was written and the one that is being, of each row
    assert torch.equal(canvas.ids, clean.ids)


TEXTS = ["the cat sat ___{6}", "she saw [MASK][MASK] and the [MASK] man", "the old man ___{4} on the ___{3}"]


@pytest.mark.parametrize("how", [{}, {"policy": "random"}, {"steps": 9}, {"policy": "threshold:0.3"}])
def test_a_batch_is_as_each_alone(how: dict[str, Any]) -> None:
    lm = writer()
    together = lm.fill(TEXTS, seed=5, **how)
    for text, fills in zip(TEXTS, together, strict=True):
        alone = lm.fill(text, seed=5, **how)
        assert [fill.text for fill in alone] == [fill.text for fill in fills]
        assert alone[0].log_prob == pytest.approx(fills[0].log_prob, abs=1e-9)
        assert "___" not in alone[0].text
        assert alone[0].text.startswith(text.split("___")[0].split("[")[0].rstrip())


@pytest.mark.parametrize("steps", [5, 7, 10, 16])
def test_blocks_keep_to_their_steps(steps: int) -> None:
    lm = writer()
    left = [step.text.count("[MASK]") for step in lm.watch("the cat " + "[MASK]" * 14, steps=steps, beam=1)]
    assert left[0] == 14
    assert left[-1] == 0
    assert len(left) <= steps + 1
    with pytest.raises(ValueError, match="blocks of 4"):
        lm.fill("the cat " + "[MASK]" * 14, steps=2, beam=1)


def test_text_goes_on_past_its_block_until_it_ends() -> None:
    text = writer().generate("the cat", max_words=40)[0].text
    assert len(writer().tokenizer.encode(text)) > 30
    ended = [writer(ends=True).generate("the cat", max_words=40, temperature=1.0, seed=s)[0] for s in range(6)]
    assert all(fill.status == "finished" for fill in ended)
    assert len({len(fill.text.split()) for fill in ended}) > 2


def test_the_length_of_a_hole_is_asked_of_all_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Tensor] = []
    real = lengths._confidence

    def spied(family: Any, words: Tensor, row: Tensor, n_rows: int) -> Tensor:
        looked.append(torch.bincount(row, minlength=n_rows))
        return real(family, words, row, n_rows)

    monkeypatch.setattr(lengths, "_confidence", spied)
    writer(block=2).fill("the cat ___ on the mat", beam=1)
    counts = torch.cat(looked).tolist()
    assert counts[:9] == list(range(1, 10))  # as many masks as each length has, not two


def test_every_block_has_a_level_of_its_own() -> None:
    clean = clean_canvas([[i % 10 for i in range(62)]] * 40)
    noise = replace(noise_for(clean), company=Company(torch.arange(40), 40, 3))
    hidden = in_blocks(bernoulli, clean, noise, 8, levels=Levels(draw="stratified"))
    assert hidden.within is not None
    level = (1 / hidden.within.view(-1, 8)) * (1 - 1e-3)  # the weight of a linear schedule is 1 / t, less epsilon
    assert torch.equal(level.amax(1), level.amin(1))
    drawn = level[:, 0].sort().values
    assert (drawn - (torch.arange(320) + 0.5) / 320).abs().max() < 0.02  # spread evenly over all blocks of the step
    shares = hidden.mask.view(-1, 8).double().mean(1)
    assert torch.corrcoef(torch.stack([shares, level[:, 0]]))[0, 1] > 0.8
    assert bool(hidden.bound.all())
    part = in_blocks(bernoulli, clean.take(torch.tensor([7])), Noise(noise.seed, noise.key[[7]], replace(
        noise.company, place=torch.tensor([7]))), 8, levels=Levels(draw="stratified"))  # fmt: skip
    assert torch.equal(part.mask, hidden.mask[clean.rows == 7])


def test_exact_counts_of_blocks_weigh_to_the_row() -> None:
    clean = clean_canvas(ROWS)
    hidden = in_blocks(exact_count, clean, noise_for(clean), 4)
    summed = clean.sum_rows(hidden.weigh(clean, torch.arange(clean.n_elements)) * hidden.mask)
    assert torch.equal(summed, hidden.count)  # n/m for each of m hidden, block by block
    both = hidden.take(clean, torch.tensor([2, 0, 2]))
    assert both.within is not None
    assert both.within.numel() == both.mask.numel() == 14 + 9 + 14


def test_what_does_not_go_together_is_said() -> None:
    begins = torch.ones(20, dtype=torch.int64)
    with pytest.raises(ValueError, match="leave out complement"):
        Mixture([{"law": "bernoulli", "complement": True}], begins, block=4)
    with pytest.raises(ValueError, match="a block of 0"):
        model_of(0)
    with pytest.raises(ValueError, match="blocks of 2 with a model that writes block by block"):
        writer().fill("the cat ___{4}", masks=Masks(block=2, cache="dual"))


def test_a_mixture_hides_by_blocks_too() -> None:
    clean = clean_canvas([[i % 10 for i in range(30)]] * 20)
    parts = [{"law": "bernoulli", "share": 0.5}, {"law": "all", "share": 0.5}]
    hidden = Mixture(parts, torch.ones(20, dtype=torch.int64), block=8)(clean, noise_for(clean))
    assert hidden.within is not None
    whole = clean.sum_rows((hidden.mask | (clean.role != Role.TEXT)).long()) == clean.lengths
    assert 4 < int(whole.sum()) < 16
    assert bool((hidden.within.view(20, -1)[whole] == 1).all())
    assert len(set(hidden.within.view(20, -1)[~whole].flatten().tolist())) > 20
