"""Conversations as token ids, in the form that a vocabulary has signs for.

A row begins with its start sign, once. Each message follows, its text without white space at the ends:

- `<|start_header_id|>role<|end_header_id|>`, an empty line, the text, `<|eot_id|>`: LLaDA (Nie et al. 2025), Llama 3
- `<|im_start|>role`, a line break, the text, `<|im_end|>`, a line break: ChatML, as SmolLM2 was taught

Where an answer is wanted an assistant's header is last; a text to be learned from has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from unmask.canvas import Canvas, Role
from unmask.holes import Blank, Hole
from unmask.tokenizer.reading import Reading
from unmask.tokenizer.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
Message = Mapping[str, str]  # role and content


@dataclass(frozen=True)
class Form:
    """How a message is laid out: `begins` role `named` `gap` text `ends` `after`."""

    begins: str  # a sign
    named: str | None  # a sign behind the role, if there is one
    gap: str
    ends: str  # a sign
    after: str

    @property
    def signs(self) -> list[str]:
        """Its signs."""
        return [sign for sign in (self.begins, self.named, self.ends) if sign is not None]


HEADERS = Form("<|start_header_id|>", "<|end_header_id|>", "\n\n", "<|eot_id|>", "")
CHATML = Form("<|im_start|>", None, "\n", "<|im_end|>", "\n")
FORMS = (HEADERS, CHATML)


class Template:
    """How a vocabulary writes conversations."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Look up its signs.

        Raises:
            ValueError: when the vocabulary has none for conversations.
        """
        self.tokenizer = tokenizer
        known = tokenizer.vocabulary
        found = next((form for form in FORMS if all(sign in known for sign in form.signs)), None)
        if found is None:
            raise ValueError(
                f"no {' and no '.join(form.begins for form in FORMS)} in this vocabulary · its model was taught no "
                "conversations of such a form · use one that was, such as LLaDA-8B-Instruct, or go on from a text"
            )
        self.form, self.signs = found, {sign: known[sign] for sign in found.signs}
        self.after = self._plain(found.after) if found.after else []  # ids behind a message that are no part of it

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
            found += [*self._said(str(role), content.strip()), self.signs[self.form.ends], *self.after]
        return [*found, *self._said("assistant", "")] if answer else found

    def reading(self, messages: Sequence[Message], sign: Blank | None = None) -> Reading:
        """A conversation and a hole for the answer, as a row to be filled; its text is the answer alone.

        Args:
            messages: As of `ids`; the last is not the assistant's.
            sign: What the answer may be; None: any.

        Raises:
            ValueError: when it is empty, or its last word is the assistant's already.
        """
        if not messages or messages[-1].get("role") == "assistant":
            raise ValueError(
                "nobody asks · a conversation ends with what is to be answered · end it with a user's message last"
            )
        ids, signs, sign = self.ids(messages, answer=True), self.tokenizer.signs, sign or Blank()
        role = torch.tensor([Role.SCAFFOLD, *[Role.TEXT] * len(ids), Role.SIGN, Role.SCAFFOLD])
        hole = torch.full_like(role, -1)
        hole[-2] = 0
        row = [signs["start"], *ids, signs["blank"], signs["end"]]
        canvas = Canvas.from_rows([row], role=role, fixed=role != Role.SIGN, hole=hole)
        return Reading(canvas, (Hole(0, sign, spaced=False, joins_left=False, joins_right=False),), (sign,))

    def _said(self, role: str, content: str) -> list[int]:
        """A message up to its end."""
        form = self.form
        if form.named is None:
            return [self.signs[form.begins], *self._plain(f"{role}{form.gap}{content}")]
        named = [self.signs[form.begins], *self._plain(role), self.signs[form.named]]
        return [*named, *self._plain(f"{form.gap}{content}")]

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
