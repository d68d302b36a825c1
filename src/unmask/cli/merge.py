"""`unmask merge`: an adapter and its base as one whole model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from unmask.cli.convert import House
from unmask.cli.faults import used_wrongly

EXAMPLE = """printf 'The cat sat on the mat.\\nThe dog sat on the log.\\n%.0s' $(seq 200) > animals.txt
unmask train animals.txt --out runs/base steps=20
unmask train animals.txt --out runs/adapted model=runs/base/model adapter.rank=4 steps=20
unmask merge runs/adapted/model runs/whole"""


class Dtype(StrEnum):
    """How weights are stored."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float64 = "float64"


def merge(
    adapter: Annotated[
        str, typer.Argument(metavar="ADAPTER", help="An adapter's folder, one here by name, or org/name.")
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The folder to write; it must not be there yet.")],
    to: Annotated[House, typer.Option("--to", help="Whose layout is written.")] = House.unmask,
    dtype: Annotated[
        Dtype | None, typer.Option("--dtype", help="How weights are stored; else as the base's are.")
    ] = None,
) -> None:
    """Write an adapter and its base as one whole model.

    What comes out needs neither of the two. A base that is rounded to bytes or less is stored as what holds it whole:
    float32, or bfloat16 where it is a quantised GGUF.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise used_wrongly(f"{target} is already there · nothing is written over · name another folder, or move it")
    import torch

    from unmask.adapter import card_of, open_model, read_adapter_config
    from unmask.bases import place_of
    from unmask.folder import write_model
    from unmask.public import write_public
    from unmask.tensors import made_whole

    place = place_of(adapter)
    read_adapter_config(place)  # which says so where it is none
    both = open_model(place)
    model, tokenizer = both.read(getattr(torch, dtype) if dtype is not None else both.dtype)
    card = card_of(place) or ""
    with made_whole(target) as folder:
        (write_public if to is House.transformers else write_model)(folder, model, tokenizer, card)
    print(f"merged: {target}")
