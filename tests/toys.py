"""Small language models of every family with a tokenizer of their own, made on the spot, for tests."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch

from families import positions_of
from unmask.backbone import BackboneConfig
from unmask.folder import write_model
from unmask.language_model import LanguageModel
from unmask.model import Model, ModelConfig
from unmask.tokenizer import Tokenizer

FAMILIES = ["blank_lm", "left_to_right", "masked_diffusion"]
WRITERS = ["blank_lm", "left_to_right"]  # fill blanks of any length
TEXTS = [
    "the cat sat on the mat and the old man saw a dog",
    "a big old dog ran to the cat on the mat",
    "she saw the man and the dog sat, unable, at 12",
]
TEXT = "The cat sat on the mat. The dog ran home in the rain. We had soup for dinner and then went home."


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 20, vocab_size=384)


@cache
def toy(objective: str, seed: int = 0, max_length: int = 128, scale: float = 0.4, segments: int = 0) -> LanguageModel:
    """A float64 model with weights large enough to have opinions."""
    tok = tokenizer()
    special = tuple(tok.special.nonzero().squeeze(1).tolist())
    shape = BackboneConfig(
        vocab_size=tok.vocab_size,
        width=16,
        n_layers=2,
        n_heads=2,
        mlp_width=32,
        max_length=max_length,
        positions=positions_of(objective),
        n_segments=segments,
    )
    model = Model(ModelConfig(objective, shape, tok.signs, special))
    model.initialise(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return LanguageModel(model.double(), tok)


def with_options(lm: LanguageModel, **options: Any) -> LanguageModel:
    """The same weights in a family with other options."""
    model = deepcopy(lm.model)
    model.set_options(options)
    return LanguageModel(model, lm.tokenizer)


def nonsense(objective: str, folder: Path) -> str:
    """A model in a folder, tiny and untrained: what it writes is nonsense, in the right form."""
    tokenizer = Tokenizer.train([TEXT] * 4, vocab_size=320)
    shape = BackboneConfig(vocab_size=tokenizer.vocab_size, width=32, n_layers=1, n_heads=2)
    special = tuple(tokenizer.special.nonzero().squeeze(1).tolist())
    model = Model(ModelConfig(objective, shape, dict(tokenizer.signs), special))
    model.initialise(0)
    return str(write_model(folder, model, tokenizer, "---\nlicense: cc0-1.0\n---\n"))
