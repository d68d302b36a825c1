"""Checkpoints of other houses: what their weights and settings are called here. `public/` opens and writes them.

Each is one table, a `Layout`; `layout.py` says how it is read.
"""

from __future__ import annotations

from typing import Any

from unmask.backbone.layout import Key as Key
from unmask.backbone.layout import Layout as Layout

_GATED_RMS = {"norm": "rms", "gated": True, "activation": "silu", "bias": False, "qk_norm": False, "output_bias": False}
_GLOBAL = {"global_every": 1, "n_segments": 0}
_UNSCALED = ({"rope_type": "default"}, {"type": "default"}, {"rope_type": "default", "type": "default"})
_GENERATION = frozenset(  # how to go on from a text, which older configs of `transformers` say too
    "bad_words_ids begin_suppress_tokens decoder_start_token_id diversity_penalty do_sample early_stopping "
    "encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id "
    "length_penalty max_length min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences "
    "output_scores prefix remove_invalid_values repetition_penalty return_dict_in_generate suppress_tokens temperature "
    "top_k top_p typical_p".split()
)

# `config.json` and safetensors as `transformers` writes them. Rotary angles turn number i and i + half of a head.
LLAMA = Layout(
    name="Llama",
    constants=_GATED_RMS | _GLOBAL,
    keys={
        "vocab_size": Key(("vocab_size",)),
        "width": Key(("hidden_size",)),
        "n_layers": Key(("num_hidden_layers",)),
        "n_heads": Key(("num_attention_heads",)),
        "n_kv_heads": Key(("num_key_value_heads",), default=None),
        "head_dim": Key(("head_dim",), default=None),
        "mlp_width": Key(("intermediate_size",)),
        "norm_eps": Key(("rms_norm_eps",), float, 1e-6),
        "rope_base": Key(("rope_theta", "rope_parameters.rope_theta"), float, 10_000.0),
        "max_length": Key(("max_position_embeddings",), default=2048),
        "attention_bias": Key(("attention_bias",), bool, False),
        "mlp_bias": Key(("mlp_bias",), bool, False),
        "tied": Key(("tie_word_embeddings",), bool, False),
    },
    fixed={
        "hidden_act": ("silu", "swish"),
        "rope_scaling": (None, {}, *_UNSCALED),
        "rope_parameters": (None,),
        "rope_parameters.rope_type": ("default",),
        "rope_parameters.partial_rotary_factor": (1.0,),
        "rope_interleaved": (False, None),
        "partial_rotary_factor": (1.0, None),
        "sliding_window": (None,),
        "use_sliding_window": (False,),
        "quantization_config": (None,),
        "pretraining_tp": (1, None),
        "is_encoder_decoder": (False,),
        "add_cross_attention": (False,),
        "pruned_heads": ({}, None),
    },
    uniform={"layer_types": "full_attention"},
    idle=_GENERATION
    | frozenset(
        "_attn_implementation_autoset _name_or_path architectures attention_dropout auto_map bos_token_id "
        "chunk_size_feed_forward cross_attention_hidden_size dtype eos_token_id finetuning_task id2label "
        "initializer_range is_decoder is_llama_config label2id model_type output_attentions output_hidden_states "
        "pad_token_id problem_type return_dict sep_token_id task_specific_params tf_legacy_loss tie_encoder_decoder "
        "tokenizer_class torch_dtype torchscript transformers.js_config transformers_version unk_token_id "
        "use_bfloat16 use_cache".split()
    ),
    also={"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu"},
    weights={
        "embedding.weight": ("model.embed_tokens.weight",),
        "layers.{}.attention_norm.weight": ("model.layers.{}.input_layernorm.weight",),
        **{
            f"layers.{{}}.attention.qkv.{kind}": tuple(f"model.layers.{{}}.self_attn.{x}_proj.{kind}" for x in "qkv")
            for kind in ("weight", "bias")
        },
        "layers.{}.attention.out.weight": ("model.layers.{}.self_attn.o_proj.weight",),
        "layers.{}.attention.out.bias": ("model.layers.{}.self_attn.o_proj.bias",),
        "layers.{}.mlp_norm.weight": ("model.layers.{}.post_attention_layernorm.weight",),
        **{
            f"layers.{{}}.mlp.up.{kind}": tuple(f"model.layers.{{}}.mlp.{x}_proj.{kind}" for x in ("gate", "up"))
            for kind in ("weight", "bias")
        },
        "layers.{}.mlp.down.weight": ("model.layers.{}.mlp.down_proj.weight",),
        "layers.{}.mlp.down.bias": ("model.layers.{}.mlp.down_proj.bias",),
        "norm.weight": ("model.norm.weight",),
        "output.weight": ("lm_head.weight",),
    },
    idle_weights=r"\.rotary_emb\.inv_freq$",
    twin=("lm_head.weight", "embedding.weight"),
)

# The same models in a GGUF file, as llama.cpp has them: in each head of q and k, two numbers that turn together lie
# together. `vocab_size`, `tied` and the biases are not said there; who opens the file adds them, from its tensors.
LLAMA_GGUF = Layout(
    name="Llama in GGUF",
    constants=LLAMA.constants,
    keys={
        "vocab_size": Key(("vocab_size",)),
        "width": Key(("llama.embedding_length",)),
        "n_layers": Key(("llama.block_count",)),
        "n_heads": Key(("llama.attention.head_count",)),
        "n_kv_heads": Key(("llama.attention.head_count_kv",), default=None),
        "head_dim": Key(("llama.rope.dimension_count", "llama.attention.key_length"), default=None),
        "mlp_width": Key(("llama.feed_forward_length",)),
        "norm_eps": Key(("llama.attention.layer_norm_rms_epsilon",), float),
        "rope_base": Key(("llama.rope.freq_base",), float, 10_000.0),
        "max_length": Key(("llama.context_length",)),
        "attention_bias": Key(("attention_bias",), bool, False),
        "mlp_bias": Key(("mlp_bias",), bool, False),
        "tied": Key(("tied",), bool, False),
    },
    fixed={
        "llama.rope.scaling.type": ("none",),
        "llama.rope.scaling.factor": (1.0,),
        "llama.expert_count": (0,),
        "llama.expert_used_count": (0,),
        "llama.attention.sliding_window": (0,),
        "llama.use_parallel_residual": (False,),
        "llama.attention.causal": (True,),
        "llama.tensor_data_layout": ("Meta AI original pth",),
    },
    idle=frozenset(
        "llama.vocab_size llama.attention.value_length llama.rope.scaling.finetuned bos_token_id eos_token_id "
        "pad_token_id".split()
    ),
    also={},
    weights={
        "embedding.weight": ("token_embd.weight",),
        "layers.{}.attention_norm.weight": ("blk.{}.attn_norm.weight",),
        **{
            f"layers.{{}}.attention.qkv.{kind}": tuple(f"blk.{{}}.attn_{x}.{kind}" for x in "qkv")
            for kind in ("weight", "bias")
        },
        "layers.{}.attention.out.weight": ("blk.{}.attn_output.weight",),
        "layers.{}.attention.out.bias": ("blk.{}.attn_output.bias",),
        "layers.{}.mlp_norm.weight": ("blk.{}.ffn_norm.weight",),
        **{
            f"layers.{{}}.mlp.up.{kind}": tuple(f"blk.{{}}.ffn_{x}.{kind}" for x in ("gate", "up"))
            for kind in ("weight", "bias")
        },
        "layers.{}.mlp.down.weight": ("blk.{}.ffn_down.weight",),
        "layers.{}.mlp.down.bias": ("blk.{}.ffn_down.bias",),
        "norm.weight": ("output_norm.weight",),
        "output.weight": ("output.weight",),
    },
    paired=frozenset(f"blk.{{}}.attn_{x}.{kind}" for x in "qk" for kind in ("weight", "bias")),
)


def _mlp_width(said: dict[str, Any], where: object) -> dict[str, Any]:
    """The settings with the MLP's width, where they only say how much wider than the model it is."""
    if said.get("mlp_hidden_size") is not None:
        return said
    ratio, width = Key(("mlp_ratio",), default=4).read(said, where), Key(("d_model",)).read(said, where)
    return {**said, "mlp_hidden_size": ratio * width}


# Masked diffusion models of the LLaDA family (Nie et al. 2025), 3 tensors and 9 a layer; rotary as in a Llama. What a
# config does not say is as in OLMo, from which their code comes, so some settings are refused where they are missing.
LLADA = Layout(
    name="LLaDA",
    constants=_GATED_RMS | _GLOBAL | {"attention_bias": False, "mlp_bias": False},
    keys={
        "vocab_size": Key(("embedding_size", "vocab_size"), every=True),
        "width": Key(("d_model",)),
        "n_layers": Key(("n_layers",)),
        "n_heads": Key(("n_heads",)),
        "n_kv_heads": Key(("n_kv_heads",), default=None),
        "mlp_width": Key(("mlp_hidden_size",)),
        "norm_eps": Key(("rms_norm_eps",), float, 1e-5),
        "rope_base": Key(("rope_theta",), float, 10_000.0),
        "max_length": Key(("max_sequence_length",), default=1024),
        "tied": Key(("weight_tying",), bool, True),
    },
    fixed={
        "block_type": ("llama",),
        "activation_type": ("silu",),
        "layer_norm_type": ("rms",),
        "rope": (True,),
        "rope_full_precision": (True,),
        "rope_scaling": (None,),
        "alibi": (False,),
        "block_group_size": (1,),
        "multi_query_attention": (None,),
        "attention_layer_norm": (False,),
        "layer_norm_with_affine": (True,),
        "bias_for_layer_norm": (False, None),
        "include_bias": (False,),
        "include_qkv_bias": (False, None),
        "input_emb_norm": (False,),
        "scale_logits": (False,),
        "quantization_config": (None,),
    },
    idle=LLAMA.idle
    | frozenset(
        "alibi_bias_max attention_layer_norm_with_affine embedding_dropout flash_attention "
        "init_cutoff_factor init_device init_fn init_std mask_token_id mlp_ratio precision residual_dropout "
        "tie_word_embeddings".split()
    ),
    also={
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "block_type": "llama",
        "activation_type": "silu",
        "layer_norm_type": "rms",
        "rope": True,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "residual_dropout": 0.0,
        "include_qkv_bias": False,
        "bias_for_layer_norm": False,
        "use_cache": False,
    },
    weights={
        "embedding.weight": ("model.transformer.wte.weight",),
        "layers.{}.attention_norm.weight": ("model.transformer.blocks.{}.attn_norm.weight",),
        "layers.{}.attention.qkv.weight": tuple(f"model.transformer.blocks.{{}}.{x}_proj.weight" for x in "qkv"),
        "layers.{}.attention.out.weight": ("model.transformer.blocks.{}.attn_out.weight",),
        "layers.{}.mlp_norm.weight": ("model.transformer.blocks.{}.ff_norm.weight",),
        "layers.{}.mlp.up.weight": tuple(f"model.transformer.blocks.{{}}.{x}_proj.weight" for x in ("ff", "up")),
        "layers.{}.mlp.down.weight": ("model.transformer.blocks.{}.ff_out.weight",),
        "norm.weight": ("model.transformer.ln_f.weight",),
        "output.weight": ("model.transformer.ff_out.weight",),
    },
    twin=("model.transformer.ff_out.weight", "embedding.weight"),
    unsaid={"block_type": "sequential", "activation_type": "swiglu", "layer_norm_type": "default", "rope": False},
    derived=_mlp_width,
)

LAYOUTS = {"llama": LLAMA, "llada": LLADA}  # by `model_type` of a config.json
GGUF_LAYOUTS = {"llama": LLAMA_GGUF}  # by `general.architecture`
