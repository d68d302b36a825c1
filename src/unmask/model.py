"""A model: a backbone and the objective that reads and writes through it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unmask.backbone import Backbone, BackboneConfig
from unmask.backbone.cache import Cache
from unmask.backbone.int8 import Int8Linear, Pending, settle, swap_linear
from unmask.backbone.packed import PackedLinear
from unmask.backbone.processor import has_bfloat16_products, has_byte_products, has_layouts
from unmask.canvas import Canvas
from unmask.objectives import OBJECTIVES, Objective, Vocabulary
from unmask.objectives.words import WordHead
from unmask.view import View

WIDE, WIDER = 256, 512  # widths of a model: from which narrow numbers may pay, and from which the narrowest do


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to make a model anew: the family, the shape, and what ids mean."""

    objective: str
    backbone: BackboneConfig
    signs: dict[str, int]  # mask, blank, start, end, sep, answer; word and maybe where there are such
    special: tuple[int, ...]  # ids that are never words of the text
    options: dict[str, Any] | None = None  # the objective's own
    kept: dict[str, Any] | None = (
        None  # what a public checkpoint said that has no part here, to be written back with it
    )


class Model(nn.Module):
    """Backbone and objective; the objective's head is a part of the module."""

    def __init__(self, config: ModelConfig) -> None:
        """Make a model with fresh weights.

        Raises:
            ValueError: for an objective there is not.
        """
        super().__init__()
        if config.objective not in OBJECTIVES:
            raise ValueError(
                f"no objective {config.objective!r} · a family stands in the table of objectives or was added to it"
                f" · choose of {', '.join(OBJECTIVES)}, or import the module that adds it"
            )
        self.config = config
        self.backbone = Backbone(config.backbone)
        self.objective: Objective = self._objective(config)
        self.head = self.objective.head

    def set_options(self, options: dict[str, Any] | None) -> None:
        """Give the objective other options; the weights stay.

        Raises:
            ValueError: when they ask for other weights than there are.
        """
        if (options or {}) == (self.config.options or {}):
            return
        config = replace(self.config, options=options or None)
        objective = self._objective(config)
        try:
            objective.head.load_state_dict(self.head.state_dict(keep_vars=True), assign=True)
        except RuntimeError:
            raise ValueError(
                f"options {options} of {self.config.objective} need weights that the model does not have · "
                "it was trained with others · leave them as they were, or train anew"
            ) from None
        self.config, self.objective = config, objective
        self.head = objective.head.to(self.backbone.embedding.weight).train(self.training)

    def _objective(self, config: ModelConfig) -> Objective:
        """The family that the config names, reading through this backbone."""
        known = inspect.signature(OBJECTIVES[config.objective]).parameters
        if unknown := sorted((config.options or {}).keys() - known.keys()):
            raise ValueError(
                f"{config.objective} has no option {unknown[0]!r} · this version does not know it · update unmask"
            )
        special = torch.zeros(config.backbone.vocab_size, dtype=torch.bool)
        special[list(config.special)] = True
        vocabulary = Vocabulary(config.backbone.vocab_size, config.signs, special)
        objective: Objective = OBJECTIVES[config.objective](
            vocabulary, config.backbone.width, self.backbone.output, **(config.options or {})
        )
        for part in objective.head.modules():
            if isinstance(part, WordHead) and not config.backbone.output_bias:
                part.bias.requires_grad_(False)  # it stays 0
        return objective

    def initialise(self, seed: int) -> None:
        """Fresh weights, the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        self.backbone.initialise(generator)
        shared = {id(parameter) for parameter in self.backbone.parameters()}
        for parameter in self.head.parameters():
            if id(parameter) in shared:
                continue
            if parameter.dim() < 2:
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)

    def forward(self, view: View, canvas: Canvas, cache: Cache | None = None) -> Any:
        """What the objective predicts of `canvas`, seen through `view`."""
        return self.objective.predict(self.backbone(view, cache=cache), canvas)

    def predict(self, canvas: Canvas, targets: Any = None, cache: Cache | None = None) -> Any:
        """What it predicts of a canvas as it stands, or at the places that `targets` name.

        What a cache holds is not computed again, where the family's views allow it.
        """
        return self(self.objective.view(canvas, targets), canvas, cache)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        weight: Tensor = self.backbone.embedding.weight
        return weight.device

    def n_parameters(self) -> int:
        """How many numbers it learned; shared ones count once."""
        learned = sum(parameter.numel() for parameter in self.parameters())
        settled = (part for part in self.modules() if isinstance(part, Int8Linear | PackedLinear))
        return learned + sum(part.n_weights for part in settled if not part.tied)

    @property
    def bytewise(self) -> bool:
        """Whether it was quantised."""
        return any(isinstance(part, Int8Linear) for part in self.modules())

    @property
    def settled(self) -> bool:
        """Whether its weights were laid out for filling, as bytes or packed, and are not to be trained or stored."""
        return self.bytewise or any(isinstance(part, PackedLinear) for part in self.modules())


def hollow(config: ModelConfig, dtype: torch.dtype, device: torch.device | str = "cpu") -> Model:
    """A model whose weights are what memory held: every one is to be filled in a moment.

    Its memory is not touched before that, so that the whole is never there twice; on another device than the CPU it is
    never in the machine's own memory at all.
    """
    with _Unfilled():
        model = Model(config)
    for parameter in model.parameters():
        parameter.data = torch.empty(parameter.shape, dtype=dtype, device=device)
    return model.to(device, dtype)  # buffers


class _Unfilled(TorchFunctionMode):
    """Modules made within leave their weights as memory had them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


_FILLS = {Tensor.uniform_, Tensor.normal_, nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_}


def fastest(config: BackboneConfig) -> str:
    """The way to keep weights that fills fastest on this machine's processor: `packed`, `bfloat16`, `int8`, `float32`.

    The wider the rows, the narrower the numbers: products become most of the work, and then reading their matrices.
    bfloat16 is nearly as exact as float32, bytes are half as much to read; bytes pay sooner where the processor
    multiplies them straight into 32-bit sums. Figures of all: docs/results.md.
    """
    if not has_layouts():
        return "float32"
    if config.width < WIDE:
        return "packed"
    if config.width < WIDER and has_bfloat16_products():
        return "bfloat16"
    return "int8" if config.width >= WIDER or has_byte_products() else "packed"


def pack(model: Model, kind: torch.dtype = torch.float32) -> Model:
    """Lay the weights of a model on a CPU out for filling with few rows; for that and scoring only. It is changed.

    Args:
        model: Of any kind of number; what is no matrix becomes float32, and is computed so.
        kind: What products are of: float32, where the numbers are the same to rounding, or bfloat16. Products with the
            vocabulary are of float32 in any case: near ties between words would go.

    Raises:
        ValueError: when this machine cannot.
    """
    if not has_layouts():
        raise ValueError("no packed weights here · it takes an x86 processor with AVX2 and oneDNN · use it as it is")
    swap_linear(model, partial(PackedLinear, kind=kind))
    _settle_rest(model, PackedLinear)
    return model


def quantise(model: Model, sample: Canvas | None = None) -> Model:
    """Turn a model on a CPU into one that computes in bytes; for filling and scoring only. It is changed.

    Its matrices go one by one; what is left of it becomes float32, but for the embedding, which is only looked up, and
    an output matrix of its own, which nothing reads any more.

    Args:
        model: Of any kind of number.
        sample: Opened rows that it reads once, to see what its layers are given. None: they are rounded unseen.

    Raises:
        ValueError: when this machine cannot.
    """
    if not has_layouts():
        raise ValueError("no int8 here · it takes an x86 processor with AVX2 and oneDNN · choose dtype='float32'")
    swap_linear(model, Pending)
    _settle_rest(model, Pending)
    if sample is not None:
        with torch.no_grad():
            model.predict(sample).words()
    settle(model)
    return model


def _settle_rest(model: Model, make: type[Pending] | type[PackedLinear]) -> None:
    """What is no linear layer: `make` makes the heads' products; all but the vocabulary's matrices becomes float32."""
    for part in model.modules():
        if isinstance(part, WordHead):
            part.product = make(part.embedding.weight.detach(), tied=True)
    vocabularies = {id(part.weight) for part in (model.backbone.embedding, model.backbone.output)}
    for parameter in model.parameters():
        if id(parameter) not in vocabularies:
            parameter.data = parameter.data.float()
