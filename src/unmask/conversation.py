"""A conversation with a model: who said what, and the next answer."""

from __future__ import annotations

from typing import Any

from unmask.language_model import LanguageModel
from unmask.results import Fill
from unmask.tokenizer.chat import Message, Template


class Conversation:
    """What was said so far; `say` adds a turn and its answer.

    Example:
        >>> chat = Conversation(unmask.load("GSAI-ML/LLaDA-8B-Instruct"))  # doctest: +SKIP
        >>> chat.say("Name three rivers.").text  # doctest: +SKIP
    """

    def __init__(self, lm: LanguageModel, system: str | None = None) -> None:
        """Begin one.

        Args:
            lm: Who answers; of any family that goes on from a text.
            system: What it is told before all else.

        Raises:
            ValueError: when its vocabulary has no signs for conversations.
        """
        self.lm, self.template = lm, Template(lm.tokenizer)
        self.messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]

    def say(self, text: str, **how: Any) -> Fill:
        """Say something; the answer is the text of the fill, without white space at its ends.

        What could not be answered is not said.

        Args:
            text: The user's turn; hole signs and names of special tokens in it are text.
            how: As of `LanguageModel.generate`.

        Raises:
            ValueError: when the conversation has grown too long for the model, or it cannot go on from it.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        answer: Fill = self.lm.generate(self.template.reading(asked), **how)[0]
        self.messages = [*asked, {"role": "assistant", "content": answer.text.strip()}]
        return answer
