"""A model as a plain folder: `config.json`, `model.safetensors`, `tokenizer.json`, `README.md`. No pickle anywhere."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unmask.backbone import BackboneConfig
from unmask.model import Model, ModelConfig
from unmask.tokenizer import Tokenizer

FORMAT = 1  # of the folder; raised when older versions could not read a newer one
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
SCALE = ".scale"  # float32 [rows] beside an int8 matrix

Storage = Literal["float64", "float32", "bfloat16", "int8"]
_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


class Saves(Protocol):
    """What is needed of a tokenizer to write it."""

    def save(self, folder: Path) -> Any:
        """Write `tokenizer.json` into the folder."""


def write_model(
    folder: str | Path,
    model: Model,
    tokenizer: Saves,
    card: str,
    dtype: Storage | None = None,
    shard_bytes: int = 5 * 10**9,
) -> Path:
    """Write a model into a folder, which is made when missing; files of an earlier model there give way.

    Args:
        folder: Where to.
        model: Its shared weights are stored once.
        tokenizer: Beside it.
        card: The text of `README.md`.
        dtype: How weights are stored; `int8`: matrices by rows, each with its scale, all else float32. None: as they
            are.
        shard_bytes: Above this size the weights are cut into several files with an index.

    Raises:
        ValueError: when the model was quantised.
    """
    if model.bytewise:
        raise ValueError("an int8 model cannot be stored · its weights were rounded · load it with dtype='float32'")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, stored(model, dtype), shard_bytes)
    tokenizer.save(folder)
    write_text(folder / CARD, card)
    write_text(folder / CONFIG, json.dumps(_described(model.config), indent=2) + "\n")
    return folder


def read_model(folder: str | Path, dtype: torch.dtype | None = torch.float32) -> tuple[Model, Tokenizer]:
    """Read a model folder.

    Args:
        folder: Where from.
        dtype: Of the weights in memory; None: float32, or float64 where they were stored so.

    Raises:
        ValueError: when it is no model folder, or a part of it is missing, broken, or does not fit the rest.
    """
    folder = Path(folder)
    config = read_config(folder)
    with _Unfilled():
        model = Model(config)
    tensors = read_tensors(folder)
    wide = any(tensor.dtype == torch.float64 for tensor in tensors.values())
    model.to(dtype or (torch.float64 if wide else torch.float32))
    load(model, tensors, folder)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size != config.backbone.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model {config.backbone.vocab_size} · "
            "they are not of one model · copy the folder again, whole"
        )
    return model.eval(), tokenizer


def read_config(folder: str | Path) -> ModelConfig:
    """Read `config.json`; every key must be known.

    Raises:
        ValueError: when it is missing, broken, newer than this version, or names what there is not.
    """
    path = Path(folder) / CONFIG
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = "is not there" if not path.parent.exists() else f"has no {CONFIG}"
        raise ValueError(f"{folder} {hint} · a model is a folder with one · check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as fault:
        raise ValueError(f"{path} is not JSON · {fault} · copy the folder again") from None
    if not isinstance(given, dict) or given.pop("model_type", None) != "unmask":
        raise ValueError(f"{path} is of another kind of model · its model_type is not 'unmask' · convert it first")
    if (version := given.pop("format", None)) != FORMAT:
        raise ValueError(f"{path} has format {version} · this version reads {FORMAT} · update unmask")
    backbone = given.get("backbone")
    if not isinstance(backbone, dict):
        raise ValueError(f"{path} has no 'backbone' · it says the model's shape · copy the folder again")
    check_keys(given, ModelConfig, path)
    check_keys(backbone, BackboneConfig, path)
    special = tuple(given.pop("special"))
    return ModelConfig(**(given | {"special": special, "backbone": BackboneConfig(**backbone)}))


def weights(model: nn.Module) -> dict[str, Tensor]:
    """All that is stored of a module, by name: parameters and lasting buffers, shared ones once."""
    lasting = model.state_dict(keep_vars=True).keys()
    everything = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in everything.items() if name in lasting}


def stored(model: nn.Module, dtype: Storage | None = None) -> dict[str, Tensor]:
    """The weights as they go to disk."""
    return packed({name: weight.detach().cpu() for name, weight in weights(model).items()}, dtype)


def packed(tensors: Mapping[str, Tensor], dtype: Storage | None = None) -> dict[str, Tensor]:
    """Tensors as they are stored; `int8`: matrices by rows, each with its scale, all else float32."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if dtype == "int8" and tensor.dim() == 2:
            scale = (tensor.float().abs().amax(1) / 127).clamp(min=1e-12)
            out[name] = (tensor.float() / scale[:, None]).round().to(torch.int8)
            out[name + SCALE] = scale
        elif tensor.is_floating_point() and dtype is not None:
            out[name] = tensor.to(_DTYPES.get(dtype, torch.float32))
        else:
            out[name] = tensor
    return {name: tensor.contiguous() for name, tensor in out.items()}


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `packed` made, matrices that were int8 as float32."""
    return {
        name: tensor.float() * tensors[name + SCALE][:, None] if name + SCALE in tensors else tensor
        for name, tensor in tensors.items()
        if not name.endswith(SCALE)
    }


def load(model: nn.Module, tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Copy tensors, as `stored`, into a module.

    Raises:
        ValueError: when they are not exactly its weights.
    """
    own = weights(model)
    found = {name for name in tensors if not name.endswith(SCALE)}
    if odd := sorted(found ^ own.keys()):
        kind = "lacks" if odd[0] in own else "has an unknown"
        raise ValueError(f"{where} {kind} weight {odd[0]!r} · it is not of this model · copy the folder again, whole")
    with torch.no_grad():
        for name, weight in own.items():
            tensor = tensors[name]
            if tensor.shape != weight.shape:
                raise ValueError(
                    f"{where}: weight {name!r} has shape {tuple(tensor.shape)}, the config says {tuple(weight.shape)} ·"
                    " they are not of one model · copy the folder again, whole"
                )
            if name + SCALE in tensors:
                tensor = tensor.float() * tensors[name + SCALE][:, None]
            weight.copy_(tensor)


def write_tensors(folder: Path, tensors: dict[str, Tensor], shard_bytes: int, name: str = WEIGHTS) -> None:
    """Write tensors as one safetensors file, or above `shard_bytes` as several and an index."""
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total <= shard_bytes:
        _save(folder / name, tensors)
        (folder / f"{name}.index.json").unlink(missing_ok=True)
        return
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_bytes
    for key, tensor in tensors.items():
        if shards[-1] and tensor.nbytes > room:
            shards.append({})
            room = shard_bytes
        shards[-1][key] = tensor
        room -= tensor.nbytes
    stem = name.removesuffix(".safetensors")
    where = {}
    for number, shard in enumerate(shards, 1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        _save(folder / file, shard)
        where.update(dict.fromkeys(shard, file))
    index = {"metadata": {"total_size": total}, "weight_map": where}
    write_text(folder / f"{name}.index.json", json.dumps(index, indent=2) + "\n")
    (folder / name).unlink(missing_ok=True)


def read_tensors(folder: Path, name: str = WEIGHTS) -> dict[str, Tensor]:
    """Read what `write_tensors` wrote.

    Raises:
        ValueError: when a file is missing or broken.
    """
    index = folder / f"{name}.index.json"
    tensors: dict[str, Tensor] = {}
    path = folder / name
    try:
        files = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else [name]
        for file in files:
            path = folder / file
            with safe_open(path, "pt") as opened:
                tensors.update({key: opened.get_tensor(key) for key in opened.keys()})  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"{folder} has no {path.name} · the weights are missing · copy the folder again") from None
    except (SafetensorError, json.JSONDecodeError, KeyError) as fault:
        raise ValueError(f"{path} is broken · {fault} · copy it again") from None
    return tensors


def _described(config: ModelConfig) -> dict[str, Any]:
    return {"model_type": "unmask", "format": FORMAT, **asdict(config)}


def check_keys(given: dict[str, Any], kind: type[Any], path: Path) -> None:
    """See that a config has the keys of a dataclass, and all that it has no default for.

    Raises:
        ValueError: when it has not.
    """
    known = {field.name for field in fields(kind)}
    if unknown := sorted(given.keys() - known):
        near = difflib.get_close_matches(unknown[0], known, 1, 0.0)[0]
        raise ValueError(f"{path} has an unknown key {unknown[0]!r} · the nearest known is {near!r} · update unmask")
    required = {field.name for field in fields(kind) if field.default is MISSING}
    if missing := sorted(required - given.keys()):
        raise ValueError(f"{path} has no {missing[0]!r} · a model needs it · copy the folder again")


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write beside and rename, so that no reader meets half a file."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        save_file(tensors, beside, metadata={"format": "pt"})
        os.replace(beside, path)
    except SafetensorError as fault:  # a full disk reads so too
        raise OSError(f"{path} cannot be written: {fault}") from fault
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


class _Unfilled(TorchFunctionMode):
    """Modules made within leave their weights as memory had them: every one is read from disk in a moment."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


_FILLS = {Tensor.uniform_, Tensor.normal_, nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_}
