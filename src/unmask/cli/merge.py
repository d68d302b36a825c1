"""`unmask merge`: an adapter and its base as one whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unmask.cli.convert import House
from unmask.cli.faults import used_wrongly

EXAMPLE = """printf 'The cat sat on the mat.\\nThe dog sat on the log.\\n%.0s' $(seq 200) > animals.txt
unmask train animals.txt --out runs/base steps=20
unmask train animals.txt --out runs/adapted model=runs/base/model adapter.rank=4 steps=20
unmask merge runs/adapted/model runs/whole"""


def merge(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="An adapter's folder, or one here by name.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The folder to write; it must not be there yet.")],
    to: Annotated[House, typer.Option("--to", help="Whose layout is written.")] = House.unmask,
) -> None:
    """Write an adapter and its base as one whole model.

    What comes out needs neither of the two. Weights are stored as float32.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise used_wrongly(f"{target} is already there · nothing is written over · name another folder, or move it")
    from unmask.adapter import read, read_adapter_config
    from unmask.bases import located
    from unmask.folder import CARD, write_model
    from unmask.public import write_public
    from unmask.tensors import placed

    place = located(adapter) or Path(adapter)
    config = read_adapter_config(place)
    model, tokenizer = read(place)
    own = place / CARD
    card = whole(own.read_text(encoding="utf-8") if own.is_file() else "", config.base, config.sha256)
    with placed(target) as folder:
        (write_public if to is House.transformers else write_model)(folder, model, tokenizer, card)
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
