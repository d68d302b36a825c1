"""One file gives its records: paragraphs or lines of a text, rows of JSONL, TSV or Parquet; or a data set of the Hub.

Text, JSONL and TSV are read here and not through `datasets`: a fault is named by its line and byte, a record knows its
place in its file (for hold-outs), no second copy lands on the disk, and plain text needs no extra package.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from unmask.data import dialogues

if TYPE_CHECKING:
    import datasets as hf

FORMS = {".txt": "text", ".md": "text", ".jsonl": "jsonl", ".tsv": "tsv", ".parquet": "parquet"}


@dataclass(frozen=True, slots=True)
class Record:
    """The smallest part of a source that is held out, or not, as a whole."""

    text: str
    position: float  # share of its file that lies before it, 0 to 1; 0 where nobody asked
    joins: bool  # it goes on where the record before it stopped


class Table(Protocol):
    """What is read of a `datasets` stream."""

    @property
    def column_names(self) -> list[str] | None:
        """Columns, where they are known beforehand."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Rows."""


def form_of(file: Path) -> str | None:
    """The format a file's name speaks of, looking through `.gz`; None where it says nothing."""
    suffixes = [suffix.lower() for suffix in file.suffixes[-2:]]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return FORMS.get(suffixes[-1]) if suffixes else None


def records(file: Path, form: str, *, column: str | int | None, whole: str, measured: bool) -> Iterator[Record]:
    """Read one file.

    Args:
        file: A local file; `.gz` is unpacked on the way (not Parquet).
        form: `text`, `jsonl`, `tsv` or `parquet`.
        column: Which column of a table holds the text; a number for TSV without a header; None: its rows are dialogues.
        whole: Of a text: `line` (each line a document), `paragraph` (records of one document) or `file` (one record).
        measured: Whether records must know their position.

    Raises:
        ValueError: when the file is empty, not UTF-8, broken, or lacks the column.
    """
    if file.stat().st_size == 0:
        raise _empty(file)
    if column is None and form not in ("jsonl", "parquet"):
        raise ValueError(f"{file} holds no dialogues · they are rows of JSONL or Parquet · write it so, or take a unit")
    if form == "parquet":
        rows: Iterable[Record] = _parquet(file, _named(column), measured)
    else:
        size = (_unpacked_size(file) if file.suffix == ".gz" else file.stat().st_size) if measured else 0
        if form == "text":
            rows = _text(file, whole, size)
        else:
            rows = _jsonl(file, _named(column), size) if form == "jsonl" else _tsv(file, column or 0, size)
    n = 0
    for n, record in enumerate(rows, 1):  # noqa: B007
        yield record
    if not n:
        raise _empty(file)


def holds_dialogues(file: Path) -> bool:
    """Whether a file is JSONL whose first row is a dialogue."""
    if form_of(file) != "jsonl" or not file.is_file():
        return False
    try:
        first = next((line for _, _, line in _lines(file) if line.strip()), "")
        return dialogues.is_one(json.loads(first))
    except (ValueError, RecursionError):  # whoever reads it will say so
        return False


def _empty(file: Path) -> ValueError:
    return ValueError(f"{file} holds no text · it is empty or nothing but white space · remove it or name another file")


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    with file.open("rb") as packed:
        try:
            yield cast(IO[bytes], gzip.GzipFile(fileobj=packed)) if file.suffix == ".gz" else packed
        except (gzip.BadGzipFile, EOFError, zlib.error) as fault:
            raise ValueError(f"{file} cannot be unpacked · {fault} · copy or pack it again") from fault


def _unpacked_size(file: Path) -> int:
    with _opened(file) as stream:
        return stream.seek(0, 2)


def _lines(file: Path) -> Iterator[tuple[int, int, str]]:
    """Line number, byte offset and text of each line, without its line end."""
    offset = 0
    with _opened(file) as stream:
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as fault:
                place = offset + fault.start
                raise ValueError(
                    f"{file} is not UTF-8 · byte 0x{line[fault.start]:02x} at offset {place} (line {number}) · "
                    f"convert it, e.g. iconv -f latin1 -t utf-8 {file.name}"
                ) from None
            yield number, offset, text.rstrip("\r\n")
            offset += len(line)


def _text(file: Path, whole: str, size: int) -> Iterator[Record]:
    share = 1 / size if size else 0.0
    if whole == "file":
        text = "\n".join(line for _, _, line in _lines(file))
        if text.strip():
            yield Record(text, 0.0, False)
    elif whole == "line" or not _has_blank_lines(file):  # without blank lines each line is a paragraph
        joins = False
        for _, offset, line in _lines(file):
            if line.strip():
                yield Record(line, offset * share, joins)
                joins = whole == "paragraph"
    else:
        held: list[str] = []
        begin, joins = 0, False
        for _, offset, line in _lines(file):
            if line.strip():
                begin = begin if held else offset
                held.append(line)
            elif held:
                yield Record("\n".join(held), begin * share, joins)
                held, joins = [], True
        if held:
            yield Record("\n".join(held), begin * share, joins)


def _has_blank_lines(file: Path) -> bool:
    with _opened(file) as stream:
        lines = stream.read(1 << 20).strip().splitlines()
    return any(not line.strip() for line in lines)


def _named(column: str | int | None) -> str | None:
    return None if column is None else str(column)


def _jsonl(file: Path, column: str | None, size: int) -> Iterator[Record]:
    share = 1 / size if size else 0.0
    for number, offset, line in _lines(file):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as fault:
            raise ValueError(
                f"{file}, line {number} is not JSON · {fault.msg} at column {fault.colno} · mend or remove that line"
            ) from None
        except (ValueError, RecursionError) as fault:  # numbers of thousands of digits, lists in lists without end
            raise ValueError(
                f"{file}, line {number} cannot be read as JSON · {_first_line(fault)} · mend or remove that line"
            ) from None
        if not isinstance(row, dict):
            form = "messages" if column is None else column
            raise ValueError(f"{file}, line {number} is no JSON object · each line reads {{{form!r}: ...}} · mend it")
        yield Record(_cell(row, column, f"{file}, line {number}"), offset * share, False)


def _tsv(file: Path, column: str | int, size: int) -> Iterator[Record]:
    share = 1 / size if size else 0.0
    place = column if isinstance(column, int) else -1
    for number, offset, line in _lines(file):
        if not line.strip():
            continue
        cells = line.split("\t")
        if place < 0:  # the first line names the columns
            if column not in cells:
                raise _no_column(str(column), cells, f"{file}, line {number}", " or a number from 0 without a header")
            place = cells.index(str(column))
            continue
        if place >= len(cells):
            raise _no_column(str(column), [str(i) for i in range(len(cells))], f"{file}, line {number}")
        if cells[place].strip():
            yield Record(cells[place], offset * share, False)


def _parquet(file: Path, column: str | None, measured: bool) -> Iterator[Record]:
    table = load("parquet", data_files=str(file), split="train", streaming=True)
    n_rows = 0
    if measured:
        import pyarrow.parquet

        n_rows = pyarrow.parquet.ParquetFile(file).metadata.num_rows
    for number, text in enumerate(cells(table, column, str(file))):
        yield Record(text, number / n_rows if n_rows else 0.0, False)


def load(*arguments: Any, **options: Any) -> hf.IterableDataset:
    """`datasets.load_dataset`, its faults as one line.

    Raises:
        ValueError: when the extra is not installed, or there is no such data set, configuration or split.
    """
    try:
        import datasets
    except ModuleNotFoundError as fault:
        raise ValueError(
            f"{options.get('data_files', arguments[0])} is read through `datasets` · the package {fault.name} is not "
            "installed · pip install 'unmask[train]'"
        ) from fault
    try:
        return datasets.load_dataset(*arguments, **options)
    except (ValueError, OSError, RuntimeError) as fault:  # its own errors derive from these
        if file := options.get("data_files"):
            raise ValueError(f"{file} is broken · {_first_line(fault)} · write it again") from fault
        mend = "no local file has this name; check it, config, split and the connection"
        raise ValueError(f"{arguments[0]} cannot be opened · {_first_line(fault)} · {mend}") from fault


def cells(table: Table, column: str | None, where: str) -> Iterator[str]:
    """The texts of one column of a data set; None: its dialogues.

    Raises:
        ValueError: when the column is missing or a cell holds no text.
    """
    if column is not None and table.column_names is not None and column not in table.column_names:
        raise _no_column(column, table.column_names, where)
    for number, row in enumerate(_whole(table, where)):
        yield _cell(row, column, f"{where}, row {number}")


def _whole(table: Table, where: str) -> Iterator[dict[str, Any]]:
    """The rows of a data set, the faults of whatever reads them as one line."""
    rows, number = iter(table), 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as fault:  # of any of the packages below
            mend = "fetch or write it again, or look at the connection"
            raise ValueError(f"{where} cannot be read on from row {number} · {_first_line(fault)} · {mend}") from fault
        yield row
        number += 1


def _cell(row: dict[str, Any], column: str | None, where: str) -> str:
    if column is None:
        return dialogues.told(row, where)
    if column not in row:
        raise _no_column(column, list(row), where)
    text = row[column]
    if not isinstance(text, str):
        raise ValueError(f"{where}: {column!r} is {text!r:.40}, not text · name a text column with column=, or mend it")
    try:
        text.encode()
    except UnicodeEncodeError as fault:
        raise ValueError(
            f"{where}: {column!r} is not Unicode text · {fault.reason} at {fault.start} · mend it"
        ) from None
    return text


def _no_column(column: str, columns: list[str], where: str, more: str = "") -> ValueError:
    names = ", ".join(columns[:12])
    return ValueError(f"{where} has no column {column!r} · its columns are {names} · choose one with column={more}")


def _first_line(fault: BaseException) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0]
