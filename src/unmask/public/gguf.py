"""A GGUF file: what it says of itself, and its tensors, dequantised one by one.

The header is read here, since the `gguf` package makes several objects of every word of a vocabulary: 3 s for 49,152
words and their merges, here 0.1 s. What the numbers mean is the package's business. Source of the format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)
CHUNK = 1 << 20  # numbers that are dequantised at once
DEEPEST = 4  # lists within lists; files in use have one
TYPES: dict[str, tuple[type[Any], type[Any]]] = {  # of what is asked of the metadata, and of each in a list
    "split.count": (int, object),
    "general.alignment": (int, object),
    "general.architecture": (str, object),
    **{f"tokenizer.ggml.{name}": (str, object) for name in ("model", "pre")},
    **{f"tokenizer.ggml.{name}": (list, str) for name in ("tokens", "merges")},
    "tokenizer.ggml.token_type": (list, int),
    "tokenizer.ggml.scores": (list, float),
    **{f"tokenizer.ggml.{name}_token_id": (int, object) for name in ("bos", "eos", "padding")},
    **{f"tokenizer.ggml.{name}": (bool, object) for name in ("add_bos_token", "add_eos_token", "add_space_prefix")},
}
_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}  # type number: letter of `struct`
_FLOAT, _STRING, _ARRAY = 6, 8, 9
_EXACT = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # kinds that are not quantised


@dataclass(frozen=True)
class Packed:
    """Where a tensor lies, and how its numbers are packed."""

    shape: tuple[int, ...]  # rows first, as here
    kind: int  # number of the quantisation
    start: int  # bytes from the beginning of the file


class GGUF(Mapping[str, Tensor]):
    """An opened file: `metadata`, and the tensors by name, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            ValueError: when it is no such file, is cut short, or holds what the `gguf` package does not know.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # mmap refuses an empty file
            raise ValueError(f"{path} is empty · a GGUF file is not · fetch it again") from None
        cursor = _Cursor(self._data, path)
        if cursor.bytes(4) != MAGIC:
            raise ValueError(f"{path} is no GGUF file · it does not begin with {MAGIC.decode()} · check the path")
        if (version := cursor.number("I")) not in VERSIONS:
            order = "in the byte order of other machines" if version & 0xFFFF == 0 else f"version {version}"
            raise ValueError(f"{path} is a GGUF file {order} · versions {VERSIONS} are read · convert it anew")
        n_tensors, n_facts = cursor.number("Q"), cursor.number("Q")
        self.metadata: dict[str, Any] = {}
        for _ in range(n_facts):
            key = cursor.string()
            self.metadata[key] = cursor.value(cursor.number("I"))
        self._check_types()
        self._packed: dict[str, Packed] = {}
        for _ in range(n_tensors):
            name = cursor.string()
            shape = tuple(cursor.number("Q") for _ in range(cursor.number("I")))
            self._packed[name] = Packed(shape[::-1], cursor.number("I"), cursor.number("Q"))
        align = self.metadata.get("general.alignment") or 32
        begin = -(-cursor.at // align) * align
        self._packed = {name: Packed(one.shape, one.kind, begin + one.start) for name, one in self._packed.items()}
        self._check()

    @property
    def dtypes(self) -> set[torch.dtype]:
        """What holds its matrices; bfloat16 for quantised ones, which are coarser. Vectors (norms) are not asked."""
        kinds = {one.kind for one in self._packed.values() if len(one.shape) > 1}
        return {_EXACT.get(_quantisation(kind).name, torch.bfloat16) for kind in kinds}

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of its tensors by how they are packed."""
        found: dict[str, int] = {}
        for one in self._packed.values():
            kind = _quantisation(one.kind)
            found[kind.name] = found.get(kind.name, 0) + prod(one.shape[:-1]) * _bytes(one.shape[-1], kind)
        return found

    def __getitem__(self, name: str) -> Tensor:
        """A tensor in float32."""
        from gguf.quants import dequantize

        one = self._packed[name]
        kind = _quantisation(one.kind)
        n_rows, width = prod(one.shape[:-1]), one.shape[-1]
        row_bytes = _bytes(width, kind)
        data = numpy.frombuffer(self._data, numpy.uint8, n_rows * row_bytes, one.start).reshape(n_rows, row_bytes)
        out = torch.empty(n_rows, width)
        step = max(1, CHUNK // width)
        for row in range(0, n_rows, step):
            out[row : row + step] = torch.from_numpy(numpy.array(dequantize(data[row : row + step], kind)))
        if hasattr(mmap, "MADV_DONTNEED"):  # what was read of the file need not stay in memory
            self._data.madvise(mmap.MADV_DONTNEED)
        return out.view(one.shape)

    def __contains__(self, name: object) -> bool:
        return name in self._packed

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def _check_types(self) -> None:
        """See that what is asked of the metadata is of its type."""
        for key, value in self.metadata.items():
            kind, each = TYPES.get(key, (object, object))
            if not isinstance(value, kind) or (isinstance(value, list) and not all(isinstance(v, each) for v in value)):
                raise ValueError(
                    f"{self.path}: {key} is {value!r:.60} · a value of another kind stands there · fetch it again"
                )

    def _check(self) -> None:
        """See that every tensor can be read and is whole."""
        for name, one in self._packed.items():
            if (kind := _quantisation(one.kind)) is None or not _known(kind):
                raise ValueError(
                    f"{self.path}: {name!r} has quantisation {getattr(kind, 'name', one.kind)} · the gguf package here "
                    "cannot undo it · take a file with another, for example Q8_0, or a newer gguf"
                )
            block = _blocks(kind)[0]
            if not one.shape or 0 in one.shape or one.shape[-1] % block:
                raise ValueError(
                    f"{self.path}: {name!r} has shape {one.shape} · {kind.name} packs {block} numbers together · "
                    "fetch it again"
                )
            end = one.start + prod(one.shape[:-1]) * _bytes(one.shape[-1], kind)
            if end > len(self._data):
                raise ValueError(
                    f"{self.path} is cut short · {name!r} ends at byte {end:,}, the file has {len(self._data):,} · "
                    "fetch it again"
                )


class _Cursor:
    """A place in a header that moves on."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def bytes(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        if len(found) < count:
            raise self.short()
        self.at += count
        return found

    def number(self, letter: str) -> Any:
        try:
            (found,) = struct.unpack_from(f"<{letter}", self.data, self.at)
        except struct.error:
            raise self.short() from None
        self.at += struct.calcsize(f"<{letter}")
        return found

    def string(self) -> str:
        return self.bytes(self.number("Q")).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        """A value of the metadata; a float is the shortest that float32 rounds to the same."""
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            if depth == DEEPEST:
                raise ValueError(f"{self.path} is broken · its header has lists within lists · fetch it again")
            inner, count = self.number("I"), self.number("Q")
            if inner in _SCALARS:
                letter = _SCALARS[inner]
                return list(struct.unpack(f"<{count}{letter}", self.bytes(count * struct.calcsize(letter))))
            return [self.value(inner, depth + 1) for _ in range(count)]
        if kind not in _SCALARS:
            raise ValueError(f"{self.path} is broken · its header has a value of kind {kind} · fetch it again")
        found = self.number(_SCALARS[kind])
        return float(str(numpy.float32(found))) if kind == _FLOAT else found

    def short(self) -> ValueError:
        return ValueError(f"{self.path} is cut short · it ends within its header · fetch it again")


@cache
def _quantisation(number: int) -> Any:
    """The package's name of a quantisation; None where it has none.

    Raises:
        ValueError: when the package is not installed.
    """
    try:
        from gguf.constants import GGMLQuantizationType
    except ModuleNotFoundError:
        raise ValueError("gguf is not installed · a GGUF file needs it · pip install 'unmask[gguf]'") from None
    return next((kind for kind in GGMLQuantizationType if kind == number), None)


@cache
def _known(kind: Any) -> bool:
    """Whether the package can undo it."""
    from gguf.quants import dequantize

    try:
        dequantize(numpy.zeros((1, _blocks(kind)[1]), numpy.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _blocks(kind: Any) -> tuple[int, int]:
    """How many numbers are packed together, and in how many bytes."""
    from gguf.constants import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[kind]
    return int(block), int(size)


def _bytes(width: int, kind: Any) -> int:
    """Bytes of so many numbers."""
    block, size = _blocks(kind)
    return width // block * size
