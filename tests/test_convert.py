"""Public checkpoints: read and written they compute what `transformers` computes; what is not known is named."""

from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from unmask.folder import read_config, read_model
from unmask.model import Model
from unmask.public import write_public
from unmask.view import View

TEXTS = ["The cat sat on the mat, in 1984 or 85.", "She didn't see the dog;\n\tit saw her!", "naïve café 你好"] * 9
SHAPE = {
    "vocab_size": 384,
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
    """A byte-level vocabulary like that of SmolLM2, on the spot: 380 tokens, so that a model has rows to spare."""
    made = tokenizers.Tokenizer(models.BPE())
    cut = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    made.pre_tokenizer = pre_tokenizers.Sequence([*cut, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    ends = [AddedToken(name, special=True) for name in ("<|endoftext|>", "<|im_start|>")]
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=ends,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=1,
    )
    made.train_from_iterator(TEXTS, trainer)
    assert made.get_vocab_size() <= 380
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


IDS = [5, 300, 17, 17, 4, 99, 250, 3, 371, 8, 60]


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
