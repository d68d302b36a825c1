"""The table of verbs, and how a command ends."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer
from typer.exceptions import TyperException

from unmask.cli import convert, distill, evaluate, fill, generate, info, merge, pull, score, train
from unmask.cli.faults import one_line
from unmask.cli.options import laid_out

VERBS: dict[str, Callable[..., None]] = {
    "fill": fill.fill,
    "score": score.score,
    "generate": generate.generate,
    "train": train.train,
    "evaluate": evaluate.evaluate,
    "info": info.info,
    "pull": pull.pull,
    "convert": convert.convert,
    "merge": merge.merge,
    "distill": distill.distill,
}

# Plain help: `rich` help costs as much start-up as all else together.
PLAIN: dict[str, Any] = {"rich_markup_mode": None, "add_completion": False, "pretty_exceptions_enable": False}
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def build() -> typer.Typer:
    """The application, with a command for every verb."""
    app = typer.Typer(name="unmask", context_settings=HELP, **PLAIN)
    app.callback(epilog='\b\nExample:\n  unmask fill "The ___ sat on the ___." -n 5')(unmask)
    for name, verb in VERBS.items():
        app.command(name, epilog=f"\b\nExample:\n{_indented(EXAMPLES[name])}")(laid_out(verb))
    return app


EXAMPLES = {
    "fill": fill.EXAMPLE,
    "score": score.EXAMPLE,
    "generate": generate.EXAMPLE,
    "train": train.EXAMPLE,
    "evaluate": evaluate.EXAMPLE,
    "info": info.EXAMPLE,
    "pull": pull.EXAMPLE,
    "convert": convert.EXAMPLE,
    "merge": merge.EXAMPLE,
    "distill": distill.EXAMPLE,
}


def unmask(
    version: bool = typer.Option(False, "--version", help="Print the version and end.", is_eager=True),
    debug: bool = typer.Option(False, "--debug", help="Show where a failure came from; may stand anywhere."),
) -> None:
    """Write in the gaps of a text: any number of holes, of any length, in any order."""


def run(argv: list[str]) -> int:
    """Run one command line; whatever goes wrong is said in one line on standard error."""
    before, bar, after = _split(argv)
    debug = "--debug" in before
    before = evaluate.spread([word for word in before if word != "--debug"])
    if before == ["--version"]:
        import unmask

        print(f"unmask {unmask.__version__}")
        return 0
    if before[:1] != ["train"]:
        # Threads that wait for each other must not spin: on a machine that is busy a fill took a hundred times as long.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command = typer.main.get_command(build())
    try:
        code = command.main([*(before or ["--help"]), *bar, *after], prog_name="unmask", standalone_mode=False)
        sys.stdout.flush()
        return code or 0
    except BrokenPipeError:
        # Whoever read us has gone (`unmask ... | head`); keep Python from trying to flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, typer.Abort) as error:
        if debug:
            traceback.print_exc()
        print(one_line(error), file=sys.stderr)
        return error.exit_code if isinstance(error, TyperException) else 1


def _split(argv: list[str]) -> tuple[list[str], list[str], list[str]]:
    """What stands before `--`, the `--`, and what stands after it."""
    if "--" not in argv:
        return argv, [], []
    place = argv.index("--")
    return argv[:place], ["--"], argv[place + 1 :]


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
