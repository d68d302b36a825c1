"""An adapter: what training changed of a base, as a folder: `adapter.safetensors`, `config.json`, `README.md`.

A matrix `NAME [O, I]` of the base becomes `NAME + alpha / rank * b @ a` with `NAME.a [rank, I]`, `NAME.b [O, rank]` (Hu
et al. 2022, section 4.1); the rows of a vocabulary's matrix that belong to signs become `NAME.rows [S, D]`. The
tokenizer is the base's. Putting the two together takes no more than reading a model does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unmask.backbone import BackboneConfig
from unmask.bases import BASES, file_hash, located, on_hub, place_of, pulled
from unmask.folder import (
    CARD,
    CONFIG,
    ModelOnDisk,
    Storage,
    check_keys,
    check_options,
    open_whole,
    packed,
    read_tensors,
    unpacked,
    weights,
    write_tensors,
    write_text,
)
from unmask.model import Model, ModelConfig
from unmask.public import card_of as public_card
from unmask.public import is_public
from unmask.tokenizer import Tokenizer

FORMAT = 1  # of the folder; raised when older versions could not read a newer one
KIND, WEIGHTS = "unmask-adapter", "adapter.safetensors"
WHOLE = 10**18  # bytes; an adapter is one file


@dataclass(frozen=True)
class AdapterConfig:
    """Which base an adapter is of, and how the two go together."""

    base: str  # a name that `unmask pull` or the Hub knows, or its place; a relative one is seen from the folder
    revision: str | None  # of the base, where it has one
    sha256: str  # of the base, see `origin`
    objective: str
    options: dict[str, Any] | None  # the objective's, in the place of the base's
    rank: int
    alpha: float
    targets: tuple[str, ...]  # which matrices of each layer
    signs: tuple[str, ...]  # whose rows are trained, in the order of the rows


@dataclass(frozen=True)
class Adapter:
    """An adapter in memory."""

    config: AdapterConfig
    tensors: dict[str, Tensor]


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter rather than a model."""
    try:
        given = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # whoever reads it says what is wrong
    return isinstance(given, dict) and given.get("model_type") == KIND


def write_adapter(folder: str | Path, adapter: Adapter, card: str, dtype: Storage | None = None) -> Path:
    """Write an adapter into a folder, which is made when missing.

    Args:
        folder: Where to.
        adapter: What.
        card: The text of `README.md`.
        dtype: How it is stored; `int8`: by rows, each with its scale. None: as it is.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu() for name, tensor in adapter.tensors.items()}
    write_tensors(folder, packed(tensors, dtype), WHOLE, WEIGHTS)
    write_text(folder / CARD, card)
    described = {"model_type": KIND, "format": FORMAT, **asdict(adapter.config)}
    write_text(folder / CONFIG, json.dumps(described, indent=2) + "\n")
    return folder


def read_adapter(folder: str | Path) -> Adapter:
    """Read an adapter's folder; its base is not asked for.

    Raises:
        ValueError: when it is none, or a part of it is missing or broken.
    """
    return Adapter(read_adapter_config(folder), unpacked(read_tensors(Path(folder), WEIGHTS), folder))


def read_adapter_config(folder: str | Path) -> AdapterConfig:
    """Read an adapter's `config.json`; every key must be known.

    Raises:
        ValueError: when it is missing, broken or newer than this version.
    """
    path = Path(folder) / CONFIG
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        what = "it is a whole model" if Path(folder).is_file() else f"it has no {CONFIG}"
        what = what if Path(folder).exists() else "there is no such folder"
        raise ValueError(f"{folder} is no adapter · {what} · give the folder of one, or the name of one here") from None
    except (OSError, ValueError) as fault:
        raise ValueError(f"{path} cannot be read · {fault} · copy the folder again") from None
    if not isinstance(given, dict) or given.pop("model_type", None) != KIND:
        raise ValueError(f"{folder} is no adapter · its model_type is not {KIND!r} · give the folder of one")
    if (version := given.pop("format", None)) != FORMAT:
        raise ValueError(f"{path} has format {version} · this version reads {FORMAT} · update unmask")
    check_keys(given, AdapterConfig, path)
    check_options(given["objective"], given["options"], path)
    return AdapterConfig(**(given | {"targets": tuple(given["targets"]), "signs": tuple(given["signs"])}))


@dataclass(frozen=True)
class AdaptedModel:
    """An adapter and its base, both opened, as `folder.ModelOnDisk`."""

    where: Path
    adapter: AdapterConfig
    base: ModelOnDisk

    @cached_property
    def config(self) -> ModelConfig:
        """What the two make together."""
        return replace(self.base.config, options=self.adapter.options)

    @property
    def shape(self) -> BackboneConfig:
        """The base's."""
        return self.base.shape

    @property
    def dtype(self) -> torch.dtype:
        """The base's."""
        return self.base.dtype

    @property
    def tokenizer(self) -> Tokenizer:
        """The base's."""
        return self.base.tokenizer

    def read(self, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> tuple[Model, Tokenizer]:
        """The two put together, and the tokenizer.

        Raises:
            ValueError: when a part is missing, broken, or does not fit the rest.
        """
        model, tokenizer = self.base.read(dtype, device)  # which takes most memory, so it is alone then
        adapter = Adapter(self.adapter, unpacked(read_tensors(self.where, WEIGHTS), self.where))
        return merge(model, adapter, self.where), tokenizer


def open_model(path: str | Path) -> ModelOnDisk:
    """Open a model, or an adapter and its base.

    Raises:
        ValueError: when it cannot be opened, or the base is missing or another one.
    """
    if not is_adapter(path):
        return open_whole(path)
    config = read_adapter_config(path)
    return AdaptedModel(Path(path), config, open_whole(base_of(config, path)))


def read(
    path: str | Path, dtype: torch.dtype | None = torch.float32, device: torch.device | str = "cpu"
) -> tuple[Model, Tokenizer]:
    """Read a model that `open_model` opens; arguments as of `read_model`.

    Raises:
        ValueError: when it cannot be read, or the base is missing or another one.
    """
    return open_model(path).read(dtype, device)


def card_of(path: str | Path) -> str | None:
    """The card of what `read` gives; None where it has none."""
    path = Path(path)
    if is_public(path):
        return public_card(path)
    own = path / CARD
    card = own.read_text(encoding="utf-8") if own.is_file() else None
    if not is_adapter(path):
        return card
    config = read_adapter_config(path)
    return _whole(card or "", config.base, config.sha256)


def base_of(config: AdapterConfig, folder: str | Path) -> Path:
    """Where the base of the adapter in `folder` lies.

    Raises:
        ValueError: when it is not there, or another than the adapter was trained on.
    """
    known = BASES.get(config.base)
    if known is not None:  # whatever lies under that name where we are
        if known.sha256 != config.sha256:
            revision = known.hub.revision if known.hub is not None else None
            raise _another(config, folder, known.name, revision, known.sha256)
        return pulled(known)
    path = place_of(place_of_base(config, folder), config.revision)
    if not path.exists():
        raise ValueError(
            f"the base of {folder} is not there: {path} · an adapter is only what was changed of it · "
            f'put it there, or write its place as "base" into {Path(folder) / CONFIG}'
        )
    if (found := sha256_of(path)) != config.sha256:
        raise _another(config, folder, path, config.revision, found)
    return path


def place_of_base(config: AdapterConfig, folder: str | Path) -> str:
    """The base of the adapter in `folder` by a name or path that means the same wherever a process runs."""
    if config.base in BASES:
        return config.base
    path = (Path(folder) / config.base).absolute()
    return config.base if on_hub(config.base) and not path.exists() else str(path)


def origin(base: str) -> tuple[str, str | None, str]:
    """What an adapter's config says of a base: its name or whole path, its revision where it has one, its sha256.

    A base that was pulled was compared with its sha256 then.
    """
    if located(base) is not None:
        hub = BASES[base].hub
        return base, hub.revision if hub is not None else None, BASES[base].sha256
    path = place_of(base).absolute()
    return (base, path.name, sha256_of(path)) if on_hub(base) else (str(path), None, sha256_of(path))


def sha256_of(path: Path) -> str:
    """The hash of a base, in hexadecimal: a file's own.

    Of a folder it is that of what `sha256sum config.json *.safetensors tokenizer.json` prints there.
    """
    if path.is_file():
        return file_hash(path)
    files = [path / CONFIG, *sorted(path.glob("*.safetensors")), path / "tokenizer.json"]
    lines = [f"{file_hash(file)}  {file.name}\n" for file in files if file.is_file()]
    return sha256("".join(lines).encode()).hexdigest()


def shapes(model: Model, config: AdapterConfig) -> dict[str, tuple[int, ...]]:
    """The tensors that an adapter with this config has for a model, by name.

    Raises:
        ValueError: when the model lacks a sign.
    """
    sign_ids(model, config)
    found: dict[str, tuple[int, ...]] = {}
    for name, part in model.backbone.layers.named_modules(prefix="backbone.layers"):
        if isinstance(part, nn.Linear) and name.rpartition(".")[2] in config.targets:
            found[f"{name}.weight.a"] = (config.rank, part.in_features)
            found[f"{name}.weight.b"] = (part.out_features, config.rank)
    for name in ("embedding",) if model.config.backbone.tied else ("embedding", "output"):
        found[f"backbone.{name}.weight.rows"] = (len(config.signs), model.config.backbone.width)
    return found


def sign_ids(model: Model, config: AdapterConfig) -> Tensor:
    """The ids of an adapter's signs in a model, `[S]` int64.

    Raises:
        ValueError: when the model lacks one.
    """
    signs = model.config.signs
    if missing := [name for name in config.signs if name not in signs]:
        raise ValueError(
            f"the base has no sign {missing[0]!r} · the adapter was trained with it · use the version of unmask it "
            "was trained with, or a newer one"
        )
    return torch.tensor([signs[name] for name in config.signs], dtype=torch.int64)


def check(tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], where: str | Path) -> None:
    """See that an adapter's tensors are those that are wanted.

    Raises:
        ValueError: when they are not.
    """
    if odd := sorted(tensors.keys() ^ wanted.keys()):
        kind = "lacks" if odd[0] in wanted else "has an unknown"
        raise ValueError(f"{where} {kind} tensor {odd[0]!r} · it is not of this base · copy the adapter again, whole")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != wanted[name]:
            raise ValueError(
                f"{where}: {name!r} has shape {tuple(tensor.shape)}, the base asks for {wanted[name]} · "
                "they do not go together · copy the adapter again, whole"
            )


@torch.no_grad()
def merge(model: Model, adapter: Adapter, where: str | Path = "the adapter") -> Model:
    """Put an adapter into the weights of its base, which is changed and comes back.

    Raises:
        ValueError: when it does not fit the model.
    """
    config, tensors = adapter.config, adapter.tensors
    if config.objective != model.config.objective:
        raise ValueError(
            f"{where} is of {config.objective}, its base of {model.config.objective} · an adapter keeps its base's "
            "family · use the base it was trained on"
        )
    check(tensors, shapes(model, config), where)
    own = weights(model)
    for name, tensor in tensors.items():
        weight = own[name.rpartition(".")[0]]
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        if name.endswith(".rows"):
            weight[sign_ids(model, config).to(weight.device)] = tensor.to(weight)
        elif name.endswith(".b"):
            a = tensors[name.removesuffix("b") + "a"].to(weight.device, wide)
            change = torch.addmm(weight.to(wide), tensor.to(weight.device, wide), a, alpha=config.alpha / config.rank)
            weight.copy_(change)
    model.set_options(config.options)
    return model


def _another(
    config: AdapterConfig, folder: str | Path, base: str | Path, revision: str | None, found: str
) -> ValueError:
    by = f"revision {config.revision}" if config.revision not in (None, revision) else f"sha256 {config.sha256[:12]}"
    return ValueError(
        f"{folder} is no adapter of {base} · it was trained on {by}, this has sha256 {found[:12]} · "
        f"use the base it was trained on, or train an adapter of this one"
    )


def _whole(card: str, base: str, sha256: str) -> str:
    """The card of an adapter as that of the model it makes with its base."""
    facts, text = "", card
    if card.startswith("---\n") and "\n---\n" in card:
        facts, _, text = card.removeprefix("---\n").partition("\n---\n")
    under = text.strip() or "It has no card."
    return f"""---
{facts or f"base_model: {base}"}
---

# An adapter and its base in one

Made of `{base}` (sha256 {sha256}) and an adapter of it. Neither is needed any longer. The card of the
adapter:

{under}
"""
