"""A family from outside the package: the one that CONTRIBUTING.md shows, held to the laws, trained and filled with.

It is registered by one row of the table, and nothing else of the package is touched: that is the claim under test.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from families import N_WORDS, clean_canvas, noise_for, tiny_model
from test_docs import ROOT, blocks
from toys import toy
from unmask.canvas import Role
from unmask.masking import Mixture
from unmask.noise import Noise
from unmask.objectives import OBJECTIVES, Objective
from unmask.training.run import train

TEXT = "The cat sat on the mat.\nThe dog lay on the log.\n"
SMALL = ["batch_tokens=512", "data.max_tokens=64", "backbone.width=64", "backbone.n_layers=2", "backbone.n_heads=2"]
NAME = "onward"


@pytest.fixture(autouse=True)
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one row."""
    names: dict[str, Any] = {"__name__": "toy"}
    first = next(block for block in blocks((ROOT / "CONTRIBUTING.md").read_text()) if "class Onward" in block.source)
    exec(compile(first.source, "CONTRIBUTING.md", "exec"), names)
    monkeypatch.setitem(OBJECTIVES, NAME, names["Onward"])


def test_it_has_what_the_protocol_asks_for() -> None:
    asked = {name for name in {*vars(Objective), *Objective.__annotations__} if not name.startswith("_")}
    assert {name for name in asked if not hasattr(tiny_model(NAME).objective, name)} == set()


@pytest.mark.parametrize("law", ["exact_count", "runs", "all"])
def test_corrupting_and_writing_back_is_the_identity(law: str) -> None:
    objective, clean = tiny_model(NAME).objective, clean_canvas([[1, 2, 3, 4, 5, 6], [7], [8, 9, 1, 2]])
    hide = Mixture([{"law": law}], torch.ones(N_WORDS + 6, dtype=torch.int64))
    for seed in range(20):
        canvas, targets = objective.corrupt(clean, hide(clean, noise_for(clean, seed)), noise_for(clean, seed))
        back = objective.restore(canvas, targets)
        assert back.ids.tolist() == clean.ids.tolist()
        assert back.offsets.tolist() == clean.offsets.tolist()
        assert back.role.tolist() == clean.role.tolist()


def test_company_changes_no_loss() -> None:
    model, clean = tiny_model(NAME), clean_canvas([[1, 2, 3, 4, 5], [6, 7], [8, 9, 1]])
    hide = Mixture([{"law": "exact_count"}], torch.ones(N_WORDS + 6, dtype=torch.int64))

    def loss(rows: list[int]) -> float:
        part, noise = clean.take(torch.tensor(rows)), Noise(0, torch.tensor(rows))
        canvas, targets = model.objective.corrupt(part, hide(part, noise), noise)
        return model.objective.loss(model.predict(canvas, targets), canvas, targets).total.item()

    assert loss([2, 0, 1]) == pytest.approx(sum(loss([i]) for i in range(3)), abs=1e-9)


def test_probabilities_of_short_texts_sum_to_less_than_one() -> None:
    model, words = tiny_model(NAME, n_words=2), torch.arange(2)
    texts = [torch.cartesian_prod(*[words] * n).view(-1, n).tolist() for n in (1, 2, 3)]
    clean = clean_canvas([text for some in texts for text in some], n_words=2)
    found = model.objective.likelihood(model.predict, clean, clean.role == Role.TEXT, None, 1, noise_for(clean))
    assert 0 < found.log_prob.exp().sum().item() < 1


def test_it_trains_and_fills(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 100)
    how = [f"objective={NAME}", "masking=exact_count", "learning_rate=0.01", "steps=100", "threads=1", *SMALL]
    folder = train(tmp_path / "text.txt", how, out=tmp_path / "run", progress=False)
    assert "lay" in (folder / "samples.txt").read_text() or "sat" in (folder / "samples.txt").read_text()
    lm = unmask.load(folder / "model", dtype="float64")
    assert lm.model.objective.name == NAME
    assert lm.fill("The cat ___ on the mat.")[0].text == "The cat sat on the mat."
    assert lm.fill("The dog ___{3} log.")[0].text == "The dog lay on the log."
    assert lm.fill("The [MASK] sat on the mat.")[0].text == "The cat sat on the mat."
    dog, cat = lm.fill("The ___{dog|cat} lay on the log.", n=2)
    assert (dog.holes[0].text, cat.holes[0].text) == ("dog", "cat")
    for policy in ("confident", "leftmost", "location", "parallel"):
        assert len(lm.fill("The ___ sat on the ___{1}.", policy=policy)[0].holes) == 2
    drawn = [lm.fill("The ___ sat.", temperature=1.0, seed=seed)[0].text for seed in range(9)]
    assert drawn.count("The cat sat.") > 4
    assert lm.score("The cat sat on the mat.").log_prob > lm.score("mat the on sat cat The.").log_prob


def test_what_a_fill_costs_is_what_the_model_says_it_does() -> None:
    lm = toy(NAME)
    fill = lm.fill("the cat ___ on the mat")[0]
    hole = fill.holes[0]
    clean = lm.tokenizer.read([fill.text]).canvas
    spelt = len(lm.tokenizer.read(["the cat"]).canvas.ids) - 1
    tail = len(lm.tokenizer.encode(" on the mat", inside=True)) + 1
    index = torch.arange(clean.n_elements)
    hidden = (index >= spelt) & (index < clean.n_elements - tail)
    assert lm.tokenizer.decode(clean.ids[hidden]).strip() == hole.text
    clean.fixed[:] = False
    found = lm.model.objective.likelihood(lm.model.predict, clean, hidden, None, 1, noise_for(clean))
    assert fill.log_prob == pytest.approx(found.log_prob.item(), abs=1e-6)


def test_an_empty_fill_it_cannot_price_is_refused() -> None:
    with pytest.raises(ValueError, match="ask for at least one word"):
        toy(NAME).fill("the ___{0,2} cat")
