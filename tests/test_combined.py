"""A beam over all that a policy writes at once: the best ways in a row, and the best rows."""

import itertools
import math

import pytest
import torch

import unmask.decoding.infill
from toys import toy, with_options
from unmask.canvas import Edits, Role
from unmask.decoding.combined import ways
from unmask.decoding.masks import Masks
from unmask.language_model import LanguageModel
from unmask.masking import Hidden
from unmask.noise import Noise


@pytest.mark.parametrize("seed", range(20))
def test_the_best_ways_are_those_of_all(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    row = torch.tensor([0, 0, 0, 1, 3, 3])
    total = torch.randn(6, 3, generator=draw, dtype=torch.float64)
    total[torch.rand(6, 3, generator=draw) < 0.2] = -math.inf
    total[:, 0] = total[:, 0].clamp(min=-9)  # of a place something may be written
    chosen = torch.rand(6, generator=draw) < 0.8
    alive = torch.tensor([True, True, True, seed % 2 > 0])
    all_of: list[list[float]] = []
    for b in range(4):
        sites = [s for s in range(6) if row[s] == b and chosen[s]]
        every = itertools.product(range(3), repeat=len(sites)) if alive[b] else ()
        costs = [float(sum(total[s, a] for s, a in zip(sites, picks, strict=True))) for picks in every]
        all_of.append(sorted((cost for cost in costs if cost > -math.inf), reverse=True))
    for width in (1, 4, 100):
        found = ways(total, row, chosen, alive, width)
        cost = total.new_zeros(found.parent.numel()).index_add(0, found.child, total[found.site, found.pick])
        for b, every in enumerate(all_of):
            mine = cost[found.parent == b].tolist()
            assert sorted(mine, reverse=True) == pytest.approx(every[:width])
        made = [(int(p), *found.pick[found.child == c].tolist()) for c, p in enumerate(found.parent)]
        assert len(set(made)) == len(made)
        for c, parent in enumerate(found.parent.tolist()):
            wanted = [s for s in range(6) if row[s] == parent and chosen[s]]
            assert found.site[found.child == c].tolist() == wanted


def shy(end: float = 9.0) -> LanguageModel:
    lm = with_options(toy("insertion"), place="none")
    with torch.no_grad():
        lm.model.objective.head.words.bias[lm.model.objective.end] = end
    return lm


def of_trees(lm: LanguageModel, text: str, said: str, n: int = 2) -> float:
    """log p(said | text) by trees; exact where there is only one."""
    reading = lm.tokenizer.read(text)
    site = (reading.canvas.role == Role.SIGN).nonzero().squeeze(1)
    ids = torch.tensor(lm.tokenizer.candidate_ids(reading.holes[0], said))
    clean = reading.canvas.apply(Edits.emit(site, torch.tensor([ids.numel()]), ids, Role.TEXT))
    hidden, noise = (clean.role == Role.TEXT) & (clean.hole >= 0), Noise(0, torch.zeros(1, dtype=torch.int64))
    one = torch.ones(1, dtype=torch.float64)
    assert Hidden(hidden, one, one, one < 0).mask.sum() == ids.numel()
    with torch.no_grad():
        found = lm.model.objective.likelihood(lm.model.predict, clean, hidden, None, n, noise)
    return float(found.log_prob)


def test_what_is_found_costs_what_its_trees_do() -> None:
    lm = shy()
    text = "the ___ sat"
    fills = lm.fill(text, n=6, policy="parallel", beam=24, max_words=2)
    assert len({fill.text for fill in fills}) == 6
    scores = [fill.log_prob for fill in fills]
    assert scores == sorted(scores, reverse=True)
    hole = lm.tokenizer.read(text).holes[0]
    sizes = [len(lm.tokenizer.candidate_ids(hole, fill.holes[0].text)) for fill in fills]
    assert 1 in sizes
    for fill, size in zip(fills, sizes, strict=True):
        exact = of_trees(lm, text, fill.holes[0].text, 2 if size == 1 else 60)
        if size == 1:
            assert fill.log_prob == pytest.approx(exact, abs=1e-9)
        elif size == 2:
            assert fill.log_prob <= exact + 0.1
    alone = lm.fill(text, policy="parallel", max_words=2)[0]
    assert alone.log_prob <= fills[0].log_prob + 1e-9


def test_several_texts_take_a_beam() -> None:
    lm = shy()
    with pytest.raises(ValueError, match="beam of 3 or more"):
        lm.fill("the ___ sat", n=3, policy="parallel")
    with pytest.raises(ValueError, match="temperature above 0"):
        lm.fill("the ___ sat", n=3, policy="serial")
    with pytest.raises(ValueError, match="and a beam"):
        lm.fill("the ___ sat", policy="parallel", beam=2, end_penalty=1.0)
    assert len(toy("blank_lm").fill("the ___ sat", n=3, policy="parallel", beam=4, max_words=2)) == 3
    assert len(toy("masked_diffusion").fill("the [MASK][MASK] sat", n=3, policy="parallel", beam=4)) == 3


@pytest.mark.parametrize("beam", [1, 2, 8, 32])
@pytest.mark.parametrize("family", ["insertion", "masked_diffusion", "blank_lm"])
def test_what_had_to_wait_is_paid_once(family: str, beam: int) -> None:
    """Ways that differ in an edit that does not fit are one: no text gets their sum, nor a probability above 1."""
    lm = shy(2.0) if family == "insertion" else toy(family, scale=1.5)
    how = {"masks": Masks(length=6)} if family == "masked_diffusion" else {}
    for text in ("the ___{2} sat", "___{1,2} a dog ___{2,3}"):
        found = lm.fill(text, policy="parallel", beam=beam, n=min(beam, 3), max_words=2, **how)
        assert all(fill.log_prob < 0 for fill in found)
    ended = toy("masked_diffusion", scale=1.5)
    ended = with_options(ended, ends=True)
    for fill in ended.generate("the cat", policy="parallel", beam=beam, masks=Masks(length=4), max_words=4):
        assert fill.log_prob < 0


@pytest.mark.parametrize("family", ["insertion", "masked_diffusion"])
def test_company_changes_nothing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = shy(2.0) if family == "insertion" else toy(family, scale=1.5)
    texts = ["the ___ sat on ___", "a ___{2} dog", "___ the cat"]
    how = {"policy": "parallel", "beam": 6, "n": 3, "max_words": 2}
    how |= {"masks": Masks(length=3)} if family == "masked_diffusion" else {}
    together = lm.fill(texts, **how)
    monkeypatch.setattr(unmask.decoding.infill, "CHUNK", 25)
    for other in (lm.fill(texts, **how), [lm.fill(text, **how) for text in texts]):
        for mine, theirs in zip(together, other, strict=True):
            assert [fill.text for fill in mine] == [fill.text for fill in theirs]
            assert [fill.log_prob for fill in mine] == pytest.approx([fill.log_prob for fill in theirs], abs=1e-9)
