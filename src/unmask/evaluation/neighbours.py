"""What counting alone reaches: the commonest words, and the words between the same two neighbours."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

DISCOUNT = 0.75  # taken off every count and given to the shorter context (Ney, Essen and Kneser 1994)
EDGE = "\n"  # the neighbour of a word that begins or ends its text
WIDE = 200  # the commonest words considered whatever the context


class Neighbours:
    """Counts of words with the neighbours on both sides, on one side, and alone; only of contexts that are asked for.

    A word's probability backs off from both neighbours to the product of each alone over the word's own, and from one
    neighbour to none. Neighbours are compared in lower case, punctuation counts as a neighbour.
    """

    def __init__(self, contexts: Iterable[tuple[str, str]]) -> None:
        """Prepare to count for these (left, right) neighbours."""
        pairs = {(left.lower(), right.lower()) for left, right in contexts}
        self.both: dict[tuple[str, str], Counter[str]] = {pair: Counter() for pair in pairs}
        self.left: dict[str, Counter[str]] = {left: Counter() for left, _ in pairs}
        self.right: dict[str, Counter[str]] = {right: Counter() for _, right in pairs}
        self.alone: Counter[str] = Counter()

    def read(self, tokens: Sequence[str]) -> None:
        """Count one text; only words of letters are words, the rest are neighbours."""
        low = [EDGE, *(token.lower() for token in tokens), EDGE]
        for place, word in enumerate(tokens):
            if not word[0].isalpha():
                continue
            left, right = low[place], low[place + 2]
            self.alone[word] += 1
            if (on_left := self.left.get(left)) is not None:
                on_left[word] += 1
                if (pair := self.both.get((left, right))) is not None:
                    pair[word] += 1
            if (on_right := self.right.get(right)) is not None:
                on_right[word] += 1

    def commonest(self, n: int) -> list[str]:
        """The `n` commonest words; ties in alphabetical order."""
        return sorted(self.alone, key=lambda word: (-self.alone[word], word))[:n]

    def prepare(self) -> None:
        """To be called when all is read: what every answer needs."""
        self._total = max(self.alone.total(), 1)
        self._wide = self.commonest(WIDE)

    def best(self, left: str, right: str, n: int) -> list[str]:
        """The `n` likeliest words between two neighbours."""
        left, right = left.lower(), right.lower()
        both, on_left, on_right = self.both[left, right], self.left[left], self.right[right]
        words = set(self._wide) | set(both)
        for counter in (on_left, on_right):
            words |= {word for word, _ in counter.most_common(WIDE)}
        alone = {word: self.alone[word] / self._total for word in words}
        with_left = backed_off(on_left, alone)
        with_right = backed_off(on_right, alone)
        product = {word: with_left[word] * with_right[word] / alone[word] for word in words}
        total = sum(product.values())
        probability = backed_off(both, {word: value / total for word, value in product.items()})
        return sorted(words, key=lambda word: (-probability[word], word))[:n]


def backed_off(counts: Counter[str], lower: dict[str, float]) -> dict[str, float]:
    """Discounted counts, and what was taken off shared as the shorter context says."""
    total = counts.total()
    if not total:
        return lower
    kept = DISCOUNT * len(counts) / total
    return {word: max(counts[word] - DISCOUNT, 0) / total + kept * below for word, below in lower.items()}


def common_words(counted: Counter[str], n: int) -> frozenset[str]:
    """The `n` commonest words, in lower case."""
    low: dict[str, int] = defaultdict(int)
    for word, count in counted.items():
        low[word.lower()] += count
    return frozenset(sorted(low, key=lambda word: (-low[word], word))[:n])
