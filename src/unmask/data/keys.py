"""Names of tokenised sources: two that would be tokenised alike have one, however often they are moved."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from unmask.data.files import form_of
from unmask.data.sources import Source

FORMAT = 1  # of the cache; a change of cutting or layout raises it
SAMPLES, SAMPLE = 16, 1 << 16  # how much of a file says whether it is another: all of it up to a megabyte


def cache_key(source: Source, files: list[Path] | None, fingerprint: str, max_tokens: int, times: bool = True) -> str:
    """Name of a tokenised source; changes with its declaration, what its files hold, the tokenizer and the cut.

    Of large files samples are read; with `times` they are others, too, when they were written at another time.
    """
    said = source.model_dump(mode="json", exclude={"weight", "name", "path"})
    root = Path(source.path)
    found: list[Any] = [source.path] if files is None else []
    for file in files or ():
        stat = file.stat()
        place = file.relative_to(root).as_posix() if file != root else f"{form_of(file)}{file.suffix}"
        found.append([place, stat.st_size, stat.st_mtime_ns if times else None, _sampled(file, stat.st_size)])
    whole = json.dumps([FORMAT, said, found, fingerprint, max_tokens], sort_keys=True)
    return sha256(whole.encode()).hexdigest()[:24]


def _sampled(file: Path, size: int) -> str:
    """A digest of a file, or of even samples from its beginning to its end."""
    last = max(0, size - SAMPLE)
    digest = sha256()
    with file.open("rb") as stream:
        if size <= SAMPLES * SAMPLE:
            return sha256(stream.read()).hexdigest()
        for number in range(SAMPLES):
            stream.seek(last * number // (SAMPLES - 1))
            digest.update(stream.read(SAMPLE))
    return digest.hexdigest()
