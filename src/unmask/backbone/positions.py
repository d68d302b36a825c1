"""Where an element stands: an angle that grows with its place, or a vector that is fixed when it is born."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

DEEPEST = 20  # births between births that the average of two float32 keeps apart from both


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


class Affine(nn.Linear):
    """A linear layer whose weights are read, in float32 at least: none in bytes may stand in its place."""


class Fractions(nn.Module):
    """Positions fixed at birth, so that an element's keys and values never change (Zhang et al. 2023).

    What is given stands at k / (n + 1) of the way between two learned ends. What is born between two neighbours gets
    its position from theirs: `average`, half way; `affine`, ELU(W [left; right] + b), which keeps apart what
    averages cannot. They are computed in float32 or finer, whatever the rest is.
    """

    def __init__(self, width: int, kind: str) -> None:
        """Make positions of `width`, `average` or `affine`."""
        super().__init__()
        self.ends = nn.Parameter(torch.zeros(2, width))
        self.affine = Affine(2 * width, width) if kind == "affine" else None

    @property
    def width(self) -> int:
        """Numbers that say where one element stands (`P`): a vector; or a fraction, and how many births led to it."""
        return self.ends.shape[1] if self.affine is not None else 2

    def given(self, fraction: Tensor) -> Tensor:
        """What says where given elements stand, `fraction [K]` of the way from the first end, `[K, P]`."""
        at = fraction.to(self._fine)[:, None]
        return self._along(at) if self.affine is not None else torch.cat([at, torch.zeros_like(at)], 1)

    def between(self, left: Tensor, right: Tensor) -> Tensor:
        """The same of what is born between neighbours `left, right [K, P]`.

        Raises:
            ValueError: where averages would soon fall together with the neighbours they are of.
        """
        if self.affine is None:
            depth = 1 + torch.maximum(left[:, 1], right[:, 1])
            if bool((depth > DEEPEST).any()):
                raise ValueError(
                    f"one place was born into more than {DEEPEST} times in a row · averages of positions fall together"
                    " there · train with backbone.positions=affine, or roll_in=1; write all slots at once"
                )
            return torch.stack([(left[:, 0] + right[:, 0]) / 2, depth], 1)
        with torch.autocast(left.device.type, enabled=False):
            weight, bias = self.affine.weight.to(self._fine), self.affine.bias.to(self._fine)
            said: Tensor = F.elu(F.linear(torch.cat([left, right], 1), weight, bias))
        return said

    def vectors(self, said: Tensor) -> Tensor:
        """What is added to embeddings, `[K, D]`, from `said [K, P]`."""
        return said if self.affine is not None else self._along(said[:, :1])

    def _along(self, at: Tensor) -> Tensor:
        ends = self.ends.to(self._fine)
        return ends[0] + at * (ends[1] - ends[0])

    @property
    def _fine(self) -> torch.dtype:
        return torch.float64 if self.ends.dtype == torch.float64 else torch.float32
