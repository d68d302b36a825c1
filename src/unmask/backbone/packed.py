"""Linear layers whose weights lie as the CPU's kernel reads them, for filling with few rows at a time.

A product packs its weights anew at each call, and with tens of rows that is most of its time: 17 rows by 8,192 x 384
took 3.8 ms as they lie and 2.4 ms packed before, 64 rows 8.0 and 6.0, 258 rows 23.7 and 21.3 (LOG.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unmask.backbone.int8 import can_int8

ROWS = 16  # what the layout is chosen for; it serves any number


class PackedLinear(nn.Module):
    """`x @ weight.T + bias` in float32. It learns nothing and is not stored."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, tied: bool = False) -> None:
        """Lay out `weight [O, I]`; `bias [O]`; `tied`: the weight itself lives on elsewhere."""
        super().__init__()
        self.width, self.tied = weight.shape[0], tied
        self.n_weights = weight.numel() + (0 if bias is None else bias.numel())
        self.bias = None if bias is None else bias.detach().float()
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().float().contiguous(), ROWS)

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., I]` to `[..., O]`."""
        if not x.numel():
            return x.new_zeros(*x.shape[:-1], self.width)
        flat = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        out: Tensor = torch.ops.mkldnn._linear_pointwise(flat, self.packed, self.bias, "none", [], "")
        return out if x.dim() == 2 else out.view(*x.shape[:-1], self.width)


def can_pack() -> bool:
    """Whether this machine and this PyTorch have the kernels: the same as for bytes."""
    return can_int8()
