"""What the headers of safetensors files say, of a folder or on the Hub: shapes and kinds of number, no weights."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

KINDS = {  # theirs to ours, and bytes each
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
SCALE = ".scale"  # float32 beside a matrix in bytes


@dataclass(frozen=True)
class Stored:
    """One tensor as it is stored."""

    kind: str  # as safetensors name it
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """How many it takes."""
        return prod(self.shape) * KINDS.get(self.kind, ("", 1))[1]


Headers = Mapping[str, Stored]  # by the tensor's name


def of_folder(folder: Path) -> dict[str, Stored]:
    """The headers of all safetensors files in a folder.

    Raises:
        ValueError: when one is broken.
    """
    found: dict[str, Stored] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                (size,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(size))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            found |= {name: Stored(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
        except (struct.error, ValueError, KeyError, AttributeError, MemoryError, OverflowError):
            raise ValueError(f"{path} is broken · its header cannot be read · copy it again") from None
    return found


def of_hub(name: str) -> dict[str, Stored]:
    """The headers of a model on the Hub, which are all that is fetched; none where it has no such files.

    Raises:
        ValueError: when the Hub cannot be reached.
    """
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError, OfflineModeIsEnabled

    try:
        files = get_safetensors_metadata(name).files_metadata.values()
    except NotASafetensorsRepoError:
        return {}
    except (HfHubHTTPError, OfflineModeIsEnabled) as fault:
        why = str(fault).partition("\n")[0] or type(fault).__name__
        raise ValueError(f"the weights of {name} cannot be looked at · {why} · look at the network") from fault
    return {key: Stored(one.dtype, tuple(one.shape)) for file in files for key, one in file.tensors.items()}


def count(headers: Headers) -> int:
    """How many numbers there are; the scales of packed weights are not counted."""
    own = (one for name, one in headers.items() if not (name.endswith(SCALE) and name.removesuffix(SCALE) in headers))
    return sum(prod(one.shape) for one in own)


def by_kind(headers: Headers) -> dict[str, int]:
    """Bytes of each kind of number."""
    found: dict[str, int] = {}
    for one in headers.values():
        name = KINDS.get(one.kind, (one.kind, 1))[0]
        found[name] = found.get(name, 0) + one.bytes
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))
