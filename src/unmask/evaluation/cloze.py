"""Sentences with a blank in them, and the words that stood there: chosen by a seed, the same on every machine."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unmask.data.sentences import cut
from unmask.holes import Blank, Sign

SHORTEST, LONGEST = 5, 40  # words of a sentence that is taken
RUNS = (2, 3, 4)  # words of a longer blank

# A white-space word in three: what stands before its core, the core (letters, with apostrophes inside), what follows.
_WORD = re.compile(r"([^\w]*)([^\W\d_]+(?:['’][^\W\d_]+)*)([^\w]*)")
_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_SIGN = re.compile(r"_{3}|\[MASK\]")  # a sentence that holds a hole sign of its own is left out


@dataclass(frozen=True)
class Cloze:
    """A sentence with one blank."""

    before: str
    after: str
    gold: str  # what stood there: one word, or several with one space between

    @property
    def free(self) -> str:
        """The sentence with a blank of any length."""
        return f"{self.before}___{self.after}"

    @property
    def told(self) -> str:
        """The sentence with a blank that says how many words are missing."""
        return f"{self.before}___{{{self.gold.count(' ') + 1}}}{self.after}"

    def around(self, sign: Blank) -> list[str | Sign]:
        """The sentence with a sign in the place of the words, as pieces: whatever else stands in it is text."""
        pieces: list[str | Sign] = [self.before, sign, self.after]
        return [piece for piece in pieces if piece != ""]

    @property
    def sentence(self) -> str:
        """The sentence as it was."""
        return f"{self.before}{self.gold}{self.after}"


def tokens(text: str) -> list[str]:
    """Words and single signs of punctuation, for counting."""
    return _TOKEN.findall(text)


def texts(path: Path) -> Iterator[str]:
    """The texts of a file: its paragraphs where blank lines part them, else its lines; white space made single.

    Raises:
        ValueError: when the file is not UTF-8.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 · its bytes are no characters · convert it with iconv") from None
    paragraphs = cut(content, "paragraph")
    for text in paragraphs if len(paragraphs) > 1 else cut(content, "line"):
        yield " ".join(text.split())


def sentences(paths: Iterable[Path]) -> list[str]:
    """The different sentences of 5 to 40 words, in order."""
    found: dict[str, None] = {}
    for path in paths:
        for text in texts(path):
            for sentence in cut(text, "sentence"):
                if SHORTEST <= len(sentence.split()) <= LONGEST and not _SIGN.search(sentence):
                    found[sentence] = None
    return list(found)


def choose(found: Sequence[str], n: int, seed: int) -> list[str]:
    """At most `n` of them, in a random order that the seed fixes."""
    order = list(found)
    random.Random(seed).shuffle(order)
    return order[:n]


def one_word(chosen: Iterable[str], seed: int) -> list[Cloze]:
    """A blank for one word of each sentence that has one made of letters."""
    return [cloze for sentence in chosen if (cloze := _blanked(sentence, (1,), seed))]


def phrases(chosen: Iterable[str], seed: int) -> list[Cloze]:
    """A blank for two to four words of each sentence; no punctuation stands inside."""
    return [cloze for sentence in chosen if (cloze := _blanked(sentence, RUNS, seed))]


def _blanked(sentence: str, lengths: Sequence[int], seed: int) -> Cloze | None:
    draw = random.Random(f"{seed} {len(lengths)} {sentence}")  # of the sentence alone, not of its company
    parts = [_WORD.fullmatch(word) for word in sentence.split(" ")]
    for length in draw.sample(lengths, len(lengths)):
        places = [start for start in range(len(parts) - length + 1) if _clean(parts[start : start + length])]
        if places:
            return _cloze(sentence.split(" "), parts, draw.choice(places), length)
    return None


def _clean(run: Sequence[re.Match[str] | None]) -> bool:
    """All of letters, and nothing but single spaces between them."""
    if any(part is None for part in run):
        return False
    groups = [part.groups() for part in run if part is not None]
    return not any(after or before for (_, _, after), (before, _, _) in zip(groups, groups[1:], strict=False))


def _cloze(words: list[str], parts: Sequence[re.Match[str] | None], start: int, length: int) -> Cloze:
    run = [part for part in parts[start : start + length] if part is not None]
    before = " ".join([*words[:start], run[0].group(1)])
    after = " ".join([run[-1].group(3), *words[start + length :]])
    return Cloze(before, after, " ".join(part.group(2) for part in run))
