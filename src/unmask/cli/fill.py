"""`unmask fill`: write in the holes of a text."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from unmask import holes
from unmask.cli import inputs, options
from unmask.cli.faults import used_wrongly
from unmask.cli.lines import complaint, print_line

if TYPE_CHECKING:
    from unmask.results import Fill

Lists: TypeAlias = "list[tuple[int | None, list[Fill]]]"  # the words a free blank was told to have, the fills
EXAMPLE = """unmask fill "The ___ sat on the ___." -n 5
unmask fill "My ___{dog|cat|goldfish} barks." -n 3
echo "We had ___{2,3} for dinner." | unmask fill - --json"""


def fill(
    origin: options.Origin,
    n: options.Count = 5,
    model: options.Model = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show the text as it is written.")] = False,
    as_json: options.Json = False,
    *,
    decoding: options.Decoding,
    blank: options.BlankSign = None,
    marks: options.Marks = None,
    by_length: Annotated[
        bool, typer.Option("--by-length", help="A list for each length of a free ___: one word, two, three, four.")
    ] = False,
) -> None:
    """Fill the holes of a text, likeliest first.

    ___ is one or more words, ___{2} two, ___{1,3} one to three, ___{cat|dog} one of these, [MASK] one token.
    """
    if watch and (as_json or by_length):
        raise used_wrongly("--watch with --json or --by-length · it draws one text as it grows · leave one of them out")
    waiting = origin.read()
    signs = options.given(blank=blank, marks=marks)
    inputs.agree(lambda: holes.parse("", **signs))
    how = decoding.asked(1 if watch else n)
    import unmask

    lm = unmask.load(model)

    def work(some: list[str]) -> list[Lists]:
        if watch:
            from unmask.cli.watching import watch_one

            return [watch_one(lm, text, how | signs) for text in some]
        if by_length:
            from unmask.language_model import LENGTHS

            found = lm.fill(some, by_length=True, **how, **signs)
            return [list(zip(LENGTHS, lists, strict=True)) for lists in found]
        return [[(None, fills)] for fills in lm.fill(some, **how, **signs)]

    show = partial(print_json, model) if as_json else print_table
    size = 1 if watch else inputs.CHUNK  # a text that was shown is not to be shown again for the sake of another
    raise typer.Exit(1 if inputs.each(waiting, work, show, complaint(as_json), size) else 0)


def print_table(text: str, lists: Lists) -> None:
    """Draw the fills of one text."""
    from unmask.cli.drawing import console, draw_fills

    to = console()
    for words, fills in lists:
        what = "" if words is None else f" · {words} word{'s' * (words > 1)} a blank"
        draw_fills(to, fills, f"{text}{what}")
        to.print()


def print_json(model: str | None, text: str, lists: Lists) -> None:
    """One object for one text; with lists by length each fill says how many words it was told to have."""
    fills = [as_object(fill) | ({} if words is None else {"words": words}) for words, fills in lists for fill in fills]
    print_line({"input": text, "model": model or "default", "fills": fills})


def as_object(fill: Fill) -> dict[str, Any]:
    """A fill as the JSON of the command line has it."""
    names = ("index", "start", "end", "text", "log_prob", "prob")
    holes = [{name: getattr(hole, name) for name in names} for hole in fill.holes]
    return {name: getattr(fill, name) for name in ("text", "log_prob", "kind", "given", "status")} | {"holes": holes}
