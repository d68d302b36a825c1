"""Public LLaDAs: read and written they compute what a Llama that sees all computes; what is not known is named."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file

from lladas import (
    ALIKE,
    CONFIG,
    END,
    HEADER,
    MASK,
    SIZE,
    START,
    TURN,
    folder_of,
    logits,
    named,
    seen_whole,
    theirs,
    vocabulary,
)
from llamas import changed, fault
from unmask.adapter import open_model
from unmask.backbone import BackboneConfig
from unmask.backbone.positions import rotary, rotate
from unmask.cli import main
from unmask.folder import read_config, read_model, read_tokenizer, stored_dtype, write_model
from unmask.language_model import LanguageModel
from unmask.model import Model, ModelConfig
from unmask.public import write_public
from unmask.tensors import Tensors
from unmask.tokenizer import Tokenizer
from unmask.training.run import train
from unmask.view import View

IDS = [START, 5, 299, MASK, 17, MASK, 99, 250, END, HEADER, 60]
SHAPES = {
    "plain": {},
    "grouped": {"n_kv_heads": 2},
    "tied": {"weight_tying": True},
    "grouped and tied": {"n_kv_heads": 1, "weight_tying": True, "max_sequence_length": 128, "rope_theta": 1e4},
}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_folder_computes_the_same_in_and_out(shape, shards, tmp_path):
    oracle = theirs(**SHAPES[shape])
    folder = folder_of(tmp_path / "in", oracle, shards, **SHAPES[shape])
    model, tokenizer = read_model(folder)
    wanted = seen_whole(oracle, IDS)
    assert (logits(model, IDS) - wanted).abs().max() < 1e-5
    assert (seen_whole(oracle, [*IDS[:-1], 61])[0] - wanted[0]).abs().max() > 1e-3  # the first sees the last
    assert model.config == read_config(folder) and not model.training
    assert model.config.objective == "masked_diffusion" and model.config.backbone.vocab_size == SIZE

    out = write_public(tmp_path / "out", model, tokenizer, shard_bytes=20_000 if shards > 1 else 10**9)
    assert (len(list(out.glob("*.safetensors"))) > 1) == (shards > 1)
    written, asked = Tensors(out), named(oracle)
    assert written.keys() == asked.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in asked.items())  # bit for bit, and no row more
    said = json.loads((out / "config.json").read_text())
    assert {key: said[key] for key in said.keys() & CONFIG.keys() - {"torch_dtype"}} == {
        key: value for key, value in (CONFIG | SHAPES[shape]).items() if key in said
    }
    again, _ = read_model(out)
    assert again.config == model.config and torch.equal(logits(again, IDS), logits(model, IDS))


def test_the_names_of_the_tensors(tmp_path):
    """3 and 9 a layer: 291 in the 8B models of 32 layers."""
    model, tokenizer = read_model(folder_of(tmp_path / "in", n_layers=5))
    written = set(load_file(write_public(tmp_path / "out", model, tokenizer) / "model.safetensors"))
    top = {f"model.transformer.{name}.weight" for name in ("wte", "ln_f", "ff_out")}
    layers = {f"model.transformer.blocks.{i}.{name}.weight" for i in range(5) for name in ALIKE}
    assert written == top | layers and len(written) == 3 + 9 * 5 and 3 + 9 * 32 == 291
    tied, tokenizer = read_model(folder_of(tmp_path / "tied", n_layers=5, weight_tying=True))
    written = set(load_file(write_public(tmp_path / "tied out", tied, tokenizer) / "model.safetensors"))
    assert written == (top | layers) - {"model.transformer.ff_out.weight"}


def test_the_shape_of_the_8b_model():
    """Its parameters, from its settings alone: 8.02 billion, 6.98 without the two vocabularies."""
    from unmask.backbone import Backbone
    from unmask.backbone.convert import LLADA

    big = dict(d_model=4096, n_layers=32, n_heads=32, n_kv_heads=32, mlp_hidden_size=12288, max_sequence_length=4096)
    rows = dict(vocab_size=126464, embedding_size=126464)
    with torch.device("meta"):
        whole = sum(p.numel() for p in Backbone(LLADA.shape(CONFIG | big | rows, "here")).parameters())
        grouped = big | rows | dict(n_kv_heads=8, mlp_hidden_size=14336, vocab_size=155136, embedding_size=155136)
        other = Backbone(LLADA.shape(CONFIG | grouped | {"weight_tying": True}, "there"))
    assert whole == 8_015_581_184 and whole - 2 * 126464 * 4096 == 6_979_588_096
    assert round(sum(p.numel() for p in other.parameters()) / 1e9, 2) == 7.62


def test_the_signs_are_the_folders_own(tmp_path):
    model, tokenizer = read_model(folder_of(tmp_path / "in"))
    signs = model.config.signs
    assert (signs["mask"], signs["start"], signs["end"]) == (MASK, START, END)  # EOS is the padding too
    assert model.objective.mask == MASK and signs == tokenizer.signs and signs["turn"] == TURN
    barred = model.objective.head.words.barred.isinf()
    assert barred[[MASK, START, HEADER]].all() and not barred[[END, TURN]].any()  # what ends an answer it writes
    assert all(306 <= signs[name] < SIZE for name in ("blank", "sep", "answer"))  # rows that no token had
    assert tokenizer.vocab_size == SIZE and set(range(306, SIZE)) <= set(model.config.special)
    assert model.config.kept == {
        "eos_token_id": END,
        "pad_token_id": END,
        "mask_token_id": MASK,
        "auto_map": CONFIG["auto_map"],
    }
    text = "The cat <|mdm_mask|> <|endoftext|> sat."
    assert not {MASK, END} & set(tokenizer.encode(text)) and tokenizer.decode(tokenizer.encode(text)) == text


def test_a_mask_of_another_name_and_number(tmp_path):
    """As in iLLaDA, whose mask is token 5: the number says it all, here and in what is written from it."""
    made = vocabulary()
    odd = made.id_to_token(5)
    folder = folder_of(tmp_path / "in", made=made, mask_token_id=5, eos_token_id=7, pad_token_id=7)
    model, tokenizer = read_model(folder)
    assert (
        (tokenizer.signs["mask"], tokenizer.signs["end"]) == (5, 7) == (model.objective.mask, model.config.signs["end"])
    )
    assert 5 in model.config.special and MASK in model.config.special
    assert odd not in ("<|mask|>", "[MASK]") and 5 not in tokenizer.encode(odd)
    ours = write_model(tmp_path / "ours", model, tokenizer, "A card.")
    for place in (ours, write_public(tmp_path / "out", model, tokenizer)):
        again, its = read_model(place)
        assert its.signs == tokenizer.signs == read_tokenizer(place).signs and again.config == model.config
        assert its.fingerprint == tokenizer.fingerprint and its.vocab_size == SIZE
    read_model(folder_of(tmp_path / "plain"))[1].save(ours)
    assert Tokenizer.load(ours).signs["mask"] == MASK  # nothing of the other is left there


def test_what_begins_a_text(tmp_path):
    def start(made=None, told=None, **settings):
        folder = folder_of(tmp_path / "in", made=made, **settings)
        (folder / "tokenizer_config.json").write_text(told or "{}")
        return read_tokenizer(folder).signs["start"]

    assert start(told='{"bos_token": {"content": "<|eot_id|>"}}') == TURN  # as its tokenizer says
    assert start(bos_token_id=7) == START  # else by its name
    nameless = tokenizers.Tokenizer.from_str(vocabulary().to_str().replace("<|startoftext|>", "<|x|>"))
    assert start(nameless, bos_token_id=7) == 7
    assert start(nameless) == END  # texts follow one another
    with pytest.raises(ValueError, match="tokenizer_config.json is not JSON"):
        start(told="{")


def test_a_vocabulary_without_room_for_signs(tmp_path):
    rows = {"vocab_size": 306, "embedding_size": 306}
    oracle = theirs(**rows)
    model, tokenizer = read_model(folder_of(tmp_path / "in", oracle, **rows))
    assert model.config.backbone.vocab_size == 309 == tokenizer.vocab_size  # blank, sep, answer
    ids = [one for one in IDS if one < 306]
    assert (logits(model, ids)[:, :306] - seen_whole(oracle, ids)).abs().max() < 1e-5
    again, _ = read_model(write_public(tmp_path / "out", model, tokenizer))
    assert again.config.backbone == model.config.backbone and again.config.signs == model.config.signs


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"block_type": "sequential"}, "block_type is 'sequential'"),
        ({"block_type": None}, "block_type is 'sequential'"),  # what is not said is as in OLMo
        ({"rope": None}, "rope is False"),
        ({"layer_norm_type": None}, "layer_norm_type is 'default'"),
        ({"activation_type": None}, "activation_type is 'swiglu'"),
        ({"activation_type": "gelu"}, "activation_type is 'gelu'"),
        ({"layer_norm_type": "gemma_rms"}, "layer_norm_type is 'gemma_rms'"),
        ({"alibi": True}, "alibi is True"),
        ({"rope_scaling": {"factor": 2.0}}, "rope_scaling is"),
        ({"rope_full_precision": False}, "rope_full_precision is False"),
        ({"block_group_size": 4}, "block_group_size is 4"),
        ({"multi_query_attention": True}, "multi_query_attention is True"),
        ({"attention_layer_norm": True}, "attention_layer_norm is True"),
        ({"layer_norm_with_affine": False}, "layer_norm_with_affine is False"),
        ({"bias_for_layer_norm": True}, "bias_for_layer_norm is True"),
        ({"include_bias": True}, "include_bias is True"),
        ({"include_qkv_bias": True}, "include_qkv_bias is True"),
        ({"input_emb_norm": True}, "input_emb_norm is True"),
        ({"scale_logits": True}, "scale_logits is True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"num_experts": 8}, "a setting 'num_experts'"),
        ({"d_model": None}, "has no 'd_model'"),
        ({"n_heads": "4"}, "n_heads is '4'"),
        ({"mask_token_id": None}, "has no 'mask_token_id'"),
        ({"eos_token_id": None}, "has no 'eos_token_id'"),
        ({"mask_token_id": 9999}, "mask_token_id is 9999"),
        ({"mask_token_id": END}, f"mask_token_id and eos_token_id are both {END}"),
        ({"pad_token_id": MASK}, f"mask_token_id and pad_token_id are both {MASK}"),
        ({"n_kv_heads": 2}, "blocks.0.k_proj.weight' has shape (32, 32), the settings say (16, 32)"),
        ({"mlp_hidden_size": 64}, "blocks.0.ff_proj.weight' has shape (48, 32)"),
        ({"mlp_hidden_size": None}, "the settings say (128, 32)"),  # mlp_ratio times the width
        ({"embedding_size": 384}, "'model.transformer.wte.weight' has shape (320, 32)"),
        ({"embedding_size": 304}, "the tokenizer has 306 tokens, the model 304"),
        ({"embedding_size": 200}, "mask_token_id is 302"),
        ({"n_layers": 3}, "no tensor 'model.transformer.blocks.2.attn_norm.weight'"),
        ({"n_layers": 1}, "has a tensor 'model.transformer.blocks.1.attn_norm.weight'"),
        ({"weight_tying": True}, "'model.transformer.ff_out.weight' is not the embedding"),
        ({"weight_tying": None}, "'model.transformer.ff_out.weight' is not the embedding"),
    ],
    ids=lambda value: re.sub(r"\W+", "_", str(value))[:40],
)
def test_what_is_not_known_is_named(settings, named, tmp_path):
    assert named in fault(changed(folder_of(tmp_path / "in"), **settings))


def test_what_changes_nothing_may_be_missing(tmp_path):
    idle = [key for key in CONFIG if key.startswith(("init", "alibi", "attention_", "embedding_", "residual"))]
    idle += ["flash_attention", "precision", "auto_map", "mlp_ratio", "vocab_size", "n_kv_heads", "pad_token_id"]
    oracle = theirs()
    folder = changed(folder_of(tmp_path / "in", oracle), **dict.fromkeys(idle) | {"embedding_size": SIZE})
    assert (logits(read_model(folder)[0], IDS) - seen_whole(oracle, IDS)).abs().max() < 1e-5


def test_a_tensor_of_another_model_is_named(tmp_path):
    folder = folder_of(tmp_path / "in", shards=3)
    index = folder / "model.safetensors.index.json"
    lost = "model.transformer.blocks.1.up_proj.weight"
    file = folder / json.loads(index.read_text())["weight_map"][lost]
    tensors = load_file(file)
    save_file({**tensors, "model.transformer.wpe.weight": torch.ones(2)}, file)
    assert "has a tensor 'model.transformer.wpe.weight'" in fault(folder)
    save_file(tensors | {lost: torch.ones(48, 31)}, file)
    assert f"tensor '{lost}' has shape (48, 31), the settings say (48, 32)" in fault(folder)
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, file)
    assert f"has no tensor '{lost}'" in fault(folder)
    file.unlink()
    assert f"has no {file.name}" in fault(folder)


def test_numbers_stay_as_they_are(tmp_path):
    oracle = theirs().to(torch.bfloat16)
    folder = folder_of(tmp_path / "in", oracle, shards=2)
    assert stored_dtype(folder) == torch.bfloat16
    model, tokenizer = read_model(folder, torch.bfloat16)
    written = Tensors(write_public(tmp_path / "out", model, tokenizer))
    assert all(torch.equal(written[name], tensor) for name, tensor in named(oracle).items())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_positions_turn_in_full_precision():
    turn = rotary(torch.tensor([4000]), 8, 500000.0, torch.bfloat16)
    x = torch.randn(1, 2, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(rotate(x, *turn), rotate(x.float(), *turn).bfloat16()) and turn[0].dtype == torch.float32


def test_what_is_no_llada_is_not_written_as_one(tmp_path):
    _, tokenizer = read_model(folder_of(tmp_path / "in"))
    signs = {name: 8 + i for i, name in enumerate(tokenizer.signs)}
    shape = BackboneConfig(vocab_size=64, width=16, n_layers=1, n_heads=2, qk_norm=False, output_bias=False)
    for changes, said in [
        ({"qk_norm": True}, "qk_norm is True · in a LLaDA it is False"),
        ({"head_dim": 12}, "head_dim is 12 · in a LLaDA it is width / n_heads"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"output_bias": True}, "output_bias is True"),
    ]:
        own = BackboneConfig(**{**vars(shape), **changes})
        model = Model(ModelConfig("masked_diffusion", own, signs, tuple(range(8, 16))))
        with pytest.raises(ValueError, match=re.escape(said)):
            write_public(tmp_path / "out", model, tokenizer)
    assert not (tmp_path / "out").exists()


MEASURE = """
import sys
from pathlib import Path

import torch

from unmask.folder import read_model
from unmask.public import write_public


def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


small, big, out = sys.argv[1:]
write_public(out + "small", *read_model(small, torch.bfloat16))  # all code is there now
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
model, tokenizer = read_model(big, torch.bfloat16)
read = resident("VmHWM") - before
Path("/proc/self/clear_refs").write_text("5")
write_public(out, model, tokenizer, shard_bytes=8_000_000)
print(read, resident("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux for the peak of memory")
def test_memory_holds_the_weights_and_one_shard(tmp_path):
    shape = {"d_model": 256, "n_layers": 28, "mlp_hidden_size": 1024, "n_heads": 4}
    with torch.no_grad():
        oracle = theirs(**shape).to(torch.bfloat16)
    big = folder_of(tmp_path / "big", oracle, shards=8, **shape)
    weights = sum(tensor.nbytes for tensor in named(oracle).values())
    shard = max(path.stat().st_size for path in big.glob("*.safetensors"))
    assert weights > 55_000_000 and shard < weights / 6
    places = (str(folder_of(tmp_path / "small")), str(big), str(tmp_path / "out"))
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, *places], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    read, written = map(int, ran.stdout.split())
    slack = 10_000_000  # what holding and releasing them takes beside
    assert weights * 0.9 < read < weights + shard + slack
    assert written < weights + 8_000_000 + slack
    assert len(list((tmp_path / "out").glob("*.safetensors"))) >= 7


# The doors.


def test_a_loaded_folder_fills(tmp_path):
    folder = folder_of(tmp_path / "in")
    lm = LanguageModel.from_pretrained(folder, dtype="float32", device="cpu")
    (fill,) = lm.fill("The [MASK] sat on [MASK] mat.")
    assert fill.text.startswith("The") and len(fill.holes) == 2 and fill.given == "length"
    assert lm.score("The cat sat.", orders=4).kind == "bound"
    again = LanguageModel.from_pretrained(lm.save_pretrained(tmp_path / "ours"), dtype="float32", device="cpu")
    assert again.fill("The [MASK] sat on [MASK] mat.")[0].log_prob == pytest.approx(fill.log_prob, abs=1e-4)


def test_convert_there_and_back(tmp_path, capsys):
    oracle = theirs(n_kv_heads=2)
    folder = folder_of(tmp_path / "in", oracle, shards=2, n_kv_heads=2)
    assert main(["convert", str(folder), str(tmp_path / "ours")]) == 0
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to", "transformers"]) == 0
    assert capsys.readouterr().err == ""
    written = Tensors(tmp_path / "theirs")
    assert all(torch.equal(written[name], tensor) for name, tensor in named(oracle).items())
    said = json.loads((tmp_path / "theirs" / "tokenizer_config.json").read_text())
    ends = [said[f"{name}_token"] for name in ("bos", "eos", "pad", "mask")]
    assert ends == ["<|startoftext|>", "<|endoftext|>", "<|endoftext|>", "<|mdm_mask|>"]


def test_training_starts_from_one(tmp_path):
    """By an adapter, as the 8B is taught: a small change of a frozen model, and the two put together."""
    pytest.importorskip("peft")
    folder = folder_of(tmp_path / "in", max_sequence_length=128)
    data = tmp_path / "a.txt"
    data.write_text("The cat sat on the mat.\nShe saw the dog.\n" * 60)
    told = ["adapter.rank=2", "steps=2", "batch_tokens=256", "data.max_tokens=64", "threads=1", "masking=exact_count"]
    run = train(str(data), [f"model={folder}", *told], out=tmp_path / "run")
    tuned, tokenizer = open_model(run / "model").read()
    base, its = read_model(folder)
    assert tuned.config == base.config and tokenizer.signs == its.signs
    assert (logits(tuned, IDS) - logits(base, IDS)).abs().max() > 0
    assert torch.equal(tuned.backbone.embedding.weight[:START], base.backbone.embedding.weight[:START])  # no sign


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_on_a_gpu(shape, tmp_path):
    oracle = theirs(**SHAPES[shape]).to(torch.bfloat16)
    folder = folder_of(tmp_path / "in", oracle, 2, **SHAPES[shape])
    wide, _ = read_model(folder, torch.float32, "cuda")
    assert wide.device.type == "cuda"
    with torch.no_grad():
        index = torch.arange(len(IDS), device="cuda")
        hidden = wide.backbone(View(torch.tensor(IDS).cuda(), torch.tensor([0, len(IDS)]).cuda(), index, index))
        found = (hidden @ wide.backbone.output.weight.t()).cpu()
    assert (found - seen_whole(oracle.float(), IDS)).abs().max() < 1e-3
    lm = LanguageModel.from_pretrained(folder)
    assert {weight.dtype for weight in lm.model.parameters()} == {torch.bfloat16} and lm.model.device.type == "cuda"
    assert len(lm.fill("The [MASK] sat on [MASK] mat.")[0].holes) == 2
