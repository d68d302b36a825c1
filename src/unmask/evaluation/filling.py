"""A model's fills for many blanks, and how often they are what stood there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from unmask.evaluation.asking import Asked
from unmask.evaluation.cloze import Cloze
from unmask.evaluation.report import proportion
from unmask.holes import Blank
from unmask.results import NoFillError

if TYPE_CHECKING:
    from unmask.evaluation import Tell
    from unmask.evaluation.asking import Filler
    from unmask.results import Fill

CLOSING = ".,;:!?\"')"  # taken off answers in words
BATCH = 32  # texts a call


def filled(lm: Filler, items: Sequence[Cloze], told: bool, n: int, seed: int, tell: Tell) -> list[list[str]]:
    """The model's `n` best fills for each blank; `told` says how many words are missing."""
    words = [item.gold.count(" ") + 1 for item in items]
    holes = [item.around(Blank((k, k)) if told else Blank()) for item, k in zip(items, words, strict=True)]
    sizes = [len(item.before) + len(item.after) for item in items]
    if not isinstance(lm, Asked):
        answers = batched(lambda some: _fills(lm, some, n, seed), holes, tell, "filling", sizes)
        return [[fill.holes[0].text.strip() for fill in fills] for fills in answers]
    # What goes on in its own way may close with a full stop: twice as many answers, told apart without.
    answers = batched(lambda some: _fills(lm, some, 2 * n, seed), holes, tell, "asking", sizes)
    bare = [[fill.holes[0].text.strip(f" {CLOSING}") for fill in fills] for fills in answers]
    return [list(dict.fromkeys(answer for answer in some if answer))[:n] for some in bare]


def _fills(lm: Filler, texts: list[Any], n: int, seed: int) -> list[list[Fill]]:
    """The fills of each text; none of one that nothing was found for, which others are not to pay for."""
    try:
        return lm.fill(texts, n=n, seed=seed)
    except NoFillError:
        return [[]] if len(texts) == 1 else [fills for text in texts for fills in _fills(lm, [text], n, seed)]


def batched(
    work: Callable[[list[Any]], Any],
    inputs: Sequence[Any],
    tell: Tell,
    what: str,
    sizes: Sequence[int] | None = None,
) -> list[Any]:
    """Batches of texts of about one length, answers in the order of the inputs; `sizes`: how long each is."""
    sizes = [len(str(one)) for one in inputs] if sizes is None else sizes
    order = sorted(range(len(inputs)), key=sizes.__getitem__)
    answers: list[Any] = [None] * len(inputs)
    for start in range(0, len(order), BATCH):
        tell(start, len(order), what)
        places = order[start : start + BATCH]
        for place, answer in zip(places, work([inputs[place] for place in places]), strict=True):
            answers[place] = answer
    tell(len(order), len(order), what)
    return answers


def hits(blanks: str, by: str, items: Sequence[Cloze], answers: Sequence[Sequence[str]], n: int) -> dict[str, Any]:
    """A row: how often the first answer, and one of the first `n`, is exactly what stood there.

    Where there are blanks without any answer, it says how many; they are misses.
    """
    row: dict[str, Any] = {"blanks": blanks, "by": by, "n": len(items)}
    if empty := sum(not got for got in answers):
        row |= {"no answer": empty}
    for name, most in (("1", 1), (str(n), n)):
        share, error = proportion([item.gold in got[:most] for item, got in zip(items, answers, strict=True)])
        row |= {f"top-{name}": share, f"± {name}": error}
    return row
