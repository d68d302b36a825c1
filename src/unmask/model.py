"""A model: a backbone and the objective that reads and writes through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unmask.backbone import Backbone, BackboneConfig
from unmask.canvas import Canvas
from unmask.objectives import OBJECTIVES, Objective, Vocabulary
from unmask.view import View


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to make a model anew: the family, the shape, and what ids mean."""

    objective: str
    backbone: BackboneConfig
    signs: dict[str, int]  # mask, blank, start, end, sep, answer
    special: tuple[int, ...]  # ids that are never words of the text
    options: dict[str, Any] | None = None  # the objective's own


class Model(nn.Module):
    """Backbone and objective; the objective's head is a part of the module."""

    def __init__(self, config: ModelConfig) -> None:
        """Make a model with fresh weights.

        Raises:
            ValueError: for an objective there is not.
        """
        super().__init__()
        if config.objective not in OBJECTIVES:
            raise ValueError(f"no objective {config.objective!r} · objectives: {', '.join(OBJECTIVES)}")
        self.config = config
        self.backbone = Backbone(config.backbone)
        special = torch.zeros(config.backbone.vocab_size, dtype=torch.bool)
        special[list(config.special)] = True
        vocabulary = Vocabulary(config.backbone.vocab_size, config.signs, special)
        self.objective: Objective = OBJECTIVES[config.objective](
            vocabulary, config.backbone.width, self.backbone.embedding, **(config.options or {})
        )
        self.head = self.objective.head

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

    def forward(self, view: View, canvas: Canvas) -> Any:
        """What the objective predicts of `canvas`, seen through `view`."""
        return self.objective.predict(self.backbone(view), canvas)

    def predict(self, canvas: Canvas, targets: Any = None) -> Any:
        """What it predicts of a canvas as it stands, or at the places that `targets` name."""
        return self(self.objective.view(canvas, targets), canvas)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        weight: Tensor = self.backbone.embedding.weight
        return weight.device

    def n_parameters(self) -> int:
        """How many numbers it learned; shared ones count once."""
        return sum(parameter.numel() for parameter in self.parameters())
