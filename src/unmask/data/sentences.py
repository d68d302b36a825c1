"""A text is cut into units: lines, paragraphs or sentences; clean-up happens only where it is asked for."""

from __future__ import annotations

import re
from functools import cache

ABBREVIATIONS = frozenset(
    "mr mrs ms messrs mme mlle dr prof rev hon capt col gen lt sgt maj gov sen rep pres supt st mt ft no nos vol vols "
    "ch chap fig figs ed eds op cf vs viz etc al jr sr bros esq inc ltd co corp dept univ jan feb mar apr jun jul aug "
    "sept sep oct nov dec approx ca e.g i.e a.m p.m u.s u.k ph.d b.a m.a".split()
)
NEVER_LAST = frozenset(
    "mr mrs ms messrs mme mlle dr prof rev hon capt col lt sgt gov sen st mt cf vs viz e.g i.e".split()
)

# Where a sentence may end: stops (a run of them is tried once, or long runs take for ever), closing quotes or brackets,
# white space, then a letter or digit.
_END = re.compile(r"""(?<![.!?…])[.!?…]+["'”’»)\]]*(?P<gap>\s+)(?=["'“‘«(\[—-]*[^\W_])""")
_WORD_BEFORE = re.compile(r"[\w.]*\w\Z")
_FIRST_LETTER = re.compile(r"[^\W_]")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")


def cut(text: str, unit: str) -> list[str]:
    """Cut a text into its units, without the white space around them; empty ones are left out.

    Args:
        text: One document, or a part of one.
        unit: `document`, `paragraph` (blank lines between), `line` or `sentence` (English habits; a sentence never
            goes on over a blank line).
    """
    if unit == "document":
        pieces = [text]
    elif unit == "line":
        pieces = text.split("\n")
    elif unit == "paragraph":
        pieces = _BLANK_LINE.split(text)
    elif unit == "sentence":
        pieces = [sentence for paragraph in _BLANK_LINE.split(text) for sentence in sentences(paragraph)]
    else:
        raise ValueError(f"{unit!r} is no unit · text is cut into rows · choose of sentence, paragraph, line, document")
    return [stripped for piece in pieces if (stripped := piece.strip())]


def sentences(paragraph: str) -> list[str]:
    """Cut a paragraph into sentences; abbreviations, initials and reported speech (`"Why?" said he`) do not end one."""
    pieces, begin = [], 0
    for end in _END.finditer(paragraph):
        if _ends(paragraph, end):
            pieces.append(paragraph[begin : end.start("gap")])
            begin = end.end()
    pieces.append(paragraph[begin:])
    return pieces


def _ends(paragraph: str, end: re.Match[str]) -> bool:
    following = _FIRST_LETTER.search(paragraph, end.end())
    if following is None or following.group().islower():
        return False
    if paragraph[end.start() : end.start("gap")] != ".":
        return True  # not one bare stop: no abbreviation
    before = _WORD_BEFORE.search(paragraph, max(0, end.start() - 12), end.start())
    if before is None:
        return True
    word = before.group()
    if word != "I" and all(len(part) == 1 and part.isupper() for part in word.split(".")):
        return False  # initials
    lower = word.lower()
    if lower in NEVER_LAST:
        return False
    return lower not in ABBREVIATIONS or not following.group().isdigit()  # "No. 7", "Vol. 2"


def normalise(text: str, rules: tuple[str, ...]) -> str:
    """Apply clean-up: `quotes` (typographic quotes and dashes to ASCII), `spaces` (runs of white space: one space)."""
    for rule in rules:
        if rule == "quotes":
            text = text.translate(_straight())
        elif rule == "spaces":
            text = " ".join(text.split())
        else:
            raise ValueError(
                f"{rule!r} is no clean-up rule · text is left as it is otherwise · choose of quotes, spaces"
            )
    return text


@cache
def _straight() -> dict[int, str]:
    from unmask.tokenizer.typography import STRAIGHT  # late: its package imports torch, which a recipe can do without

    return str.maketrans(STRAIGHT)
