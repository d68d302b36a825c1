"""`unmask evaluate`: measure a model at a task."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unmask.cli import options
from unmask.cli.faults import used_wrongly
from unmask.cli.lines import print_line
from unmask.evaluation import TASKS
from unmask.evaluation.asking import Asked

if TYPE_CHECKING:
    from unmask.evaluation.report import Report

EXAMPLE = """unmask evaluate prompts
printf 'The old man walked slowly home.\\nShe gave me a cup of hot tea.\\n' > held_out.txt
unmask evaluate blanks --text held_out.txt -n 100"""
MANY = ("--text", "--counts")  # options that take every file up to the next option


def evaluate(
    task: Annotated[str, typer.Argument(metavar="TASK", help=f"One of: {', '.join(TASKS)}.")],
    model: options.Model = None,
    text: Annotated[list[Path] | None, typer.Option("--text", metavar="FILE...", help="Held-out text.")] = None,
    counts: Annotated[
        list[Path] | None, typer.Option("--counts", metavar="FILE...", help="Training text, to count words in.")
    ] = None,
    ask: Annotated[
        str | None,
        typer.Option(
            "--ask", metavar="WORDING", help="Ask in words, for models that fill nothing; {text} stands for the text."
        ),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="With --ask: the wording is a user's turn, what is filled in the answer.")
    ] = False,
    n: Annotated[int, typer.Option("-n", min=1, help="How many sentences.")] = 1000,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Measure a model at a task.

    blanks: exact fills of blanks in held-out text, beside what counting words reaches, and choices of one word in ten.
    facts: the objects of facts in a JSON file of ParaRel's form, filled and chosen. questions: the right one of given
    answers, of JSON lines with text, choices and answer. prompts: fills of fifteen everyday sentences, for a person to
    judge.
    """
    _check(task, text or [], counts or [], ask, chat)
    from rich.console import Console
    from rich.progress import Progress

    import unmask

    lm = unmask.load(model)
    with Progress(console=Console(file=sys.stderr), transient=True) as progress:
        bar = progress.add_task(task, total=None)

        def tell(done: int, total: int, what: str) -> None:
            progress.update(bar, completed=done, total=total, description=what)

        asked = lm if ask is None else Asked(lm, ask, chat)
        report = TASKS[task].run(asked, text or [], counts or [], n, seed, tell)
    if as_json:
        for row in report.rows:
            print_line({"task": task, "model": model or "default"} | row)
    else:
        draw(report)


def _check(task: str, text: list[Path], counts: list[Path], ask: str | None, chat: bool) -> None:
    """See that what was asked for goes together, and is there."""
    if task not in TASKS:
        raise used_wrongly(f"no task {task!r} · it is not in the table · tasks: {', '.join(TASKS)}")
    needs = TASKS[task].needs_text
    if needs and not text:
        raise used_wrongly(f"{task} without --text · it needs text the model has not seen · add --text FILE")
    if ask is not None and not TASKS[task].asks:
        raise used_wrongly(
            f"{task} with --ask · its texts are not asked in words · use another task, or leave out --ask"
        )
    if ask is not None and "{text}" not in ask:
        raise used_wrongly("--ask has no place for the text · it is where {text} stands · write {text} in it")
    if chat and ask is None:
        raise used_wrongly("--chat without --ask · what the user says was not said · add --ask WORDING")
    for path in [*text, *counts]:
        if not path.is_file():
            raise ValueError(f"{path} is no file · it cannot be read · look at the path")


def draw(report: Report) -> None:
    """A table of the report's rows, and its notes."""
    from rich.table import Table

    from unmask.cli.drawing import console, shown

    to = console()
    names = list(dict.fromkeys(name for row in report.rows for name in row))
    table = Table(box=None, pad_edge=False)
    for name in names:
        numeric = all(not isinstance(row.get(name), str) for row in report.rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in report.rows:
        table.add_row(*(shown(_cell(row.get(name)), to) for name in names))
    to.print(table)
    for note in report.notes:
        to.print(shown(note, to), style="dim")


def spread(words: list[str]) -> list[str]:
    """`--text A B` as `--text A --text B`, for the options that take many files."""
    made: list[str] = []
    if words[:1] != ["evaluate"]:
        return words
    option = None
    for word in words:
        if word.startswith("-"):
            option = word if word in MANY else None
            fresh = option is not None
        elif option is not None:
            made += [] if fresh else [option]
            fresh = False
        made.append(word)
    return made


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
