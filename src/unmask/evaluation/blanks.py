"""Exact fills of blanks in held-out text, beside what counting reaches, and a bound in nats a word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.evaluation import cloze
from unmask.evaluation.cloze import Cloze
from unmask.evaluation.neighbours import EDGE, Neighbours, common_words
from unmask.evaluation.report import Report, proportion, ratio

if TYPE_CHECKING:
    from unmask.evaluation import Tell
    from unmask.language_model import LanguageModel

BATCH = 32  # texts a call
TOP = 5
COMMON = 150  # words that are reported apart, since they are easy


def evaluate(lm: LanguageModel, text: Sequence[Path], counts: Sequence[Path], n: int, seed: int, tell: Tell) -> Report:
    """Fill one blank in each of `n` held-out sentences.

    Raises:
        ValueError: when the text has no sentence of 5 to 40 words.
    """
    chosen = cloze.choose(cloze.sentences(text), n, seed)
    words, phrases = cloze.one_word(chosen, seed), cloze.phrases(chosen, seed)
    if not words:
        raise ValueError("no sentence of 5 to 40 words in the text · there is nothing to blank · give more text")
    table = count(words, counts or text, tell)
    common = common_words(table.alone, COMMON)
    rows = []
    if counts:
        # Without a text of its own to count on, a table would have read the answers.
        floor = table.commonest(TOP)
        rows += _one_word_rows("commonest words", words, [floor] * len(words), common)
        rows += _one_word_rows("count table", words, [_looked_up(table, item) for item in words], common)
    for name, told in (("model, free", False), ("model, told ___{1}", True)):
        rows += _one_word_rows(name, words, _filled(lm, words, told, seed, tell), common)
    for name, told in (("model, free", False), ("model, told ___{k}", True)):
        if phrases:
            rows.append(_row("2-4 words", name, phrases, _filled(lm, phrases, told, seed, tell)))
    rows += bound(lm, chosen, seed, tell)
    where = "the --counts text" if counts else "the evaluated text itself (no --counts: no count table)"
    return Report(
        rows,
        [
            "hit: the fill is exactly the words that stood there, capitals too; ± one standard error",
            f"rare: outside the {COMMON} commonest words, counted on {where}",
            "bound: of whole sentences, by one pair of random orders each where many orders lead to a text",
        ],
    )


def count(items: Sequence[Cloze], paths: Sequence[Path], tell: Tell) -> Neighbours:
    """Read the counted text once, for the contexts of these blanks."""
    table = Neighbours(neighbours(item) for item in items)
    for done, path in enumerate(paths):
        tell(done, len(paths), "counting words")
        for text in cloze.texts(path):
            table.read(cloze.tokens(text))
    table.prepare()
    return table


def neighbours(item: Cloze) -> tuple[str, str]:
    """What stands right before and after a blank."""
    return (cloze.tokens(item.before) or [EDGE])[-1], (cloze.tokens(item.after) or [EDGE])[0]


def bound(lm: LanguageModel, chosen: Sequence[str], seed: int, tell: Tell) -> list[dict[str, Any]]:
    """Nats a word of whole sentences; an exact value is a bound too, an estimate is kept apart."""
    # A bound by a pair of orders for every length: the exact sum of a short text takes a thousand times as long.
    how: dict[str, Any] = {"method": "bound", "orders": 2} if lm.model.objective.paths == "many" else {}
    scores = _batched(lambda some: lm.score(some, seed=seed, **how), chosen, tell, "scoring")
    rows = []
    for name, kinds in (("bound", {"exact", "bound"}), ("estimate", {"estimate"})):
        some = [score for score in scores if score.kind in kinds]
        if some:
            value, error = ratio([-score.log_prob for score in some], [score.words for score in some])
            row = {"blanks": "whole sentences", "by": f"model, {name}", "n": len(some)}
            rows.append(row | {"nats a word": value, "±": error})
    return rows


def _filled(lm: LanguageModel, items: Sequence[Cloze], told: bool, seed: int, tell: Tell) -> list[list[str]]:
    """The model's best fills for each blank."""
    holes = [item.told if told else item.free for item in items]
    answers = _batched(lambda some: lm.fill(some, n=TOP, seed=seed), holes, tell, "filling")
    return [[fill.holes[0].text.strip() for fill in fills] for fills in answers]


def _batched(work: Callable[[list[str]], Any], inputs: Sequence[str], tell: Tell, what: str) -> list[Any]:
    """Batches of texts of about one length, answers in the order of the inputs."""
    order = sorted(range(len(inputs)), key=lambda place: len(inputs[place]))
    answers: list[Any] = [None] * len(inputs)
    for start in range(0, len(order), BATCH):
        tell(start, len(order), what)
        places = order[start : start + BATCH]
        for place, answer in zip(places, work([inputs[place] for place in places]), strict=True):
            answers[place] = answer
    tell(len(order), len(order), what)
    return answers


def _looked_up(table: Neighbours, item: Cloze) -> list[str]:
    return table.best(*neighbours(item), TOP)


def _one_word_rows(
    name: str, items: Sequence[Cloze], answers: Sequence[Sequence[str]], common: frozenset[str]
) -> list[dict[str, Any]]:
    rare = [place for place, item in enumerate(items) if item.gold.lower() not in common]
    rows = [_row("1 word", name, items, answers)]
    if rare:
        rows.append(_row("1 word, rare", name, [items[i] for i in rare], [answers[i] for i in rare]))
    return rows


def _row(blanks: str, by: str, items: Sequence[Cloze], answers: Sequence[Sequence[str]]) -> dict[str, Any]:
    first, first_error = proportion([item.gold in got[:1] for item, got in zip(items, answers, strict=True)])
    five, five_error = proportion([item.gold in got[:TOP] for item, got in zip(items, answers, strict=True)])
    row: dict[str, Any] = {"blanks": blanks, "by": by, "n": len(items)}
    return row | {"top-1": first, "± 1": first_error, "top-5": five, "± 5": five_error}
