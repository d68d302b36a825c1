"""Holes are what a user leaves open in a text: how they are written, and how each lies among its neighbours."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

LOOKS = frozenset(map(chr, range(0xFE00, 0xFE10)))  # variation selectors; most follow a picture, and are none
MOST_WORDS = 999_999  # of one blank; a larger number is a slip of the hand


@dataclass(frozen=True)
class Blank:
    """One or more words are missing: from `words[0]` to `words[1]` of them (None: no limit), or one of `candidates`.

    Raises:
        ValueError: when the bounds leave no room, or a candidate comes twice.
    """

    words: tuple[int, int | None] = (1, None)
    candidates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))
        object.__setattr__(self, "candidates", tuple(self.candidates))
        low, high = self.words
        if low < 0 or (high is not None and (high < 1 or high < low)):
            shown = f"{{{low}}}" if low == high else f"{{{low},{'' if high is None else high}}}"
            raise ValueError(
                f"a blank of {shown} words cannot be filled · the lower bound comes first, the upper one is at least 1 "
                "· write ___{1,3}, or \\___ for underscores that are text"
            )
        if max(low, high or 0) > MOST_WORDS:
            raise ValueError(
                f"a blank of {max(low, high or 0)} words is beyond any text · at most {MOST_WORDS} · "
                "write \\___ for underscores that are text"
            )
        if twice := [one for one, count in Counter(self.candidates).items() if count > 1]:
            raise ValueError(f"the candidate {twice[0]!r} comes twice · each is ranked once · leave one out")


@dataclass(frozen=True)
class Mask:
    """Exactly one token of the model's vocabulary is missing."""


@dataclass(frozen=True)
class Lost:
    """Letters are lost, as epigraphers mark it: so many of them (None: nobody knows)."""

    letters: int | None = None


Sign = Blank | Mask | Lost


@dataclass(frozen=True)
class Hole:
    """A hole in its place, as a model needs to know it."""

    index: int  # 0, 1, ... in the order of the text
    sign: Sign
    spaced: bool  # the one space before it was taken into the hole: a fill begins with that space, which is not printed
    joins_left: bool  # a letter or digit stands right before it: a fill continues that word
    joins_right: bool  # a letter or digit stands right after it: that word continues the fill


def parse(text: str, *, blank: str | None = None, marks: str | None = None) -> list[str | Sign]:
    r"""Cut a text at its hole signs; what lies between comes unescaped.

    `___`, `___{2}`, `___{0,3}`, `___{cat|dog}` are blanks and `[MASK]` is a mask; a backslash right before a sign makes
    it text. The white space around a candidate is not part of it.

    Args:
        text: What the user typed.
        blank: Another sign for blanks; `___` is text then.
        marks: `"leiden"` reads `[...]` (as many lost letters as dots) and `[---]` (nobody knows how many) too.

    Raises:
        ValueError: when a blank's bounds leave no room, or `blank` or `marks` cannot be used.

    Example:
        >>> parse(r"The ___{2} sat on \___[MASK]")
        ['The ', Blank(words=(2, 2), candidates=()), ' sat on ___', Mask()]
    """
    signs, braces = _signs(blank, marks), _Braces(text)
    pieces: list[str | Sign] = []
    said, at = "", 0  # the text piece so far, and where reading goes on
    for match, n_backslashes in _found(signs, text):
        if match.start() < at:
            continue  # inside the braces of the blank before it
        said += text[at : match.start() - n_backslashes] + "\\" * (n_backslashes // 2)
        at = match.end()
        if n_backslashes % 2:
            said += match[0]
            continue
        sign: Sign
        if match.lastgroup == "blank":
            sign, at = braces.read(at)
        elif match.lastgroup == "mask":
            sign = Mask()
        else:
            sign = Lost(None if "-" in match[0] else len(match[0]) - 2)
        pieces += [said, sign] if said else [sign]
        said = ""
    said += text[at:]
    return [*pieces, said] if said else pieces


def escape(text: str, *, blank: str | None = None, marks: str | None = None) -> str:
    """Write a text such that `parse`, told the same, gives it back whole and finds no hole."""
    parts, at = [], 0
    for match, n_backslashes in _found(_signs(blank, marks), text):
        parts += [text[at : match.start()], "\\" * (n_backslashes + 1), match[0]]
        at = match.end()
    return "".join(parts) + text[at:]


def are_many(text: str | Sequence[Any]) -> bool:
    """Whether it is a list of texts rather than one text or its pieces.

    Raises:
        ValueError: when it is none of them.
    """
    return not isinstance(text, str) and not any(isinstance(piece, Sign) for piece in checked(text))


def checked(given: Any) -> Any:
    """The same, if it may be a text, its pieces or a list of texts.

    Raises:
        ValueError: when it is none of them.
    """
    if isinstance(given, bytes) or not isinstance(given, Sequence):
        raise ValueError(
            f"{given!r:.40} is no text · a text is a string, or a list of its pieces · give one, or a list of texts"
        )
    return given


def merge(pieces: Iterable[str | Sign]) -> tuple[str | Sign, ...]:
    """Pieces with touching texts joined and empty ones left out.

    Raises:
        ValueError: when a piece is neither a text nor a sign.
    """
    merged: list[str | Sign] = []
    for piece in pieces:
        if not isinstance(piece, str | Blank | Mask | Lost):
            raise ValueError(f"{piece!r} is no piece of a text · pieces are str, Blank, Mask or Lost · leave it out")
        if isinstance(piece, str) and merged and isinstance(merged[-1], str):
            merged[-1] += piece
        elif piece != "":
            merged.append(piece)
    return tuple(merged)


def place(pieces: Sequence[str | Sign], *, opens_spaced: bool = True) -> tuple[Hole, ...]:
    """The holes among merged pieces; `opens_spaced`: a row begins with a space nobody wrote."""
    holes: list[Hole] = []
    for i, piece in enumerate(pieces):
        if isinstance(piece, str):
            continue
        before, after = pieces[i - 1] if i else None, pieces[i + 1] if i + 1 < len(pieces) else None
        spaced = before.endswith(" ") if isinstance(before, str) else opens_spaced and i == 0
        joins_left = isinstance(before, str) and ends_in_word(before)
        joins_right = isinstance(after, str) and in_word(after[0])
        sign = Blank() if piece == Lost(None) else piece  # nobody knows how much is lost
        holes.append(Hole(len(holes), sign, spaced, joins_left, joins_right))
    return tuple(holes)


def in_word(character: str) -> bool:
    """Whether a character is a letter or digit, or a mark upon one; what only picks a look (U+FE0F) is none."""
    return character.isalnum() or (unicodedata.category(character)[0] == "M" and character not in LOOKS)


def ends_in_word(text: str) -> bool:
    """Whether a text ends with a letter or digit, whatever marks are upon it."""
    at = len(text) - 1
    while at > 0 and unicodedata.category(text[at])[0] == "M":
        at -= 1
    return text != "" and in_word(text[at])


class _Braces:
    """Reads what may follow a blank; every bar and brace of the text is looked for once, whatever it holds."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.closing: list[int] | None = None  # places of } and | without a backslash before them
        self.bars: list[int] = []
        self.empty = (-1, -1)  # where an empty candidate was found, and the brace behind it

    def read(self, at: int) -> tuple[Blank, int]:
        """The blank whose sign ends at `at`, and where the text goes on."""
        if not self.text.startswith("{", at):
            return Blank(), at
        if match := _COUNT.match(self.text, at):
            low = _number(match[1])
            return Blank((low, _number(match[2]) if match[2] else low)), match.end()
        if found := self._candidates(at + 1):
            return Blank(candidates=found[0]), found[1]
        return Blank(), at

    def _candidates(self, start: int) -> tuple[tuple[str, ...], int] | None:
        if self.closing is None:
            # Cutting the whole text into escaped pairs is right at every blank: no backslash stands before its brace.
            found = [(match.start(), match[0]) for match in _BARS.finditer(self.text)]
            self.closing = [place for place, sign in found if sign == "}"]
            self.bars = [place for place, sign in found if sign == "|"]
        if (which := bisect_left(self.closing, start)) == len(self.closing):
            return None
        end = self.closing[which]
        cuts = self.bars[bisect_left(self.bars, start) : bisect_left(self.bars, end)]
        if not cuts or (start <= self.empty[0] and end == self.empty[1]):
            return None
        candidates = []
        for a, b in zip([start, *(cut + 1 for cut in cuts)], [*cuts, end], strict=True):
            candidates.append(_ESCAPED.sub(r"\1", self.text[a:b]).strip())
            if not candidates[-1]:
                self.empty = (a, end)
                return None
        return tuple(candidates), end + 1


_COUNT = re.compile(r"\{([0-9]+)(?:,([0-9]+))?\}")
_BARS = re.compile(r"\\.|[|}]", re.DOTALL)
_ESCAPED = re.compile(r"\\([|}\\])")


def _number(digits: str) -> int:
    return int(digits) if len(digits) < 10 else MOST_WORDS + 1


def _signs(blank: str | None, marks: str | None) -> re.Pattern[str]:
    """What finds the signs; the group that matched says which."""
    if marks not in (None, "leiden"):
        raise ValueError(f"marks {marks!r} are not known · the only other signs are Leiden's · write marks='leiden'")
    if blank is not None and (not blank or re.search(r"[\s\\{}]", blank)):
        raise ValueError(
            f"{blank!r} cannot be the sign of a blank · it would be empty or hold white space, a backslash or a brace "
            "· choose something like '<fill>'"
        )
    kinds = [rf"(?P<blank>{'_{3,}' if blank in (None, '___') else re.escape(blank or '')})", r"(?P<mask>\[MASK\])"]
    if marks:
        kinds.append(r"(?P<lost>\[(?:\.+|-{3,})\])")
    return re.compile("|".join(kinds))


def _found(signs: re.Pattern[str], text: str) -> Iterator[tuple[re.Match[str], int]]:
    """Every sign of a text, with the number of backslashes right before it."""
    for match in signs.finditer(text):
        start = match.start()
        while start and text[start - 1] == "\\":
            start -= 1
        yield match, match.start() - start
