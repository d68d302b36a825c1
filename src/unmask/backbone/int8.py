"""Linear layers in bytes, for filling on a CPU: a scale for each row of weights and for each row of activations.

One scale a row of activations, not one a tensor: batch mates change nothing. Sums are exact integers. A few columns of
activations are far larger than the others and would take all the steps of the scale; those that a sample shows to be
the largest are multiplied in float32 (Dettmers et al. 2022, section 3.2; there chosen anew for each batch).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unmask.backbone.processor import has_byte_products

ZERO = 128  # the byte that means 0 in activations, whose bytes have no sign
STEPS = 127  # of activations on either side of it
HALF, MOST, ONE = torch.tensor(ZERO + 0.5), torch.tensor(float(STEPS)), torch.tensor(1 / STEPS)
PART = 1024  # rows that are rounded at once
APART = 16  # columns that stay apart: the error of 8 was a little larger, that of 32 hardly smaller (LOG.md)
LEAST = 32  # layers narrower than this on either side stay as they are: nothing to win


class Int8Linear(nn.Module):
    """`x @ weight.T + bias` in bytes; float32 in and out. It learns nothing and is not stored."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, tied: bool = False, sample: Tensor | None = None
    ) -> None:
        """Round `weight [O, I]`.

        Args:
            weight: Also of a narrower kind than float32.
            bias: `[O]`, added in float32.
            tied: The weight itself lives on elsewhere.
            sample: Inputs as they come, `[N, I]`; their largest columns stay apart. None: none does.
        """
        super().__init__()
        self.apart = None if sample is None else sample.abs().amax(0).topk(min(APART, weight.shape[1])).indices
        self.columns = None if self.apart is None else weight.detach()[:, self.apart].float().t().contiguous()
        rounded, scale = round_rows(weight, weight_steps(), self.apart)
        self.width, self.tied = weight.shape[0], tied
        self.n_weights = weight.numel() + (0 if bias is None else bias.numel())
        self.bias = None if bias is None else bias.detach().float()
        self.kept = torch.ones(weight.shape[1])
        if self.apart is not None:
            self.kept[self.apart] = 0.0
        self.scale, self.zero = scale.squeeze(1), torch.zeros(self.width, dtype=torch.int64)
        self.packed: Tensor = torch.ops.onednn.qlinear_prepack(rounded, None)

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., I]` to `[..., O]`."""
        flat = x.reshape(-1, x.shape[-1])
        if not flat.shape[0]:
            return x.new_zeros(*x.shape[:-1], self.width)
        # With few rows these small steps take longer than the product: they are as few as can be, and none has a
        # Python number in it, which costs another microsecond or two.
        some = None if self.apart is None else flat.index_select(1, self.apart)
        flat = flat if self.apart is None else flat * self.kept
        top = flat.abs().amax(1, keepdim=True).clamp_(min=1e-30)
        data = torch.mul(flat, MOST / top).add_(HALF).to(torch.uint8)  # cut off: the nearest whole number
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            data, 1.0, ZERO, self.packed, self.scale, self.zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        out.mul_(top.mul_(ONE))
        if some is not None and self.columns is not None:
            out.addmm_(some, self.columns)
        if self.bias is not None:
            out.add_(self.bias)
        return out.view(*x.shape[:-1], self.width)


def round_rows(weight: Tensor, steps: int, apart: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`weight [O, I]` as whole numbers from `-steps` to `steps`, int8 `[O, I]`, and what one is worth, `[O, 1]`.

    The columns `apart [k]` are 0 in it, where there are some.
    """
    weight = weight.detach()
    rounded, scale = torch.empty(weight.shape, dtype=torch.int8), torch.empty(weight.shape[0], 1)
    for part, some, one in zip(weight.split(PART), rounded.split(PART), scale.split(PART), strict=True):
        wide = part.float()  # a few rows at a time: a vocabulary's matrix is large
        wide = wide if apart is None else wide.index_fill(1, apart, 0.0)
        one.copy_((wide.abs().amax(1, keepdim=True) / steps).clamp(min=1e-30))
        some.copy_((wide / one).round())
    return rounded, scale


class Pending(nn.Module):
    """Stands in for a linear layer until its first inputs come, and rounds it by them."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, tied: bool = False) -> None:
        """Keep what is to be rounded."""
        super().__init__()
        self.what: tuple[Tensor, Tensor | None, bool] | None = (weight, bias, tied)
        self.layer: Int8Linear | None = None

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., I]` to `[..., O]`."""
        out: Tensor = self.rounded(x)(x)
        return out

    def rounded(self, x: Tensor | None = None) -> Int8Linear:
        """The layer; made now, by `x [..., I]` where there is one, if it was not."""
        if self.what is not None:
            sample = x.flatten(0, -2) if x is not None and x.numel() else None
            self.layer = Int8Linear(*self.what, sample=sample)
            self.what = None  # the wide weight may go
        assert self.layer is not None
        return self.layer


def swap_linear(module: nn.Module, make: Callable[[Tensor, Tensor | None], nn.Module]) -> None:
    """Put what `make` makes of weight and bias in the place of every linear layer in `module` that is wide enough."""
    for name, part in list(module.named_children()):
        if type(part) is nn.Linear:  # other kinds are read as numbers
            if min(part.weight.shape) >= LEAST:
                setattr(module, name, make(part.weight.detach(), part.bias))
        else:
            swap_linear(part, make)


def settle(module: nn.Module) -> None:
    """Put its layer in the place of every `Pending`; those that no input came to are rounded as they are."""
    for name, part in list(module.named_children()):
        if isinstance(part, Pending):
            setattr(module, name, part.rounded())
        else:
            settle(part)


def weight_steps() -> int:
    """How finely weights are rounded.

    Older processors add two products of bytes in 16 bits, which saturate: 255 * 63 * 2 still fits, 255 * 127 * 2 does
    not (tried: 3 % wrong).
    """
    return 127 if has_byte_products() else 63
