"""What a recipe asks for, tried before a run begins."""

from __future__ import annotations

import torch

from unmask.canvas import Canvas, Role
from unmask.masking.hidden import Hidden
from unmask.masking.mixture import Mixture
from unmask.model import Model
from unmask.noise import Noise
from unmask.objectives.objective import told
from unmask.training.config import Recipe

TRIED = 64  # rows on which a masking is tried


@torch.no_grad()
def try_out(model: Model, masking: Mixture, answers: bool, in_bfloat16: bool = False) -> bool:
    """See that the family can show what is hidden and, where `answers` are learned, end them.

    Returns:
        Whether that is a sign that it writes; a family that finds lengths itself ends an answer as any text, where
        answers are segments of their own.

    Raises:
        ValueError: when it cannot.
    """
    signs, special = model.config.signs, set(model.config.special)
    known = torch.tensor([i for i in range(model.config.backbone.vocab_size) if i not in special])
    drawn = known[torch.randint(len(known), (TRIED, 12), generator=torch.Generator().manual_seed(0))].tolist()
    text = torch.tensor([Role.SCAFFOLD, *[Role.TEXT] * 12, Role.SCAFFOLD]).repeat(TRIED)
    rows = [[signs["start"], *words, signs["end"]] for words in drawn]
    device = masking.borders.device if masking.starts is None else masking.starts.device
    clean = Canvas.from_rows(rows, role=text, fixed=text != Role.TEXT).to(device)
    model.objective.corrupt(*masking.hide(clean, Noise(0, torch.arange(TRIED, device=device))))
    if not answers:
        return True
    role = torch.tensor([Role.SCAFFOLD, *[Role.TEXT] * 13, Role.SCAFFOLD])
    clean = Canvas.from_rows([[*rows[0], signs["end"]]], role=role).to(model.device)
    mask, one = clean.index == 13, torch.ones(1, dtype=torch.float64, device=model.device)
    noise = Noise(0, torch.zeros(1, dtype=torch.int64, device=model.device))
    canvas, targets = model.objective.corrupt(clean, Hidden(mask, one, one, one < 0, ~mask), noise)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=in_bfloat16):  # as in training
        loss = model.objective.loss(model.predict(canvas, targets), canvas, targets)
    apart = model.config.backbone.n_segments > 1 and told(model.objective) is None
    if not apart and not bool(loss.total.isfinite()):
        raise ValueError(
            "an answer ends with a sign that this family does not write · its loss would be infinite · "
            "give objective.ends=true where the family has that option, or backbone.n_segments=2 where it finds "
            "lengths itself: then the end of its row ends an answer"
        )
    return not apart


def check_pairs(recipe: Recipe, model: Model, ended: bool) -> None:
    """See that what is said of pairs and their ends can be done; `ended`: the family writes the sign of an end.

    Raises:
        ValueError: when it cannot.
    """
    shape, pairs = model.config.backbone, model.config.backbone.n_segments > 1
    given = [part["given"] for part in recipe.masking or () if part.get("given")]
    if given and not pairs:
        raise ValueError(f"given: {given[0]} · no row is a pair here · say backbone.n_segments=2, or leave it out")
    if "target" in given and not recipe.data.mask_prompt:
        raise ValueError("given: target · the source is given anyway, so nothing is hidden · say data.mask_prompt=true")
    if not ended and recipe.data.pad != "none":
        raise ValueError(
            f"data.pad={recipe.data.pad} · answers are filled up with signs that this family does not write · say"
            " data.pad=none"
        )
    if pairs and recipe.data.mask_prompt and shape.positions == "average":
        raise ValueError(
            "backbone.positions=average and data.mask_prompt=true · a source whose end is missing has no place to be"
            " half way to · say backbone.positions=affine"
        )
