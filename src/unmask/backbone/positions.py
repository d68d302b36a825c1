"""Rotary positions: queries and keys turn by an angle that grows with their place."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary(position: Tensor, head_width: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of `position [M]`, each `[M, 1, head_width]`, halves repeated, the first sine half negated.

    They are in float32, or finer where `dtype` is. Source: Su et al. 2021, eq. 34, in the half-split layout of the
    public checkpoints (GPT-NeoX, Llama, LLaDA, ModernBERT).
    """
    fine = torch.float64 if dtype == torch.float64 else torch.float32
    steps = torch.arange(0, head_width, 2, device=position.device, dtype=fine)
    angle = position.to(fine)[:, None] * base ** (-steps / head_width)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], 1)[:, None], torch.cat([-sin, sin], 1)[:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn `x [M, H, d]` by its positions; numbers narrower than those of the angles are rounded once, at the end."""
    wide = x.to(cos.dtype)
    return torch.addcmul(wide * cos, torch.roll(wide, x.shape[-1] // 2, -1), sin).to(x.dtype)
