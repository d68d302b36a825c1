"""Tiny models of every family, made on the spot, for tests."""

from __future__ import annotations

import torch

from unmask.backbone import BackboneConfig
from unmask.canvas import Canvas, Role
from unmask.model import Model, ModelConfig
from unmask.noise import Noise

SIGNS = {name: 10 + i for i, name in enumerate(["mask", "blank", "start", "end", "sep", "answer"])}
N_WORDS = 10


def tiny_model(
    objective: str,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    n_words: int = N_WORDS,
    options: dict[str, object] | None = None,
    more_signs: tuple[str, ...] = (),
    **backbone: object,
) -> Model:
    """A model of `n_words` words and six signs or more, with weights large enough to have opinions."""
    signs = {name: n_words + i for i, name in enumerate([*SIGNS, *more_signs])}
    shape = {"width": 16, "n_layers": 2, "n_heads": 2, "mlp_width": 32, "positions": positions_of(objective)} | backbone
    config = ModelConfig(
        objective, BackboneConfig(vocab_size=n_words + len(signs), **shape), signs, tuple(signs.values()), options
    )  # type: ignore[arg-type]
    model = Model(config)
    model.initialise(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return model.to(dtype).eval()


def positions_of(objective: str) -> str:
    """What a family asks of its backbone."""
    return "affine" if objective == "fractional" else "rotary"


def clean_canvas(rows: list[list[int]], n_words: int = N_WORDS) -> Canvas:
    """Rows of words between start and end signs, as batches are made."""
    start, end = n_words + 2, n_words + 3
    canvas = Canvas.from_rows([[start, *row, end] for row in rows])
    edge = (canvas.ids == start) | (canvas.ids == end)
    return Canvas.build(canvas.ids, canvas.offsets, role=torch.where(edge, int(Role.SCAFFOLD), int(Role.TEXT)))


def noise_for(canvas: Canvas, seed: int = 0) -> Noise:
    """Randomness whose keys are the rows' numbers."""
    return Noise(seed, torch.arange(canvas.n_rows))
