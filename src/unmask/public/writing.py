"""A model of ours as the folder of another house."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unmask.backbone.convert import LAYOUTS
from unmask.model import Model, ModelConfig
from unmask.tensors import CARD, CONFIG, promoted, write_tensors, write_text
from unmask.tokenizer import Tokenizer

WRITTEN = {"left_to_right": "llama", "masked_diffusion": "llada"}  # a family, and whose layout it goes out in
ENDS: dict[str, dict[str, str | None]] = {  # what a config says of the signs, by layout
    "llama": dict.fromkeys(("bos_token_id", "eos_token_id")),
    "llada": {"mask_token_id": "mask", "eos_token_id": "end", "pad_token_id": "end"},
}
# Options of the family that a reader knows, or may do without.
HELD = {"llama": {"plain", "begin", "stop", "told", "empty"}, "llada": {"ends"}}


def write_public(
    folder: str | Path, model: Model, tokenizer: Tokenizer, card: str = "", shard_bytes: int = 5 * 10**9
) -> Path:
    """Write a model as a public folder: one that goes left to right as a Llama, a masked diffusion one as a LLaDA.

    `transformers` loads the first with equal outputs, and the second with its makers' code beside it. Its vocabulary is
    the model's, signs and all, so it may be larger than that of the checkpoint the model came from.

    Args:
        folder: Where to; it is made when missing.
        model: Its weights are stored as they are.
        tokenizer: Beside it.
        card: The text of `README.md`; none is written where it is empty.
        shard_bytes: Above this size the weights are cut into several files with an index.

    Raises:
        ValueError: when no model of that layout computes as it does.
    """
    config = model.config
    if model.settled:
        raise ValueError(
            "a model that was laid out for filling cannot be stored · its weights were rounded or packed"
            " · load it with dtype='float32'"
        )
    kind = WRITTEN.get(config.objective)
    if kind is None:
        raise ValueError(
            f"a {config.objective} model is no {' and no '.join(LAYOUTS[one].name for one in WRITTEN.values())} · "
            "those layouts hold no other families · this one cannot be written for others"
        )
    layout = LAYOUTS[kind]
    ends = {key: sign and config.signs[sign] for key, sign in ENDS[kind].items()}
    settings = {**layout.settings(config.backbone), **ends}
    odd = sorted(key for key, value in (config.options or {}).items() if value and key not in HELD[kind])
    if odd:
        raise ValueError(
            f"objective.{odd[0]} is set · a {layout.name} has no such · this model cannot be written as one"
        )
    own = dict(model.backbone.named_parameters())
    inner = {id(weight) for weight in own.values()}
    for name, weight in model.named_parameters():
        if id(weight) not in inner and bool(weight.detach().any()):
            raise ValueError(
                f"weight {name!r} is not zero · a {layout.name} has no such · this model cannot be written as one"
            )
    tensors = {name: tensor.cpu() for name, tensor in layout.tensors(own, config.backbone).items()}
    wide = promoted({tensor.dtype for tensor in tensors.values()})
    settings |= {**(config.kept or {}), "torch_dtype": str(wide).removeprefix("torch.")}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, tensors, shard_bytes)
    tokenizer.save(folder)
    described = _described(tokenizer, settings, config)
    write_text(folder / "tokenizer_config.json", json.dumps(described, indent=2, ensure_ascii=False) + "\n")
    if card:
        write_text(folder / CARD, card)
    write_text(folder / CONFIG, json.dumps(settings, indent=2) + "\n")
    return folder


def _described(tokenizer: Tokenizer, settings: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """What a `tokenizer_config.json` says of a vocabulary."""
    said: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for end in ("bos_token", "eos_token", "pad_token", "mask_token"):
        name = _name(tokenizer, settings.get(f"{end}_id"))
        said |= {} if name is None else {end: name}
    options = config.options or {}
    if settings["model_type"] == "llada":  # whose settings do not say what begins a text
        said["bos_token"] = _name(tokenizer, config.signs["start"])
    elif options.get("begin") is not None and options["begin"] != options.get("stop"):
        said |= {"bos_token": _name(tokenizer, options["begin"]), "add_bos_token": True}
    return said | {"model_max_length": config.backbone.max_length}


def _name(tokenizer: Tokenizer, number: Any) -> str | None:
    """What a vocabulary calls a token, or the first of several."""
    first = number[0] if isinstance(number, list) and number else number
    return next((token for token, own in tokenizer.vocabulary.items() if own == first), None)
