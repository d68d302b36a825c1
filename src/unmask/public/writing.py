"""A model of ours as the folder of another house."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unmask.backbone.convert import LAYOUTS
from unmask.model import Model
from unmask.public.checkpoint import FAMILY
from unmask.tensors import CARD, CONFIG, promoted, write_tensors, write_text
from unmask.tokenizer import Tokenizer


def write_public(
    folder: str | Path, model: Model, tokenizer: Tokenizer, card: str = "", shard_bytes: int = 5 * 10**9
) -> Path:
    """Write a left-to-right model as a Llama folder, which `transformers` loads with equal outputs.

    Its vocabulary is the model's, signs and all, so it is larger than that of the checkpoint the model came from.

    Args:
        folder: Where to; it is made when missing.
        model: Its weights are stored as they are.
        tokenizer: Beside it.
        card: The text of `README.md`; none is written where it is empty.
        shard_bytes: Above this size the weights are cut into several files with an index.

    Raises:
        ValueError: when no Llama computes as it does.
    """
    config, layout = model.config, LAYOUTS["llama"]
    if model.bytewise:
        raise ValueError("an int8 model cannot be stored · its weights were rounded · load it with dtype='float32'")
    if config.objective != FAMILY:
        raise ValueError(
            f"a {config.objective} model is no {layout.name} · a {layout.name} writes from left to right alone · "
            "this one cannot be written as one"
        )
    settings = {**layout.settings(config.backbone), **dict.fromkeys(("bos_token_id", "eos_token_id"))}
    own = dict(model.backbone.named_parameters())
    inner = {id(weight) for weight in own.values()}
    for name, weight in model.named_parameters():
        if id(weight) not in inner and bool(weight.detach().any()):
            raise ValueError(
                f"weight {name!r} is not zero · a {layout.name} has no such · this model cannot be written as one"
            )
    tensors = {name: tensor.cpu() for name, tensor in layout.tensors(own, config.backbone).items()}
    kind = promoted({tensor.dtype for tensor in tensors.values()})
    settings |= {**(config.kept or {}), "torch_dtype": str(kind).removeprefix("torch.")}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, tensors, shard_bytes)
    tokenizer.save(folder)
    names = {number: token for token, number in tokenizer.vocabulary.items()}
    told = {end: names.get(_first(settings.get(f"{end}_id"))) for end in ("bos_token", "eos_token", "pad_token")}
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.backbone.max_length,
        "clean_up_tokenization_spaces": False,
        **{end: token for end, token in told.items() if token is not None},
    }
    write_text(folder / "tokenizer_config.json", json.dumps(described, indent=2, ensure_ascii=False) + "\n")
    if card:
        write_text(folder / CARD, card)
    write_text(folder / CONFIG, json.dumps(settings, indent=2) + "\n")
    return folder


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value
