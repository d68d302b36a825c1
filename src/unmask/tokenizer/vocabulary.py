"""What each token of a vocabulary looks like: its bytes, whatever the vocabulary's own spelling, and facts of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from unmask.holes import ends_in_word, in_word

METASPACE = "\u2581"
CLOSING = frozenset(".,;:!?%)]}'\u2019\u201d\u2026")  # follow a word without a space, where a vocabulary has no spaces


@dataclass(frozen=True)
class TokenTable:
    """A fact a column about every token, from its bytes alone; `[V]` bool each.

    White space is what `str.isspace` says. Of a token that holds parts of characters, only its whole characters count.
    Signs have no bytes, so all is false of them but `special`.
    """

    starts_word: Tensor  # begins with white space
    leading_space: Tensor  # begins with exactly one U+0020, then something that is not white space
    has_inner_space: Tensor  # holds white space other than one leading U+0020
    whole_characters: Tensor  # complete UTF-8: neither begins nor ends inside a character
    first_alnum: Tensor  # its first character, one leading U+0020 aside, is a letter, digit or mark upon one
    last_alnum: Tensor  # its last character is
    special: Tensor  # never part of a text

    @classmethod
    def build(cls, token_bytes: Sequence[bytes], special: Sequence[bool]) -> TokenTable:
        """Read the table off the bytes of each token, `V` of each."""
        columns = zip(*(facts(*token) for token in zip(token_bytes, special, strict=True)), strict=True)
        return cls(*(torch.tensor(column, dtype=torch.bool) for column in columns))

    @property
    def size(self) -> int:
        """How many tokens (`V`)."""
        return self.special.numel()

    def resized(self, size: int) -> TokenTable:
        """The table with rows up to `size`; those beyond the vocabulary are special.

        A model's embedding may be larger than its tokenizer.
        """
        extra = max(0, size - self.size)
        columns = {field.name: getattr(self, field.name)[:size] for field in fields(self)}
        return TokenTable(
            **{name: torch.cat([old, old.new_full((extra,), name == "special")]) for name, old in columns.items()}
        )

    def to(self, device: torch.device | str) -> TokenTable:
        """The same table on another device."""
        return TokenTable(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def facts(token: bytes, special: bool) -> tuple[bool, ...]:
    """The row of one token, in the order of `TokenTable`."""
    text = token.decode("utf-8", "ignore")
    first = text[:1] if token.startswith(text[:1].encode()) else ""  # "": begins inside a character
    last = text[-1:] if token.endswith(text[-1:].encode()) else ""
    body, rest = (text[1:], token[1:]) if first == " " else (text, token)
    after = body[:1] if rest.startswith(body[:1].encode()) else ""  # its first character, a leading space aside
    return (
        first.isspace(),
        first == " " and rest != b"" and not after.isspace(),
        any(character.isspace() for character in body),
        token != b"" and text.encode() == token,
        after != "" and in_word(after),
        last != "" and ends_in_word(text),
        special,
    )


def spell(definition: Mapping[str, Any], vocabulary: Mapping[str, int], special: set[int], size: int) -> list[bytes]:
    """The bytes of every token, `V`; nothing for signs and ids that no token has.

    Args:
        definition: The content of a `tokenizer.json`.
        vocabulary: Token to id.
        special: Ids that are no part of a text.
        size: How many ids (`V`).
    """
    how = kind(definition)
    spelling = {"bytes": _byte_level, "metaspace": _metaspace, "words": _word}[how](definition)
    # A sign for a space is one in added tokens too; a stand-in for a byte is not.
    literal = {added["content"] for added in definition.get("added_tokens") or () if how != "metaspace"}
    token_bytes = [b""] * size
    for token, number in vocabulary.items():
        if number not in special:
            token_bytes[number] = token.encode() if token in literal else spelling(token)
    return token_bytes


def steps(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder, nested sequences laid out flat."""
    if part is not None and part["type"] == "Sequence":
        for step in next(value for value in part.values() if isinstance(value, list)):
            yield from steps(step)
    elif part is not None:
        yield part


def kind(definition: Mapping[str, Any]) -> Literal["bytes", "metaspace", "words"]:
    """How a vocabulary spells white space: as a byte like any other, as a sign of its own, or not at all."""
    if "ByteLevel" in {step["type"] for part in ("pre_tokenizer", "decoder") for step in steps(definition.get(part))}:
        return "bytes"
    parts = [definition.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")]
    return "metaspace" if METASPACE in json.dumps(parts, ensure_ascii=False) else "words"


def _byte_level(definition: Mapping[str, Any]) -> Callable[[str], bytes]:
    return lambda token: b"".join(_BYTES.get(character) or character.encode() for character in token)


def _metaspace(definition: Mapping[str, Any]) -> Callable[[str], bytes]:
    by_byte = bool(definition["model"].get("byte_fallback"))

    def spelling(token: str) -> bytes:
        if by_byte and (match := _FALLBACK.fullmatch(token)):
            return bytes([int(match[1], 16)])
        return token.replace(METASPACE, " ").encode()

    return spelling


def _word(definition: Mapping[str, Any]) -> Callable[[str], bytes]:
    """Without spaces of its own, every token that begins a word is taken to carry one."""
    continuing = definition["model"].get("continuing_subword_prefix")

    def spelling(token: str) -> bytes:
        if continuing and token.startswith(continuing):
            return token[len(continuing) :].encode()
        return token.encode() if set(token) <= CLOSING else b" " + token.encode()

    return spelling


def _byte_characters() -> dict[str, bytes]:
    """GPT-2's printable stand-in of every byte: the printable ones themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): bytes([byte]) for byte in printable} | {
        chr(0x100 + i): bytes([byte]) for i, byte in enumerate(others)
    }


_BYTES = _byte_characters()
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")
