"""`unmask generate`: go on from a prompt."""

from __future__ import annotations

from functools import partial
from typing import Any

import typer

from unmask.cli import inputs, options
from unmask.cli.fill import Lists, print_json, print_table
from unmask.cli.lines import complaint

EXAMPLE = """unmask generate "Once upon a time" --max-words 20 --temperature 0.8 --seed 1"""


def generate(
    texts: options.Texts = None,
    file: options.File = None,
    whole: options.Whole = False,
    n: options.Count = 1,
    model: options.Model = None,
    as_json: options.Json = False,
    seed: options.Seed = 0,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = None,
    beam: options.Beam = None,
    max_words: options.MaxWords = None,
    policy: options.Policy = None,
) -> None:
    """Go on from a prompt, which stays as it is."""
    waiting = inputs.read(texts, file, whole)
    import unmask

    lm = unmask.load(model) if model else unmask.load()
    how: dict[str, Any] = {"n": n, "seed": seed, "temperature": temperature}
    how |= options.given(top_p=top_p, beam=beam, max_words=max_words, policy=policy)
    inputs.agree(lambda: lm.generate([], **how))

    def work(some: list[str]) -> list[Lists]:
        return [[(None, fills)] for fills in lm.generate(some, **how)]

    show = partial(print_json, model) if as_json else print_table
    raise typer.Exit(1 if inputs.each(waiting, work, show, complaint(as_json)) else 0)
