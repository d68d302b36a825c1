"""Text that no model of an experiment has read: passages of it, and each cut into a prompt and what follows."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Passage = tuple[str, str]  # a prompt that ends in a space, and what follows


def passages(
    text: Sequence[Path],
    held_out: Sequence[Path] | None,
    tokenizer: Any,
    n: int,
    most: int,
    least: int = 8,
    lines: bool = False,
) -> list[str]:
    """Runs of whole sentences of `least` to `most` tokens: `n` of them, drawn by a seed that never changes.

    Args:
        text: What was learned from: of each file the last twentieth was not.
        held_out: Other files, taken whole.
        tokenizer: Counts.
        n: How many passages.
        most: Tokens of a passage.
        least: Tokens of a passage.
        lines: Every line is a passage, however short, and of --text every twentieth is held out.

    Raises:
        ValueError: when there is none.
    """
    least = 1 if lines else least
    found = [one for one, size in _runs(text, held_out, tokenizer, most, lines) if size >= least]
    if not found:
        raise ValueError(
            f"no passage of {least} to {most} tokens · the held-out text is too short · name more with --held-out"
        )
    random.Random(0).shuffle(found)
    return found[:n]


def _runs(
    text: Sequence[Path], held_out: Sequence[Path] | None, tokenizer: Any, most: int, lines: bool
) -> Iterator[tuple[str, int]]:
    from unmask.data.sources import Source

    sources = [Source(path=str(path)) for path in held_out] if held_out else [Source.of(str(path)) for path in text]
    if lines:
        how: dict[str, Any] = {"unit": "line", "document": "line", "hold_out": {"every": 20}}
        sources = [Source(path=str(path), **how) for path in held_out or text]
    for source in sources:
        units = [(joins, unit) for held, joins, unit in source.parts() if held or held_out]
        sizes = [len(ids) for ids in tokenizer.encode_batch([unit for _, unit in units])]
        run: list[str] = []
        total = 0
        for (joins, unit), size in zip(units, sizes, strict=True):
            if run and (not joins or total + size > most):
                yield " ".join(run), total
                run, total = [], 0
            if size <= most:
                run, total = [*run, unit], total + size
        if run:
            yield " ".join(run), total


def cut(passage: str, tokenizer: Any, prompt: int, new: int) -> Passage:
    """A prompt of at most so many tokens, and at most so many that follow it; both are whole words, one at least."""
    words = passage.split(" ")
    sizes = [len(ids) for ids in tokenizer.encode_batch([f" {word}" for word in words], inside=True)]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    middle = max(1, sum(end <= prompt for end in ends))
    end = max(middle + 1, sum(end <= ends[middle - 1] + new for end in ends))
    return " ".join(words[:middle]) + " ", " ".join(words[middle:end])
