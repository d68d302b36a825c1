"""Texts from the command line, a file or standard input; one bad text does not stop the others."""

from __future__ import annotations

import sys
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
    error: str | None = None


def read(texts: Sequence[str] | None, file: str | None, whole: bool) -> Iterator[Input]:
    """The texts of a command, one by one.

    Raises:
        typer.BadParameter: when there are none, or from two places.
    """
    if texts and file is not None:
        raise used_wrongly("texts and --file together · one place at a time · leave one of them out")
    if texts == ["-"]:
        texts, file = None, "-"
    if not texts and file is None:
        raise used_wrongly("no text · there is nothing to read · give one in quotes, or --file FILE, or -")
    if file is None:
        return (_checked(text) for text in texts or ())
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
                complain(item.text, answer.why)
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


def _checked(text: str) -> Input:
    try:
        text.encode()
    except UnicodeEncodeError:
        return Input(text.encode(errors="surrogateescape").decode(errors="replace"), _not_utf8("the text"))
    return Input(text)


def _lines(file: str) -> Iterator[Input]:
    stream = sys.stdin.buffer if file == "-" else open(file, "rb")  # noqa: SIM115  (closed below)
    try:
        for number, line in enumerate(stream, 1):
            yield _decoded(line.removesuffix(b"\n").removesuffix(b"\r"), f"line {number}")
    finally:
        if file != "-":
            stream.close()


def _whole(file: str) -> Iterator[Input]:
    yield _decoded(sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes(), "the file")


def _decoded(raw: bytes, what: str) -> Input:
    try:
        return Input(raw.decode())
    except UnicodeDecodeError:
        return Input(raw.decode(errors="replace"), _not_utf8(what))


def _not_utf8(what: str) -> str:
    return f"{what} is not UTF-8 · its bytes are no characters · convert it, for example with iconv -t utf-8"
