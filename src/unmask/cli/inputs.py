"""Texts from the command line, a file or standard input; one bad text does not stop the others."""

from __future__ import annotations

import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from unmask.cli.faults import reason, used_wrongly

CHUNK = 16  # texts that share a call: enough to fill the machine, few enough to see answers come

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Input:
    """One text, or why it is none."""

    text: str
    where: str | None = None  # among several: its line, or its number
    error: str | None = None


def read(texts: Sequence[str] | None, file: str | None, whole: bool) -> Iterator[Input]:
    """The texts of a command, one by one.

    Raises:
        typer.BadParameter: when there are none, or from two places.
    """
    if texts and file is not None:
        raise used_wrongly("texts and --file together · one place at a time · leave one of them out")
    if whole and file is None and texts != ["-"]:
        raise used_wrongly(
            "--whole without --file · a text in quotes is whole already · leave it out, or name the file"
        )
    if texts == ["-"]:
        texts, file = None, "-"
    elif texts and "-" in texts:
        raise used_wrongly("- among other texts · it stands for standard input, alone · leave it out, or the others")
    if not texts and file is None:
        raise used_wrongly("no text · there is nothing to read · give one in quotes, or --file FILE, or -")
    if file is None:
        several = texts is not None and len(texts) > 1
        return (_checked(text, f"text {i}" if several else None) for i, text in enumerate(texts or (), 1))
    if file != "-" and not Path(file).is_file():
        raise ValueError(f"{file} is no file · it cannot be read · look at the path")
    return _whole(file) if whole else _lines(file)


def each(
    inputs: Iterable[Input],
    work: Callable[[list[str]], Sequence[Answer]],
    show: Callable[[str, Answer], None],
    complain: Callable[[str, str], None],
    size: int = CHUNK,
) -> int:
    """Answer every text, `size` a call, in order; how many could not be answered."""
    failed, waiting = 0, iter(inputs)
    while chunk := list(islice(waiting, size)):
        for item, answer in zip(chunk, _answers(chunk, work), strict=True):
            if isinstance(answer, Failure):
                failed += 1
                complain(item.text, f"{item.where}: {answer.why}" if item.where else answer.why)
            else:
                show(item.text, answer)
    return failed


def agree(ask: Callable[[], object]) -> None:
    """Ask for no text at all: options that suit no text are a fault of the command line, not of any text.

    Raises:
        typer.BadParameter: when they do not.
    """
    try:
        ask()
    except ValueError as error:
        raise used_wrongly(reason(error)) from error


@dataclass(frozen=True)
class Failure:
    """Why a text got no answer."""

    why: str


def _answers(chunk: list[Input], work: Callable[[list[str]], Sequence[Answer]]) -> list[Answer | Failure]:
    good = [item.text for item in chunk if item.error is None]
    try:
        done: Iterator[Answer | Failure] = iter(work(good) if good else [])
    except ValueError as error:
        # One of them is at fault: ask for each alone. One that was alone already is not asked again.
        done = iter([Failure(reason(error))] if len(good) == 1 else [_alone(text, work) for text in good])
    return [Failure(item.error) if item.error is not None else next(done) for item in chunk]


def _alone(text: str, work: Callable[[list[str]], Sequence[Answer]]) -> Answer | Failure:
    try:
        return work([text])[0]
    except ValueError as error:
        return Failure(reason(error))


def _checked(text: str, where: str | None) -> Input:
    try:
        text.encode()
    except UnicodeEncodeError:
        return Input(text.encode(errors="surrogateescape").decode(errors="replace"), where, _not_utf8("the text"))
    return Input(text, where)


def _lines(file: str) -> Iterator[Input]:
    stream = sys.stdin.buffer if file == "-" else open(file, "rb")  # noqa: SIM115  (closed below)
    try:
        for number, line in enumerate(stream, 1):
            line = line.removeprefix(BOM_UTF8) if number == 1 else line
            yield _decoded(line.removesuffix(b"\n").removesuffix(b"\r"), f"line {number}")
    finally:
        if file != "-":
            stream.close()


def _whole(file: str) -> Iterator[Input]:
    raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    yield _decoded(raw.removeprefix(BOM_UTF8), None)


def _decoded(raw: bytes, where: str | None) -> Input:
    try:
        return Input(raw.decode(), where)
    except UnicodeDecodeError:
        return Input(raw.decode(errors="replace"), error=_not_utf8(where or "the file"))


def _not_utf8(what: str) -> str:
    return f"{what} is not UTF-8 · its bytes are no characters · convert it, for example with iconv -t utf-8"
