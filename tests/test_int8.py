"""Products in bytes: what they compute, that company changes nothing, and what a model makes of them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from families import clean_canvas, tiny_model
from llamas import gguf_of, llama
from toys import toy
from unmask.backbone import processor
from unmask.backbone.int8 import APART, Int8Linear, Pending, round_rows, weight_steps
from unmask.backbone.processor import has_layouts
from unmask.bases import located
from unmask.canvas import Role
from unmask.folder import write_model
from unmask.language_model import LanguageModel
from unmask.model import Model, fastest, quantise

pytestmark = pytest.mark.skipif(not has_layouts(), reason="no kernels for bytes on this machine")


def matrix(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The slow twin: the same rounding, whole numbers summed one by one in 64 bits."""
    rounded, scale = round_rows(weight, weight_steps())
    top = x.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    data = (x * (127 / top) + 128.5).floor().long() - 128
    sums = (data[..., None, :] * rounded.long()).sum(-1)
    out = sums.double() * scale.squeeze(1) * (top / 127)
    return out if bias is None else out + bias


@pytest.mark.parametrize(("n", "inner", "outer"), [(1, 32, 32), (7, 64, 96), (40, 257, 33)])
def test_bytes_compute_what_the_plain_twin_does(n: int, inner: int, outer: int) -> None:
    x, weight, bias = matrix(n, inner), matrix(outer, inner, seed=1), matrix(outer, seed=2)
    torch.testing.assert_close(Int8Linear(weight, bias)(x).double(), plain(x, weight, bias), rtol=1e-5, atol=1e-5)
    far = (Int8Linear(weight)(x) - x @ weight.T).norm() / (x @ weight.T).norm()
    assert far < 0.03


def test_the_largest_columns_of_a_sample_stay_apart() -> None:
    x, weight, bias = matrix(40, 128), matrix(96, 128, seed=1), matrix(96, seed=2)
    x[:, [3, 77]] *= 60  # as a few of a trained model's are
    wanted = x @ weight.T + bias
    layer = Int8Linear(weight, bias, sample=x[:8])
    assert {3, 77} <= set(layer.apart.tolist()) and len(layer.apart) == APART
    rest, some = x.clone(), x[:, layer.apart]
    rest[:, layer.apart] = 0
    twin = plain(rest, weight.index_fill(1, layer.apart, 0.0), bias) + some @ weight[:, layer.apart].T
    torch.testing.assert_close(layer(x).double(), twin, rtol=1e-5, atol=1e-4)
    before, after = ((one(x) - wanted).norm() for one in (Int8Linear(weight, bias), layer))
    assert after < before / 10
    assert Int8Linear(weight, sample=torch.zeros(4, 128))(x).isfinite().all()


def test_layers_that_saw_nothing_are_rounded_too() -> None:
    model = quantise(tiny_model("blank_lm", dtype=torch.float32, width=64), clean_canvas([[1, 2, 3]]))
    assert not any(isinstance(part, Pending) for part in model.modules())
    layers = [part for part in model.modules() if isinstance(part, Int8Linear)]
    assert {part.apart is None for part in layers} == {True, False}  # no split was asked for, but words were


def test_the_largest_sums_do_not_saturate() -> None:
    x, weight = torch.ones(2, 512), torch.ones(32, 512)
    x[1] = -1
    torch.testing.assert_close(Int8Linear(weight)(x), torch.tensor([[512.0], [-512.0]]).expand(2, 32))


def test_company_changes_not_a_bit() -> None:
    layer, x = Int8Linear(matrix(64, 48, seed=1)), matrix(33, 48)
    x[5] *= 1000
    alone = torch.cat([layer(row[None]) for row in x])
    assert torch.equal(layer(x), alone)
    assert torch.equal(layer(x.flip(0)).flip(0), alone)


def test_rows_of_nothing() -> None:
    layer = Int8Linear(matrix(64, 48))
    assert layer(torch.zeros(0, 48)).shape == (0, 64)
    assert torch.equal(layer(torch.zeros(2, 48)), torch.zeros(2, 64))


@pytest.mark.parametrize("family", ["blank_lm", "masked_diffusion", "left_to_right", "fractional"])
def test_a_model_says_nearly_the_same(family: str) -> None:
    def model() -> Model:
        made = tiny_model(family, dtype=torch.float32, width=64, n_words=120)
        made.initialise(0)  # weights of the size that trained ones have
        return made

    fine, coarse = model(), quantise(model())
    assert coarse.bytewise and not fine.bytewise
    assert coarse.n_parameters() == fine.n_parameters()
    clean = clean_canvas([[1, 2, 3, 4], [5, 6]], n_words=120)
    role = clean.role.clone()
    role[[2, 7]] = Role.SIGN
    canvas = replace(clean, role=role)
    with torch.inference_mode():
        a, b = (one.predict(canvas).words().exp() for one in (fine, coarse))
    assert (a - b).abs().sum(-1).max() / 2 < 0.05  # total variation


def test_loading_and_storing(tmp_path: Path) -> None:
    folder = toy("blank_lm").save_pretrained(tmp_path / "model")
    lm = LanguageModel.from_pretrained(folder, device="cpu", dtype="int8")
    assert lm.model.bytewise
    assert lm.fill("a ___ b")[0].text.startswith("a ")
    assert not LanguageModel.from_pretrained(folder, device="cpu").model.bytewise  # too narrow to win by it
    again = lm.save_pretrained(tmp_path / "again")  # as it was read, not as it was rounded
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="laid out for filling .* rounded"):
        write_model(tmp_path / "other", lm.model, lm.tokenizer, "")


@pytest.mark.parametrize("tied", [True, False])
def test_a_public_model_is_read_as_narrow_as_it_is_stored(tied: bool, tmp_path: Path) -> None:
    wide = {"hidden_size": 128, "intermediate_size": 192, "tie_word_embeddings": tied}
    file = gguf_of(tmp_path / "small.gguf", llama(**wide), kind="Q8_0")
    fine, coarse = (LanguageModel.from_pretrained(file, device="cpu", dtype=dtype) for dtype in ("float32", "int8"))
    assert coarse.model.bytewise
    for matrix in (coarse.model.backbone.embedding, coarse.model.backbone.output):
        assert matrix.weight.dtype == torch.bfloat16  # looked up, never multiplied
    texts = ["The cat sat", "She saw the dog"]
    for one, other in zip(fine.score(texts), coarse.score(texts), strict=True):
        assert one.log_prob == pytest.approx(other.log_prob, rel=0.05)


@pytest.mark.slow
def test_a_public_model_of_135_million_weights_fits_in_700_megabytes() -> None:
    try:
        located("smollm2-135m")
    except ValueError as missing:
        pytest.skip(str(missing))
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux says what this process alone held at most")
    code = """
import pathlib, re, unmask
lm = unmask.load("smollm2-135m", device="cpu", dtype="int8")
assert lm.fill("Paris is the capital of ___{1}")[0].holes[0].text == "France"
print(int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 700


def test_what_is_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = tiny_model("blank_lm").config.backbone
    configs = narrow, replace(narrow, width=256), replace(narrow, width=512)
    cases = {
        ("avx2",): (["packed", "packed", "int8"], 63),
        ("avx2", "avx512_vnni"): (["packed", "int8", "int8"], 127),
        ("avx2", "avx512_bf16"): (["packed", "bfloat16", "int8"], 63),
        ("avx2", "amx_int8", "amx_bf16"): (["packed", "bfloat16", "int8"], 127),
        (): (["float32"] * 3, 63),
    }
    for able, (kinds, steps) in cases.items():
        monkeypatch.setattr(processor, "abilities", lambda able=able: dict.fromkeys(able, True))
        assert [fastest(config) for config in configs] == kinds
        assert weight_steps() == steps
