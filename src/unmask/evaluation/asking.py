"""A model that fills nothing, asked in words: what people do with a plain language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from unmask.holes import Blank, parse

if TYPE_CHECKING:
    from unmask.language_model import LanguageModel, Pieces
    from unmask.results import Fill

MOST_WORDS = 8  # of an answer whose length is not told, as where models fill


@dataclass(frozen=True)
class Asked:
    """Fills the blank of a text by going on from a question about it.

    `wording` holds `{text}`, the text with `___` for its blank; the answer is what follows. Where the number of words
    is told, the answer has as many. `chat`: it is a user's turn of a conversation, and the answer the assistant's.
    """

    lm: LanguageModel
    wording: str
    chat: bool = False

    def fill(self, text: Sequence[str | Pieces], n: int = 1, *, seed: int = 0) -> list[list[Fill]]:
        """The `n` best answers to each, as fills of the question's own end, or alone.

        Raises:
            ValueError: where `chat` is asked of a model that was taught no conversations.
        """
        asked = [self._question(one) for one in text]
        how: dict[str, Any] = {"n": n, "seed": seed, "max_words": MOST_WORDS}
        if not self.chat:
            return self.lm.fill(
                [[said if said.endswith((" ", "\n")) else f"{said} ", sign] for said, sign in asked], **how
            )
        from unmask.decoding.search import BEAM
        from unmask.tokenizer.chat import Template

        template = Template(self.lm.tokenizer)
        turns = [template.reading([{"role": "user", "content": said}], sign) for said, sign in asked]
        return self.lm.generate(turns, beam=max(BEAM, 2 * n), **how)

    def _question(self, text: str | Pieces) -> tuple[str, Blank]:
        """The wording about a text, and a blank with the limits or candidates of the text's own."""
        pieces = parse(text) if isinstance(text, str) else text
        (blank,) = (piece for piece in pieces if isinstance(piece, Blank))  # the tasks that are asked have one each
        said = self.wording.replace("{text}", "".join(piece if isinstance(piece, str) else "___" for piece in pieces))
        return said, blank


Filler: TypeAlias = "LanguageModel | Asked"
