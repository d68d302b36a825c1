"""White space in families with a sign for each token: line breaks at an open end, and spaces that stand alone."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from toys import TEXTS, toy
from unmask.backbone import BackboneConfig
from unmask.decoding.masks import Masks
from unmask.language_model import LanguageModel
from unmask.model import Model, ModelConfig
from unmask.results import Fill
from unmask.tokenizer import Tokenizer


@cache
def leaning(*wanted: str, ends: bool = False, by: float = 6.0) -> LanguageModel:
    """A toy whose words are as they were, but for some tokens that it likes better."""
    tok = Tokenizer.train([*TEXTS, "a\nb\n\nc"] * 20, vocab_size=384)
    special = tuple(tok.special.nonzero().squeeze(1).tolist())
    shape = BackboneConfig(vocab_size=tok.vocab_size, width=16, n_layers=2, n_heads=2, mlp_width=32, max_length=128)
    model = Model(ModelConfig("masked_diffusion", shape, tok.signs, special, {"ends": ends}))
    model.initialise(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
        for text in wanted:
            (number,) = tok.encode(text, inside=True)
            model.objective.head.words.bias[number] += by
    return LanguageModel(model.double(), tok)


HOW = [{}, {"beam": 1}, {"policy": "leftmost"}, {"policy": "parallel"}, {"policy": "threshold:0.3"}, {"steps": 4},
       {"temperature": 1.0}, {"policy": "random", "temperature": 1.0}]  # fmt: skip


@pytest.mark.parametrize("how", HOW)
def test_lines_break_at_an_open_end_alone(how: dict[str, object]) -> None:
    lm = leaning("\n")
    (fill,) = lm.generate("the cat", max_words=12, masks=Masks(length=12), **how)
    (text,) = (hole.text for hole in fill.holes)
    assert text.count("\n") >= 2 and text == text.strip()
    assert len(text.split()) <= 12
    (short,) = lm.generate("the cat", max_words=5, **how)  # each break may begin a word
    assert len(short.text.split()) <= 2 + 5
    inside = ["the ___ cat", "the cat ___{5}", "the cat ___{1,9}", "the [MASK] [MASK] [MASK]", "___ ___ cat"]
    for fills in lm.fill(inside, masks=Masks(length=5), **how):
        assert "\n" not in fills[0].text
    assert "\n" in lm.fill("the cat ___", masks=Masks(length=9), **how)[0].text  # an open end too


def test_other_families_stay_on_their_line() -> None:
    for family in ("blank_lm", "left_to_right"):
        for fill in toy(family).generate("the cat", n=20, temperature=2.0, max_words=9):
            assert "\n" not in fill.text


def words_of(fill: Fill) -> None:
    """Its words are whole, and one space stands between two."""
    for hole in fill.holes:
        assert hole.text == hole.text.strip() and "  " not in hole.text
    assert "[MASK]" not in fill.text


@pytest.mark.parametrize("how", HOW)
def test_a_space_that_is_a_token_of_its_own_is_written(how: dict[str, object]) -> None:
    lm = leaning(" ", "O", "n", "1")
    texts = ["the ___ cat sat", "the ___{2,4} cat", "the cat ___{3}", "the ___{1,2}, ___", "the ___ [MASK][MASK] cat"]
    seen = 0
    for length in (3, 6):
        for text, fills in zip(texts, lm.fill(texts, masks=Masks(length=length), **how), strict=True):
            (fill,) = fills
            words_of(fill)
            assert fill.status == "finished" or "steps" in how
            for hole, piece in zip(fill.holes, [p for p in text.split() if "__" in p or "MASK" in p], strict=False):
                low, high = {"___{2,4}": (2, 4), "___{3}": (3, 3), "___{1,2},": (1, 2)}.get(piece, (0, length))
                assert low <= len(hole.text.split()) <= high or fill.status == "capped"
            seen += any(word[:1] in "On1" for hole in fill.holes for word in hole.text.split()[1:])
    assert seen  # a word that only a lone space can part from the one before it
