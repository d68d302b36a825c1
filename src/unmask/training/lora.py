"""Training an adapter: low-rank changes of a frozen model's matrices through `peft`, and rows of its own for signs.

The rows are ours (`backbone/embedding.py`): peft 0.21 makes the whole matrix anew at every use, its gradient as large.
"""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from unmask.adapter import Adapter, AdapterConfig, check, read_adapter, sign_ids, write_adapter
from unmask.backbone.embedding import RowEmbedding
from unmask.folder import Saves, load, read_tensors, write_model
from unmask.model import Model

ONE = "default"  # the name that peft gives to an adapter which is alone


def require_peft() -> None:
    """See that peft is there.

    Raises:
        ValueError: when it is not.
    """
    if find_spec("peft") is None:
        raise ValueError("peft is not installed · training an adapter needs it · pip install 'unmask[train]'")


def inject(model: Model, config: AdapterConfig, seed: int) -> None:
    """Freeze a model and put an adapter into it that changes nothing yet: `b` is zero, `a` is drawn from `seed`.

    Raises:
        ValueError: when peft is not there.
    """
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    choice = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(config.targets))  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        inject_adapter_in_model(choice, model.backbone.layers)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in trained(model).items():
        if name.endswith(".a"):
            bound = 1 / math.sqrt(tensor.shape[1])
            drawn = torch.empty(tensor.shape, dtype=tensor.dtype).uniform_(-bound, bound, generator=generator)
            tensor.detach().copy_(drawn)
    for matrix in {id(part): part for part in (model.backbone.embedding, model.backbone.output)}.values():
        _replace(model, matrix, RowEmbedding(matrix, sign_ids(model, config)))


def narrow(model: Model) -> None:
    """Keep the frozen matrices as bfloat16, as which they are multiplied anyway, in half the memory; all else wider."""
    for parameter in model.parameters():
        frozen = parameter.dim() > 1 and not parameter.requires_grad
        parameter.data = parameter.data.to(torch.bfloat16 if frozen else torch.float32)


def trained(model: Model) -> dict[str, Tensor]:
    """The tensors of a model's adapter, by the names they are stored under."""
    found: dict[str, Tensor] = {}
    for name, part in model.named_modules():
        if isinstance(part, RowEmbedding):
            found[f"{name}.weight.rows"] = part.rows
        elif isinstance(low := getattr(part, "lora_A", None), nn.ModuleDict) and ONE in low:
            found[f"{name}.weight.a"] = low[ONE].weight  # type: ignore[assignment]
            found[f"{name}.weight.b"] = part.lora_B[ONE].weight  # type: ignore[assignment, index, union-attr]
    return found


@torch.no_grad()
def put(model: Model, adapter: Adapter, where: str | Path) -> None:
    """Copy an adapter's tensors into those of a model that `inject` made ready.

    Raises:
        ValueError: when they are not of one shape.
    """
    own = trained(model)
    check(adapter.tensors, {name: tuple(tensor.shape) for name, tensor in own.items()}, where)
    for name, tensor in own.items():
        tensor.copy_(adapter.tensors[name])


def write_trained(
    folder: str | Path, model: Model, tokenizer: Saves, card: str, adapter: AdapterConfig | None = None
) -> None:
    """Write what was trained: the model, or its adapter alone."""
    if adapter is None:
        write_model(folder, model, tokenizer, card)
    else:
        write_adapter(folder, Adapter(adapter, trained(model)), card)


def load_trained(folder: Path, model: Model, adapter: AdapterConfig | None = None) -> None:
    """Read what `write_trained` wrote into the model that was trained.

    Raises:
        ValueError: when it is not of this model.
    """
    if adapter is None:
        load(model, read_tensors(folder), folder)
        return
    found = read_adapter(folder)
    if replace(found.config, base=adapter.base) != adapter:  # which it is says its hash; it may lie elsewhere now
        raise ValueError(f"{folder} is of another adapter or base · the base may have changed since · put it back")
    put(model, found, folder)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, wherever it is a part."""
    for part in list(model.modules()):
        for name, inner in list(part.named_children()):
            if inner is old:
                setattr(part, name, new)
