"""`unmask generate`: go on from a prompt, or hold a conversation."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmask.cli import inputs, options
from unmask.cli.faults import used_wrongly
from unmask.cli.fill import Lists, as_object, print_json, print_table
from unmask.cli.lines import complaint, print_line

if TYPE_CHECKING:
    from unmask.language_model import LanguageModel
    from unmask.results import Fill

EXAMPLE = """unmask generate "Once upon a time" --max-words 20 --temperature 0.8 --seed 1"""


def generate(
    origin: options.Origin,
    n: options.Count = 1,
    model: options.Model = None,
    as_json: options.Json = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="Hold a conversation: each text, or line of standard input, is a turn.")
    ] = False,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="With --chat: what the model is told first.")
    ] = None,
    *,
    decoding: options.Decoding,
) -> None:
    """Go on from a prompt, which stays as it is; with --chat answer turn by turn.

    A conversation takes a model that was taught some, such as LLaDA-8B-Instruct.
    """
    if system is not None and not chat:
        raise used_wrongly("--system without --chat · a prompt is taken as it is · add --chat, or put it in the prompt")
    if chat and n > 1:
        raise used_wrongly("-n with --chat · a conversation goes on from one answer · leave it out")
    asks = chat and not origin.texts and origin.file is None
    waiting = _turns() if asks else origin.read()
    how = decoding.asked(n)
    import unmask

    lm = unmask.load(model)
    if chat:
        raise typer.Exit(1 if _converse(lm, waiting, system, how, model, as_json) else 0)

    def work(some: list[str]) -> list[Lists]:
        return [[(None, fills)] for fills in lm.generate(some, **how)]

    show = partial(print_json, model) if as_json else print_table
    raise typer.Exit(1 if inputs.each(waiting, work, show, complaint(as_json)) else 0)


def _converse(
    lm: LanguageModel,
    turns: Iterable[inputs.Input],
    system: str | None,
    how: dict[str, Any],
    model: str | None,
    as_json: bool,
) -> int:
    """Answer turn by turn; how many could not be answered."""
    from unmask.conversation import Conversation

    talk = Conversation(lm, system)

    def show(text: str, answer: Fill) -> None:
        if as_json:
            print_line({"input": text, "model": model or "default", "fills": [as_object(answer)]})
        else:
            print(answer.text.strip(), flush=True)

    return inputs.each(turns, lambda some: [talk.say(text, **how) for text in some], show, complaint(as_json), size=1)


def _turns() -> Iterator[inputs.Input]:
    """Lines of standard input as they come, empty ones left out; a terminal shows that it waits."""
    waiting = inputs.read(["-"], None, whole=False)
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        turn = next(waiting, None)
        if turn is None:
            return
        if turn.text.strip() or turn.error is not None:
            yield turn
