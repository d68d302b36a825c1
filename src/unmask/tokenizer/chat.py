"""Conversations as token ids, in the form that LLaDA (Nie et al. 2025) and Llama 3 were taught.

A row begins with its start sign, once. Each message follows as `<|start_header_id|>role<|end_header_id|>`, an empty
line, its text without white space at the ends, `<|eot_id|>`. Where an answer is wanted an assistant's header is last;
a text to be learned from has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from unmask.canvas import Canvas, Role
from unmask.holes import Blank, Hole
from unmask.tokenizer.reading import Reading
from unmask.tokenizer.tokenizer import Tokenizer

HEADER, HEADED, TURN = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
ROLES = ("system", "user", "assistant")
Message = Mapping[str, str]  # role and content


class Template:
    """How a vocabulary writes conversations."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Look up its signs.

        Raises:
            ValueError: when the vocabulary has none for conversations.
        """
        self.tokenizer = tokenizer
        self.signs = {name: tokenizer.vocabulary.get(name) for name in (HEADER, HEADED, TURN)}
        if missing := [name for name, number in self.signs.items() if number is None]:
            raise ValueError(
                f"no {missing[0]} in this vocabulary · its model was taught no conversations of that form · "
                "use one that was, such as LLaDA-8B-Instruct, or go on from a text"
            )

    def ids(self, messages: Sequence[Message], answer: bool = False) -> list[int]:
        """The token ids of a conversation, the start sign before them left out.

        Args:
            messages: Each with a `role` (system, user or assistant) and its `content`; names of special tokens in a
                content are plain text.
            answer: Whether an assistant's header comes last, behind which an answer goes on.

        Raises:
            ValueError: for a message without a known role or a text.
        """
        found: list[int] = []
        for number, message in enumerate(messages):
            role, content = message.get("role"), message.get("content")
            if role not in ROLES or not isinstance(content, str):
                raise ValueError(
                    f"message {number} is {dict(message)!r:.80} · each has a role and a content · "
                    f"roles are {', '.join(ROLES)}, a content is a text"
                )
            found += [*self._header(str(role)), *self._plain(f"\n\n{content.strip()}"), self._sign(TURN)]
        return [*found, *self._header("assistant"), *self._plain("\n\n")] if answer else found

    def reading(self, messages: Sequence[Message]) -> Reading:
        """A conversation and a hole for the answer, as a row to be filled; its text is the answer alone.

        Raises:
            ValueError: when it is empty, or its last word is the assistant's already.
        """
        if not messages or messages[-1].get("role") == "assistant":
            raise ValueError(
                "nobody asks · a conversation ends with what is to be answered · end it with a user's message last"
            )
        ids, signs = self.ids(messages, answer=True), self.tokenizer.signs
        role = torch.tensor([Role.SCAFFOLD, *[Role.TEXT] * len(ids), Role.SIGN, Role.SCAFFOLD])
        hole = torch.full_like(role, -1)
        hole[-2] = 0
        row = [signs["start"], *ids, signs["blank"], signs["end"]]
        canvas = Canvas.from_rows([row], role=role, fixed=role != Role.SIGN, hole=hole)
        return Reading(canvas, (Hole(0, Blank(), spaced=False, joins_left=False, joins_right=False),), (Blank(),))

    def _sign(self, name: str) -> int:
        return int(self.signs[name] or 0)

    def _header(self, role: str) -> list[int]:
        return [self._sign(HEADER), *self._plain(role), self._sign(HEADED)]

    def _plain(self, text: str) -> list[int]:
        """Ids of a text in which the template's signs are text, also where the vocabulary has them as words."""
        ids = self.tokenizer.encode(text, inside=True)
        own = set(self.signs.values())
        if own.isdisjoint(ids):
            return ids
        for name in self.signs:  # character by character, so that none is found
            at = text.find(name)
            if at >= 0:
                between = [number for letter in name for number in self.tokenizer.encode(letter, inside=True)]
                return [*self._plain(text[:at]), *between, *self._plain(text[at + len(name) :])]
        return [number for number in ids if number not in own]
