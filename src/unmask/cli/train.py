"""`unmask train`: a model from a recipe, or simply from text."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from unmask.cli import options
from unmask.cli.faults import used_wrongly

EXAMPLE = """printf 'The cat sat on the mat.\\nThe dog sat on the log.\\n%.0s' $(seq 200) > animals.txt
unmask train animals.txt --out runs/animals steps=20
unmask fill "The ___ sat on the mat." --model runs/animals/model"""


def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE|DATA", help="A recipe, or a text file, folder or JSONL.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="What to change: steps=60 backbone.width=128.")
    ] = None,
    out: options.Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where RUN stopped.")] = False,
) -> None:
    """Train a model from a recipe or from text.

    RECIPE is a YAML file or the name of one in the package; DATA is a text file, a folder or JSONL. It may be left out
    where data= says what to learn from, and with --resume: the run knows its own.
    """
    changes = list(overrides or [])
    if recipe is not None and "=" in recipe and not Path(recipe).exists():
        changes.insert(0, recipe)
        recipe = None
    for change in changes:
        if "=" not in change:
            raise used_wrongly(f"{change!r} is no key=value · settings are written so · for example steps=60")
    if resume and out is None:
        raise used_wrongly("--resume without --out · which run goes on is not said · add --out RUN")
    if recipe is None and not resume and not any(change.startswith(("data=", "data.")) for change in changes):
        raise used_wrongly(
            "no recipe and no text · there is nothing to learn from · give a recipe, file or folder, or data=PATH"
        )
    from unmask.data.dialogues import LeftOut
    from unmask.training.run import train as run

    with warnings.catch_warnings():
        warnings.simplefilter("always", LeftOut)
        warnings.showwarning = partial(_warned, warnings.showwarning)
        report(run({} if recipe is None and not resume else recipe, changes, out, resume))


def _warned(others: Callable[..., None], message: Warning | str, category: type[Warning], *more: Any) -> None:
    """What is left out of the data is said as faults are; what others warn of, in their way."""
    from unmask.data.dialogues import LeftOut

    if issubclass(category, LeftOut):
        print(f"unmask: {message}", file=sys.stderr)
    else:
        others(message, category, *more)


def report(folder: Path) -> None:
    """Say where the model is, and show what it writes by now."""
    if not (folder / "model" / "config.json").is_file():
        print(f"stopped before the end; go on with: unmask train --out {folder} --resume")
        return
    print(f"trained: {folder / 'model'}")
    samples = folder / "samples.txt"
    lines = samples.read_text(encoding="utf-8").splitlines() if samples.is_file() else []
    last = next((place for place in range(len(lines), 0, -1) if not lines[place - 1].startswith("  ")), 0)
    for line in lines[last:]:
        print(line)
    print(f'next: unmask fill "The ___ sat on the ___." --model {folder / "model"}')
