"""Rotary positions: queries and keys turn by an angle that grows with their place."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary(position: Tensor, head_width: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of `position [M]`, each `[M, 1, head_width]`, halves repeated, the first sine half negated.

    Angles are taken in float32 or finer. Source: Su et al. 2021, eq. 34, in the half-split layout of the public
    checkpoints (GPT-NeoX, Llama, ModernBERT).
    """
    fine = torch.float64 if dtype == torch.float64 else torch.float32
    steps = torch.arange(0, head_width, 2, device=position.device, dtype=fine)
    angle = position.to(fine)[:, None] * base ** (-steps / head_width)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], 1)[:, None].to(dtype), torch.cat([-sin, sin], 1)[:, None].to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn `x [M, H, d]` by its positions."""
    return torch.addcmul(x * cos, torch.roll(x, x.shape[-1] // 2, -1), sin)
