"""Models with random weights and the vocabulary of the built-in one: what reading costs, not what it is worth."""

from copy import deepcopy
from typing import Any

import torch

import unmask
from unmask.backbone import BackboneConfig
from unmask.language_model import LanguageModel
from unmask.model import Model, ModelConfig, pack, quantise
from unmask.tokenizer import Reading

HEAD = 64  # width of one
DTYPES = "float32, packed (float32 laid out for filling), bfloat16 and int8"


def random_model(family: str, layers: int, width: int, *, options: dict[str, Any] | None = None, **shape: Any) -> Any:
    """A language model of a family with its `options`; `shape`: of the backbone."""
    base = unmask.load()
    config = base.model.config
    backbone = BackboneConfig(base.tokenizer.vocab_size, width, layers, width // HEAD, **shape)
    model = Model(ModelConfig(family, backbone, config.signs, config.special, options or {}))
    model.initialise(0)
    return LanguageModel(model, base.tokenizer)


def in_dtype(lm: LanguageModel, dtype: str, reading: Reading) -> LanguageModel:
    """The same weights as `DTYPES` names them; `reading` is shown to the model while they are rounded to bytes."""
    if dtype == "float32":
        return lm
    copied = deepcopy(lm.model)
    if dtype in ("packed", "bfloat16"):
        kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        return LanguageModel(pack(copied, kind), lm.tokenizer)
    if dtype != "int8":
        raise SystemExit(f"no dtype {dtype!r} · there are {DTYPES} · name them with commas between them")
    return LanguageModel(quantise(copied, copied.objective.open(reading.canvas, reading.holes)), lm.tokenizer)
