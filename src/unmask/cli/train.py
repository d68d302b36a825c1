"""`unmask train`: a model from a recipe, or simply from text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unmask.cli import options
from unmask.cli.faults import used_wrongly

EXAMPLE = """printf 'The cat sat on the mat.\\nThe dog sat on the log.\\n%.0s' $(seq 200) > animals.txt
unmask train animals.txt --out runs/animals steps=20
unmask fill "The ___ sat on the mat." --model runs/animals/model"""
RECIPES = Path(__file__).parents[1] / "recipes"


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE|DATA", help="A recipe, or a text file, folder or JSONL.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="What to change: steps=60 backbone.width=128.")
    ] = None,
    out: options.Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where RUN stopped.")] = False,
) -> None:
    """Train a model from a recipe or from text.

    RECIPE is a YAML file or the name of one in the package; DATA is a text file, a folder or JSONL.
    """
    for override in overrides or []:
        if "=" not in override:
            raise used_wrongly(f"{override!r} is no key=value · settings are written so · for example steps=60")
    if resume and out is None:
        raise used_wrongly("--resume without --out · which run goes on is not said · add --out RUN")
    path = located(recipe)
    from unmask.training.run import train as run

    run(path, overrides or [], out, resume)


def located(recipe: str) -> str:
    """The path of a recipe: as given, or by its name among those of the package.

    Raises:
        ValueError: when it is neither a path nor such a name.
    """
    if Path(recipe).exists() or "/" in recipe:
        return recipe
    inside = RECIPES / f"{recipe.removesuffix('.yaml')}.yaml"
    if inside.is_file():
        return str(inside)
    names = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml"))) or "none yet"
    raise ValueError(f"{recipe!r} is no file, folder or recipe · recipes here: {names} · give a path, or one of these")
