"""How the checkpoints of another house are written: one table, read both ways. `convert.py` has the tables.

Our matrices are fused: queries, keys and values lie one under the other, and so do gate and up, in the order in which
`Attention` and `MLP` cut them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from unmask.backbone.transformer import BackboneConfig

NEEDED = object()  # in the place of a default: every config must say it


@dataclass(frozen=True)
class Key:
    """A setting of theirs: its names (the first is written, any is read), its type, and what it is where unsaid."""

    names: tuple[str, ...]
    kind: type = int
    default: Any = NEEDED
    every: bool = False  # it is written under all its names

    def read(self, said: Mapping[str, Any], where: object) -> Any:
        """Its value in a config.

        Raises:
            ValueError: when it is needed and not there, or of another type.
        """
        given = {name: said[name] for name in self.names if said.get(name) is not None}
        if not given and self.default is NEEDED:
            raise ValueError(f"{where} has no {self.names[0]!r} · a model's shape needs it · copy it again, whole")
        if not given:
            return self.default
        (name, value), *others = given.items()
        for other, its in () if self.every else others:
            if its != value:
                raise ValueError(
                    f"{where}: {name} is {value!r:.60}, {other} is {its!r:.60} · they are the same setting · "
                    "leave the wrong one out"
                )
        kind = self.kind
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not fits or (kind is not bool and (isinstance(value, bool) or not 0 < value < math.inf)):
            kinds = {int: "a whole number above 0", float: "a number above 0", bool: "true or false"}
            raise ValueError(f"{where}: {name} is {value!r:.60} · it must be {kinds[kind]} · copy it again")
        return kind(value)


@dataclass(frozen=True)
class Layout:
    """How checkpoints of one kind are written; `{}` stands for the number of a layer.

    A setting in none of `keys`, `fixed` and `idle` is refused by name, since it may change what the model computes; so
    is a tensor that has no place.
    """

    name: str
    constants: Mapping[str, Any]  # ours, the same in all models of the kind
    keys: Mapping[str, Key]  # ours: theirs
    fixed: Mapping[str, tuple[Any, ...]]  # theirs, which may have these values only
    idle: frozenset[str]  # theirs, without a part in any result
    also: Mapping[str, Any]  # theirs, the same in all that are written
    weights: Mapping[str, tuple[str, ...]]  # ours: theirs, laid one under the other
    idle_weights: str = "(?!)"  # a pattern of names; tensors without a part in any result
    twin: tuple[str, str] | None = None  # theirs, which may come twice where the output is tied: the copy, and ours
    paired: frozenset[str] = frozenset()  # theirs in which the two numbers of a head that turn together lie together
    uniform: Mapping[str, str] = field(default_factory=dict)  # theirs, lists of which every entry is this
    unsaid: Mapping[str, Any] = field(default_factory=dict)  # theirs among the fixed: what they are where unsaid
    derived: Callable[[dict[str, Any], object], dict[str, Any]] | None = None  # adds settings that follow from others

    def shape(self, said: Mapping[str, Any], where: object) -> BackboneConfig:
        """The backbone that computes as a model with these settings does.

        Args:
            said: Their settings; tables within are read as `table.key`.
            where: What they were read from, for errors.

        Raises:
            ValueError: for a setting that is unknown, missing, of another type, or has a value not computed here.
        """
        said = {**self.unsaid, **dict(self._flat(said))}
        self._check(said, where)
        if self.derived is not None:
            said = self.derived(said, where)
        read = {ours: key.read(said, where) for ours, key in self.keys.items()}
        try:
            config = BackboneConfig(**self.constants, **read)
        except ValueError as fault:
            raise ValueError(f"{where}: {fault}") from None
        plain = config.head_dim is None or config.head_dim * config.n_heads == config.width
        return replace(config, head_dim=None) if plain else config

    def settings(self, config: BackboneConfig) -> dict[str, Any]:
        """What they would say of a backbone.

        Raises:
            ValueError: when no model of the kind computes as it does.
        """
        attention, mlp = config.biased
        ours = asdict(config) | {
            "n_kv_heads": config.n_kv_heads or config.n_heads,
            "head_dim": config.head_width,
            "mlp_width": config.hidden_mlp,
            "attention_bias": attention,
            "mlp_bias": mlp,
            "bias": config.bias and config.norm == "layer",
        }
        for name, value in self.constants.items():
            if ours[name] != value:
                raise ValueError(
                    f"{name} is {ours[name]!r} · in a {self.name} it is {value!r} · this model cannot be written as one"
                )
        if "head_dim" not in self.keys and config.head_width * config.n_heads != config.width:
            raise ValueError(
                f"head_dim is {config.head_dim} · in a {self.name} it is width / n_heads · "
                "this model cannot be written as one"
            )
        told = {
            name: ours[own]
            for own, key in self.keys.items()
            for name in key.names[: len(key.names) if key.every else 1]
        }
        return {**self.also, **told}

    @torch.no_grad()
    def pour(
        self, source: Mapping[str, Tensor], weights: Mapping[str, Tensor], config: BackboneConfig, where: object
    ) -> None:
        """Copy a checkpoint into the weights of a backbone, one tensor at a time.

        Args:
            source: Their tensors by name; each is read once, and let go before the next.
            weights: All weights of a backbone by our names; filled in place.
            config: Its shape.
            where: What the tensors are read from, for errors.

        Raises:
            ValueError: for a tensor that is missing, has no place, or is of another shape.
        """
        placed = {ours: self._theirs(ours) for ours in weights}
        wanted = {name for names in placed.values() for name in names}
        twin = self.twin if self.twin and config.tied and self.twin[0] in source else None
        found = {name for name in source if not re.search(self.idle_weights, name)} - set(twin[:1] if twin else ())
        if missing := sorted(wanted - found):
            raise ValueError(f"{where} has no tensor {missing[0]!r} · a {self.name} needs it · copy it again, whole")
        if extra := sorted(found - wanted):
            raise ValueError(
                f"{where} has a tensor {extra[0]!r} · no {self.name} as its settings say has one · "
                "it is another kind of model, or not whole"
            )
        for ours, names in placed.items():
            rows = self._cut(ours, weights[ours], config, len(names))
            for name, part in zip(names, rows, strict=True):
                part.copy_(self._read(source, name, part.shape, config, where))
        if twin:
            own = weights[twin[1]]
            if not torch.equal(self._read(source, twin[0], own.shape, config, where).to(own), own):
                raise ValueError(
                    f"{where}: {twin[0]!r} is not the embedding · the settings say that the two are tied · "
                    f"set {self.keys['tied'].names[0]} to false"
                )

    def tensors(self, weights: Mapping[str, Tensor], config: BackboneConfig) -> dict[str, Tensor]:
        """The weights of a backbone, by our names, as they have them."""
        out = {}
        for ours, weight in weights.items():
            names = self._theirs(ours)
            parts = self._cut(ours, weight.detach(), config, len(names))
            out.update({name: part.contiguous() for name, part in zip(names, parts, strict=True)})
        return out

    def _check(self, said: Mapping[str, Any], where: object) -> None:
        """See that no setting is unknown, or has a value not computed here."""
        odd = [(key, values[0]) for key, values in self.fixed.items() if key in said and said[key] not in values]
        for key, value in self.uniform.items():
            if (each := said.get(key)) is not None and (not isinstance(each, list) or set(map(str, each)) - {value}):
                odd.append((key, value))
        if odd:
            key, wanted = odd[0]
            raise ValueError(
                f"{where}: {key} is {said[key]!r:.80} · a {self.name} is computed with {wanted!r} alone here · "
                "choose a checkpoint without it"
            )
        names = {name for key in self.keys.values() for name in key.names}
        if unknown := sorted(said.keys() - names - self.fixed.keys() - self.uniform.keys() - self.idle):
            raise ValueError(
                f"{where} has a setting {unknown[0]!r} · it is unknown here, and may change what the model computes · "
                "choose a checkpoint without it"
            )

    def _flat(self, said: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Settings; those of a table within it as `table.key`, where keys of it are known."""
        known = {*self.fixed, *(name for key in self.keys.values() for name in key.names)}
        for key, value in said.items():
            if isinstance(value, dict) and any(name.startswith(f"{key}.") for name in known):
                yield from ((f"{key}.{inner}", each) for inner, each in value.items())
            else:
                yield key, value

    def _theirs(self, ours: str) -> tuple[str, ...]:
        """What they call the parts of a weight."""
        layer = re.match(r"layers\.(\d+)\.", ours)
        pattern = f"layers.{{}}.{ours[layer.end() :]}" if layer else ours
        if pattern not in self.weights:
            raise ValueError(f"weight {ours!r} · a {self.name} has no such · this model cannot be written as one")
        return tuple(name.format(layer[1] if layer else "") for name in self.weights[pattern])

    def _cut(self, ours: str, weight: Tensor, config: BackboneConfig, n_parts: int) -> tuple[Tensor, ...]:
        """A weight in as many parts as they have it in."""
        rows = [weight.shape[0]]
        if n_parts > 1 and "attention.qkv." in ours:
            q, kv = config.n_heads * config.head_width, (config.n_kv_heads or config.n_heads) * config.head_width
            rows = [q, kv, kv]
        elif n_parts > 1:
            rows = [weight.shape[0] // n_parts] * n_parts
        parts: tuple[Tensor, ...] = weight.split(rows)
        return parts

    def _read(
        self, source: Mapping[str, Tensor], name: str, shape: torch.Size, config: BackboneConfig, where: object
    ) -> Tensor:
        tensor = source[name]
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise ValueError(
                f"{where}: tensor {name!r} is of {tensor.dtype} · such numbers mean nothing "
                "without a scale, and none is read here · choose a checkpoint that is not quantised"
            )
        if tensor.shape != shape:
            raise ValueError(
                f"{where}: tensor {name!r} has shape {tuple(tensor.shape)}, the settings say {tuple(shape)} · "
                "they are not of one model · copy it again, whole"
            )
        if re.sub(r"\d+", "{}", name, count=1) in self.paired:
            pairs = tensor.view(-1, config.head_width // 2, 2, *tensor.shape[1:])
            return pairs.transpose(1, 2).reshape(tensor.shape)
        return tensor
