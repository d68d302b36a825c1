"""GGUF files: read they compute what `transformers` computes; what is broken or not known is named."""

import json
import struct
import sys
from itertools import pairwise

import pytest
import tokenizers
import torch
from tokenizers import pre_tokenizers

import vocabularies
from llamas import IDS, SHAPES, back, differs, fault, gguf_of, llama, spoken, written
from unmask.folder import read_config, read_model, read_tokenizer, stored_dtype
from unmask.public import write_public
from unmask.public.gguf import GGUF
from unmask.public.gguf import _quantisation as quantisation
from unmask.tokenizer import Tokenizer
from unmask.tokenizer.gguf import BYTE, CONTROL, NORMAL, PRE, UNKNOWN, USER, WHOLE, vocabulary_of

KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_1"]


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


@pytest.mark.parametrize("room", [1 << 20, 100])  # numbers at once: all of a tensor, or three rows of 32
def test_the_file_is_read_as_the_package_reads_it(room, tmp_path, monkeypatch):
    import gguf

    monkeypatch.setattr("unmask.public.gguf.CHUNK", room)
    facts = {"general.alignment": 4096, "llama.some": -1.5}
    path = gguf_of(tmp_path / "a.gguf", llama(intermediate_size=64), "Q8_0", **facts)
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


UNSCALED = {"llama.rope.scaling.type": "none", "llama.rope.scaling.finetuned": False}


@pytest.mark.parametrize(
    ("pre", "make"), [("smollm", spoken), ("gpt-2", lambda: spoken(digits=False)), ("llama-bpe", llama_bpe)]
)
def test_a_vocabulary_is_made_anew(pre, make, tmp_path):
    made = make()
    file = gguf_of(tmp_path / "a.gguf", llama(), made=made, **{"tokenizer.ggml.pre": pre, **UNSCALED})
    ours = read_tokenizer(file)
    assert read_config(file).backbone.rope_base == 5000
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


@pytest.mark.parametrize("pre", PRE)
def test_a_word_of_the_vocabulary_that_no_pairs_make(pre, tmp_path):
    content = json.loads((llama_bpe() if pre == "llama-bpe" else spoken(digits=pre == "smollm")).to_str())
    content["model"]["merges"] = [pair for pair in content["model"]["merges"] if "".join(pair) != "Ġcat"]
    made = tokenizers.Tokenizer.from_str(json.dumps(content))
    ours = read_tokenizer(gguf_of(tmp_path / "a.gguf", llama(), made=made, **{"tokenizer.ggml.pre": pre}))
    assert ours.encode("the cat") == made.encode("the cat").ids
    assert (ours.encode("the cat")[-1] == made.token_to_id("Ġcat")) == (pre in WHOLE)


def joined(text: str, vocabulary: dict[str, int], score: dict[str, float]) -> list[int]:
    """SentencePiece's BPE, plainly: join the best pair of neighbours until none is a token; what is none, as bytes."""
    parts = list(text.replace(" ", "▁"))
    while found := [(-score[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in score]:
        _, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    plain = [[part] if part in vocabulary else [f"<0x{byte:02X}>" for byte in part.encode()] for part in parts]
    return [vocabulary[part] for some in plain for part in some]


@pytest.mark.parametrize("opened", [True, False])
def test_a_vocabulary_of_scores_is_made_anew(opened, tmp_path):
    made = vocabularies.llama()
    facts = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.add_bos_token": None}
    facts |= {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}
    facts |= {} if opened else {"tokenizer.ggml.add_space_prefix": False}
    file = gguf_of(tmp_path / "a.gguf", llama(vocab_size=416), made=made, **facts)
    ours, vocabulary = read_tokenizer(file), made.get_vocab()
    score = {"".join(pair): -i for i, pair in reversed([*enumerate(json.loads(made.to_str())["model"]["merges"])])}
    for text in ["The cat sat on the mat.", " two  spaces ", "naïve 你好 ½\n\tx", "the theme, the end", "x", ""]:
        wanted = joined((" " if opened and text else "") + text, vocabulary, score)
        assert ours.encode(text) == wanted, text
        assert ours.decode(ours.encode(text)) == text
        if opened:
            assert made.encode(text).ids == wanted
    assert ours.special[:3].all() and ours.special[400:].all() and not ours.special[3:400].any()
    encode = tokenizers.Tokenizer.from_str(json.dumps(ours.definition)).encode
    assert encode("The cat").ids[0] == 1  # such vocabularies begin with a sign where nothing else is said


def scored(*tokens: tuple[str, int]) -> Tokenizer:
    """A vocabulary of scores, which are all the same."""
    named = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), *tokens]
    facts = {"model": "llama", "scores": [0.0] * len(named)}
    facts |= {"tokens": [token for token, _ in named], "token_type": [kind for _, kind in named]}
    return Tokenizer(vocabulary_of({f"tokenizer.ggml.{key}": value for key, value in facts.items()}, "here"))


def spelt(tokenizer: Tokenizer, text: str) -> list[str]:
    """The tokens of a text, a space before it."""
    names = {number: token for token, number in tokenizer.vocabulary.items()}
    return [names[number] for number in tokenizer.encode(text)]


def test_of_pairs_with_one_score_the_first_in_the_vocabulary_is_joined():
    letters = "▁dbca"
    pairs = [(a + b, NORMAL) for a in sorted(letters) for b in sorted(letters)]
    made = scored(*((letter, NORMAL) for letter in letters), *pairs)
    assert made.definition["model"]["merges"] == [[a, b] for a in letters for b in letters]
    assert spelt(made, "abc") == ["▁a", "bc"]


def test_what_cannot_be_written_in_a_row_is_unknown_once():
    made = scored(("▁", NORMAL), ("a", NORMAL), ("<0xE4>", BYTE))
    assert spelt(made, "a你好a") == ["▁", "a", "<unk>", "a"]


def test_tokens_of_the_user_are_text_and_made_of_pairs_too():
    made = scored(("▁", NORMAL), ("a", NORMAL), ("b", NORMAL), ("▁▁", USER), ("<think>", USER))
    assert spelt(made, "a<think>b") == ["▁", "a", "<think>", "b"]
    assert spelt(made, "a  b") == ["▁", "a", "▁▁", "b"]
    assert made.decode(made.encode("a  b")) == "a  b"
    assert not made.special[made.vocabulary["<think>"]] and made.special[made.vocabulary["</s>"]]
    assert spelt(made, "</s>") == ["▁", "<unk>"]


def test_what_stands_before_and_behind_a_text_comes_along(tmp_path):
    facts = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    file = gguf_of(tmp_path / "a.gguf", llama(), **facts)
    definition = read_tokenizer(file).definition
    assert read_config(file).options == {"plain": True, "begin": 1, "stop": 0}
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
        ({"tokenizer.ggml.model": "t5"}, "tokenizer.ggml.model is 't5'"),
        ({"tokenizer.ggml.pre": "tekken"}, "tokenizer.ggml.pre is 'tekken'"),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre is None"),
        ({"split.count": 3}, "one of 3 parts"),
        ({"llama.attention.head_count_kv": 1}, "'blk.0.attn_k.weight' has shape (16, 32)"),
        ({"llama.block_count": 3}, "no tensor 'blk.2.attn_k.weight'"),
        ({"split.count": "3"}, "split.count is '3'"),
        ({"tokenizer.ggml.bos_token_id": "1"}, "tokenizer.ggml.bos_token_id is '1'"),
        ({"tokenizer.ggml.eos_token_id": "0"}, "tokenizer.ggml.eos_token_id is '0'"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "epsilon is nan"),
        ({"llama.rope.freq_base": float("inf")}, "llama.rope.freq_base is inf"),
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
    at = whole.index(b"output_norm.weight") + len(b"output_norm.weight")  # one number of dimensions, one width
    assert struct.unpack("<IQ", whole[at : at + 12]) == (1, 32)
    assert "has shape (0,)" in of(whole[: at + 4] + struct.pack("<Q", 0) + whole[at + 12 :])
    nested = struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 3000
    key = struct.pack("<Q", 1) + b"a"
    assert "lists within lists" in of(whole[:8] + struct.pack("<QQ", 0, 1) + key + nested)
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
