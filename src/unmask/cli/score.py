"""`unmask score`: the log-probability of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from unmask.cli import inputs, options
from unmask.cli.lines import complaint, print_line
from unmask.decoding import choices

if TYPE_CHECKING:
    from unmask.results import Score

EXAMPLE = """unmask score "The cat sat on the mat." "The mat sat on the cat."
unmask score "tea." "bread." --prompt "He drank a cup of"
echo "The cat sat on the mat." | unmask score - --json"""
FIELDS = ("log_prob", "kind", "given", "std_error", "tokens", "words")


def score(
    origin: options.Origin,
    model: options.Model = None,
    as_json: options.Json = False,
    seed: options.Seed = 0,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="What stands before each text and is given; by a model of pairs the source."),
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help=f"The estimator: {', '.join(choices.METHODS)}.")
    ] = None,
    policy: Annotated[str | None, typer.Option("--policy", help="With duel: which policy writes the text.")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="With duel: in how many forward passes.", show_default="one a token")
    ] = None,
) -> None:
    """Say how likely a text is.

    Log-probabilities in nats: exact, a bound, or an estimate, each in a column of its own.
    """
    waiting, how = origin.read(), options.given(method=method, policy=policy, steps=steps)
    inputs.agree(lambda: choices.check_method(method, policy, steps))
    import unmask

    lm = unmask.load(model)
    if method is not None:  # which estimators a model has does not hang on the text
        inputs.agree(lambda: lm.score("a", **how))
    scored: list[tuple[str, Score]] = []

    def work(some: list[str]) -> Sequence[Score]:
        return lm.score(some, prompt, seed=seed, **how)

    def show(text: str, result: Score) -> None:
        if not as_json:
            scored.append((text, result))
            return
        line = {"input": text} | options.given(prompt=prompt) | {"model": model or "default"}
        line |= {name: getattr(result, name) for name in FIELDS}
        print_line(line)

    failed = inputs.each(waiting, work, show, complaint(as_json))
    if scored:
        from unmask.cli.drawing import console, draw_scores

        draw_scores(console(), scored)
    raise typer.Exit(1 if failed else 0)
