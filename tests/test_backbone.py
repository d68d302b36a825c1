"""The backbone: packing, buckets and patterns never change a result."""

from dataclasses import replace

import pytest
import torch

from unmask.backbone import Backbone, BackboneConfig, attention
from unmask.backbone.attention import Pattern
from unmask.backbone.norm import RMSNorm
from unmask.backbone.positions import rotary, rotate
from unmask.view import View

SHAPES = {
    "plain": {},
    "grouped": {"n_kv_heads": 2, "n_heads": 4},
    "layer norm, plain mlp, biases": {"norm": "layer", "gated": False, "activation": "gelu", "bias": True},
    "local": {"global_every": 2, "window": 3, "local_rope_base": 100.0, "n_layers": 3},
    "no qk norm": {"qk_norm": False},
    "heads of their own width, biases of one part": {"head_dim": 12, "attention_bias": True, "mlp_bias": False},
}


def backbone(**options: object) -> Backbone:
    config = BackboneConfig(vocab_size=20, **({"width": 32, "n_layers": 2, "n_heads": 4} | options))  # type: ignore[arg-type]
    made = Backbone(config)
    made.initialise(torch.Generator().manual_seed(0))
    return made.double()


def packed(lengths: list[int], causal: bool = False, seed: int = 0) -> View:
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    ids = torch.randint(0, 20, (int(offsets[-1]),), generator=generator)
    index = torch.cat([torch.arange(n) for n in lengths])
    return View(ids, offsets, index, torch.arange(ids.numel()), stage=index if causal else None, causal=causal)


def row(view: View, number: int) -> View:
    a, b = int(view.offsets[number]), int(view.offsets[number + 1])
    stage = None if view.stage is None else view.stage[a:b]
    cut = slice(a, b)
    return View(
        view.ids[cut], torch.tensor([0, b - a]), view.position[cut], torch.arange(b - a), stage, causal=view.causal
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_packed_is_alone_is_dense(shape: str, causal: bool) -> None:
    model, view = backbone(**SHAPES[shape]), packed([3, 17, 5, 1, 18, 4], causal)
    together = model(view)
    torch.testing.assert_close(together, model(view, dense=True), rtol=0, atol=1e-10)
    for number in range(view.n_rows):
        part = together[view.offsets[number] : view.offsets[number + 1]]
        torch.testing.assert_close(part, model(row(view, number)), rtol=0, atol=1e-10)


def test_gradients_of_buckets_are_those_of_the_dense_rule() -> None:
    model, view = backbone(), packed([3, 17, 5, 18])
    grads = []
    for dense in (False, True):
        model.zero_grad()
        model(view, dense=dense).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for fast, plain in zip(*grads, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_products_that_are_written_out_are_the_kernel(masked: bool, causal: bool, monkeypatch) -> None:
    generator, length = torch.Generator().manual_seed(0), 7
    mask = (torch.rand(2, 1, length, length, generator=generator) < 0.5) | torch.eye(length, dtype=torch.bool)
    mask = (mask & torch.ones(length, length, dtype=torch.bool).tril() if causal else mask) if masked else None
    exact = [torch.randn(2, 3, length, 4, dtype=torch.float64, generator=generator) for _ in range(4)]
    found = {}
    for name, short, dtype in (("exact", 0, torch.float64), ("kernel", length - 1, torch.bfloat16),
                               ("products", length, torch.bfloat16)):  # fmt: skip
        monkeypatch.setattr(attention, "SHORT", short)
        *qkv, upstream = (x.to(dtype) for x in exact)
        qkv = [x.requires_grad_() for x in qkv]
        out = attention.attended(*qkv, mask, causal)
        assert (type(out.grad_fn).__name__ == "_ProductsBackward") == (name == "products")
        found[name] = [out, *torch.autograd.grad(out, qkv, upstream)]
    for products, kernel, plain in zip(*(found[name] for name in ("products", "kernel", "exact")), strict=True):
        assert (products - plain).abs().max() < 2 * (kernel - plain).abs().max() + 0.01
    qkv = [x.requires_grad_() for x in exact[:3]]
    again = attention._Products.apply(*qkv, mask if masked or not causal else torch.ones(length, length).tril().bool())
    for one, plain in zip([again, *torch.autograd.grad(again, qkv, exact[3])], found["exact"], strict=True):
        torch.testing.assert_close(one, plain, rtol=0, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_variable_length_kernel_agrees_with_the_dense_rule(shape: str, causal: bool) -> None:
    model, view = backbone(**SHAPES[shape]).to("cuda", torch.bfloat16), packed([3, 17, 5, 1, 18, 4], causal).to("cuda")
    torch.testing.assert_close(model(view).float(), model(view, dense=True).float(), rtol=0.05, atol=0.05)


def test_candidates_read_their_context() -> None:
    # a child row behind a context sees just what the two laid end to end would
    model = backbone()
    together = View(
        torch.tensor([1, 2, 3, 4, 5, 6]),
        torch.tensor([0, 3, 5, 6]),
        torch.tensor([0, 1, 2, 3, 4, 3]),
        torch.arange(6),
        stage=torch.tensor([0, 1, 2, 3, 4, 3]),
        parent=torch.tensor([-1, 0, 0]),
    )
    index = torch.arange(5)
    joined = View(torch.tensor([1, 2, 3, 4, 5]), torch.tensor([0, 5]), index, index, stage=index, causal=True)
    torch.testing.assert_close(model(together)[:5], model(joined), rtol=0, atol=1e-10)


def test_only_what_is_read_comes_back() -> None:
    model, view = backbone(), packed([5, 7])
    everything = model(view)
    some = View(view.ids, view.offsets, view.position, torch.tensor([1, 6, 11]))
    torch.testing.assert_close(model(some), everything[[1, 6, 11]], rtol=0, atol=1e-10)


def test_segments_are_told_apart_where_there_are_some() -> None:
    view = packed([5, 7])
    said = {kind: replace(view, segment=torch.full_like(view.ids, kind)) for kind in (0, 1)}
    with_segments, without = backbone(n_segments=2), backbone()
    assert not torch.allclose(with_segments(said[0]), with_segments(said[1]))
    assert torch.equal(without(said[0]), without(said[1]))
    with torch.no_grad():
        with_segments.segment_embedding.weight[1] = with_segments.segment_embedding.weight[0]
    torch.testing.assert_close(with_segments(said[0]), with_segments(said[1]), rtol=0, atol=0)


def test_a_later_element_cannot_leak() -> None:
    model, view = backbone(), packed([9], causal=True)
    changed = View(
        torch.cat([view.ids[:6], (view.ids[6:] + 1) % 20]),
        view.offsets,
        view.position,
        view.read,
        view.stage,
        causal=True,
    )
    assert torch.equal(model(view)[:6], model(changed)[:6])


def test_rotation_depends_on_distance_only() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 8, generator=generator, dtype=torch.float64)
    at = lambda p: rotary(torch.tensor([p]), 8, 10_000.0, torch.float64)  # noqa: E731
    near = (rotate(q, *at(3)) * rotate(k, *at(1))).sum()
    far = (rotate(q, *at(103)) * rotate(k, *at(101))).sum()
    torch.testing.assert_close(near, far)
    torch.testing.assert_close(rotate(q, *at(5)).norm(), q.norm())


def test_buckets_cover_every_element_once() -> None:
    view = packed([3, 17, 5, 1, 18, 4, 0, 16])
    places = torch.cat([bucket.place for bucket in Pattern(view).buckets])
    assert sorted(places.tolist()) == list(range(view.ids.numel()))


def test_a_backbone_has_the_parts_its_config_names() -> None:
    names = dict(backbone(head_dim=12, attention_bias=True, tied=False, bias=False).named_parameters())
    assert names["layers.0.attention.qkv.weight"].shape == (3 * 4 * 12, 32)
    assert names["layers.0.attention.out.weight"].shape == (32, 4 * 12)
    assert "layers.0.attention.out.bias" in names and "layers.0.mlp.up.bias" not in names
    own, embedding = names["output.weight"], names["embedding.weight"]
    assert own.shape == embedding.shape and not torch.equal(own, embedding)
    assert own.std() < 0.03  # fresh, as an embedding is
    tied = backbone()
    assert tied.output is tied.embedding and "output.weight" not in dict(tied.named_parameters())


def test_shapes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="heads"):
        BackboneConfig(vocab_size=8, width=30, n_heads=4)
    with pytest.raises(ValueError, match="even"):
        BackboneConfig(vocab_size=8, width=32, n_heads=4, head_dim=7)
    with pytest.raises(ValueError, match="n_kv_heads"):
        BackboneConfig(vocab_size=8, width=32, n_heads=4, n_kv_heads=3)


@pytest.mark.parametrize("shape", [(7, 12), (5, 3, 8), (0, 4)])
def test_rms_norm_is_the_plain_one(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(shape, generator=generator, dtype=torch.float64)
    ours, plain = RMSNorm(shape[-1], 1e-6).double(), torch.nn.RMSNorm(shape[-1], eps=1e-6).double()
    weight = torch.randn(shape[-1], generator=generator, dtype=torch.float64)
    results = []
    for norm in (ours, plain):
        with torch.no_grad():
            norm.weight.copy_(weight)
        x.grad = None
        out = norm(x)
        out.backward(upstream)
        results.append((out.detach(), x.grad, norm.weight.grad))
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize("rows", [1, 5, 2_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_norm_is_the_same_with_gradients_and_without(rows: int, dtype: torch.dtype) -> None:
    norm = RMSNorm(64, 1e-6).to(dtype)
    norm.weight.data.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(0))
    x = torch.randn(rows, 64, generator=torch.Generator().manual_seed(1), dtype=dtype)
    learning = norm(x)
    with torch.inference_mode():
        torch.testing.assert_close(norm(x), learning.detach())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_said(bad: float) -> None:
    made, view = backbone().eval(), packed([3, 5])
    with torch.no_grad():
        made.layers[1].mlp.down.weight[2, 4] = bad
    with pytest.raises(ValueError, match=r"no numbers, in torch.float64 · its weights are damaged"):
        made(view)
    assert not made.train()(view).isfinite().all()  # a training looks at its loss


def test_norm_and_activation_are_those_that_are_named() -> None:
    made = backbone(norm="layer", norm_eps=1e-2, activation="gelu", gated=False)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1)).double() * 0.1  # so small that eps is felt
    torch.testing.assert_close(made.norm(x), torch.nn.functional.layer_norm(x, (32,), eps=1e-2))
    mlp = made.layers[0].mlp
    inner = mlp.up(x)
    exact = inner * (1 + torch.erf(inner / 2**0.5)) / 2
    torch.testing.assert_close(mlp(x), mlp.down(exact))


def test_the_first_of_so_many_layers_sees_all_and_the_others_have_their_own_rotation() -> None:
    """As in ModernBERT (Warner et al. 2024, section 2.1): every third layer is global, from the first on."""
    made = backbone(n_layers=7, global_every=3, window=3, rope_base=1000.0, local_rope_base=10.0)
    assert [made.config.is_global(number) for number in range(7)] == [True, False, False, True, False, False, True]
    view = packed([40])
    turns = made._turns(view.position, torch.float64)
    for is_global, base in ((True, 1000.0), (False, 10.0)):
        found, expected = turns[is_global], rotary(view.position, 8, base, torch.float64)
        assert found is not None
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)
    other = view.ids.clone()
    other[39] = (other[39] + 1) % 20
    with torch.no_grad():
        before, after = made.double()(view), made(replace(view, ids=other))
    assert not torch.equal(before[0], after[0])  # the global layers bring it there
