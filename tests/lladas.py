"""Small LLaDAs with random weights, in folders as their makers write them, and what they compute, for tests."""

import json
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from llamas import TEXTS, llama
from unmask.model import Model
from unmask.view import View

ENDS = ("<|startoftext|>", "<|endoftext|>")
TEMPLATE = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
START, END, MASK, HEADER, HEADED, TURN, SIZE = *range(300, 306), 320

# The keys of the public 8B models' config.json, with small numbers.
CONFIG = {
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 32,
    "embedding_dropout": 0.0,
    "embedding_size": SIZE,
    "eos_token_id": END,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_cutoff_factor": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": MASK,
    "max_sequence_length": 64,
    "mlp_hidden_size": 48,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": 4,
    "n_kv_heads": 4,
    "n_layers": 2,
    "pad_token_id": END,
    "precision": "amp_bf16",
    "residual_dropout": 0.0,
    "rms_norm_eps": 1e-5,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "transformers_version": "4.46.3",
    "use_cache": False,
    "vocab_size": SIZE,
    "weight_tying": False,
}
ALIKE = {  # theirs in a Llama's place, by name, in a layer
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}


def vocabulary(mask: str = "<|mdm_mask|>", special: bool = True) -> tokenizers.Tokenizer:
    """Byte-level, 306 tokens, those of the template at the end; `special`: whether they are registered so."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    made.train_from_iterator(TEXTS, trainer)
    made.add_special_tokens([*ENDS, mask])
    made.add_tokens([AddedToken(name, special=special, normalized=False) for name in TEMPLATE])
    assert made.token_to_id(mask) == MASK and made.get_vocab_size() == 306
    return made


def theirs(**changes):
    """The same weights as `folder_of` writes, in a Llama of `transformers`."""
    said = CONFIG | changes
    return llama(
        vocab_size=said["embedding_size"],
        hidden_size=said["d_model"],
        num_hidden_layers=said["n_layers"],
        num_attention_heads=said["n_heads"],
        num_key_value_heads=said["n_kv_heads"],
        intermediate_size=said["mlp_hidden_size"],
        max_position_embeddings=said["max_sequence_length"],
        rms_norm_eps=said["rms_norm_eps"],
        tie_word_embeddings=said["weight_tying"],
        rope_parameters={"rope_type": "default", "rope_theta": said["rope_theta"]},
    )


def named(model) -> dict[str, torch.Tensor]:
    """A Llama's weights under a LLaDA's names."""
    own, top = model.state_dict(), "model.transformer"
    out = {f"{top}.wte.weight": own["model.embed_tokens.weight"], f"{top}.ln_f.weight": own["model.norm.weight"]}
    if not model.config.tie_word_embeddings:
        out[f"{top}.ff_out.weight"] = own["lm_head.weight"]
    for layer in range(model.config.num_hidden_layers):
        for name, alike in ALIKE.items():
            out[f"{top}.blocks.{layer}.{name}.weight"] = own[f"model.layers.{layer}.{alike}.weight"]
    return {name: tensor.clone() for name, tensor in out.items()}


def folder_of(folder: Path, model=None, shards: int = 1, made: tokenizers.Tokenizer | None = None, **changes) -> Path:
    """A LLaDA's folder; with `shards` in as many files and an index. A setting that is None is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = named(model or theirs(**changes))
    said = CONFIG | changes | {"torch_dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(said))
    (made or vocabulary()).save(str(folder / "tokenizer.json"))
    told = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    where = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensor for i, (name, tensor) in enumerate(tensors.items()) if i % shards == number}
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def seen_whole(model, ids: list[int]) -> torch.Tensor:
    """A Llama's logits where every token sees every other, `[T, V]`."""
    open_mask = torch.zeros(1, 1, len(ids), len(ids))
    with torch.no_grad():
        return model(torch.tensor([ids]), attention_mask=open_mask).logits[0]


def logits(model: Model, ids: list[int]) -> torch.Tensor:
    """Ours, of all ids, barred ones too, `[T, V]`."""
    index = torch.arange(len(ids))
    with torch.no_grad():
        hidden = model.backbone(View(torch.tensor(ids), torch.tensor([0, len(ids)]), index, index))
        return hidden @ model.backbone.output.weight.t()
