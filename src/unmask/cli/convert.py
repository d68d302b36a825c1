"""`unmask convert`: a model in the layout of another house, or one of theirs in ours."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from unmask.cli.faults import used_wrongly

EXAMPLE = """unmask pull smollm2-135m
unmask convert smollm2-135m smollm2 --to transformers"""


class House(StrEnum):
    """Whose layout."""

    unmask = "unmask"
    transformers = "transformers"


def convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder, a GGUF file, a base by name, or org/name.")
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The folder to write; it must not be there yet.")],
    to: Annotated[House, typer.Option("--to", help="Whose layout is written.")] = House.unmask,
) -> None:
    """Write a model in another layout.

    A public Llama or LLaDA folder, or a GGUF file, becomes a model of ours, or a folder in its makers' layout; a
    left-to-right or masked diffusion model of ours goes out. Weights stay as they are; quantised ones of GGUF become
    bfloat16.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise used_wrongly(f"{target} is already there · nothing is written over · name another folder, or move it")
    from unmask.adapter import is_adapter
    from unmask.bases import place_of
    from unmask.folder import open_whole, write_model
    from unmask.public import card_of, write_public
    from unmask.tensors import made_whole

    place = place_of(source)
    if is_adapter(place):
        raise ValueError(
            f"{source} is an adapter · alone it is no model · run: unmask merge {source} {target} --to {to}"
        )
    on_disk = open_whole(place)
    model, tokenizer = on_disk.read(on_disk.dtype)
    card = card_of(place)
    with made_whole(target) as folder:
        if to is House.transformers:
            write_public(folder, model, tokenizer, card)
        else:
            write_model(folder, model, tokenizer, card)
    shape = model.config.backbone
    print(f"{target}: {model.n_parameters():,} parameters, {shape.n_layers} layers, {shape.vocab_size:,} tokens")
