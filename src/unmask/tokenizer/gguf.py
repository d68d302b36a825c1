"""The `tokenizer.json` of a GGUF file, made anew from what the file says of its vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unmask.tokenizer.vocabulary import METASPACE

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)  # kinds of token

# How a text is cut before pairs are joined: `tokenizer.ggml.pre` to the steps that the makers of the vocabulary had.
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTES | {"use_regex": True}],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTES | {"use_regex": True}],
    "llama-bpe": [
        {"type": "Split", "pattern": {"Regex": _LLAMA3}, "behavior": "Isolated", "invert": False},
        _BYTES | {"use_regex": False},
    ],
}
WHOLE = {"llama-bpe"}  # a word that is in the vocabulary is one token, however its pairs would be joined


def vocabulary_of(facts: Mapping[str, Any], where: object) -> dict[str, Any]:
    """The content of the `tokenizer.json` that encodes as the file says.

    Args:
        facts: The file's metadata.
        where: The file, for errors.

    Raises:
        ValueError: when it says too little, or names what is not known here.
    """
    make, *needed = MODELS.get(facts.get("tokenizer.ggml.model"), (None,))
    if make is None:
        raise ValueError(
            f"{where}: tokenizer.ggml.model is {facts.get('tokenizer.ggml.model')!r} · of GGUF vocabularies "
            f"{', '.join(map(repr, MODELS))} alone are known here · take the model's safetensors folder"
        )
    if missing := [key for key in needed if not facts.get(f"tokenizer.ggml.{key}")]:
        raise ValueError(f"{where} has no vocabulary · {' and '.join(missing)} are needed · fetch it again")
    tokens = facts["tokenizer.ggml.tokens"]
    kinds = facts.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    ids = {token: number for number, token in enumerate(tokens)}
    if len(ids) < len(tokens) or len(kinds) != len(tokens):
        raise ValueError(f"{where}: the vocabulary does not add up · a token comes twice · fetch it again")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(number, tokens[number], kinds[number]) for number in _added_ids(kinds)],
        "post_processor": _frame(facts, tokens),
        **make(facts, ids, kinds, where),
    }


def _byte_level(facts: Mapping[str, Any], ids: dict[str, int], kinds: list[int], where: object) -> dict[str, Any]:
    """As GPT-2 has it: bytes, each with a printable stand-in, are joined in the order of the file's merges."""
    pre = facts.get("tokenizer.ggml.pre")
    if pre not in PRE:
        raise ValueError(
            f"{where}: tokenizer.ggml.pre is {pre!r} · how such texts are cut is not known here, only {', '.join(PRE)}"
            " · take the model's safetensors folder"
        )
    pairs = [merge.split(" ", 1) for merge in facts["tokenizer.ggml.merges"]]
    if odd := next((pair for pair in pairs if len(pair) < 2 or not {*pair, "".join(pair)} <= ids.keys()), None):
        raise ValueError(f"{where}: the vocabulary does not add up · {odd} · fetch it again")
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE[pre]},
        "decoder": _BYTES | {"add_prefix_space": True, "use_regex": True},
        "model": _bpe(ids, pairs) | {"ignore_merges": pre in WHOLE},
    }


def _sentencepiece(facts: Mapping[str, Any], ids: dict[str, int], kinds: list[int], where: object) -> dict[str, Any]:
    """As SentencePiece's BPE has it: of two neighbours that are a token together the best is joined, by its score.

    Characters that no token has are their bytes.
    """
    scores, tokens = facts["tokenizer.ggml.scores"], list(ids)
    if len(scores) != len(tokens):
        raise ValueError(f"{where}: the vocabulary does not add up · {len(scores)} scores · fetch it again")
    normal = {token for token, kind in zip(tokens, kinds, strict=True) if kind in (NORMAL, USER)}
    cuts = ((token[:i], token[i:]) for token in normal for i in range(1, len(token)))
    pairs = [[left, right] for left, right in cuts if left in normal and right in normal]
    pairs.sort(key=lambda pair: (-scores[ids["".join(pair)]], ids[pair[0]], ids[pair[1]]))
    space = {"type": "Replace", "pattern": {"String": " "}, "content": METASPACE}
    opened = facts.get("tokenizer.ggml.add_space_prefix", True)
    bare = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    return {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [*([{"type": "Prepend", "prepend": METASPACE}] if opened else []), space],
        },
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": METASPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *(bare if opened else []),
            ],
        },
        "model": _bpe(ids, pairs)
        | {"unk_token": next((token for token, kind in zip(tokens, kinds, strict=True) if kind == UNKNOWN), None)}
        | {"fuse_unk": True, "byte_fallback": True},
    }


# The kinds of vocabulary, with what each cannot do without.
MODELS: dict[Any, tuple[Any, ...]] = {
    "gpt2": (_byte_level, "tokens", "merges"),
    "llama": (_sentencepiece, "tokens", "scores"),
}


def _bpe(ids: dict[str, int], pairs: list[list[str]]) -> dict[str, Any]:
    """Pairs that are joined, the first of them first."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": ids,
        "merges": pairs,
    }


def _added_ids(kinds: list[int]) -> list[int]:
    return [number for number, kind in enumerate(kinds) if kind not in (NORMAL, BYTE)]


def _added(number: int, token: str, kind: int) -> dict[str, Any]:
    """A token that no pairs make; those of the user alone are text."""
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, **plain, "special": kind != USER}


def _frame(facts: Mapping[str, Any], tokens: list[str]) -> dict[str, Any] | None:
    """What is put before and behind a text by who encodes as `transformers` does."""
    parts: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    used, kind = {}, facts.get("tokenizer.ggml.model")
    for end in ("bos", "eos"):  # SentencePiece's begin with a sign where nothing is said
        number = facts.get(f"tokenizer.ggml.{end}_token_id")
        if (
            facts.get(f"tokenizer.ggml.add_{end}_token", (kind, end) == ("llama", "bos"))
            and number is not None
            and 0 <= number < len(tokens)
        ):
            part = {"SpecialToken": {"id": tokens[number], "type_id": 0}}
            parts = [part, *parts] if end == "bos" else [*parts, part]
            used[tokens[number]] = {"id": tokens[number], "ids": [number], "tokens": [tokens[number]]}
    if not used:
        return None
    pair = [*parts, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": parts, "pair": pair, "special_tokens": used}
