"""One transformer for every family: it reads a view and gives hidden states where they are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from unmask.backbone.attention import Pattern
from unmask.backbone.cache import Cache, Plan
from unmask.backbone.norm import RMSNorm
from unmask.backbone.positions import Fractions, rotary, rotate
from unmask.view import View


@dataclass(frozen=True)
class BackboneConfig:
    """The shape of a backbone.

    Raises:
        ValueError: when the numbers do not fit together.
    """

    vocab_size: int
    width: int = 256
    n_layers: int = 6
    n_heads: int = 4
    n_kv_heads: int | None = None  # fewer: grouped-query attention
    head_dim: int | None = None  # width of one head; none: width / n_heads
    mlp_width: int | None = None  # none: 8/3 of the width for gated, 4 for plain, to a multiple of 64
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    gated: bool = True
    activation: Literal["silu", "gelu"] = "silu"
    bias: bool = False
    attention_bias: bool | None = None  # none: as `bias`
    mlp_bias: bool | None = None  # none: as `bias`
    qk_norm: bool = True
    positions: Literal["rotary", "average", "affine"] = (
        "rotary"  # the others are fixed at birth, for families that grow
    )
    rope_base: float = 10_000.0
    local_rope_base: float | None = None  # none: as the global layers
    global_every: int = 1  # every n-th layer, from the first, is global; the others are local; 0: all are
    window: int = 64  # local layers see positions at most this far away, in each segment counted from its beginning
    n_segments: int = 0  # 0: no segment embedding; 2: a source, and what is written for it
    max_length: int = 512  # the longest row it was made for, in elements
    tied: bool = True  # the output matrix is the embedding
    output_bias: bool = True  # words have a bias of their own at the output; it is the head's

    def __post_init__(self) -> None:
        if (self.width % self.n_heads and self.head_dim is None) or self.head_width % 2:
            raise ValueError(
                f"width {self.width} does not give {self.n_heads} heads of an even width · rotary positions turn pairs"
                f" · choose a width that is a multiple of {2 * self.n_heads}, or an even head_dim"
            )
        if self.positions != "rotary" and self.global_every != 1:
            raise ValueError(
                f"local layers with positions={self.positions} · what is fixed at birth tells no distance · leave out"
                " global_every and window"
            )
        if self.n_heads % (self.n_kv_heads or self.n_heads):
            raise ValueError(
                f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads} · each key head serves"
                " as many query heads · choose n_kv_heads that divides n_heads"
            )

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.head_dim or self.width // self.n_heads

    @property
    def biased(self) -> tuple[bool, bool]:
        """Whether attention has biases, and whether the MLP has."""
        each = (self.attention_bias, self.mlp_bias)
        attention, mlp = (self.bias if own is None else own for own in each)
        return attention, mlp

    @property
    def hidden_mlp(self) -> int:
        """Width of the MLP's hidden layer."""
        return self.mlp_width or (-(-8 * self.width // 3 // 64) * 64 if self.gated else 4 * self.width)

    def is_global(self, layer: int) -> bool:
        """Whether this layer sees the whole row."""
        return self.global_every > 0 and layer % self.global_every == 0


class Attention(nn.Module):
    """Multi-head attention over packed rows, with rotary positions."""

    def __init__(self, config: BackboneConfig, number: int) -> None:
        """Make the projections of layer `number`."""
        super().__init__()
        self.number = number
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads or config.n_heads
        self.head_width = config.head_width
        total = self.n_heads + 2 * self.n_kv_heads
        bias, _ = config.biased
        self.qkv = nn.Linear(config.width, total * self.head_width, bias=bias)
        self.out = nn.Linear(self.n_heads * self.head_width, config.width, bias=bias)
        self.qk_norm = RMSNorm(self.head_width, config.norm_eps) if config.qk_norm else None

    def forward(
        self,
        x: Tensor,
        pattern: Pattern | Plan,
        turn: tuple[Tensor, Tensor] | None,
        window: int | None,
        read: Tensor | None = None,
    ) -> Tensor:
        """`x [M, D]` to `[M, D]`, or to `[R, D]` where only the elements `read [R]` are wanted."""
        qkv = self.qkv(x).view(x.shape[0], self.n_heads + 2 * self.n_kv_heads, self.head_width)
        qk, v = qkv.split([self.n_heads + self.n_kv_heads, self.n_kv_heads], 1)
        if self.qk_norm is not None:
            qk = self.qk_norm(qk)
        q, k = (qk if turn is None else rotate(qk, *turn)).split([self.n_heads, self.n_kv_heads], 1)
        mixed = pattern.attend(q, k, v, window, self.number).flatten(1)
        out: Tensor = self.out(mixed if read is None else mixed[read])
        return out


class MLP(nn.Module):
    """Gated (SwiGLU, GeGLU) or plain feed-forward."""

    def __init__(self, config: BackboneConfig) -> None:
        """Make the layer's projections."""
        super().__init__()
        inner = config.hidden_mlp
        self.gated = config.gated
        self.activation = F.silu if config.activation == "silu" else F.gelu
        _, bias = config.biased
        self.up = nn.Linear(config.width, inner * (2 if config.gated else 1), bias=bias)
        self.down = nn.Linear(inner, config.width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """`x [M, D]` to `[M, D]`."""
        x = self.up(x)
        if self.gated:
            gate, x = x.chunk(2, -1)
            x = self.activation(gate) * x
        else:
            x = self.activation(x)
        out: Tensor = self.down(x)
        return out


class Layer(nn.Module):
    """Attention and MLP, each on a normed input and added back."""

    def __init__(self, config: BackboneConfig, number: int) -> None:
        """Make layer `number`."""
        super().__init__()
        self.window = None if config.is_global(number) else config.window
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, number)
        self.mlp_norm = make_norm(config)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, pattern: Pattern | Plan, turn: tuple[Tensor, Tensor] | None, read: Tensor | None = None
    ) -> Tensor:
        """`x [M, D]` to `[M, D]`, or to `[R, D]` where only the elements `read [R]` are wanted."""
        mixed = self.attention(self.attention_norm(x), pattern, turn, self.window, read)
        x = (x if read is None else x[read]) + mixed
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class Backbone(nn.Module):
    """Embedding, layers, final norm. It never hears of objectives.

    `output` is the matrix that hidden states are compared with to name a word, `[V, D]`: the embedding itself where the
    two are tied.
    """

    def __init__(self, config: BackboneConfig) -> None:
        """Make a backbone with fresh weights."""
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.segment_embedding = nn.Embedding(config.n_segments, config.width) if config.n_segments else None
        self.fractions = Fractions(config.width, config.positions) if config.positions != "rotary" else None
        self.layers = nn.ModuleList(Layer(config, number) for number in range(config.n_layers))
        self.norm = make_norm(config)
        self.output = self.embedding if config.tied else nn.Embedding(config.vocab_size, config.width)

    def initialise(self, generator: torch.Generator) -> None:
        """Fresh weights: embeddings N(0, 0.02); matrices N(0, 1/fan-in), those that write to the stream smaller."""
        shrink = (2 * self.config.n_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.ones_(parameter)
            elif "embedding" in name or name == "output.weight":
                nn.init.normal_(parameter, std=0.02, generator=generator)
            else:
                writes = name.endswith(("out.weight", "down.weight"))
                std = parameter.shape[1] ** -0.5 * (shrink if writes else 1.0)
                nn.init.normal_(parameter, std=std, generator=generator)

    def forward(self, view: View, dense: bool = False, cache: Cache | None = None) -> Tensor:
        """Hidden states of the elements that `view.read` names, `[R, D]`.

        Args:
            view: What to read.
            dense: Take the slow plain attention.
            cache: Where the view has stages or names its elements, what it holds is not computed again, and what is
                new goes into it.

        Raises:
            ValueError: in evaluation mode, when hidden states are no numbers.
        """
        if cache is None or (view.full and view.name is None):
            return self._through(view, Pattern(view, dense), view.read)
        plan = cache.plan(view)
        return plan.read(self._through(view, plan, plan.wanted) if plan.new.numel() else self.embedding.weight[:0])

    def _through(self, view: View, pattern: Pattern | Plan, read: Tensor | None) -> Tensor:
        """The elements that a pattern wants computed, through all layers; of those the ones to be read."""
        config = self.config
        x = self.embedding(pattern.of(view.ids)).to(self.norm.weight.dtype)
        if self.segment_embedding is not None and view.segment is not None:
            x = x + self.segment_embedding(pattern.of(view.segment))
        if view.born is not None or self.fractions is not None:
            x = x + self._born(view, pattern).to(x.dtype)
        turns = self._turns(pattern.of(view.position), x.dtype)
        for number, layer in enumerate(self.layers):
            last = number == config.n_layers - 1  # past its attention, elements that are not read matter to nobody
            x = layer(x, pattern, turns[config.is_global(number)], read if last else None)
        out: Tensor = self.norm(x)
        if not self.training and not bool(out.isfinite().all()):
            raise ValueError(
                f"the model computes what are no numbers, in {out.dtype} · its weights are damaged, or too large for"
                " that kind · load it in float32, or take earlier weights"
            )
        return out

    def _turns(self, position: Tensor, dtype: torch.dtype) -> dict[bool, tuple[Tensor, Tensor] | None]:
        """By how much global layers (True) and local ones turn; None: not at all."""
        config = self.config
        if self.fractions is not None:
            return {True: None, False: None}
        turn = rotary(position, config.head_width, config.rope_base, dtype)
        base = config.local_rope_base or config.rope_base
        local = turn if base == config.rope_base else rotary(position, config.head_width, base, dtype)
        return {True: turn, False: local}

    def _born(self, view: View, pattern: Pattern | Plan) -> Tensor:
        """Position vectors of the elements to compute, `[K, D]`; stage by stage, from those of older neighbours.

        Raises:
            ValueError: when the view's positions are of another kind than the backbone's.
        """
        if view.born is None or self.fractions is None or view.stage is None:
            have, want = self.config.positions, "rotary" if view.born is None else "affine"
            raise ValueError(
                f"backbone.positions={have} with a family whose positions are {'' if view.born is not None else 'not '}"
                f"fixed at birth · say backbone.positions={want}"
            )
        new, slot, fractions = pattern.new, pattern.slot, self.fractions
        born, stage = view.born[new], view.stage[new]
        first = view.offsets[:-1][view.rows[new]]
        given = born[:, 0] < 0
        said = fractions.given(view.position[new[given]])
        store = pattern.places(said, fractions.width)
        store = _put(store, slot[new[given]], said)
        for moment in stage[~given].unique().tolist() or [-1]:  # once in any case: every process needs every gradient
            mine = ~given & (stage == moment)
            left, right = (store[slot[born[mine, side] + first[mine]]] for side in (0, 1))
            said = fractions.between(left, right)
            store = _put(store, slot[new[mine]], said)
        return fractions.vectors(store[slot[new]])


def _put(store: Tensor, at: Tensor, values: Tensor) -> Tensor:
    """The store with `values` at places `at`: where gradients are wanted another, elsewhere the same."""
    return store.index_copy(0, at, values) if torch.is_grad_enabled() else store.index_copy_(0, at, values)


def make_norm(config: BackboneConfig) -> nn.Module:
    """The norm this backbone uses."""
    if config.norm == "rms":
        return RMSNorm(config.width, config.norm_eps)
    return nn.LayerNorm(config.width, eps=config.norm_eps, bias=config.bias)
