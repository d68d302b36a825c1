"""`unmask merge`: an adapter and its base as one whole model."""

from __future__ import annotations

import os
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = """printf 'The cat sat on the mat.\\nThe dog sat on the log.\\n%.0s' $(seq 200) > animals.txt
unmask train animals.txt --out runs/base steps=20
unmask train animals.txt --out runs/adapted model=runs/base/model adapter.rank=4 steps=20
unmask merge runs/adapted/model runs/whole"""


class Layout(StrEnum):
    """Whose folder is written."""

    UNMASK = "unmask"
    TRANSFORMERS = "transformers"


def merge(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="The folder of an adapter.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A folder that is not there yet, or empty.")],
    to: Annotated[Layout, typer.Option("--to", help="Whose layout; transformers loads the latter.")] = Layout.UNMASK,
) -> None:
    """Write an adapter and its base as one whole model.

    What comes out needs neither of the two. Weights are stored as float32.
    """
    from unmask.adapter import is_adapter, read, read_adapter_config
    from unmask.folder import CARD, write_model
    from unmask.public import write_public

    if not is_adapter(adapter):
        read_adapter_config(adapter)  # which says why not
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ValueError(f"{target} is there already · nothing of it is overwritten · choose another TARGET")
    config = read_adapter_config(adapter)
    model, tokenizer = read(adapter)
    own = Path(adapter) / CARD
    card = whole(own.read_text(encoding="utf-8") if own.is_file() else "", config.base, config.sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        (write_model if to is Layout.UNMASK else write_public)(beside, model, tokenizer, card)
        os.replace(beside, target)  # over an empty folder too
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print(f"merged: {target}")


def whole(card: str, base: str, sha256: str) -> str:
    """The card of an adapter as that of the model it makes with its base."""
    facts, text = "", card
    if card.startswith("---\n") and "\n---\n" in card:
        facts, _, text = card.removeprefix("---\n").partition("\n---\n")
    under = text.strip() or "It has no card."
    return f"""---
{facts or f"base_model: {base}"}
---

# An adapter and its base in one

Made by `unmask merge` of `{base}` (sha256 {sha256}) and an adapter of it. Neither is needed any longer. The card of the
adapter:

{under}
"""
