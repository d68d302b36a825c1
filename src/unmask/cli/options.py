"""The options that several verbs share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Texts = Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="The texts; - reads standard input.")]
File = Annotated[str | None, typer.Option("--file", help="A file with one text a line; - is standard input.")]
Whole = Annotated[bool, typer.Option("--whole", help="The file is one text, line ends and all.")]
Model = Annotated[
    str | None, typer.Option("--model", metavar="M", help="A folder or org/name on the Hub; else the built-in model.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Count = Annotated[int, typer.Option("-n", min=1, help="How many different answers.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same answer.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0: the likeliest; 1: as the model says.")]
TopP = Annotated[float | None, typer.Option("--top-p", min=0.0, max=1.0, help="Keep words of this share together.")]
Beam = Annotated[int | None, typer.Option("--beam", min=1, help="How many hypotheses the search keeps.")]
MaxWords = Annotated[int | None, typer.Option("--max-words", min=1, help="At most so many words a hole.")]
Policy = Annotated[str | None, typer.Option("--policy", help="Which hole is written next; docs/decoding.md.")]
BlankSign = Annotated[str | None, typer.Option("--blank", metavar="SIGN", help="Another sign for ___.")]
Marks = Annotated[str | None, typer.Option("--marks", help="leiden: epigraphers' [...] and [---] too.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="RUN", help="The folder the run is kept in.")]


def given(**options: Any) -> dict[str, Any]:
    """The options that were set; the rest is left to the library's own defaults."""
    return {name: value for name, value in options.items() if value is not None}
