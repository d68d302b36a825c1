"""Root-mean-square norm with a gradient of its own: half the passes over memory that autograd would take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis (Zhang and Sennrich 2019, eq. 4)."""

    def __init__(self, width: int, eps: float) -> None:
        """Norm vectors of `width`."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., D]` to `[..., D]`."""
        weight = self.weight.to(x.dtype)
        if not torch.is_grad_enabled():
            return _normed(x, weight, self.eps)[0]  # calling through autograd takes as long as a short row's norm
        out: Tensor = _RMSNorm.apply(x, weight, self.eps)  # type: ignore[no-untyped-call]
        return out


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm, and 1 / rms `[..., 1]`."""
    fine = torch.float64 if x.dtype == torch.float64 else torch.float32
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=fine)
    scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
    return torch.mul(x, scale).mul_(weight), scale


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, scale = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        unit = x * scale
        each = upstream * unit
        along = (each @ weight / x.shape[-1])[..., None]  # the part of the gradient along x, which the norm takes away
        by_x = (upstream * weight).addcmul_(unit, along, value=-1).mul_(scale)
        by_weight = each.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return by_x, by_weight, None
