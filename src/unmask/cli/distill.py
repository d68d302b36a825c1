"""`unmask distill`: a teacher writes the answers that a student learns from."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from unmask.cli import inputs, options
from unmask.cli.faults import used_wrongly

_SURROGATE = re.compile("[\ud800-\udfff]")
EXAMPLE = """printf '{"prompt": "The old man"}\\n{"prompt": "She gave me"}\\n' > pairs.jsonl
unmask distill pairs.jsonl distilled.jsonl --max-words 3"""


def distill(
    pairs: Annotated[
        Path, typer.Argument(metavar="PAIRS", help='JSON lines with a "prompt"; a "response" is written anew.')
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The JSONL to write; it must not be there yet.")],
    model: options.Model = None,
    *,
    decoding: options.Decoding,
) -> None:
    """Let a model write the responses that another is to learn from.

    A student that writes several words at once learns better from one teacher's answers than from many people's. The
    teacher, of any family, goes on from each prompt. What it wrote lies in TARGET.part until all is there: the same
    command goes on where it was stopped.
    """
    if target.exists():
        raise used_wrongly(f"{target} is already there · nothing is written over · name another file, or move it")
    waiting = list(_prompts(pairs))
    how = decoding.asked(1)
    from rich.console import Console
    from rich.progress import Progress

    import unmask

    if not waiting:
        raise used_wrongly(f"{pairs} has no pairs · each line is one, of prompt and response · look at the file")
    lm = unmask.load(model)  # before anything is written: a name may be wrong
    part = Path(f"{target}.part")
    done = _begun(part, {"model": model or "default", **{name: repr(value) for name, value in sorted(how.items())}})
    _agree(part, done, waiting)
    shown = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with part.open("a", encoding="utf-8") as file, shown as progress:
        bar = progress.add_task("distill", total=len(waiting), completed=len(done))

        def keep(prompt: str, answer: str | None) -> None:
            file.write(json.dumps({"prompt": prompt, "response": answer}, ensure_ascii=False) + "\n")
            file.flush()
            progress.advance(bar)

        def complain(prompt: str, why: str) -> None:
            print(f"{prompt!r:.60}: {why}", file=sys.stderr)
            keep(prompt, None)

        def work(some: list[str]) -> list[str]:
            return [fills[0].holes[0].text.strip() for fills in lm.generate(some, **how)]

        inputs.each(waiting[len(done) :], work, keep, complain)
    failed = _finish(part, target)
    print(f"distilled: {target} · {len(waiting) - failed:,} pairs" + (f" · {failed:,} left out" if failed else ""))
    raise typer.Exit(1 if failed else 0)


def _prompts(pairs: Path) -> Iterator[inputs.Input]:
    """The prompt of each line, or why it has none."""
    for number, line in enumerate(inputs.read(None, str(pairs), whole=False), 1):
        try:
            row = json.loads(line.text) if line.error is None else None
        except (ValueError, RecursionError):  # no JSON, or lists in lists without end
            row = None
        prompt = row.get("prompt") if isinstance(row, dict) else None
        if isinstance(prompt, str) and (half := _SURROGATE.search(prompt)):
            why = f"line {number}: the prompt has half a character at {half.start()} · it is no Unicode text · mend it"
            yield inputs.Input(line.text, error=why)
        elif isinstance(prompt, str) and prompt.strip():
            yield inputs.Input(prompt)
        else:
            why = f'line {number} has no prompt · a line is {{"prompt": TEXT}}, whatever else it has · mend it'
            yield inputs.Input(line.text, error=line.error or why)


def _begun(part: Path, settings: dict[str, str]) -> list[str]:
    """The prompts that were answered before, by the same teacher; a line that was cut off is written anew.

    Raises:
        ValueError: when another one began.
    """
    from unmask.tensors import write_text

    beside = Path(f"{part}.json")
    if not part.exists() or not part.stat().st_size:
        write_text(beside, json.dumps(settings))
        part.write_bytes(b"")
        return []
    if not beside.exists():
        raise ValueError(
            f"{part} has answers, and {beside} is not there · it says which model gave them · put it back, or remove"
            " the answers to begin anew"
        )
    before = json.loads(beside.read_text(encoding="utf-8"))
    if different := sorted(name for name in before.keys() | settings.keys() if before.get(name) != settings.get(name)):
        name = different[0]
        raise ValueError(
            f"{part} was begun otherwise · {name} was {before.get(name)}, now {settings.get(name)} · say the same, or"
            " remove it to begin anew"
        )
    whole = part.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    os.truncate(part, len(whole))
    return [json.loads(line)["prompt"] for line in whole.decode().split("\n")[:-1]]


def _agree(part: Path, done: list[str], waiting: list[inputs.Input]) -> None:
    """Look whether the prompts are still those that were answered.

    Raises:
        ValueError: when they are not.
    """
    if done != [item.text for item in waiting[: len(done)]]:
        raise ValueError(f"{part} has answers to other prompts · PAIRS was changed since · remove it to begin anew")


def _finish(part: Path, target: Path) -> int:
    """Write what has an answer in its place, whole or not at all; how many have none."""
    beside, failed = Path(f"{target}.tmp"), 0
    with part.open(encoding="utf-8") as rows, beside.open("w", encoding="utf-8") as file:
        for row in rows:
            if json.loads(row)["response"]:
                file.write(row)
            else:
                failed += 1
    beside.replace(target)
    part.unlink()
    Path(f"{part}.json").unlink()
    return failed
