"""`unmask generate`: go on from a prompt."""

from __future__ import annotations

from functools import partial

import typer

from unmask.cli import inputs, options
from unmask.cli.fill import Lists, print_json, print_table
from unmask.cli.lines import complaint

EXAMPLE = """unmask generate "Once upon a time" --max-words 20 --temperature 0.8 --seed 1"""


def generate(
    origin: options.Origin,
    n: options.Count = 1,
    model: options.Model = None,
    as_json: options.Json = False,
    *,
    decoding: options.Decoding,
) -> None:
    """Go on from a prompt, which stays as it is."""
    waiting, how = origin.read(), decoding.asked(n)
    import unmask

    lm = unmask.load(model)

    def work(some: list[str]) -> list[Lists]:
        return [[(None, fills)] for fills in lm.generate(some, **how)]

    show = partial(print_json, model) if as_json else print_table
    raise typer.Exit(1 if inputs.each(waiting, work, show, complaint(as_json)) else 0)
