"""Linear layers in bytes, for filling on a CPU: a scale for each row of weights and for each row of activations.

One scale a row of activations, not one a tensor: batch mates change nothing. Sums are exact integers, so a row's
result is the same bits in any company.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

ZERO = 128  # the byte that means 0 in activations, whose bytes have no sign
PART = 1024  # rows that are rounded at once
LEAST = 32  # layers narrower than this on either side stay as they are: nothing to win


class Int8Linear(nn.Module):
    """`x @ weight.T + bias` in bytes; float32 in and out. It learns nothing and is not stored."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, tied: bool = False) -> None:
        """Round `weight [O, I]`; `tied`: the weight itself lives on elsewhere."""
        super().__init__()
        rounded, scale = round_rows(weight, weight_steps())
        self.width, self.tied = weight.shape[0], tied
        self.n_weights = weight.numel() + (0 if bias is None else bias.numel())
        self.bias = None if bias is None else bias.detach().float()
        self.scale, self.zero = scale.squeeze(1), torch.zeros(self.width, dtype=torch.int64)
        self.packed: Tensor = torch.ops.onednn.qlinear_prepack(rounded, None)

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., I]` to `[..., O]`."""
        flat = x.reshape(-1, x.shape[-1])
        if not flat.shape[0]:
            return x.new_zeros(*x.shape[:-1], self.width)
        top = flat.abs().amax(1, keepdim=True).clamp_(min=1e-30)
        data = torch.mul(flat, 127 / top).add_(ZERO + 0.5).to(torch.uint8)  # cut off: the nearest whole number
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            data, 1.0, ZERO, self.packed, self.scale, self.zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        out.mul_(top.mul_(1 / 127))
        if self.bias is not None:
            out.add_(self.bias)
        return out.view(*x.shape[:-1], self.width)


def round_rows(weight: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """`weight [O, I]` as whole numbers from `-steps` to `steps`, int8 `[O, I]`, and what one is worth, `[O, 1]`."""
    weight = weight.detach()
    rounded, scale = torch.empty(weight.shape, dtype=torch.int8), torch.empty(weight.shape[0], 1)
    for part, some, one in zip(weight.split(PART), rounded.split(PART), scale.split(PART), strict=True):
        wide = part.float()  # a few rows at a time: a vocabulary's matrix is large
        one.copy_((wide.abs().amax(1, keepdim=True) / steps).clamp(min=1e-30))
        some.copy_((wide / one).round())
    return rounded, scale


def swap_linear(module: nn.Module) -> None:
    """Put an `Int8Linear` in the place of every linear layer in `module` that is wide enough."""
    for name, part in list(module.named_children()):
        if isinstance(part, nn.Linear):
            if min(part.weight.shape) >= LEAST:
                setattr(module, name, Int8Linear(part.weight, part.bias))
        else:
            swap_linear(part)


def can_int8() -> bool:
    """Whether this machine and this PyTorch have the kernels: x86-64, with oneDNN."""
    return bool(_abilities().get("avx2")) and torch.backends.mkldnn.is_available()


def has_byte_products() -> bool:
    """Whether the processor multiplies bytes straight into 32-bit sums."""
    abilities = _abilities()
    return any(abilities.get(name) for name in ("amx_int8", "avx512_vnni", "avx_vnni"))


def weight_steps() -> int:
    """How finely weights are rounded.

    Older processors add two products of bytes in 16 bits, which saturate: 255 * 63 * 2 still fits, 255 * 127 * 2 does
    not (tried: 3 % wrong).
    """
    return 127 if has_byte_products() else 63


def _abilities() -> dict[str, object]:
    return dict(torch.cpu.get_capabilities())
