"""Tensors on disk: one safetensors file, or several and an index; read one by one. What is written is whole."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Tensors(Mapping[str, Tensor]):
    """The tensors of a folder, by name; each is read when it is asked for, and kept by nobody."""

    def __init__(self, folder: Path, name: str = WEIGHTS) -> None:
        """Look what there is in `folder/name`, or in the shards of its index.

        Raises:
            ValueError: when a file is missing or broken.
        """
        index = folder / f"{name}.index.json"
        files = [name]
        if index.exists():
            with _readable(index):
                named = list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
                if odd := [name for name in named if not isinstance(name, str)]:
                    raise TypeError(f"weight_map names {odd[0]!r:.60}, which is no file")
                files = sorted(set(named))
        self._file: dict[str, Path] = {}
        self.dtypes: set[torch.dtype] = set()  # of its floating-point tensors
        for path in (folder / file for file in files):
            with _readable(path), safe_open(path, "pt") as opened:
                for key in opened.keys():  # noqa: SIM118
                    self._file[key] = path
                    if (kind := opened.get_slice(key).get_dtype()) in _FLOATS:
                        self.dtypes.add(_FLOATS[kind])

    def __getitem__(self, key: str) -> Tensor:
        path = self._file[key]
        with _readable(path), safe_open(path, "pt") as opened:
            tensor: Tensor = opened.get_tensor(key)
            return tensor

    def __contains__(self, key: object) -> bool:
        return key in self._file

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)


def read_tensors(folder: Path, name: str = WEIGHTS) -> dict[str, Tensor]:
    """Read all that `write_tensors` wrote.

    Raises:
        ValueError: when a file is missing or broken.
    """
    return dict(Tensors(folder, name))


def promoted(dtypes: Collection[torch.dtype]) -> torch.dtype:
    """The narrowest kind of number that holds all of these; float32 where there are none."""
    return reduce(torch.promote_types, dtypes) if dtypes else torch.float32


def write_tensors(folder: Path, tensors: dict[str, Tensor], shard_bytes: int, name: str = WEIGHTS) -> None:
    """Write tensors as one safetensors file, or above `shard_bytes` as several and an index."""
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total <= shard_bytes:
        _save(folder / name, tensors)
        (folder / f"{name}.index.json").unlink(missing_ok=True)
        return
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_bytes
    for key, tensor in tensors.items():
        if shards[-1] and tensor.nbytes > room:
            shards.append({})
            room = shard_bytes
        shards[-1][key] = tensor
        room -= tensor.nbytes
    stem = name.removesuffix(".safetensors")
    where = {}
    for number, shard in enumerate(shards, 1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        _save(folder / file, shard)
        where.update(dict.fromkeys(shard, file))
    index = {"metadata": {"total_size": total}, "weight_map": where}
    write_text(folder / f"{name}.index.json", json.dumps(index, indent=2) + "\n")
    (folder / name).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into that becomes `folder` when all went well; otherwise nothing is left of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        new = Path(scratch) / folder.name
        new.mkdir()
        yield new
        os.replace(new, folder)


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the `config.json` of a model's folder.

    Raises:
        ValueError: when they are missing, or not what they should be.
    """
    path = folder / CONFIG
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = f"has no {CONFIG}" if folder.exists() else "is not there"
        raise ValueError(
            f"{folder} {hint} · a model is a folder with a {CONFIG}, a GGUF file, or a base by name (unmask pull) · "
            "check the path"
        ) from None
    except NotADirectoryError:
        raise ValueError(f"{folder} is no model · it is a file, but not a GGUF file · check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as fault:
        raise ValueError(f"{path} is not JSON · {fault} · copy the folder again") from None
    if not isinstance(given, dict):
        raise ValueError(f"{path} is no table of settings · it holds a {type(given).__name__} · copy the folder again")
    return given


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say in one line what is wrong with a file."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(
            f"{path.parent} has no {path.name} · the weights are missing · copy the folder again"
        ) from None
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as fault:
        raise ValueError(f"{path} is broken · {fault} · copy it again") from None


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write beside and rename, so that no reader meets half a file."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.touch()
        mode = beside.stat().st_mode
        save_file(tensors, beside, metadata={"format": "pt"})
        beside.chmod(mode)  # as other files here; safetensors leaves it to its owner alone
        os.replace(beside, path)
    except SafetensorError as fault:  # a full disk reads so too
        if found := re.search(r"os error (\d+)", str(fault)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from fault
        raise OSError(f"{path} cannot be written: {fault}") from fault
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
