"""Public checkpoints: read and written they compute what `transformers` computes; what is not known is named."""

import json
import struct
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from unmask.backbone import Backbone, BackboneConfig
from unmask.backbone.convert import LLAMA
from unmask.backbone.int8 import can_int8
from unmask.bases import located
from unmask.cli import main
from unmask.folder import read_config, read_model, read_tokenizer, stored_dtype, write_model
from unmask.language_model import LanguageModel
from unmask.model import Model, ModelConfig, quantise
from unmask.public import write_public
from unmask.public.gguf import GGUF
from unmask.public.gguf import _quantisation as quantisation
from unmask.tokenizer.tokenizer import PROBES
from unmask.view import View

TEXTS = ["The cat sat on the mat, in 1984 or 85.", "She didn't see the dog;\n\tit saw her!", "naïve café 你好"] * 9
SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    "bos_token_id": 1,
    "eos_token_id": 0,
}
SHAPES = {
    "grouped": {},
    "tied": {"tie_word_embeddings": True},
    "one key head for each": {"num_key_value_heads": 4},
    "heads of their own width": {"head_dim": 12},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "biases of attention": {"attention_bias": True},
}


def spoken(digits: bool = True) -> tokenizers.Tokenizer:
    """A byte-level vocabulary like that of SmolLM2, on the spot: 304 tokens, so that the model has rows to spare."""
    made = tokenizers.Tokenizer(models.BPE())
    cut = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    made.pre_tokenizer = pre_tokenizers.Sequence([*cut, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    ends = [AddedToken(name, special=True) for name in ("<|endoftext|>", "<|im_start|>")]
    trainer = trainers.BpeTrainer(
        vocab_size=304,
        special_tokens=ends,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=1,
    )
    made.train_from_iterator(TEXTS, trainer)
    assert made.get_vocab_size() == 304
    return made


def llama(**changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(**{**SHAPE, **changes})).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # norms and biases too, or a mistake in their places would not show
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.dim() == 1))
    return theirs


def written(folder: Path, theirs=None, shards: str = "5GB", **changes) -> Path:
    """A public folder with a tokenizer."""
    (theirs or llama(**changes)).save_pretrained(folder, max_shard_size=shards)
    spoken().save(str(folder / "tokenizer.json"))
    return folder


def logits(model: Model, ids: list[int]) -> torch.Tensor:
    """What follows each token, by our own means: `[T, V]`, signs and public special tokens at -inf."""
    index = torch.arange(len(ids))
    view = View(torch.tensor(ids), torch.tensor([0, len(ids)]), index, index, stage=index, causal=True)
    with torch.no_grad():
        return model.objective.head.words.logits(model.backbone(view))


def differs(model: Model, theirs, ids: list[int]) -> float:
    """How far our logits of the public words are from theirs, at most."""
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits[0].float()
    words = [i for i in range(min(wanted.shape[1], model.config.backbone.vocab_size)) if i not in model.config.special]
    assert len(words) > 300
    return float((logits(model, ids)[:, words] - wanted[:, words]).abs().max())


IDS = [5, 300, 17, 17, 4, 99, 250, 3, 271, 8, 60]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_llama_folder_computes_the_same_in_and_out(shape, tmp_path):
    theirs = llama(**SHAPES[shape])
    model, tokenizer = read_model(written(tmp_path / "in", theirs))
    assert differs(model, theirs, IDS) < 2e-5
    assert model.config == read_config(tmp_path / "in") and not model.training

    again = back(write_public(tmp_path / "out", model, tokenizer, "A card."))
    assert differs(model, again, IDS) < 2e-5
    size = SHAPE["vocab_size"]
    assert again.config.vocab_size == size + 8 == tokenizer.vocab_size
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name][:size], tensor), name  # nothing of theirs was changed
    for matrix in (model.backbone.embedding.weight, model.backbone.output.weight):
        torch.testing.assert_close(matrix[size:], matrix[:size].mean(0).expand(8, -1))
    third, _ = read_model(tmp_path / "out")  # no second row of signs
    assert third.config == model.config and differs(third, again, IDS) < 2e-5


def back(folder: Path):
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_shards_in_and_out(tmp_path):
    theirs = llama(tie_word_embeddings=True)
    model, tokenizer = read_model(written(tmp_path / "in", theirs, shards="20KB"))
    assert len(list((tmp_path / "in").glob("*.safetensors"))) > 2
    assert differs(model, theirs, IDS) < 2e-5
    write_public(tmp_path / "out", model, tokenizer, shard_bytes=20_000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    assert differs(model, back(tmp_path / "out"), IDS) < 2e-5


def changed(folder: Path, **settings) -> Path:
    """The folder with other settings; None takes one out."""
    said = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps({k: v for k, v in said.items() if v is not None}))
    return folder


def fault(place: Path, read=read_model) -> str:
    with pytest.raises(ValueError) as caught:
        read(place)
    said = str(caught.value)
    assert "\n" not in said and said.count(" · ") == 2 and str(place) in said, said
    return said


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}},
            "rope_parameters.rope_type is",
        ),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "factor": 8.0}}, "rope_parameters.factor"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is {'type': 'linear'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"sliding_window": 128}, "sliding_window is 128"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config is"),
        ({"pretraining_tp": 2}, "pretraining_tp is 2"),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1"),
        ({"new_trick": True}, "a setting 'new_trick'"),
        ({"hidden_size": None}, "has no 'hidden_size'"),
        ({"hidden_size": "32"}, "hidden_size is '32'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
        ({"eos_token_id": 999, "bos_token_id": 1}, "eos_token_id is 999"),
        ({"num_attention_heads": 8}, "'model.layers.0.self_attn.q_proj.weight' has shape (32, 32)"),
        ({"vocab_size": 390}, "'model.embed_tokens.weight' has shape (320, 32)"),
        ({"vocab_size": 200}, "the tokenizer has 304 tokens, the model 200"),
        ({"num_hidden_layers": 3}, "no tensor 'model.layers.2.input_layernorm.weight'"),
        ({"num_hidden_layers": 1}, "has a tensor 'model.layers.1.input_layernorm.weight'"),
        ({"attention_bias": True}, "no tensor 'model.layers.0.self_attn.k_proj.bias'"),
        ({"tie_word_embeddings": True}, "'lm_head.weight' is not the embedding"),
        ({"model_type": "qwen2"}, "model_type is 'qwen2'"),
    ],
)
def test_what_is_not_known_is_named(settings, named, tmp_path):
    made = tokenizers.Tokenizer.from_str(spoken().to_str())
    folder = changed(written(tmp_path / "in"), **settings)
    if settings.get("eos_token_id") == 999:  # with a name that tells, the settings are not asked
        definition = json.loads(made.to_str())
        for added in definition["added_tokens"]:
            definition["model"]["vocab"][f"<end_{added['id']}>"] = added["id"]
            del definition["model"]["vocab"][added["content"]]
            added["content"] = f"<end_{added['id']}>"
        (folder / "tokenizer.json").write_text(json.dumps(definition))
    assert named in fault(folder)


def test_what_changes_nothing_may_stand_there(tmp_path):
    idle = {"use_cache": False, "torch_dtype": "float16", "is_llama_config": True, "rope_interleaved": False}
    idle |= {"rope_scaling": None, "transformers.js_config": {"dtype": "q4"}, "pretraining_tp": 1}
    theirs = llama(tie_word_embeddings=True)
    folder = changed(written(tmp_path / "in", theirs), **idle, rope_parameters=None, rope_theta=5000.0)
    copy = {**theirs.state_dict(), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file({name: tensor.clone() for name, tensor in copy.items()}, folder / "model.safetensors")
    assert "lm_head.weight" in copy  # the tied matrix twice, as some have it
    model, _ = read_model(folder)
    assert differs(model, theirs, IDS) < 2e-5


@pytest.mark.parametrize(
    ("name", "named"),
    [("model.safetensors", "has no model.safetensors"), ("tokenizer.json", "tokenizer.json cannot be")],
)
def test_a_missing_file_is_named(name, named, tmp_path):
    (written(tmp_path / "in") / name).unlink()
    assert named in fault(tmp_path / "in")


def test_one_tensor_at_a_time_is_in_memory(tmp_path):
    class Watched(dict):
        last, reads = None, 0

        def __getitem__(self, name):
            assert self.last is None or self.last() is None, "the one before is still there"
            tensor = super().__getitem__(name).clone()
            self.last, self.reads = weakref.ref(tensor), self.reads + 1
            return tensor

    theirs = llama()
    source = Watched(theirs.state_dict())
    shape = LLAMA.shape(json.loads(theirs.config.to_json_string()), "here")
    backbone = Backbone(shape)
    LLAMA.pour(source, dict(backbone.named_parameters()), shape, "here")
    assert source.reads == len(source)
    again = LLAMA.tensors(dict(backbone.named_parameters()), shape)
    assert {name: torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in again.items()} == dict.fromkeys(
        theirs.state_dict(), True
    )


def test_the_vocabulary_comes_along(tmp_path):
    from transformers import AutoTokenizer

    model, tokenizer = read_model(written(tmp_path / "in"))
    text = "The cat, in 1984\n\tdidn't  see 你好 <|im_start|>"
    ids = spoken().encode("The cat, in 1984\n\tdidn't  see 你好 ", add_special_tokens=False).ids
    assert tokenizer.encode(text)[: len(ids)] == ids and tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(text) == read_tokenizer(tmp_path / "in").encode(text)
    assert model.config.options == {"plain": True, "begin": 0, "stop": 0}  # <|endoftext|> on both sides
    assert model.config.kept == {"bos_token_id": 1, "eos_token_id": 0}
    assert sorted(set(model.config.special) - set(model.config.signs.values())) == [0, 1, *range(304, 320)]

    write_public(tmp_path / "out", model, tokenizer)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs("The cat, in 1984")["input_ids"] == ids[: len(theirs("The cat, in 1984")["input_ids"])]
    assert theirs.eos_token == "<|endoftext|>" and theirs.bos_token == "<|im_start|>"
    assert len(theirs) == tokenizer.vocab_size
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (said["bos_token_id"], said["eos_token_id"], said["torch_dtype"]) == (1, 0, "float32")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_numbers_stay_as_they_are(dtype, tmp_path):
    theirs = llama().to(dtype)
    written(tmp_path / "in", theirs)
    assert stored_dtype(tmp_path / "in") == dtype
    model, tokenizer = read_model(tmp_path / "in", dtype)
    write_public(tmp_path / "out", model, tokenizer)
    write_model(tmp_path / "ours", model, tokenizer, "A card.")
    assert stored_dtype(tmp_path / "out") == stored_dtype(tmp_path / "ours") == dtype
    ours = back(tmp_path / "out").state_dict()
    assert torch.equal(ours["model.layers.1.mlp.up_proj.weight"], theirs.model.layers[1].mlp.up_proj.weight.float())
    again, _ = read_model(tmp_path / "ours", None)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert again.backbone.layers[1].mlp.up.weight.dtype == wide and again.config == model.config
    assert torch.equal(again.backbone.output.weight, model.backbone.output.weight.to(wide))


def test_what_is_no_llama_is_not_written_as_one(tmp_path):
    model, tokenizer = read_model(written(tmp_path / "in"))
    assert not model.objective.head.words.bias.requires_grad  # a whole model that is trained can go out too
    with torch.no_grad():
        model.objective.head.words.bias[7] = 1.0
    with pytest.raises(ValueError, match="'head.words.bias' is not zero"):
        write_public(tmp_path / "out", model, tokenizer)
    shape = BackboneConfig(vocab_size=64, width=16, n_layers=1, n_heads=2)
    own = {"signs": {name: 8 + i for i, name in enumerate(tokenizer.signs)}, "special": tuple(range(8, 16))}
    for family, backbone, said in [
        ("left_to_right", shape, "qk_norm is True · in a Llama it is False"),
        ("left_to_right", replace(shape, qk_norm=False), "output_bias is True"),
        ("left_to_right", replace(shape, qk_norm=False, norm="layer"), "norm is 'layer'"),
        ("blank_lm", replace(shape, qk_norm=False), "a blank_lm model is no Llama"),
    ]:
        with pytest.raises(ValueError, match=said):
            write_public(tmp_path / "out", Model(ModelConfig(family, backbone, **own)), tokenizer)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not can_int8(), reason="needs x86 with AVX2")
@pytest.mark.parametrize("tied", [True, False])
def test_an_output_matrix_of_its_own_in_bytes(tied, tmp_path):
    model, _ = read_model(written(tmp_path / "in", tie_word_embeddings=tied))
    plain, n = logits(model, IDS), model.n_parameters()
    assert n == sum(p.numel() for p in model.parameters())
    rough = logits(quantise(model), IDS)
    words = plain.isfinite()
    assert model.bytewise and 0 < (rough - plain)[words].abs().max() < 0.1 * plain[words].abs().max()
    assert model.n_parameters() == n


# GGUF files.

KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_1"]


def gguf_of(path: Path, theirs, kind: str = "F32", made: tokenizers.Tokenizer | None = None, **facts) -> Path:
    """A GGUF file as llama.cpp's converter writes it: rows of q and k in its own order, norms in float32."""
    import gguf

    config, made = theirs.config, made or spoken()
    out = gguf.GGUFWriter(path, "llama")
    if align := facts.pop("general.alignment", None):
        out.add_custom_alignment(align)
    said = {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.freq_base": config.rope_parameters["rope_theta"],
        "llama.rope.dimension_count": config.head_dim,
        "llama.vocab_size": config.vocab_size,
        "general.license": "cc0-1.0",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
    } | facts
    for key, value in said.items():
        if value is not None:
            add = {str: out.add_string, float: out.add_float32, bool: out.add_bool, int: out.add_uint32}[type(value)]
            add(key, value)
    size = config.vocab_size
    vocabulary = {number: token for token, number in made.get_vocab(with_added_tokens=True).items()}
    out.add_token_list([vocabulary.get(i, f"[PAD{i}]") for i in range(size)])
    control = {number for number, added in made.get_added_tokens_decoder().items() if added.special}
    out.add_token_types([3 if i in control else 1 if i in vocabulary else 5 for i in range(size)])
    merges = json.loads(made.to_str())["model"]["merges"]
    out.add_token_merges([" ".join(pair) for pair in merges])
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    names |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    names |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, tensor in theirs.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, _, end = name.rpartition(".")
        parts = stem.split(".")
        new = top.get(stem) or f"blk.{parts[2]}.{names[parts[-1]]}"
        if parts[-1] in ("q_proj", "k_proj"):  # the converter's `permute`
            heads = config.num_attention_heads if parts[-1] == "q_proj" else config.num_key_value_heads
            tensor = tensor.reshape(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
        number = gguf.GGMLQuantizationType[kind if tensor.dim() > 1 else "F32"]
        data = gguf.quants.quantize(tensor.numpy(), number)
        out.add_tensor(f"{new}.{end}", data, raw_dtype=number)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


@pytest.mark.parametrize("shape", ["grouped", "tied", "heads of their own width", "biases"])
def test_a_gguf_file_computes_the_same(shape, tmp_path):
    theirs = llama(**SHAPES[shape])
    file = gguf_of(tmp_path / "a.gguf", theirs)
    model, tokenizer = read_model(file)
    assert differs(model, theirs, IDS) < 2e-5
    folder, _ = read_model(written(tmp_path / "in", theirs))
    assert model.config == folder.config == read_config(file)
    text = "She sat in 1984;\n\t the naïve 你好 <|im_start|>"
    assert tokenizer.encode(text) == read_tokenizer(tmp_path / "in").encode(text) == read_tokenizer(file).encode(text)
    assert differs(model, back(write_public(tmp_path / "out", model, tokenizer)), IDS) < 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_every_kind(kind, tmp_path):
    import gguf

    theirs = llama(hidden_size=64, intermediate_size=96)
    file = gguf_of(tmp_path / "a.gguf", theirs, kind)
    exact = {"F32": torch.float32, "F16": torch.float16}
    assert stored_dtype(file) == exact.get(kind, torch.bfloat16)
    number, weights = gguf.GGMLQuantizationType[kind], theirs.state_dict()
    with torch.no_grad():
        for tensor in weights.values():
            if tensor.dim() > 1:
                packed = gguf.quants.quantize(tensor.numpy(), number)
                tensor.copy_(torch.tensor(gguf.quants.dequantize(packed, number)))
    model, _ = read_model(file)
    assert differs(model, theirs, IDS) < 2e-5
    narrow, _ = read_model(file, torch.bfloat16)
    ours, wide = (one.backbone.layers[1].attention.qkv.weight for one in (narrow, model))
    assert torch.equal(ours, wide.to(torch.bfloat16))


def test_the_header_is_read_as_the_package_reads_it(tmp_path):
    import gguf

    path = gguf_of(
        tmp_path / "a.gguf", llama(intermediate_size=64), "Q8_0", **{"general.alignment": 64, "llama.some": -1.5}
    )
    ours, theirs = GGUF(path), gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.metadata == {k: pytest.approx(v) if isinstance(v, float) else v for k, v in fields.items()}
    assert ours.metadata["llama.attention.layer_norm_rms_epsilon"] == 1e-5  # not the 9.99e-6 of float32
    assert list(ours) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        wanted = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        assert torch.equal(ours[tensor.name], wanted) and ours[tensor.name].shape == tuple(tensor.shape[::-1].tolist())


def llama_bpe() -> tokenizers.Tokenizer:
    made = spoken(digits=False)
    cut = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    cut += r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(cut), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.model.ignore_merges = True
    return made


@pytest.mark.parametrize(
    ("pre", "make"), [("smollm", spoken), ("gpt-2", lambda: spoken(digits=False)), ("llama-bpe", llama_bpe)]
)
def test_a_vocabulary_is_made_anew(pre, make, tmp_path):
    made = make()
    file = gguf_of(tmp_path / "a.gguf", llama(), made=made, **{"tokenizer.ggml.pre": pre})
    ours = read_tokenizer(file)
    for text in [
        "The cat sat on the mat, in 1984 or 85.",
        "SHE'LL  didn't\r\n\n\tsee!?\n",
        "naïve 你好 ½ 3.14",
        " x",
        "",
    ]:
        assert ours.encode(text) == made.encode(text).ids, text
        assert ours.decode(ours.encode(text)) == text
    assert ours.encode("<|im_start|>") != [1] and ours.special[:2].all() and ours.special[304:].all()
    assert ours.exact


def test_what_stands_before_and_behind_a_text_comes_along(tmp_path):
    facts = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    file = gguf_of(tmp_path / "a.gguf", llama(), **facts)
    definition = read_tokenizer(file).definition
    encode = tokenizers.Tokenizer.from_str(json.dumps(definition)).encode
    ids = spoken().encode("The cat").ids
    assert encode("The cat").ids == [1, *ids, 0] and encode("The cat", add_special_tokens=False).ids == ids


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"general.architecture": "qwen2"}, "architecture 'qwen2'"),
        ({"llama.expert_count": 8}, "llama.expert_count is 8"),
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn'"),
        ({"llama.new_trick": 1}, "a setting 'llama.new_trick'"),
        ({"llama.block_count": None}, "no 'llama.block_count'"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model is 'llama'"),
        ({"tokenizer.ggml.pre": "tekken"}, "tokenizer.ggml.pre is 'tekken'"),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre is None"),
        ({"split.count": 3}, "one of 3 parts"),
        ({"llama.attention.head_count_kv": 1}, "'blk.0.attn_k.weight' has shape (16, 32)"),
        ({"llama.block_count": 3}, "no tensor 'blk.2.attn_k.weight'"),
    ],
)
def test_a_gguf_file_that_is_not_known_is_named(facts, named, tmp_path):
    architecture = facts.pop("general.architecture", None)
    path = gguf_of(tmp_path / "a.gguf", llama(), **facts)
    if architecture:
        path.write_bytes(path.read_bytes().replace(b"llama", b"qwen2"))
    assert named in fault(path)


def test_broken_gguf_files_are_named(tmp_path):
    path = gguf_of(tmp_path / "a.gguf", llama(intermediate_size=64), "Q8_0")
    whole = path.read_bytes()

    def of(data: bytes) -> str:
        path.write_bytes(data)
        return fault(path)

    assert "is no GGUF file" in of(b"PK" + whole[2:])
    assert "is empty" in of(b"")
    assert "version 9" in of(whole[:4] + struct.pack("<I", 9) + whole[8:])
    assert "byte order" in of(whole[:4] + struct.pack(">I", 3) + whole[8:])
    for length in (6, 20, 100, 700, 3000, 9000, len(whole) // 2, len(whole) - 1):
        assert "is cut short" in of(whole[:length]), length
    at = whole.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 2 * 8  # the number of its quantisation
    assert struct.unpack("<I", whole[at : at + 4]) == (8,)
    for number, said in [(99, "quantisation 99"), (9, "quantisation Q8_1")]:
        assert said in of(whole[:at] + struct.pack("<I", number) + whole[at + 4 :])
    at = whole.index(b"general.license") + len(b"general.license")
    assert "value of kind 77" in of(whole[:at] + struct.pack("<I", 77) + whole[at + 4 :])
    other = tmp_path / "model.bin"  # known by what it is, not by what it is called
    other.write_bytes(whole)
    assert read_config(other).backbone.width == 32
    other.write_bytes(b"not a model")
    assert "is no model" in fault(other)


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    path = gguf_of(tmp_path / "a.gguf", llama())
    quantisation.cache_clear()
    monkeypatch.setitem(sys.modules, "gguf.constants", None)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"gguf is not installed .* pip install 'unmask\[gguf\]'"):
        read_model(path)


# The command.


def unmask(*words: object) -> int:
    return main([str(word) for word in words])


def test_convert_there_and_back(tmp_path, capsys):
    theirs = llama(tie_word_embeddings=True)
    file = gguf_of(tmp_path / "a.gguf", theirs)
    assert unmask("convert", file, tmp_path / "ours") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'ours'}: 26,344 parameters, 2 layers, 328 tokens\n"
    assert "license: cc0-1.0" in (tmp_path / "ours" / "README.md").read_text()
    assert unmask("convert", tmp_path / "ours", tmp_path / "new" / "theirs", "--to", "transformers") == 0
    assert (tmp_path / "new" / "theirs" / "README.md").read_text() == (tmp_path / "ours" / "README.md").read_text()
    assert differs(read_model(file)[0], back(tmp_path / "new" / "theirs"), IDS) < 2e-5
    modes = {path.stat().st_mode for path in (tmp_path / "ours").iterdir()}
    assert len(modes) == 1  # what one may read, one may load


def test_info_of_a_public_model(tmp_path, capsys):
    theirs = llama(tie_word_embeddings=True)
    for place in (gguf_of(tmp_path / "a.gguf", theirs), written(tmp_path / "in", theirs)):
        assert unmask("info", place, "--json") == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["family"], facts["parameters"], facts["vocabulary"]) == ("left_to_right", 26_344, 328)
        assert (facts["context"], facts["holes"]) == (64, ["___ at the end of a text"])
        assert facts["licence"] == ("cc0-1.0" if place.is_file() else "not stated")
    changed(tmp_path / "in", model_type="qwen2")
    assert unmask("info", tmp_path / "in") == 1 and "'qwen2'" in capsys.readouterr().err


def test_convert_leaves_what_was_there(tmp_path, capsys, monkeypatch):
    file = gguf_of(tmp_path / "a.gguf", llama())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    assert unmask("convert", file, tmp_path / "full") == 2
    assert unmask("convert", file, file) == 2
    assert unmask("convert", tmp_path / "none", tmp_path / "new") == 1
    assert unmask("convert", file, tmp_path / "new", "--to", "mlx") == 2

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unmask.tensors.save_file", full_disk)
    assert unmask("convert", file, tmp_path / "new") == 1
    said = capsys.readouterr().err.splitlines()
    for line, why in zip(said, ["already there", "already there", "is not there", "mlx", "no space left"], strict=True):
        assert why in line and line.startswith("unmask: ") and line.count(" · ") == 2, line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["note.txt"]


def test_a_base_is_loaded_and_goes_on_from_a_prompt(tmp_path):
    file = gguf_of(tmp_path / "a.gguf", llama())
    lm = LanguageModel.from_pretrained(file, dtype="float32")
    assert lm.score("The cat sat.").kind == "exact"
    assert lm.generate("The cat", max_words=3)[0].text.startswith("The cat")
    with pytest.raises(ValueError, match="has not learned to fill"):
        lm.fill("The ___ sat.")


# The real file, where it was pulled.


@pytest.fixture(scope="module")
def smollm2():
    try:
        return located("smollm2-135m")
    except ValueError as missing:
        pytest.skip(str(missing))


@pytest.mark.slow
def test_smollm2_computes_what_transformers_computes(smollm2, tmp_path):
    from transformers import AutoModelForCausalLM

    model, tokenizer = read_model(smollm2)
    theirs = AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32).eval()
    ids = tokenizer.encode("The capital of France is Paris. In 1984, the naïve cat didn't  sit.\n\tÜber 3.14 你好!!")
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits[0]
    found = logits(model, ids)[:, 17:49152]  # 17 tokens that are never words
    assert found.isfinite().all()
    assert (found - wanted[:, 17:]).abs().max() < 2e-4  # 6e-5, of numbers up to 30 after 30 layers
    assert tokenizer.decode([int(found[4].argmax()) + 17], inside=True) == " Paris"
    assert back(write_public(tmp_path / "out", model, tokenizer)).config.vocab_size == 49160
    narrow, _ = read_model(tmp_path / "out", torch.bfloat16)
    assert narrow.config == model.config


@pytest.mark.slow
def test_smollm2_cuts_texts_as_its_makers_do(smollm2):
    from transformers import AutoTokenizer

    ours = read_tokenizer(smollm2)
    assert ours.encode("Hello world") == [19556, 905]
    assert ours.encode("1984") == [33, 41, 40, 36]  # digits one by one
    assert ours.encode("The capital of France is Paris.") == [504, 3575, 282, 4649, 314, 7042, 30]
    assert ours.exact and list(ours.signs.values()) == list(range(49152, 49160))
    theirs = AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    # (It does not cut at digits, which shows only where a merge crosses one, as in " ½".)
    for text in [*PROBES, "In 1984, the naïve cat didn't  sit.\n\tÜber 3.14!!", "def f(x):\n    return {'a': x}\n"]:
        assert ours.encode(text) == theirs(text)["input_ids"], text
