"""`unmask info`: what a model is, read from its files without loading it."""

from __future__ import annotations

import json
import struct
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer

from unmask.bases import located
from unmask.cli import options
from unmask.cli.lines import print_line

EXAMPLE = "unmask info"
OURS = {"unmask", "unmask-adapter"}
AT_END = ["___ at the end of a text"]  # what a plain model fills
DEFAULT = Path(__file__).parents[1] / "weights"
HOLES = {"blank": "___ (one or more words)", "mask": "[MASK] (one token)", "candidates": "___{a|b}"}


def info(
    model: Annotated[
        str | None, typer.Argument(metavar="M", help="A folder, GGUF file, base or org/name; else built in.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Say what a model is.

    Family, size, vocabulary, context, the holes it fills, licence; read from its files without loading it.
    """
    facts = describe(_place(model))
    facts = {"model": model or "default"} | facts
    if as_json:
        print_line(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else f"{value:,}" if _big(value) else value
        print(f"{name.ljust(width)}  {shown}")


def _place(model: str | None) -> Path:
    """The folder or GGUF file of a model; a name on the Hub is fetched into the Hub's own cache.

    Raises:
        ValueError: when there is no such model.
    """
    folder = Path(model) if model else DEFAULT
    if base := located(folder):
        return base
    if folder.is_file() or (folder / "config.json").is_file():
        return folder
    if model and model.count("/") == 1 and not folder.exists():
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(model))
    what = f"{model} is no model" if model else "the built-in model is missing"
    raise ValueError(f"{what} · there is no config.json in {folder} · give a folder that `unmask train` made")


def describe(folder: Path) -> dict[str, Any]:
    """The facts of a model folder, from its config, the headers of its weights and its card."""
    if folder.is_file():
        return describe_public(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type", "unmask") not in OURS:
        return describe_public(folder)
    weights = sorted(folder.glob("*.safetensors"))
    backbone = config.get("backbone", config)
    family = config.get("objective")
    shape = {"vocabulary": "vocab_size", "context": "max_length", "layers": "n_layers", "width": "width"}
    if config.get("model_type") == "unmask-adapter":  # its shape is its base's
        shape = {"base": "base", "rank": "rank"}
    return {
        "family": family,
        "parameters": config.get("parameters") or sum(map(count_parameters, weights)),
        "megabytes": round(sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 1e6, 1),
        **{name: backbone.get(key) for name, key in shape.items()},
        "holes": AT_END if (config.get("options") or {}).get("plain") else holes_of(str(family)),
        "licence": licence_of(folder),
    }


def describe_public(place: Path) -> dict[str, Any]:
    """The facts of a public folder or GGUF file, as the model that it is read as."""
    import torch

    from unmask.folder import read_config
    from unmask.model import hollow
    from unmask.public import card_of

    config = read_config(place)
    shape = config.backbone
    files = [place] if place.is_file() else [path for path in place.iterdir() if path.is_file()]
    return {
        "family": config.objective,
        "parameters": hollow(config, torch.float32).n_parameters(),
        "megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 1),
        "vocabulary": shape.vocab_size,
        "context": shape.max_length,
        "layers": shape.n_layers,
        "width": shape.width,
        "holes": AT_END,
        "licence": licence_in(card_of(place)),
    }


def count_parameters(path: Path) -> int:
    """How many numbers a safetensors file holds, from its header; the scales of packed weights are not counted."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    total = 0
    for name, entry in header.items():
        scale = name.endswith(".scale") and name.removesuffix(".scale") in header
        if name != "__metadata__" and not scale:
            count = 1
            for side in entry["shape"]:
                count *= side
            total += count
    return total


def holes_of(family: str) -> list[str]:
    """The kinds of hole a family fills, read from the source of its file so that torch stays unloaded."""
    import ast

    source = Path(__file__).parents[1] / "objectives" / f"{family}.py"
    if not source.is_file():
        return []
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "holes":
            assert isinstance(node.value, ast.Call)  # frozenset({...})
            return [HOLES.get(kind, kind) for kind in sorted(ast.literal_eval(node.value.args[0]))]
    return []


def licence_of(folder: Path) -> str:
    """The licence that the model's card names."""
    card = folder / "README.md"
    return licence_in(card.read_text(encoding="utf-8") if card.is_file() else "")


def licence_in(card: str) -> str:
    """The licence that a card names in the lines at its head."""
    lines = iter(card.splitlines())
    if next(lines, "") == "---":
        for line in takewhile(lambda line: line != "---", lines):
            if line.lower().startswith(("license:", "licence:")):
                return line.partition(":")[2].strip()
    return "not stated"


def _big(value: object) -> bool:
    return isinstance(value, int) and value >= 10_000
