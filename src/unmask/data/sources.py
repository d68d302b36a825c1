"""A source says where text is, how it is cut into units, and which part is held out; both parts come from one word."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from unmask.data.dialogues import contents
from unmask.data.files import FORMS, Record, Table, cells, form_of, holds_dialogues, load, records
from unmask.data.sentences import cut, normalise

Part = Literal["train", "held_out"]
PADS = {f"pad{number}" for number in range(1, 8)}  # signs of a vocabulary
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class HoldOut(BaseModel):
    """What is never trained on. A record (line, paragraph, row of a table) is held out where any rule says so."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int | None = Field(default=None, ge=2)  # records k, 2k, 3k, ... of the source
    last: float | None = Field(default=None, gt=0, lt=1)  # the last share of each file
    hash: int | None = Field(
        default=None, ge=2
    )  # one text in k, by a hash of it: the same text always lies on one side
    files: tuple[str, ...] = ()  # whole files, by name patterns

    def holds(self, number: int, record: Record) -> bool:
        """Whether the record, the `number`-th of its source from 0, is held out."""
        if self.every is not None and number % self.every == self.every - 1:
            return True
        if self.last is not None and record.position >= 1 - self.last:
            return True
        if self.hash is None:
            return False
        digest = blake2b(record.text.strip().encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.hash == 0


class Manifest(BaseModel):
    """Keep only those files of a folder of which a manifest says that `key` is true.

    The manifest is JSON: an object by file name, or a list of entries of which one field names the file (`name` says
    which, else whichever field ends in the file's name, with or without its suffix).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = "MANIFEST.json"  # in the source's folder
    key: str
    name: str | None = None

    def keep(self, folder: Path, files: list[Path]) -> list[Path]:
        """Those of the files that the manifest lets in.

        Raises:
            ValueError: when there is no such manifest, it is broken, no entry has the key, or no file stays.
        """
        path = folder / self.file
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(
                f"no manifest {path} · include_manifest names it · mend the name or leave it out"
            ) from None
        except (ValueError, RecursionError) as fault:
            raise ValueError(f"{path} is not JSON · {fault} · mend it") from None
        entries = self._entries(path, entries)
        keys = sorted({key for entry in entries for key in entry})
        if self.key not in keys:
            raise ValueError(f"{path} has no key {self.key!r} · its keys are {', '.join(keys)} · choose one of them")
        allowed = {name for entry in entries if entry.get(self.key) is True for name in self._names(entry)}
        kept = [
            file for file in files if file.name in allowed or file.name.split(".")[0] in allowed or file.stem in allowed
        ]
        if not kept:
            raise ValueError(
                f"{path} lets no file in · {self.key!r} is true for none of {len(files)} · check key and name"
            )
        return kept

    def _entries(self, path: Path, given: Any) -> list[dict[str, Any]]:
        rows = given.values() if isinstance(given, dict) else given
        if not (isinstance(given, dict | list) and all(isinstance(row, dict) for row in rows)):
            raise ValueError(
                f"{path} is no manifest · it has something that is no entry · it is a list of entries, or an object of"
                ' them by file name, as in {"a.txt": {"' + self.key + '": true}}'
            )
        return [{"file": name, **entry} for name, entry in given.items()] if isinstance(given, dict) else given

    def _names(self, entry: dict[str, Any]) -> list[str]:
        fields = entry.values() if self.name is None else [entry.get(self.name)]
        return [field.rstrip("/").rsplit("/", 1)[-1] for field in fields if isinstance(field, str)]


class Source(BaseModel):
    """One body of text: a file, a folder, or a data set of the Hub (`org/name`, through `datasets`).

    `.txt`, `.md`, `.jsonl`, `.parquet` and `.tsv` are known by name, each but Parquet also as `.gz`; any other single
    file is taken as text. A folder gives all such files below it, sorted by path.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    name: str | None = None  # in logs and figures; else the last part of the path
    format: Literal["text", "jsonl", "tsv", "parquet"] | None = None
    column: str | int = "text"  # of tables; a number from 0 for TSV without a header
    config: str | None = None  # of a Hub data set
    split: str = "train"  # of a Hub data set
    streaming: bool = False  # too large to tokenise whole: an epoch is then the next `shard_records` records
    shard_records: int = Field(default=20_000, ge=1)
    unit: Literal["sentence", "paragraph", "line", "document", "dialogue"] = "sentence"
    document: Literal["file", "line"] | None = None  # of plain text; None: `line` when that is the unit, else `file`
    include: tuple[str, ...] = ()  # patterns of file names in a folder
    exclude: tuple[str, ...] = ()
    include_manifest: Manifest | None = None
    hold_out: HoldOut = HoldOut()
    normalise: tuple[Literal["quotes", "spaces"], ...] = ()
    distinct: bool = False  # drop a unit whose text came up before (in a stream: in this shard)
    weight: FiniteFloat = Field(default=1.0, gt=0)  # how often each row comes up in an epoch: 0.5, every second one

    @model_validator(mode="after")
    def _as_said(self) -> Source:
        if self.unit == "dialogue" and (self.normalise or self.streaming):
            raise ValueError("dialogues are taken as they are, and whole · leave normalise and streaming out")
        return self

    @classmethod
    def of(cls, path: str) -> Source:
        """A source by its path or Hub name alone; the last 5 % of a file, 1 in 50 of a data set, is held out.

        JSONL that begins with a dialogue is read as such.
        """
        local = Path(path).exists() or _HUB_NAME.fullmatch(path) is None
        said: dict[str, Any] = {"unit": "dialogue"} if holds_dialogues(Path(path)) else {}
        return cls(path=path, hold_out=HoldOut(last=0.05) if local else HoldOut(hash=50), **said)

    @property
    def title(self) -> str:
        """Its name in logs and figures."""
        return self.name or Path(self.path).name.split(".")[0] or self.path

    def files(self) -> list[Path] | None:
        """The local files, sorted; None for a data set of the Hub.

        Raises:
            ValueError: when nothing is there.
        """
        path = Path(self.path)
        if left := re.search(r"\$\{\w+\}", self.path):
            raise ValueError(
                f"{self.path}: {left.group()} is not filled in · the recipe asks for it · give data.folder=PATH"
            )
        if path.is_dir():
            return self._below(path)
        if path.exists():
            return [path]
        if self.looks_remote:
            return None
        parent = next(p for p in path.absolute().parents if p.is_dir())
        near = difflib.get_close_matches(path.name, [entry.name for entry in parent.iterdir()], 1, 0.5)
        hint = f"did you mean {parent / near[0]}?" if near else f"{parent} holds nothing of a like name"
        raise ValueError(f"no file or folder {path} · {hint} · check the path")

    @property
    def looks_remote(self) -> bool:
        """Nothing local has this name, and it reads like `org/name`."""
        path = Path(self.path)
        hub = _HUB_NAME.fullmatch(self.path) is not None and form_of(path) is None
        return hub and not path.exists() and not path.parent.is_dir()

    def _below(self, folder: Path) -> list[Path]:
        files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
        if self.include:
            files = [file for file in files if _matches(file, folder, self.include)]
        else:
            files = [file for file in files if form_of(file) is not None]
        files = [file for file in files if not _matches(file, folder, self.exclude)]
        if self.include_manifest is not None:
            files = self.include_manifest.keep(folder, files)
        if not files:
            kinds = ", ".join(self.include) or ", ".join(FORMS)
            raise ValueError(f"{folder} gives no file · looked for {kinds} · check path, include and exclude")
        return files

    def parts(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[bool, bool, str]]:
        """All units in order: held out or not, whether it goes on where the one before it stopped, its text.

        Args:
            start: The first record.
            stop: The record to stop before; None: to the end.
        """
        before: bool | None = None  # the part of the record before
        seen: set[bytes] = set()
        for number, (pattern_held, record) in enumerate(self._records(start, stop), start):
            held = pattern_held or self.hold_out.holds(number, record)
            joins = record.joins and held == before
            before = held
            for unit in [record.text] if self.unit == "dialogue" else cut(record.text, self.unit):
                text = normalise(unit, self.normalise)
                if self.distinct:
                    n_seen = len(seen)
                    seen.add(blake2b(text.encode(), digest_size=8).digest())
                    if len(seen) == n_seen:
                        joins = False
                        continue
                if text:
                    yield held, joins, text
                    joins = True

    def texts(self, part: Part = "train") -> Iterator[str]:
        """The units of one part, in order; of dialogues what is said in them."""
        texts = (text for held, _, text in self.parts() if held == (part == "held_out"))
        return itertools.chain.from_iterable(map(contents, texts)) if self.unit == "dialogue" else texts

    def n_records(self) -> int:
        """How many records there are; reads them all."""
        return sum(1 for _ in self._records(0, None))

    @property
    def _column(self) -> str | int | None:
        return None if self.unit == "dialogue" else self.column

    def _records(self, start: int, stop: int | None) -> Iterator[tuple[bool, Record]]:
        files = self.files()
        if files is None:
            return self._hub_records(start, stop)
        return itertools.islice(self._file_records(files), start, stop)

    def _file_records(self, files: list[Path]) -> Iterator[tuple[bool, Record]]:
        root = Path(self.path) if len(files) > 1 or Path(self.path).is_dir() else Path(self.path).parent
        document = self.document or ("line" if self.unit == "line" else "file")
        whole = "line" if document == "line" else "file" if self.unit == "document" else "paragraph"
        for file in files:
            form = self.format or form_of(file) or "text"
            held = _matches(file, root, self.hold_out.files)
            measured = self.hold_out.last is not None and not held
            for record in records(file, form, column=self._column, whole=whole, measured=measured):
                yield held, record

    def _hub_records(self, start: int, stop: int | None) -> Iterator[tuple[bool, Record]]:
        if self.hold_out.last is not None or self.hold_out.files:
            raise ValueError(
                f"{self.path}: hold_out by last or files needs local files · use hash or every for the Hub"
            )
        table: Table = load(self.path, self.config, split=self.split, streaming=self.streaming)
        if start and hasattr(table, "skip"):
            table = table.skip(start)
        column = None if self._column is None else str(self._column)
        texts = itertools.islice(cells(table, column, self.path), None if stop is None else stop - start)
        return ((False, Record(text, 0.0, False)) for text in texts)


class DataConfig(BaseModel):
    """The `data:` section of a recipe. A path alone stands for one source with a part held out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str | None = None  # the sources' paths start here
    sources: tuple[Source, ...] = Field(min_length=1)
    max_tokens: int = Field(default=96, ge=4)  # of a row, its start and end signs included
    lengths: dict[Literal["single", "uniform", "full", "cropped"], FiniteFloat] = {"single": 0.5, "uniform": 0.5}
    window: int = Field(default=64, ge=1)  # batches among which rows are sorted by length
    cache: str | None = None  # where tokenised sources are kept; None: in the run's folder
    pad: Literal["none", "eos", "rainbow"] = "none"  # what fills dialogues up to the longest of a step
    mask_prompt: bool = False  # what is given in a dialogue is hidden, too

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, given: Any) -> Any:
        if isinstance(given, (str, Path)):
            return {"sources": [Source.of(str(given))]}
        return {"sources": given} if isinstance(given, (list, tuple)) else given

    @model_validator(mode="after")
    def _shares(self) -> DataConfig:
        if not self.lengths or min(self.lengths.values()) < 0 or sum(self.lengths.values()) <= 0:
            raise ValueError(
                f"lengths {self.lengths} are no shares · they are at least 0, and one is above · mend them"
            )
        titles = [source.title for source in self.sources]
        if (self.pad != "none" or self.mask_prompt) and all(source.unit != "dialogue" for source in self.sources):
            raise ValueError("pad and mask_prompt are of dialogues · no source has them · give unit: dialogue")
        if doubles := sorted({title for title in titles if titles.count(title) > 1}):
            raise ValueError(f"two sources are called {doubles[0]!r} · figures are kept by name · give them name:")
        return self

    def placed(self) -> tuple[Source, ...]:
        """The sources with their full paths (names of the Hub stay)."""
        if self.folder is None:
            return self.sources
        return tuple(
            source
            if source.looks_remote and not (Path(self.folder) / source.path).exists()
            else source.model_copy(update={"path": str(Path(self.folder) / source.path), "name": source.title})
            for source in self.sources
        )

    def pads(self, signs: dict[str, int]) -> tuple[int, ...]:
        """Ids that fill up dialogues, in turn.

        `eos`: the end sign (Nie et al. 2025, section 2.3). `rainbow`: seven signs one after the other behind the first
        end (Kim et al. 2025), so that an end says that the text is over and not that the row is long.

        Raises:
            ValueError: when the vocabulary has no signs for it.
        """
        if self.pad != "rainbow":
            return (signs["end"],) if self.pad == "eos" else ()
        if PADS - signs.keys():
            raise ValueError(
                "no pads in this vocabulary · rainbow takes seven signs that no text uses · take data.pad=eos, or"
                " train the vocabulary with tokenizer.pads=true"
            )
        return tuple(signs[name] for name in sorted(PADS))

    def texts(self, part: Part = "train", source: str | None = None) -> Iterator[str]:
        """The raw units of one part, source after source, or of one source by its name.

        Raises:
            ValueError: when there is no source of that name, or its data are broken.
        """
        chosen = [s for s in self.placed() if source is None or s.title == source]
        if not chosen:
            names = ", ".join(s.title for s in self.sources)
            raise ValueError(f"no source is called {source!r} · there are {names} · choose one of them")
        return itertools.chain.from_iterable(s.texts(part) for s in chosen)


def _matches(file: Path, root: Path, patterns: tuple[str, ...]) -> bool:
    names = (file.name, file.relative_to(root).as_posix())
    return any(fnmatch(name, pattern) for pattern in patterns for name in names)
