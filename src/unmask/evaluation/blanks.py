"""Exact fills of blanks in held-out text, beside what counting reaches, and a bound in nats a word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.evaluation import cloze, multiple_choice
from unmask.evaluation.asking import Asked
from unmask.evaluation.cloze import Cloze
from unmask.evaluation.filling import batched, filled, hits
from unmask.evaluation.neighbours import EDGE, Neighbours, common_words
from unmask.evaluation.report import Report, ratio

if TYPE_CHECKING:
    from unmask.evaluation import Tell
    from unmask.evaluation.asking import Filler
    from unmask.language_model import LanguageModel

TOP = 5
CHOICES = 2000  # the commonest words, from which nine others are drawn for a choice of ten
COMMON = 150  # words that are reported apart, since they are easy


def evaluate(lm: Filler, text: Sequence[Path], counts: Sequence[Path], n: int, seed: int, tell: Tell) -> Report:
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
        rows += _one_word_rows(name, words, filled(lm, words, told, TOP, seed, tell), common)
    for name, told in (("model, free", False), ("model, told ___{k}", True)):
        if phrases:
            rows.append(hits("2-4 words", name, phrases, filled(lm, phrases, told, TOP, seed, tell), TOP))
    others = table.commonest(CHOICES)
    offered = [multiple_choice.candidates(item, others, seed) for item in words]
    rows.append(multiple_choice.choice(lm, "1 word", words, offered, seed, tell))
    if not isinstance(lm, Asked):
        rows += bound(lm, chosen, seed, tell)
    where = "the --counts text" if counts else "the evaluated text itself (no --counts: no count table)"
    return Report(
        rows,
        [
            "hit: the fill is exactly the words that stood there, capitals too; ± one standard error",
            f"rare: outside the {COMMON} commonest words, counted on {where}",
            f"of {multiple_choice.CANDIDATES}: among nine of the {CHOICES} commonest words; ECE in ten bins",
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
    scores = batched(lambda some: lm.score(some, seed=seed, **how), chosen, tell, "scoring")
    rows = []
    for name, kinds in (("bound", {"exact", "bound"}), ("estimate", {"estimate"})):
        some = [score for score in scores if score.kind in kinds]
        if some:
            value, error = ratio([-score.log_prob for score in some], [score.words for score in some])
            row = {"blanks": "whole sentences", "by": f"model, {name}", "n": len(some)}
            rows.append(row | {"nats a word": value, "±": error})
    return rows


def _looked_up(table: Neighbours, item: Cloze) -> list[str]:
    return table.best(*neighbours(item), TOP)


def _one_word_rows(
    name: str, items: Sequence[Cloze], answers: Sequence[Sequence[str]], common: frozenset[str]
) -> list[dict[str, Any]]:
    rare = [place for place, item in enumerate(items) if item.gold.lower() not in common]
    rows = [hits("1 word", name, items, answers, TOP)]
    if rare:
        rows.append(hits("1 word, rare", name, [items[i] for i in rare], [answers[i] for i in rare], TOP))
    return rows
