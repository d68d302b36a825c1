"""A checkpoint of another house, opened: what it is, and how it becomes a model of ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from unmask.backbone import BackboneConfig
from unmask.backbone.convert import GGUF_LAYOUTS, LAYOUTS, Layout
from unmask.model import Model, ModelConfig, hollow
from unmask.public.gguf import GGUF, MAGIC
from unmask.tensors import CARD, Tensors, promoted, read_settings
from unmask.tokenizer import Tokenizer
from unmask.tokenizer import definition as definitions
from unmask.tokenizer.chat import HEADERS
from unmask.tokenizer.gguf import vocabulary_of

KEPT = ("bos_token_id", "eos_token_id", "pad_token_id")  # settings that no computation needs, but that are written back
ALIKE = {  # what stands for a sign in plain text; that of `start` is the token that begins texts
    "mask": " _",
    "blank": " ___",
    "word": " _",
    "maybe": " (?)",
    "end": "\n",
    "sep": "Answer:",
    "answer": "\n",
}


@dataclass(frozen=True)
class Checkpoint:
    """A public checkpoint; of its weights nothing is read yet.

    It becomes a plain left-to-right model. Its vocabulary keeps its ids; behind them come the signs, whose rows are
    those of what people write in their place, so that training does not begin from nothing.
    """

    family: ClassVar[str] = "left_to_right"
    keeps: ClassVar[tuple[str, ...]] = KEPT

    where: Path
    layout: Layout
    said: Mapping[str, Any]  # its settings, as it has them
    weights: Callable[[], Tensors | GGUF]  # opens its tensors
    definition: dict[str, Any]  # the content of its tokenizer.json

    @cached_property
    def tensors(self) -> Tensors | GGUF:
        """Its tensors by name, of which none is read yet.

        Raises:
            ValueError: when a file is missing or broken.
        """
        return self.weights()

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by how its numbers are packed; of a folder nothing, since the headers of its files say it."""
        return self.tensors.sizes if isinstance(self.tensors, GGUF) else {}

    @cached_property
    def shape(self) -> BackboneConfig:
        """What its backbone is, before the signs."""
        return self.layout.shape(self.said, self.where)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its vocabulary and the signs."""
        own, size = self.signs, self.shape.vocab_size  # whose errors say where already
        try:
            return self._vocabulary(own, size)
        except ValueError as fault:
            raise ValueError(f"{self.where}: {fault}") from None

    @property
    def signs(self) -> dict[str, int]:
        """The ids of the signs that it has itself: none."""
        return {}

    @cached_property
    def config(self) -> ModelConfig:
        """The model it becomes."""
        special = tuple(self.tokenizer.special.nonzero().squeeze(1).tolist())
        shape = replace(self.shape, vocab_size=self.tokenizer.vocab_size)
        kept = {key: self.said[key] for key in self.keeps if self.said.get(key) is not None}
        return ModelConfig(self.family, shape, dict(self.tokenizer.signs), special, self._options(), kept or None)

    @property
    def dtype(self) -> torch.dtype:
        """What holds its weights as they are."""
        return promoted(self.tensors.dtypes)

    def read(self, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> tuple[Model, Tokenizer]:
        """The model, and its tokenizer.

        Args:
            dtype: Of the weights in memory; None: float32, or float64 where they were stored so.
            device: Where they go, one by one.

        Raises:
            ValueError: when a part is missing, does not fit, or is of a kind that is not known here.
        """
        config = self.config
        wide = torch.float64 if torch.float64 in self.tensors.dtypes else torch.float32
        model = hollow(config, dtype or wide, device)
        vocabularies = (model.backbone.embedding.weight.detach(), model.backbone.output.weight.detach())
        size = self.shape.vocab_size
        weights: dict[str, Tensor] = dict(model.backbone.named_parameters())
        for name in weights.keys() & {"embedding.weight", "output.weight"}:
            weights[name] = weights[name].detach()[:size]  # the rows that are theirs
        self.layout.pour(self.tensors, weights, config.backbone, self.where)
        fresh = {sign: number for sign, number in self.tokenizer.signs.items() if number >= size}
        for sign, number in fresh.items():
            alike = self._alike(sign)
            for matrix in vocabularies[: 1 if config.backbone.tied else 2]:
                matrix[number] = (matrix[alike] if alike else matrix[:size]).mean(0)
        inner = {id(parameter) for parameter in model.backbone.parameters()}
        for parameter in model.parameters():
            if id(parameter) not in inner:
                parameter.detach().zero_()  # the head's bias, which a public model does not have
        return model.eval(), self.tokenizer

    def _vocabulary(self, own: dict[str, int], size: int) -> Tokenizer:
        """The tokenizer, with tokens for all signs but its own."""
        return Tokenizer(definitions.extended(self.definition, size))

    def _options(self) -> dict[str, Any]:
        """The family's."""
        begin, stop = self._ends()
        return {"plain": True, "begin": begin, "stop": stop}

    def _alike(self, sign: str) -> list[int]:
        """Tokens whose rows a sign that the model does not know begins with."""
        return [self._ends()[0]] if sign == "start" else self.tokenizer.encode(ALIKE[sign], inside=True)

    def _ends(self) -> tuple[int, int]:
        """The tokens before and behind a text; what ends one its name says, else the settings."""
        begin, stop = self._begin(), definitions.find(self._added(), definitions.SIGNS["end"][1:])
        stop = self._said("eos_token_id") if stop is None else stop
        if stop is None:
            raise ValueError(f"{self.where} has no token that ends a text · a model needs one · set eos_token_id")
        return stop if begin is None else begin, stop  # where nothing begins a text, texts follow one another

    def _begin(self) -> int | None:
        """The token that begins a text: the one its tokenizer puts before texts, else the one whose name says so."""
        puts = definitions.leading(self.definition)
        if puts is None and _described(self.where).get("add_bos_token") is True:
            puts = self._bos()
            puts = self._said("bos_token_id") if puts is None else puts
        if puts is not None and not 0 <= puts < self.shape.vocab_size:
            raise ValueError(
                f"{self.where}: token {puts} stands before texts · there is none · save the tokenizer anew"
            )
        return definitions.find(self._added(), definitions.SIGNS["start"][1:]) if puts is None else puts

    def _bos(self) -> int | None:
        """The token that `tokenizer_config.json` names as the beginning of a text."""
        told = _described(self.where).get("bos_token")
        name = told.get("content") if isinstance(told, dict) else told
        return self._added().get(str(name))

    def _added(self) -> dict[str, int]:
        """Special tokens by name."""
        return {
            added["content"]: added["id"] for added in self.definition.get("added_tokens") or () if added["special"]
        }

    def _said(self, key: str) -> int | None:
        value = self.said.get(key)
        first = value[0] if isinstance(value, list) and value else value
        if first is not None and not (isinstance(first, int) and 0 <= first < self.shape.vocab_size):
            raise ValueError(f"{self.where}: {key} is {value!r:.60} · it is no id of the vocabulary · mend config.json")
        return first


class MaskedCheckpoint(Checkpoint):
    """A public masked diffusion model; its vocabulary has a mask already.

    Which token is the mask and which one ends a text its settings say, by number. Signs it lacks take rows that no
    token has, where there are any, so that the model stays as large as it was.
    """

    family: ClassVar[str] = "masked_diffusion"
    keeps: ClassVar[tuple[str, ...]] = (*KEPT, "mask_token_id", "auto_map")

    @property
    def signs(self) -> dict[str, int]:
        """The ids of the signs that it has itself.

        Raises:
            ValueError: when its settings do not say them, or contradict each other.
        """
        mask, end, pad = (self._said(f"{name}_token_id") for name in ("mask", "eos", "pad"))
        if mask is None or end is None:
            name = "mask_token_id" if mask is None else "eos_token_id"
            raise ValueError(
                f"{self.where} has no {name!r} · a {self.layout.name} cannot be read without · copy config.json again"
            )
        if mask in (end, pad):
            name = "eos_token_id" if mask == end else "pad_token_id"
            raise ValueError(
                f"{self.where}: mask_token_id and {name} are both {mask} · a mask is no text · mend config.json"
            )
        begin = self._begin()
        own = {"mask": mask, "start": end if begin is None else begin, "end": end}
        known = {added["content"]: added for added in self.definition.get("added_tokens") or ()}
        turn = known.get(HEADERS.ends)  # a base model has it unregistered, and never writes it
        return own | ({"turn": turn["id"]} if turn and turn["special"] else {})

    def _begin(self) -> int | None:
        """The token that begins a text: as its tokenizer says, else by its name, else as its settings say."""
        found = self._bos()
        found = definitions.find(self._added(), definitions.SIGNS["start"][1:]) if found is None else found
        return self._said("bos_token_id") if found is None else found

    def _added(self) -> dict[str, int]:
        """Added tokens by name; some folders forget to call theirs special."""
        return {added["content"]: added["id"] for added in self.definition.get("added_tokens") or ()}

    def _vocabulary(self, own: dict[str, int], size: int) -> Tokenizer:
        return Tokenizer(definitions.completed(self.definition, size, own), own)

    def _options(self) -> dict[str, Any]:
        return {"ends": True}  # it writes what ends a text, also where that pads one

    def _alike(self, sign: str) -> list[int]:
        return self.tokenizer.encode(ALIKE[sign], inside=True)


KINDS = {"llada": MaskedCheckpoint}  # by `model_type`; the others go from left to right


def is_public(place: Path) -> bool:
    """Whether a place holds a checkpoint that `opened` reads, or fails to with a clear word."""
    if place.is_file():
        with place.open("rb") as file:
            return place.suffix == ".gguf" or file.read(4) == MAGIC
    if not (place.is_dir() and (place / "config.json").is_file()):
        return False
    kind = read_settings(place).get("model_type")
    return isinstance(kind, str) and kind in LAYOUTS


def opened(place: Path) -> Checkpoint:
    """Open a public folder, or a GGUF file.

    Raises:
        ValueError: when it is neither, or of a kind that is not known here.
    """
    if place.is_file():
        return _opened_gguf(GGUF(place))
    said = read_settings(place)
    kind = KINDS.get(said["model_type"], Checkpoint)
    return kind(place, LAYOUTS[said["model_type"]], said, lambda: Tensors(place), definitions.read(place))


def _described(place: Path) -> dict[str, Any]:
    """What a folder's `tokenizer_config.json` says; nothing where there is none."""
    path = place / "tokenizer_config.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # a GGUF file is no folder
        return {}
    except ValueError as fault:
        raise ValueError(f"{path} is not JSON · {fault} · copy the folder again") from None
    return said if isinstance(said, dict) else {}


def card_of(place: Path) -> str:
    """The card of a model that is written elsewhere: its own, or for a GGUF file what it says of itself."""
    if place.is_dir():
        own = place / CARD
        return own.read_text(encoding="utf-8") if own.is_file() else f"# {place.name}\n\nConverted by unmask.\n"
    facts = GGUF(place).metadata
    named = facts.get("general.name") or place.stem
    maker = f", by {facts['general.organization']}" if "general.organization" in facts else ""
    licence = facts.get("general.license") or "not stated"
    return f"""---
license: {licence}
---

# {named}

From `{place.name}`{maker}, converted by unmask. The weights are their makers' work; quantised ones stay as coarse as
they were.
"""


def _opened_gguf(file: GGUF) -> Checkpoint:
    """A GGUF file: what it leaves to its tensors and its vocabulary to say becomes a setting."""
    facts = file.metadata
    kind = facts.get("general.architecture")
    if kind not in GGUF_LAYOUTS:
        raise ValueError(
            f"{file.path} holds a model of architecture {kind!r} · no such layout is known here · "
            f"known: {', '.join(GGUF_LAYOUTS)}"
        )
    if facts.get("split.count", 1) > 1:
        raise ValueError(f"{file.path} is one of {facts['split.count']} parts · one file is read · join them first")
    definition = vocabulary_of(facts, file.path)
    said = {key: value for key, value in facts.items() if key.startswith(f"{kind}.")}
    said |= {
        "vocab_size": len(facts["tokenizer.ggml.tokens"]),
        "tied": "output.weight" not in file,
        "attention_bias": "blk.0.attn_q.bias" in file,
        "mlp_bias": "blk.0.ffn_up.bias" in file,
    }
    ends = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    ids = {ours: facts.get(f"tokenizer.ggml.{theirs}_token_id") for ours, theirs in ends.items()}
    said |= {key: number for key, number in ids.items() if number is not None}
    return Checkpoint(file.path, GGUF_LAYOUTS[kind], said, lambda: file, definition)
