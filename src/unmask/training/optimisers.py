"""The optimisers of a model, and their state as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from unmask.model import Model
from unmask.training.config import Recipe
from unmask.training.muon import Muon


def make_optimisers(model: Model, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the backbone's layers and AdamW for the rest, or AdamW for all; of what is trained."""
    choice = recipe.optimiser
    learned = [p for p in model.parameters() if p.requires_grad]
    layers = {id(p) for p in model.backbone.layers.parameters()} if choice.kind == "muon" else set()
    matrices = [p for p in learned if p.dim() == 2 and id(p) in layers]
    taken = {id(p) for p in matrices}
    rest = [p for p in learned if id(p) not in taken]
    adam = torch.optim.AdamW(
        rest, lr=recipe.learning_rate, betas=choice.betas, weight_decay=choice.weight_decay, fused=True
    )
    if not matrices:
        return [adam]
    muon = Muon(matrices, lr=choice.matrix_learning_rate, momentum=choice.momentum, weight_decay=choice.weight_decay)
    return [muon, adam]


def optimiser_state(optimisers: Sequence[torch.optim.Optimizer], model: nn.Module) -> dict[str, Tensor]:
    """All they remember, by `weight name : slot`."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{names[id(p)]}:{slot}": value.detach().cpu()
        for optimiser in optimisers
        for p, slots in optimiser.state.items()
        for slot, value in slots.items()
        if isinstance(value, Tensor)
    }


def load_optimiser_state(
    optimisers: Sequence[torch.optim.Optimizer], model: nn.Module, state: Mapping[str, Tensor]
) -> None:
    """Give back what `optimiser_state` told."""
    slots: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        name, _, slot = key.rpartition(":")
        slots.setdefault(name, {})[slot] = value
    names = {id(p): name for name, p in model.named_parameters()}
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            for p in group["params"]:
                own = slots.get(names[id(p)], {})
                optimiser.state[p] = {slot: value.clone().to(p.device) for slot, value in own.items()}


class Average:
    """An exponential moving average of weights; young averages forget faster, so that the start weighs little."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin at the weights as they are."""
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.decay = decay
        self.mean = {name: p.detach().clone() for name, p in self.weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step `step` (from 0)."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.mean.values()), [p.detach() for p in self.weights.values()], share)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and averages; twice is nothing."""
        for name, p in self.weights.items():
            kept = p.detach().clone()
            p.copy_(self.mean[name])
            self.mean[name] = kept

    def state(self) -> dict[str, Tensor]:
        """The averages by name, as they go to disk."""
        return {name: mean.cpu() for name, mean in self.mean.items()}
