"""What is chosen of a search: what goes together, whether anything is drawn, and by which words a policy goes."""

from __future__ import annotations

import itertools

import pytest
import torch

from families import clean_canvas, tiny_model
from unmask.decoding.choices import POLICIES as NAMES
from unmask.decoding.choices import draws
from unmask.decoding.masks import Masks
from unmask.decoding.policies import POLICIES, Progress
from unmask.decoding.search import BEAM, Search, search_of
from unmask.masking import Hidden
from unmask.noise import Noise
from unmask.objectives import Proposal, Shape


def test_what_is_drawn_is_said_once() -> None:
    for name, temperature, remask in itertools.product(NAMES, (0.0, 0.7), (None, "cap")):
        masks, steps = Masks(remask=remask), 4 if remask else None
        drawn = draws(NAMES[name], temperature, masks)
        assert drawn == draws(POLICIES[name], temperature, masks)
        assert drawn == (temperature > 0 or name == "random" or remask is not None)
        assert Search(name, temperature=temperature, steps=steps, masks=masks).sampling == drawn
        beam = search_of(name, 1, None, steps, temperature, None, None, 0, None, masks).beam
        assert beam == (1 if drawn or NAMES[name].several or steps else BEAM)
        if drawn:
            with pytest.raises(ValueError, match="a beam of 2"):
                Search(name, beam=2, temperature=temperature, steps=steps, masks=masks)


def proposed(barred: list[int]) -> tuple[Proposal, torch.Tensor]:
    """What a tiny model proposes at three masks, some words barred at the first; and the distributions."""
    model = tiny_model("masked_diffusion", seed=1)
    clean, one = clean_canvas([[1, 2, 3]]), torch.ones(1, dtype=torch.float64)
    hidden = Hidden((clean.index > 0) & (clean.index < 4), one, one, one > 0)
    canvas, _ = model.objective.corrupt(clean, hidden, Noise(0, torch.zeros(1, dtype=torch.int64)))
    words = model.config.backbone.vocab_size
    classes = torch.arange(words)
    may = torch.ones(3, words + 1, 4, dtype=torch.bool)
    may[0, barred] = False
    with torch.inference_mode():
        prediction = model.predict(canvas)
        return model.objective.propose(prediction, canvas, 1, Shape(classes, may), None), prediction.words()


@pytest.mark.parametrize("policy", ["threshold", "factor"])
def test_a_policy_goes_by_the_best_word_that_may_come(policy: str) -> None:
    free, words = proposed([])
    likely = words[0].argsort(descending=True).tolist()
    assert torch.equal(free.best, free.confidence)
    barred, _ = proposed(likely[:4])
    assert barred.confidence[0] == words[0, likely[0]]  # statistics of the whole distribution stay
    assert barred.best[0] == words[0, likely[4]]
    low, high = barred.best[0].exp().item(), barred.confidence[0].exp().item()
    level = {"threshold": (low + high) / 2, "factor": 3 * (1 - (low + high) / 2)}[policy]
    takes = POLICIES[policy].choose
    first = torch.full((3,), -9.0)  # no other site is sure
    for proposal, wanted in ((free, True), (barred, False)):
        one = {"best": torch.cat([proposal.best[:1], first[1:].double()]), "confidence": proposal.confidence}
        alone = Proposal(**{**vars(proposal), **one})
        second = Proposal(**{**vars(alone), "best": alone.best.index_fill(0, torch.tensor([1]), -0.001)})
        got = takes(second, Progress(1, level=level), None)
        assert got.tolist() == [wanted, True, False]
