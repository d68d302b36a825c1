"""A model as a plain folder: `config.json`, `model.safetensors`, `tokenizer.json`, `README.md`. No pickle anywhere."""

from __future__ import annotations

import difflib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from unmask.backbone import BackboneConfig
from unmask.backbone.convert import LAYOUTS
from unmask.model import Model, ModelConfig, hollow
from unmask.objectives import OBJECTIVES
from unmask.public import is_public, opened
from unmask.tensors import CARD as CARD
from unmask.tensors import CONFIG as CONFIG
from unmask.tensors import WEIGHTS as WEIGHTS
from unmask.tensors import Tensors, promoted, read_settings
from unmask.tensors import read_tensors as read_tensors
from unmask.tensors import write_tensors as write_tensors
from unmask.tensors import write_text as write_text
from unmask.tokenizer import Tokenizer

FORMAT = 1  # of the folder; raised when older versions could not read a newer one
SCALE = ".scale"  # float32 [rows] beside an int8 matrix

Storage = Literal["float64", "float32", "bfloat16", "int8"]
_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


class ModelOnDisk(Protocol):
    """A model on disk, opened: each thing that is asked of it is read once, its weights by `read` alone."""

    @property
    def config(self) -> ModelConfig:
        """What it is."""

    @property
    def shape(self) -> BackboneConfig:
        """The shape of its backbone; of a public one before its signs."""

    @property
    def dtype(self) -> torch.dtype:
        """What its weights can be read as without loss; of an int8 one, float32."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its vocabulary; a public one gets signs of its own."""

    def read(self, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> tuple[Model, Tokenizer]:
        """The model and its tokenizer; arguments as of `read_model`."""


@dataclass(frozen=True)
class ModelFolder:
    """A folder of ours, as `ModelOnDisk`."""

    where: Path
    config: ModelConfig

    @property
    def shape(self) -> BackboneConfig:
        """The shape of the backbone."""
        return self.config.backbone

    @cached_property
    def tensors(self) -> Tensors:
        """Its weights, of which none is read yet."""
        return Tensors(self.where)

    @property
    def dtype(self) -> torch.dtype:
        """What holds its weights as they are."""
        return promoted(self.tensors.dtypes)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """What `tokenizer.json` says."""
        return Tokenizer.load(self.where)

    def read(self, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> tuple[Model, Tokenizer]:
        """The model and its tokenizer.

        Raises:
            ValueError: when a part is missing, broken, or does not fit the rest.
        """
        config, tensors = self.config, self.tensors
        wide = torch.float64 if torch.float64 in tensors.dtypes else torch.float32
        model = hollow(config, dtype or wide, device)
        load(model, tensors, self.where)
        if self.tokenizer.vocab_size != config.backbone.vocab_size:
            raise ValueError(
                f"{self.where}: the tokenizer has {self.tokenizer.vocab_size} tokens, the model "
                f"{config.backbone.vocab_size} · they are not of one model · copy the folder again, whole"
            )
        return model.eval(), self.tokenizer


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
        ValueError: when the model was quantised or packed.
    """
    if model.settled:
        raise ValueError(
            "a model that was laid out for filling cannot be stored · its weights were rounded or packed"
            " · load it with dtype='float32'"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, stored(model, dtype), shard_bytes)
    tokenizer.save(folder)
    write_text(folder / CARD, card)
    write_text(folder / CONFIG, json.dumps(_described(model.config), indent=2) + "\n")
    return folder


def open_whole(place: str | Path) -> ModelOnDisk:
    """Open a model: a folder of ours or of a public layout, or a GGUF file.

    An adapter is none; `adapter.open_model` opens both, and is what `load` and training go through.

    Raises:
        ValueError: when it is none, its config is broken, or it is of a kind that is not known here.
    """
    place = Path(place)
    return opened(place) if is_public(place) else ModelFolder(place, _config(place))


def read_model(
    place: str | Path, dtype: torch.dtype | None = torch.float32, device: torch.device | str = "cpu"
) -> tuple[Model, Tokenizer]:
    """Read a model that `open_whole` opens.

    Args:
        place: Where from.
        dtype: Of the weights in memory; None: float32, or float64 where they were stored so.
        device: Where they go, tensor by tensor.

    Raises:
        ValueError: when it is no model, a part of it is missing, broken, or does not fit the rest, or it is of a kind
            that is not known here.
    """
    return open_whole(place).read(dtype, device)


def stored_dtype(place: str | Path) -> torch.dtype:
    """What a model's weights can be read as without loss; of an int8 one, float32.

    Raises:
        ValueError: when there is none.
    """
    return open_whole(place).dtype


def read_tokenizer(place: str | Path) -> Tokenizer:
    """Read a model's tokenizer; a public one gets signs of its own, as its model does. Also a `tokenizer.json` alone.

    Raises:
        ValueError: when there is none.
    """
    return opened(Path(place)).tokenizer if is_public(Path(place)) else Tokenizer.load(place)


def read_config(place: str | Path) -> ModelConfig:
    """Read what a model is, without its weights; every key of its config must be known.

    Raises:
        ValueError: when it is missing, broken, newer than this version, or names what there is not.
    """
    return open_whole(place).config


def _config(folder: Path) -> ModelConfig:
    path = folder / CONFIG
    given = read_settings(folder)
    if (kind := given.pop("model_type", None)) != "unmask":
        raise ValueError(
            f"{path}: model_type is {kind!r} · no such layout is known here · choose of unmask, {', '.join(LAYOUTS)}"
        )
    if (version := given.pop("format", None)) != FORMAT:
        raise ValueError(f"{path} has format {version} · this version reads {FORMAT} · update unmask")
    backbone = given.get("backbone")
    if not isinstance(backbone, dict):
        raise ValueError(f"{path} has no 'backbone' · it says the model's shape · copy the folder again")
    check_keys(given, ModelConfig, path)
    check_keys(backbone, BackboneConfig, path)
    check_options(given["objective"], given.get("options"), path)
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


def unpacked(tensors: Mapping[str, Tensor], where: str | Path) -> dict[str, Tensor]:
    """What `packed` made, matrices that were int8 as float32.

    Raises:
        ValueError: when one lacks its scale.
    """
    return {name: _scaled(tensors, name, where) for name in tensors if not name.endswith(SCALE)}


def _scaled(tensors: Mapping[str, Tensor], name: str, where: str | Path) -> Tensor:
    """A tensor of those that `packed` made, as float32 where it was int8."""
    tensor = tensors[name]
    if name + SCALE in tensors:
        scale = tensors[name + SCALE]
        if scale.shape != tensor.shape[:1]:
            raise ValueError(
                f"{where}: {name + SCALE!r} has shape {tuple(scale.shape)}, of {name!r} {tuple(tensor.shape)} · "
                "each row has one scale · copy the folder again, whole"
            )
        return tensor.float() * scale[:, None]
    if not tensor.is_floating_point():
        raise ValueError(
            f"{where}: {name!r} holds whole numbers and has no {name + SCALE!r} · they are no weights without their"
            " scale · copy the folder again, whole"
        )
    return tensor


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
            if (shape := tensors[name].shape) != weight.shape:
                raise ValueError(
                    f"{where}: weight {name!r} has shape {tuple(shape)}, the config says {tuple(weight.shape)} ·"
                    " they are not of one model · copy the folder again, whole"
                )
            weight.copy_(_scaled(tensors, name, where))


def _described(config: ModelConfig) -> dict[str, Any]:
    return {"model_type": "unmask", "format": FORMAT, **asdict(config)}


def check_keys(given: dict[str, Any], kind: type[Any], path: Path) -> None:
    """See that a config has the keys of a dataclass, all that it has no default for, and values of its types.

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
    for field in fields(kind):
        if field.name in given:
            _check_type(field.name, given[field.name], str(field.type), path)


def check_options(objective: str, options: Mapping[str, Any] | None, path: Path) -> None:
    """See that the options of a family have values of their types; of others, or another family, nothing is said.

    Raises:
        ValueError: when they have not.
    """
    known = inspect.signature(OBJECTIVES[objective]).parameters if objective in OBJECTIVES else {}
    for name, value in (options or {}).items():
        if name in known:
            _check_type(f"options.{name}", value, str(known[name].annotation), path)


def _check_type(name: str, value: Any, annotation: str, path: Path) -> None:
    plain = annotation.removesuffix(" | None")
    what, fits = _TYPES.get(plain, ("", lambda _: True))
    if not fits(value) and not (value is None and plain != annotation):
        raise ValueError(f"{path}: {name} is {value!r:.60} · it must be {what} · copy the folder again")


def _each(kind: type[Any]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(type(one) is kind for one in value)


# What a file may have for a setting, by its annotation; others are passed over.
_TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "str": ("a text", lambda value: isinstance(value, str)),
    "int": ("a whole number", lambda value: type(value) is int),  # true is an int too
    "float": ("a number", lambda value: type(value) in (int, float) and math.isfinite(value)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "tuple[str, ...]": ("a list of texts", _each(str)),
    "tuple[int, ...]": ("a list of whole numbers", _each(int)),
    "dict[str, int]": (
        "a table of whole numbers",
        lambda value: isinstance(value, dict) and _each(int)([*value.values()]),
    ),
    "dict[str, Any]": ("a table", lambda value: isinstance(value, dict)),
}
