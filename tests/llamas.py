"""Small Llamas with random weights, in public folders and GGUF files, and what they compute, for tests."""

import json
import re
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from unmask.folder import read_model
from unmask.model import Model
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


def back(folder: Path):
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def changed(folder: Path, **settings) -> Path:
    """The folder with other settings; None takes one out."""
    said = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps({k: v for k, v in said.items() if v is not None}))
    return folder


def fault(place: Path, read=read_model) -> str:
    with pytest.raises(ValueError) as caught:
        read(place)
    said = str(caught.value)
    assert "\n" not in said and said.count(" · ") == 2 and str(place) in said and f"{place}: {place}" not in said, said
    return said


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
    model = json.loads(made.to_str())["model"]
    if said["tokenizer.ggml.model"] == "llama":  # scores in the place of merges; bytes are a kind of their own
        kinds = {i: 6 for i, token in vocabulary.items() if re.fullmatch("<0x..>", token)}
        kinds |= dict.fromkeys(control, 3) | {made.token_to_id(model["unk_token"]): 2}
        rank = {"".join(pair): float(-i) for i, pair in reversed([*enumerate(model["merges"])])}
        out.add_token_scores([rank.get(vocabulary.get(i, ""), -1e4) for i in range(size)])
    else:
        kinds = dict.fromkeys(control, 3)
        out.add_token_merges([" ".join(pair) for pair in model["merges"]])
    out.add_token_types([kinds.get(i, 1 if i in vocabulary else 5) for i in range(size)])
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
