"""Dialogues: who says what, which of it is an answer to be learned, and its tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

ANSWERS = "assistant"  # the role of who is to learn
Turns = list[tuple[str, str]]  # role and content
Span = tuple[int, int]  # begin and end of an answer among the tokens of its dialogue


class LeftOut(UserWarning):
    """Some of the data are not learned from."""


def too_long(name: str, n_long: int, n_all: int, max_tokens: int) -> str:
    """Say that dialogues do not fit: a fault where they are most, a `LeftOut` where they are not."""
    return (
        f"{name}: {n_long:,} of {n_all:,} dialogues left out · up to the end of its first answer each is longer than a "
        f"row, {max_tokens:,} tokens · raise data.max_tokens"
    )


def told(row: Mapping[str, Any], where: str) -> str:
    """A row of a table as the text that a dialogue travels in: JSON, a list of [role, content].

    Args:
        row: `{"messages": [{"role": ..., "content": ...}, ...]}` or `{"prompt": ..., "response": ...}`; what else it
            has is left aside.
        where: File and line, for errors.

    Raises:
        ValueError: when it is neither, something in it is no text, or it has no answer.
    """
    if "messages" in row:
        turns = _turns(row["messages"], where)
    elif {"prompt", "response"} <= row.keys():
        turns = [("user", row["prompt"]), (ANSWERS, row["response"])]
    else:
        names = ", ".join(list(row)[:12]) or "none"
        raise ValueError(
            f"{where} is no dialogue · its columns are {names} · give messages, or prompt and response, or another unit"
        )
    for _, content in turns:
        if not isinstance(content, str) or not _unicode(content):
            raise ValueError(f"{where}: {content!r:.40} is no text · what is said is a text · mend it")
    if not any(role == ANSWERS and content.strip() for role, content in turns):
        raise ValueError(f"{where} has no answer · none of its turns is of role {ANSWERS} · mend or remove that row")
    return json.dumps(turns, ensure_ascii=False)


def is_one(row: Any) -> bool:
    """Whether a row of a table has the form of a dialogue, and no text."""
    return isinstance(row, dict) and "text" not in row and ("messages" in row or {"prompt", "response"} <= row.keys())


def _turns(messages: Any, where: str) -> Turns:
    ours = isinstance(messages, list) and messages
    if not ours or not all(isinstance(m, dict) and isinstance(m.get("role"), str) and "content" in m for m in messages):
        raise ValueError(
            f"{where}: messages is {messages!r:.40} · it is a list of {{role, content}}, one at least · mend it"
        )
    return [(message["role"], message["content"]) for message in messages]


def _unicode(text: str) -> bool:
    try:
        return bool(text.encode() or True)
    except UnicodeEncodeError:
        return False


def contents(text: str) -> list[str]:
    """What is said in a dialogue that travels as `text`, turn by turn."""
    return [content for _, content in json.loads(text)]


def encode(texts: Iterable[str], tokenizer: Any, limit: int) -> Iterator[tuple[list[int], list[Span]]]:
    """Ids of dialogues and where their answers lie.

    They are laid out by the template of the vocabulary where it has one; else the turns follow each other as they are,
    with the end sign behind each answer but the last, which gets its own when it is read. What lies behind the last
    answer that ends within `limit` tokens is cut off; a dialogue without one has no ids.
    """
    try:
        from unmask.tokenizer.chat import Template  # late: its package imports torch

        template: Any = Template(tokenizer)
    except ValueError:
        template = None
    for text in texts:
        ids: list[int] = []
        spans: list[Span] = []
        turns: Turns = json.loads(text)
        pieces = _by_template(template, tokenizer, turns) if template is not None else _plain(tokenizer, turns)
        for some, is_answer in pieces:
            if is_answer and some:
                spans.append((len(ids), len(ids) + len(some)))
            ids += some
        spans = [span for span in spans if span[1] <= limit]
        yield ids[: spans[-1][1]] if spans else [], spans


def _by_template(template: Any, tokenizer: Any, turns: Turns) -> Iterator[tuple[list[int], bool]]:
    """Runs of ids, and whether each is an answer; behind the header an answer stands as it will be written."""
    header = template.ids([], answer=True)
    for role, content in turns:
        whole = template.ids([{"role": role, "content": content}])
        if role != ANSWERS:
            yield whole, False
            continue
        yield header, False
        whole, after = whole[: len(whole) - len(template.after)], template.after
        joined = whole[: len(header)] != header  # the vocabulary has a token across the border
        yield tokenizer.encode(content.strip(), inside=True) + whole[-1:] if joined else whole[len(header) :], True
        yield after, False


def _plain(tokenizer: Any, turns: Turns) -> Iterator[tuple[list[int], bool]]:
    """As text that goes on from a prompt: a space between them unless the prompt ends in white space."""
    before: tuple[str, str] | None = None
    for role, content in turns:
        if before is not None and before[0] == ANSWERS:
            yield [tokenizer.signs["end"]], False
        opens = before is None or before[0] == ANSWERS  # a row, or what follows an answer
        if role == ANSWERS:
            text = content.strip()
            spaced = before is not None and not before[1][-1:].isspace()
            yield tokenizer.encode(f" {text}" if spaced and not opens else text, inside=not opens), True
        else:
            content = content.rstrip(" ")  # the space before an answer is the answer's
            yield tokenizer.encode(content if opens else f"\n\n{content}", inside=not opens), False
        before = (role, content)
