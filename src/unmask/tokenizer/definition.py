"""A `tokenizer.json`, of ours or anybody's: its signs, and how it is to be read here."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from unmask.tokenizer.vocabulary import METASPACE, kind, steps

SIGNS: dict[str, tuple[str, ...]] = {  # ours first, then other houses' names of the same thing
    "mask": ("<|mask|>", "[MASK]", "<mask>", "<|mdm_mask|>", "<|MASK|>", "<MASK>"),
    "blank": ("<|blank|>", "[BLANK]", "<blank>"),
    "start": ("<|start|>", "[CLS]", "<s>", "<bos>", "<|startoftext|>", "<|begin_of_text|>", "<|beginoftext|>"),
    "end": ("<|end|>", "[SEP]", "</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>"),
    "sep": ("<|sep|>",),  # left to right: behind it stand the answers
    "answer": ("<|answer|>",),  # left to right: ends each of them
}
COUNTS: dict[str, tuple[str, ...]] = {  # not asked of a vocabulary that comes without them
    "word": ("<|word|>",),  # exactly one word
    "maybe": ("<|maybe|>",),  # a word, or nothing
}
PADS: dict[str, tuple[str, ...]] = {  # the same; they fill up answers, each in its turn
    f"pad{k}": (f"<|pad_{k}|>", f"<|reserved_token_{k}|>", f"<|reserved_special_token_{k}|>") for k in range(1, 8)
}
EVERY = SIGNS | COUNTS
SAID = "signs.json"  # beside a vocabulary that has signs under names that nobody knows

# Which texts get a leading space that nobody wrote when they begin a row, so that a word has one spelling wherever it
# stands. Ours is the first rule: it loses nothing, since a text that begins with a space gets a second one.
ALWAYS, UNLESS_SPACE = r"[\s\S]", r"[^ ]"


def read(place: Path) -> dict[str, Any]:
    """The content of a `tokenizer.json`, or of the one in a folder.

    Raises:
        ValueError: when there is none, or it is no tokenizer.
    """
    path = place / "tokenizer.json" if place.is_dir() else place
    try:
        definition = json.loads(path.read_text(encoding="utf-8"))
        vocabulary, added = definition["model"]["vocab"], definition.get("added_tokens") or ()
        kinds = {"id": int, "content": str, "special": bool}
        whole = all(isinstance(one[key], kind) for one in added for key, kind in kinds.items())
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read · {error.strerror} · name a folder that holds tokenizer.json"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(f"{path} is no tokenizer · it is not what Hugging Face tokenizers save · save it anew")
    if not vocabulary:
        raise ValueError(f"{path} has an empty vocabulary · no text can be written with it · save it anew")
    assert isinstance(definition, dict)
    return definition


def read_signs(place: Path) -> dict[str, int]:
    """The ids of signs that the names in a folder's vocabulary do not tell; none where nothing says so.

    Raises:
        ValueError: when what says so is broken.
    """
    path = place / SAID if place.is_dir() else place.with_name(SAID)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {str(sign): int(number) for sign, number in told.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"{path} is broken · it holds the ids of signs by name · copy the folder again") from None


def write_signs(folder: Path, told: Mapping[str, int]) -> None:
    """Write what `read_signs` reads."""
    path = folder / SAID
    if told:
        path.write_text(json.dumps(dict(told)) + "\n", encoding="utf-8")
    else:
        path.unlink(missing_ok=True)


def with_signs(
    definition: dict[str, Any], told: Mapping[str, int] | None = None
) -> tuple[dict[str, Any], dict[str, int], dict[str, int]]:
    """The definition with every sign in it, under a known name or added, and the id of each.

    Signs that count words and pads are there where the vocabulary has them.

    Args:
        definition: The content of a `tokenizer.json`.
        told: Ids of signs that the vocabulary has whatever their names are.

    Returns:
        The definition, the id of each sign, and those that names alone do not tell.

    Raises:
        ValueError: when a told id is no token.
    """
    rust = tokenizers.Tokenizer.from_str(json.dumps(definition))
    known = rust.get_vocab(with_added_tokens=True)
    told = {sign: number for sign, number in (told or {}).items() if find(known, _names(sign)) != number}
    if odd := next((sign for sign, number in told.items() if rust.id_to_token(number) is None), None):
        raise ValueError(f"the sign {odd!r} should be token {told[odd]}, and there is none")
    missing = [names[0] for sign, names in SIGNS.items() if sign not in told and find(known, _names(sign)) is None]
    if missing:
        rust.add_special_tokens(missing)
        definition = json.loads(rust.to_str())
        known = rust.get_vocab(with_added_tokens=True)
    found = {sign: find(known, _names(sign)) for sign in EVERY | PADS} | told
    return definition, {sign: number for sign, number in found.items() if number is not None}, told


def find(known: Mapping[str, int], names: Iterable[str]) -> int | None:
    """The id of the first of some names that a vocabulary has."""
    return next((known[name] for name in names if name in known), None)


def leading(definition: Mapping[str, Any]) -> int | None:
    """The id of the token that a vocabulary's post-processor puts before a text, if it puts one there."""
    found: int | None = None
    for step in steps(definition.get("post_processor")):
        first = (step.get("single") or [{}])[0].get("SpecialToken")
        if "cls" in step:  # as BERT and RoBERTa have it
            found = step["cls"][1]
        elif first and (ids := step["special_tokens"].get(first["id"], {}).get("ids")):
            found = ids[0]
    return found


def extended(definition: dict[str, Any], size: int) -> dict[str, Any]:
    """The definition of a public vocabulary with a token of its own for every sign, from id `size` on.

    Where the model has more rows than the vocabulary tokens, the ids between become tokens that stand for nothing. A
    vocabulary that has all signs already gets none.

    Raises:
        ValueError: when the vocabulary is larger than the model, or no tokens can be added there.
    """
    rust, known, top = _opened(definition, size)
    mine = all(find(known, (_own(sign), names[0])) is not None for sign, names in EVERY.items())
    own = [] if mine else [_own(sign) if names[0] in known else names[0] for sign, names in EVERY.items()]
    return _behind(rust, [*_rows(top, size), *own], top)


def completed(definition: dict[str, Any], size: int, told: Iterable[str]) -> dict[str, Any]:
    """The definition of a public vocabulary of a kind that has some signs itself, with a token for every other.

    They take ids below `size` that no token has, as long as there are any; what is left of those stands for nothing.

    Args:
        definition: The content of a `tokenizer.json`.
        size: How many rows the model has.
        told: The signs that it has, whatever their names are.

    Raises:
        ValueError: as `extended` does.
    """
    rust, known, top = _opened(definition, size)
    had = {sign for sign, names in SIGNS.items() if find(known, (_own(sign), names[0])) is not None}
    own = [_own(sign) for sign in SIGNS if sign not in had | set(told)]
    return _behind(rust, [*own, *_rows(top + len(own), size)], top)


def _opened(definition: dict[str, Any], size: int) -> tuple[tokenizers.Tokenizer, dict[str, int], int]:
    """A vocabulary, its tokens, and the first id behind them.

    Raises:
        ValueError: when it is larger than the model, or is not known to `tokenizers`.
    """
    try:
        rust = tokenizers.Tokenizer.from_str(json.dumps(definition))
    except Exception as error:  # tokenizers raises plain Exception
        raise ValueError(
            f"the tokenizer cannot be built · {error} · save it anew with Hugging Face tokenizers"
        ) from error
    known = rust.get_vocab(with_added_tokens=True)
    top = max(known.values()) + 1
    if top > size:
        raise ValueError(f"the tokenizer has {top} tokens, the model {size} · they are not of one model · check both")
    return rust, known, top


def _rows(start: int, stop: int) -> list[str]:
    """What ids that no token has are called."""
    return [f"<|row_{number}|>" for number in range(start, stop)]


def _behind(rust: tokenizers.Tokenizer, added: list[str], top: int) -> dict[str, Any]:
    """The definition with some special tokens from id `top` on.

    Raises:
        ValueError: when they do not come to stand there.
    """
    rust.add_special_tokens(added)
    if [rust.token_to_id(token) for token in added] != list(range(top, top + len(added))):
        raise ValueError("the tokenizer takes no tokens behind its last · its ids have gaps · save it anew")
    made: dict[str, Any] = json.loads(rust.to_str())
    return made


def _own(sign: str) -> str:
    """What a sign is called where a public vocabulary has its usual name for something else."""
    return f"<|unmask_{sign}|>"


def _names(sign: str) -> tuple[str, ...]:
    return (_own(sign), *(EVERY | PADS).get(sign, ()))


def unknown(definition: dict[str, Any]) -> set[int]:
    """The id that stands for what the vocabulary cannot write, if there is one."""
    model = definition["model"]
    if isinstance(model["vocab"], list):  # Unigram
        return set() if model.get("unk_id") is None else {model["unk_id"]}
    token = model.get("unk_token")
    return {model["vocab"][token]} if token in model["vocab"] else set()


def specials(definition: dict[str, Any], signs: dict[str, int]) -> set[int]:
    """Ids that are no part of a text."""
    special = {added["id"] for added in definition.get("added_tokens") or () if added["special"]}
    return special | unknown(definition) | set(signs.values())


def encoder(definition: dict[str, Any], signs: dict[str, int]) -> tuple[tokenizers.Tokenizer, re.Pattern[str] | None]:
    """What encodes text as it stands, and what texts get a leading space where a row begins.

    Names of signs in a text are text: they are marked special, and special tokens are not looked for. Leading spaces
    are left to the caller, who knows where a row begins.
    """
    # The model, which is large, stays as it is.
    definition = {key: part if key == "model" else copy.deepcopy(part) for key, part in definition.items()}
    for added in definition.get("added_tokens") or ():
        added["special"] |= added["id"] in set(signs.values())
    definition |= {"post_processor": None, "truncation": None, "padding": None}
    opens = _leading(definition)
    rust = tokenizers.Tokenizer.from_str(json.dumps(definition))
    rust.encode_special_tokens = True
    return rust, re.compile(opens) if opens else None


def _leading(definition: dict[str, Any]) -> str | None:
    """Take every rule that adds a leading space out of the definition, and say which it was."""
    opens, kept = None, []
    for step in steps(definition.get("normalizer")):
        if step["type"] == "Prepend" and step["prepend"] in (" ", METASPACE):
            opens = ALWAYS
        else:
            kept.append(step)
    definition["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    for step in steps(definition.get("pre_tokenizer")):
        if step["type"] == "ByteLevel" and step["add_prefix_space"]:
            opens, step["add_prefix_space"] = opens or UNLESS_SPACE, False
        elif step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never":
            opens, step["prepend_scheme"] = opens or UNLESS_SPACE, "never"
            step.pop("add_prefix_space", None)  # the older word for the same thing
    return UNLESS_SPACE if kind(definition) == "words" else opens
