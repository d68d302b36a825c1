"""Attention over packed rows. Which elements share a row is known here and in `cache.py` alone."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from unmask.view import View, visible

WASTE = 0.15  # the share of padded places a bucket of rows may have inside attention
SHORT = 512  # rows up to which scores are kept for the backward pass, a matrix for each row and head


class Pattern:
    """Who attends to whom in one view, made once and shared by all layers.

    On a CPU packed rows are gathered into a few buckets of similar length, inside attention only; on CUDA in half
    precision they go as they are through the variable-length kernel. Views with rows that grow out of others take the
    dense rule.
    """

    def __init__(self, view: View, dense: bool = False) -> None:
        """Of `view`; `dense=True` keeps the slow plain twin."""
        self.view = view
        self.causal = view.causal
        self.dense = dense or view.parent is not None or not view.ids.numel()  # no rows, no buckets
        self._masks: dict[int | None, Tensor] = {}
        self._lengths: tuple[Tensor, int] | None = None

    @cached_property
    def buckets(self) -> list[Bucket]:
        """Rows of similar length; planned when first asked for, since the variable-length kernel needs none."""
        return _buckets(self.view)

    @cached_property
    def back(self) -> Tensor:
        """Of each packed place, where the buckets behind each other have it, `[M]`."""
        return torch.cat([bucket.place for bucket in self.buckets]).argsort()

    def of(self, column: Tensor) -> Tensor:
        """The elements to compute of a column `[M]`: all."""
        return column

    @property
    def new(self) -> Tensor:
        """The elements to compute, `[M]`: all."""
        return torch.arange(self.view.ids.numel(), device=self.view.ids.device)

    @property
    def slot(self) -> Tensor:
        """Where what is said of each element lies, `[M]`: in order."""
        return self.new

    def places(self, like: Tensor, width: int) -> Tensor:
        """Room for where each element stands, `[M, P]`; to be written in."""
        return like.new_zeros(self.view.ids.numel(), width)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, window: int | None = None, layer: int = 0) -> Tensor:
        """Softmax attention of `q [M, H, d]` over `k, v [M, G, d]` with H a multiple of G, `[M, H, d]`."""
        if k.shape[1] != q.shape[1]:
            repeat = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        if self.dense:
            return self._attend_dense(q, k, v, window)
        if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and self._in_order(window):
            return self._attend_varlen(q, k, v, window)
        if len(self.buckets) == 1 and self.buckets[0].whole:
            return self.buckets[0].attend(q, k, v, self.causal, window)
        parts = [bucket.attend(q, k, v, self.causal, window) for bucket in self.buckets]
        return torch.cat(parts).index_select(0, self.back)

    def _in_order(self, window: int | None) -> bool:
        """Whether all that is not to be seen lies past a row's ends, after an element, or beyond a window of places."""
        view = self.view
        if not (view.full or view.causal):
            return False
        index = torch.arange(view.ids.numel(), device=view.ids.device) - view.offsets[:-1][view.rows]
        return window is None or bool((view.position == index).all())

    def _attend_varlen(self, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        if self._lengths is None:
            offsets = self.view.offsets
            self._lengths = offsets.to(torch.int32), int(offsets.diff().max())
        offsets, longest = self._lengths
        reach = -1 if window is None else window
        sides = (reach, 0 if self.causal else reach)
        mixed = varlen_attn(q, k, v, offsets, offsets, longest, longest, window_size=sides)
        assert isinstance(mixed, Tensor)  # no auxiliary output was asked for
        return mixed

    def _attend_dense(self, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
        if window not in self._masks:
            self._masks[window] = visible(self.view, window)
        scores = torch.einsum("ihd,jhd->hij", q, k) * q.shape[-1] ** -0.5
        scores = scores.masked_fill(~self._masks[window], float("-inf"))
        return torch.einsum("hij,jhd->ihd", scores.softmax(-1), v)


class Bucket:
    """Rows of similar length `<= L`, as one `[b, L]` block."""

    def __init__(self, rows: Tensor, view: View) -> None:
        """Plan the block of `rows [b]` of `view`."""
        starts, lengths = view.offsets[:-1][rows], view.offsets.diff()[rows]
        self.n_rows, self.length = rows.numel(), int(lengths.max())
        within = torch.arange(self.length, device=rows.device)
        self.real = within < lengths[:, None]  # [b, L]
        grid = starts[:, None] + within.clamp(max=self.length)
        self.kept = self.real.flatten().nonzero().squeeze(1)  # [m] of b * L
        self.place = grid.flatten()[self.kept]  # [m] packed places, row after row
        self.ragged = not bool(self.real.all())
        self.whole = self.place.numel() == view.ids.numel() and not self.ragged and bool((rows.diff() == 1).all())
        self.grid = torch.where(self.real, grid, starts[:, None])  # padded places read the row's first element
        self.position = view.position[self.grid]
        self.stage = None if view.stage is None or view.causal else view.stage[self.grid]
        self.transient = None if view.transient is None else view.transient[self.grid]
        self.masks: dict[int | None, Tensor | None] = {}  # by window, for all layers

    def attend(self, q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int | None) -> Tensor:
        """Attention of the bucket's rows, `[m, H, d]`."""
        shape = (self.n_rows, self.length, *q.shape[1:])
        if self.whole:
            q, k, v = (x.view(shape).transpose(1, 2) for x in (q, k, v))
        else:
            q, k, v = (x.index_select(0, self.grid.flatten()).view(shape).transpose(1, 2) for x in (q, k, v))
        if window not in self.masks:
            self.masks[window] = self._mask(causal, window)
        out = attended(q, k, v, self.masks[window], causal).transpose(1, 2).flatten(0, 1)
        return out if self.whole else out.index_select(0, self.kept)

    def _mask(self, causal: bool, window: int | None) -> Tensor | None:
        if window is None and (causal or not self.ragged) and self.stage is None and self.transient is None:
            return None  # a causal row never sees the padding after it
        sees = self.real[:, None, :].expand(-1, self.length, -1)
        if causal:
            sees = sees & torch.ones(self.length, self.length, dtype=torch.bool, device=sees.device).tril()
        if self.stage is not None:
            sees = sees & (self.stage[:, None] <= self.stage[..., None])
        if self.transient is not None:
            stage = torch.zeros_like(self.grid) if self.stage is None else self.stage
            sees = sees & (~self.transient[:, None] | (stage[:, None] == stage[..., None]))
        if window is not None:
            sees = sees & ((self.position[:, :, None] - self.position[:, None, :]).abs() <= window)
        sees = sees | torch.eye(self.length, dtype=torch.bool, device=sees.device)  # padded rows see themselves
        return sees[:, None]


def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Softmax attention of `q, k, v [b, H, L, d]`, to the same shape.

    Where gradients are wanted in bfloat16 on a CPU, by products that are written out: torch's own kernel takes three
    to five times as long there, nearly all of it in its backward pass.

    Args:
        q: Who asks.
        k: Who answers.
        v: What is said.
        mask: Who sees whom, `[b, 1, L, L]`; None: all see all, or what stands before them.
        causal: Which of the two; a mask has it already.
    """
    if q.requires_grad and q.dtype == torch.bfloat16 and not q.is_cuda and q.shape[2] <= SHORT:
        if mask is None and causal:
            mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()
        out: Tensor = _Products.apply(q, k, v, mask)  # type: ignore[no-untyped-call]
        return out
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal and mask is None)


class _Products(torch.autograd.Function):
    """softmax(q k / sqrt(d)) v with its probabilities kept, in the precision of what it is given."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        shape = q.shape
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        scores = torch.bmm(q, k.mT).mul_(shape[3] ** -0.5)
        if mask is not None:
            scores.view(*shape[:3], shape[2]).masked_fill_(~mask, float("-inf"))
        chances = scores.softmax(-1, dtype=scores.dtype)
        ctx.save_for_backward(q, k, v, chances)
        return torch.bmm(chances, v).view(shape)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        q, k, v, chances = ctx.saved_tensors
        shape, upstream = upstream.shape, upstream.flatten(0, 1)
        by_chances = torch.bmm(upstream, v.mT)
        by_scores = torch.ops.aten._softmax_backward_data(by_chances, chances, -1, chances.dtype)
        by_scores = by_scores.mul_(shape[3] ** -0.5)
        each = torch.bmm(by_scores, k), torch.bmm(by_scores.mT, q), torch.bmm(chances.mT, upstream)
        return *(x.view(shape) for x in each), None


def _buckets(view: View) -> list[Bucket]:
    lengths, order = view.offsets.diff().sort()
    sizes = lengths.tolist()
    cuts, begin, total = [0], 0, 0
    for i, size in enumerate(sizes):  # rows, not elements: a handful of integers a batch
        total += size
        if size * (i - begin + 1) > (1 + WASTE) * total and i > begin:
            cuts.append(i)
            begin, total = i, size
    cuts.append(len(sizes))
    return [
        Bucket(order[a:b].sort().values, view) for a, b in zip(cuts, cuts[1:], strict=False) if b > a and sizes[b - 1]
    ]
