"""Linear layers whose weights lie as the CPU's kernel reads them, for filling with few rows at a time.

A product packs its weights anew at each call, and with tens of rows that is most of its time: 17 rows by 8,192 x 384
took 3.8 ms as they lie and 2.4 ms packed before, 64 rows 8.0 and 6.0, 258 rows 23.7 and 21.3 (LOG.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

ROWS = 16  # what the layout is chosen for; it serves any number


class PackedLinear(nn.Module):
    """`x @ weight.T + bias`; float32 in and out. It learns nothing and is not stored."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, tied: bool = False, kind: torch.dtype = torch.float32
    ) -> None:
        """Lay out a weight.

        Args:
            weight: `[O, I]`.
            bias: `[O]`, added in float32.
            tied: The weight itself lives on elsewhere.
            kind: What is multiplied: float32, or bfloat16, to which inputs and products are rounded too; sums are not.
        """
        super().__init__()
        self.width, self.tied, self.kind = weight.shape[0], tied, kind
        self.n_weights = weight.numel() + (0 if bias is None else bias.numel())
        self.bias = None if bias is None else bias.detach().float()
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(kind).contiguous(), ROWS)

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., I]` to `[..., O]`."""
        if not x.numel():
            return x.new_zeros(*x.shape[:-1], self.width)
        flat = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        if self.kind == torch.float32:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(flat, self.packed, self.bias, "none", [], "")
        else:
            out = torch.ops.mkldnn._linear_pointwise(flat.to(self.kind), self.packed, None, "none", [], "").float()
            if self.bias is not None:
                out.add_(self.bias)
        return out if x.dim() == 2 else out.view(*x.shape[:-1], self.width)
