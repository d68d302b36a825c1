"""Public checkpoints: read and written they compute what `transformers` computes; what is not known is named."""

import json
import weakref
from dataclasses import replace

import pytest
import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import models, pre_tokenizers

from llamas import IDS, SHAPE, SHAPES, back, changed, differs, fault, gguf_of, llama, logits, spoken, written
from unmask.backbone import Backbone, BackboneConfig
from unmask.backbone.convert import LLAMA
from unmask.backbone.processor import has_layouts
from unmask.bases import located
from unmask.cli import main
from unmask.folder import read_config, read_model, read_tensors, read_tokenizer, stored_dtype, write_model
from unmask.language_model import LanguageModel
from unmask.model import Model, ModelConfig, quantise
from unmask.public import write_public
from unmask.public.checkpoint import ALIKE
from unmask.tokenizer import Tokenizer
from unmask.tokenizer.tokenizer import PROBES


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
    for matrix in {id(one): one for one in (model.backbone.embedding.weight, model.backbone.output.weight)}.values():
        for sign, number in tokenizer.signs.items():
            alike = [model.objective.begin] if sign == "start" else tokenizer.encode(ALIKE[sign], inside=True)
            torch.testing.assert_close(matrix[number], matrix[alike].mean(0))
        matrix.detach()[size:] += 1
    write_public(tmp_path / "out", model, tokenizer, "A card.")
    again = back(tmp_path / "out")
    third, _ = read_model(tmp_path / "out")  # no second row of signs, and those there are stay as they were trained
    assert third.config == model.config and differs(third, again, IDS) < 2e-5


def test_a_vocabulary_that_cannot_write_what_is_like_a_sign(tmp_path):
    folder = written(tmp_path / "in")
    words = tokenizers.Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2, "the": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # a line break is nothing to it
    words.add_special_tokens(["<s>", "</s>", "<unk>"])
    words.save(str(folder / "tokenizer.json"))
    model, tokenizer = read_model(folder)
    assert tokenizer.encode(ALIKE["end"], inside=True) == []
    for matrix in (model.backbone.embedding.weight, model.backbone.output.weight):
        torch.testing.assert_close(matrix[tokenizer.signs["end"]], matrix[: SHAPE["vocab_size"]].mean(0))
    assert not logits(model, [2, 3]).isnan().any()


def test_shards_in_and_out(tmp_path):
    theirs = llama(tie_word_embeddings=True)
    model, tokenizer = read_model(written(tmp_path / "in", theirs, shards="20KB"))
    assert len(list((tmp_path / "in").glob("*.safetensors"))) > 2
    assert differs(model, theirs, IDS) < 2e-5
    write_public(tmp_path / "out", model, tokenizer, shard_bytes=20_000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    assert differs(model, back(tmp_path / "out"), IDS) < 2e-5


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
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is ['full_attention', 'sli"),
        ({"layer_types": "full_attention"}, "layer_types is 'full_attention'"),
        ({"rope_parameters": "default"}, "rope_parameters is 'default'"),
        ({"rope_theta": 1e4}, "rope_theta is 10000.0, rope_parameters.rope_theta is 5000.0"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is"),
        ({"new_trick": True}, "a setting 'new_trick'"),
        ({"hidden_size": None}, "has no 'hidden_size'"),
        ({"hidden_size": "32"}, "hidden_size is '32'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps is inf"),
        ({"num_key_value_heads": 3}, "in: n_heads 4 is not a multiple of n_kv_heads 3"),
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
        ({"model_type": ["llama"]}, "model_type is ['llama']"),
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


def test_what_a_config_does_not_say_is_as_transformers_has_it():
    from transformers import LlamaConfig

    needed = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    needed |= {"num_key_value_heads": 4, "intermediate_size": 48}
    theirs = json.loads(LlamaConfig(**needed).to_json_string())
    assert LLAMA.shape(needed, "here") == LLAMA.shape(theirs, "there")


def test_the_end_of_a_text_is_known_by_its_name_before_the_settings(tmp_path):
    folder = changed(written(tmp_path / "in"), eos_token_id=7)
    assert read_config(folder).options == {"plain": True, "begin": 0, "stop": 0}
    content = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(content.replace("<|endoftext|>", "<|nobody knows|>"))
    assert read_config(folder).options == {"plain": True, "begin": 7, "stop": 7}


UNSCALED = [None, {}, {"rope_type": "default"}, {"type": "default"}, {"rope_type": "default", "type": "default"}]


@pytest.mark.parametrize("scaling", UNSCALED)
def test_settings_of_training_and_of_going_on_may_stand_there(scaling):
    said = {**SHAPE, "rope_scaling": scaling, "rope_parameters": None, "rope_theta": 5000.0, "attention_dropout": 0.1}
    said |= {"layer_types": ["full_attention"] * 2, "do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
    said |= {"num_beams": 1, "repetition_penalty": 1.0, "length_penalty": 1.0, "pruned_heads": {}, "torchscript": False}
    assert LLAMA.shape(said, "here") == LLAMA.shape(SHAPE, "here")
    twice = {**SHAPE, "rope_theta": 5000}
    assert LLAMA.shape(twice, "here") == LLAMA.shape(SHAPE, "here")


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


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("config.json", "[]", "is no table of settings"),
        ("config.json", '{"model_type": "llama"', "config.json is not JSON"),
        ("model.safetensors", "x" * 99, "model.safetensors is broken"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "model-9.safetensors"}}', "has no model-9.safetensors"),
        ("model.safetensors.index.json", "{}", "index.json is broken"),
        ("model.safetensors.index.json", "[]", "index.json is broken"),
        ("model.safetensors.index.json", '{"weight_map": []}', "index.json is broken"),
        ("model.safetensors.index.json", '{"weight_map": {"a": 3}}', "weight_map names 3"),
        ("model.safetensors.index.json", '{"weight_map": {"a": ["b"], "c": "d"}}', "weight_map names ['b']"),
        ("tokenizer.json", "{}", "tokenizer.json is no tokenizer"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {}}}', "tokenizer.json has an empty vocabulary"),
        ("tokenizer.json", '{"model": {"type": "Ours", "vocab": {"a": 0}}}', "the tokenizer cannot be built"),
        (
            "tokenizer.json",
            '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer": {"type": "Ours"}}',
            "the tokenizer cannot be built",
        ),
        (
            "tokenizer.json",
            '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": [{"id": 1, "special": true}]}',
            "tokenizer.json is no tokenizer",
        ),
    ],
)
def test_a_broken_file_is_named(name, content, named, tmp_path):
    (written(tmp_path / "in") / name).write_text(content)
    assert named in fault(tmp_path / "in")
    if name == "tokenizer.json":
        assert named in fault(tmp_path / "in", Tokenizer.load)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.float8_e4m3fn])
def test_numbers_without_their_scale_are_named(dtype, tmp_path):
    folder = written(tmp_path / "in")
    tensors = read_tensors(folder)
    tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"].to(dtype)
    save_file(tensors, folder / "model.safetensors")
    assert "tensor 'model.layers.1.mlp.up_proj.weight' is of" in fault(folder)


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


FRAME = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(
    ("frame", "said", "begin"),
    [
        (FRAME, {}, 1),
        ({"type": "Sequence", "processors": [BYTES, FRAME]}, {"add_bos_token": False}, 1),
        (BYTES, {"add_bos_token": True, "bos_token": {"content": "<|im_start|>"}}, 1),
        (None, {"add_bos_token": True}, 1),  # by bos_token_id
        (None, {"add_bos_token": False, "bos_token": "<|im_start|>"}, 0),
    ],
)
def test_what_the_tokenizer_puts_before_a_text_begins_it(frame, said, begin, tmp_path):
    folder = written(tmp_path / "in")
    definition = json.loads((folder / "tokenizer.json").read_text()) | {"post_processor": frame}
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    model, tokenizer = read_model(folder)
    assert model.config.options == {"plain": True, "begin": begin, "stop": 0}
    again = write_public(tmp_path / "out", model, tokenizer)
    assert read_config(again).options == model.config.options
    definition["post_processor"] = {
        **FRAME,
        "special_tokens": {"<|im_start|>": {**FRAME["special_tokens"]["<|im_start|>"], "ids": [999]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    assert "token 999 stands before texts" in fault(folder)


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


@pytest.mark.skipif(not has_layouts(), reason="needs x86 with AVX2")
@pytest.mark.parametrize("tied", [True, False])
def test_an_output_matrix_of_its_own_in_bytes(tied, tmp_path):
    model, _ = read_model(written(tmp_path / "in", tie_word_embeddings=tied))
    plain, n = logits(model, IDS), model.n_parameters()
    assert n == sum(p.numel() for p in model.parameters())
    rough = logits(quantise(model), IDS)
    words = plain.isfinite()
    assert model.bytewise and 0 < (rough - plain)[words].abs().max() < 0.1 * plain[words].abs().max()
    assert model.n_parameters() == n


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


def test_what_is_saved_of_a_gguf_file_names_its_licence(tmp_path):
    lm = LanguageModel.from_pretrained(gguf_of(tmp_path / "a.gguf", llama(tie_word_embeddings=True)), device="cpu")
    assert "license: cc0-1.0" in (lm.save_pretrained(tmp_path / "ours") / "README.md").read_text()


def test_info_of_a_public_model(tmp_path, capsys):
    theirs = llama(tie_word_embeddings=True)
    for place in (gguf_of(tmp_path / "a.gguf", theirs), written(tmp_path / "in", theirs)):
        assert unmask("info", place, "--json") == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["family"], facts["parameters"], facts["vocabulary"]) == ("left_to_right", 25_760, 328)
        assert (facts["context"], facts["holes"]) == (64, ["___ at the end of a text"])
        assert facts["licence"] == ("cc0-1.0" if place.is_file() else "not stated")
    assert unmask("convert", tmp_path / "a.gguf", tmp_path / "ours") == 0
    capsys.readouterr()
    assert unmask("info", tmp_path / "ours", "--json") == 0  # as plain as it was
    assert json.loads(capsys.readouterr().out)["holes"] == ["___ at the end of a text"]
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
