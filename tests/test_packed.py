"""Weights laid out for filling: the same numbers to rounding, whatever the number of rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import unmask
from families import clean_canvas, tiny_model
from toys import toy
from unmask import model as models
from unmask.backbone.packed import PackedLinear
from unmask.backbone.processor import has_bfloat16_products, has_layouts
from unmask.language_model import LanguageModel
from unmask.model import Model, fastest, pack

pytestmark = pytest.mark.skipif(not has_layouts(), reason="no oneDNN kernels here")


@pytest.mark.parametrize("rows", [0, 1, 3, 16, 17, 100])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_layer_says_what_the_plain_one_says(rows: int, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(96, 64, generator=generator), torch.randn(rows, 64, generator=generator)
    bias = torch.randn(96, generator=generator) if with_bias else None
    layer = PackedLinear(weight, bias)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, weight, bias), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer(x.view(rows, 1, 64)).shape, torch.Size([rows, 1, 96]))
        each = [layer(one[None]) for one in x]
        torch.testing.assert_close(layer(x), torch.cat(each) if each else x.new_zeros(0, 96), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["blank_lm", "masked_diffusion", "left_to_right", "fractional"])
def test_a_packed_model_says_the_same(family: str) -> None:
    plain, packed = (tiny_model(family, dtype=torch.float32, width=64) for _ in range(2))
    packed = pack(packed)
    assert packed.settled and not packed.bytewise and not plain.settled
    assert sum(isinstance(part, PackedLinear) for part in packed.modules()) >= 9
    assert packed.n_parameters() == plain.n_parameters()
    canvas = clean_canvas([[1, 2, 3, 4, 5], [6, 7]])
    with torch.inference_mode():
        view = plain.objective.view(canvas)
        torch.testing.assert_close(packed.backbone(view), plain.backbone(view), rtol=1e-4, atol=1e-4)
        hidden = plain.backbone(view)
        words = [model.objective.head.words.log_probs(hidden) for model in (plain, packed)]
        torch.testing.assert_close(*words, rtol=1e-4, atol=1e-4)


def test_auto_packs_a_narrow_model(tmp_path, monkeypatch) -> None:
    lm = toy("blank_lm")
    folder = LanguageModel(lm.model.float(), lm.tokenizer).save_pretrained(tmp_path / "m")
    lm.model.double()
    assert fastest(lm.model.config.backbone) == "packed"
    packed, plain = (unmask.load(folder, device="cpu", dtype=kind) for kind in ("auto", "float32"))
    assert packed.model.settled and not plain.model.settled
    for text in ("the cat ___ on the mat", "a ___{2} dog"):
        a, b = (one.fill(text, n=3) for one in (packed, plain))
        assert [fill.text for fill in a] == [fill.text for fill in b]
        assert [fill.log_prob for fill in a] == pytest.approx([fill.log_prob for fill in b], abs=1e-3)
    again = unmask.load(packed.save_pretrained(tmp_path / "again"), device="cpu", dtype="float32")
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
    monkeypatch.setattr(models, "has_layouts", lambda: False)
    assert fastest(lm.model.config.backbone) == "float32"
    with pytest.raises(ValueError, match="no packed weights here"):
        pack(plain.model)


needs_bfloat16 = pytest.mark.skipif(not has_bfloat16_products(), reason="the processor does not multiply bfloat16")


@needs_bfloat16
@pytest.mark.parametrize("rows", [0, 1, 17])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_layer_in_bfloat16_rounds_what_goes_in_and_out_and_no_sums(rows: int, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(96, 640, generator=generator), torch.randn(rows, 640, generator=generator)
    bias = torch.randn(96, generator=generator) if with_bias else None
    layer = PackedLinear(weight, bias, kind=torch.bfloat16)
    exact = x.bfloat16().double() @ weight.bfloat16().double().T
    with torch.inference_mode():
        said = layer(x)
        assert said.dtype == torch.float32
        said = said if bias is None else said - bias
        torch.testing.assert_close(said.double(), exact, rtol=2**-8, atol=1e-4)  # one rounding of the product
        torch.testing.assert_close(layer(x.view(rows, 1, 640)).shape, torch.Size([rows, 1, 96]))


@needs_bfloat16
@pytest.mark.parametrize("family", ["blank_lm", "masked_diffusion", "left_to_right", "fractional"])
def test_a_model_in_bfloat16_says_nearly_the_same(family: str) -> None:
    plain, packed = (tiny_model(family, dtype=torch.float32, width=64) for _ in range(2))
    packed = pack(packed, torch.bfloat16)
    assert packed.settled and not packed.bytewise and packed.n_parameters() == plain.n_parameters()
    assert all(parameter.dtype == torch.float32 for parameter in packed.parameters())
    product = packed.objective.head.words.product
    assert isinstance(product, PackedLinear) and product.kind == torch.float32  # words are told apart exactly
    canvas = clean_canvas([[1, 2, 3, 4, 5], [6, 7]])
    with torch.inference_mode():
        view = plain.objective.view(canvas)
        words = [model.objective.head.words.log_probs(model.backbone(view)) for model in (plain, packed)]
        torch.testing.assert_close(*words, rtol=0.05, atol=0.05)


@needs_bfloat16
def test_auto_is_bfloat16_for_a_wider_model_and_it_is_stored_as_it_was_read(tmp_path) -> None:
    narrow = toy("blank_lm")
    config = narrow.model.config
    model = Model(replace(config, backbone=replace(config.backbone, width=256)))
    model.initialise(0)
    folder = LanguageModel(model, narrow.tokenizer).save_pretrained(tmp_path / "m")
    chosen, named, plain = (unmask.load(folder, device="cpu", dtype=kind) for kind in ("auto", "bfloat16", "float32"))
    for packed in (chosen, named):
        assert packed.model.settled and not packed.model.bytewise
        for one, other in zip(packed.score(["the cat sat"]), plain.score(["the cat sat"]), strict=True):
            assert one.log_prob == pytest.approx(other.log_prob, abs=0.1)
    again = unmask.load(chosen.save_pretrained(tmp_path / "again"), device="cpu", dtype="float32")
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
