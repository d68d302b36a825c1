"""A model that fills nothing, asked in words: what people do with a plain language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from unmask.holes import Blank, parse

if TYPE_CHECKING:
    from unmask.language_model import LanguageModel
    from unmask.results import Fill

MOST_WORDS = 8  # of an answer whose length is not told, as where models fill


@dataclass(frozen=True)
class Asked:
    """Fills the blank of a text by going on from a question about it.

    `wording` holds `{text}`, the text with `___` for its blank; the answer is what follows. Where the number of words
    is told, the answer has as many.
    """

    lm: LanguageModel
    wording: str

    def fill(self, text: Sequence[str], n: int = 1, *, seed: int = 0) -> list[list[Fill]]:
        """The `n` best answers to each, as fills of the question's own end."""
        return self.lm.fill([self._question(one) for one in text], n=n, seed=seed, max_words=MOST_WORDS)

    def _question(self, text: str) -> list[Any]:
        """The wording about a text, and a blank behind it with the limits or candidates of the text's own."""
        pieces = parse(text)
        (blank,) = (piece for piece in pieces if isinstance(piece, Blank))  # the tasks that are asked have one each
        said = self.wording.replace("{text}", "".join(piece if isinstance(piece, str) else "___" for piece in pieces))
        return [said if said.endswith((" ", "\n")) else f"{said} ", blank]


Filler: TypeAlias = "LanguageModel | Asked"
