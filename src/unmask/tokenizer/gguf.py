"""The `tokenizer.json` of a GGUF file, made anew from what the file says of its vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    kind, pre = (facts.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if kind != "gpt2":
        raise ValueError(
            f"{where}: tokenizer.ggml.model is {kind!r} · of GGUF vocabularies 'gpt2' alone is known here · "
            "take the model's safetensors folder"
        )
    if pre not in PRE:
        raise ValueError(
            f"{where}: tokenizer.ggml.pre is {pre!r} · how such texts are cut is not known here, only {', '.join(PRE)}"
            " · take the model's safetensors folder"
        )
    tokens, merges = (facts.get(f"tokenizer.ggml.{key}") for key in ("tokens", "merges"))
    if not tokens or merges is None:
        raise ValueError(f"{where} has no vocabulary · tokens and merges are needed · fetch it again")
    kinds = facts.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    ids = {token: number for number, token in enumerate(tokens)}
    pairs = [merge.split(" ", 1) for merge in merges]
    odd = next((pair for pair in pairs if len(pair) < 2 or not {*pair, "".join(pair)} <= ids.keys()), None)
    if len(ids) < len(tokens) or len(kinds) != len(tokens) or odd:
        raise ValueError(f"{where}: the vocabulary does not add up · {odd or 'a token comes twice'} · fetch it again")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(number, tokens[number], kinds[number]) for number in _added_ids(kinds)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE[pre]},
        "post_processor": _frame(facts, tokens),
        "decoder": _BYTES | {"add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre in WHOLE,
            "vocab": ids,
            "merges": pairs,
        },
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
    used = {}
    for end in ("bos", "eos"):
        number = facts.get(f"tokenizer.ggml.{end}_token_id")
        if facts.get(f"tokenizer.ggml.add_{end}_token") and number is not None and number < len(tokens):
            part = {"SpecialToken": {"id": tokens[number], "type_id": 0}}
            parts = [part, *parts] if end == "bos" else [*parts, part]
            used[tokens[number]] = {"id": tokens[number], "ids": [number], "tokens": [tokens[number]]}
    if not used:
        return None
    pair = [*parts, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": parts, "pair": pair, "special_tokens": used}
