"""`unmask info`: what a model is and what it takes, read from its files without loading it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer

from unmask import bases
from unmask.cli import headers, options
from unmask.cli.headers import Headers
from unmask.cli.lines import print_line

EXAMPLE = "unmask info"
OURS = {"unmask", "unmask-adapter"}
AT_END = ["___ at the end of a text"]  # what a plain model fills
DEFAULT = Path(__file__).parents[1] / "weights"
HOLES = {"blank": "___ (one or more words)", "mask": "[MASK] (one token)", "candidates": "___{a|b}"}
SMALL = ["*.json", "README.md"]  # of a model on the Hub, what is fetched whole: settings, vocabulary, index, card
WIDTHS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}  # bytes of a number


def info(
    model: Annotated[
        str | None, typer.Argument(metavar="M", help="A folder, GGUF file, base or org/name; else built in.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Say what a model is, and what memory it takes.

    Family, size, vocabulary, context, the holes it fills, licence; read from its files without loading it. Of a model
    on the Hub only its settings, its vocabulary and the headers of its weights are fetched.
    """
    place, read = located(model)
    facts = {"model": model or "default"} | describe(place, read())
    if as_json:
        print_line(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name.replace('_', ' ').ljust(width)}  {_shown(name, value)}")


def located(model: str | None) -> tuple[Path, Callable[[], Headers]]:
    """The folder or GGUF file of a model, and what reads the headers of its weights.

    Of a name on the Hub all but the weights is fetched into the Hub's own cache.

    Raises:
        ValueError: when there is no such model.
    """
    folder = Path(model) if model else DEFAULT
    if base := bases.located(folder):
        return base, lambda: headers.of_folder(base)
    if folder.is_file() or (folder / "config.json").is_file():
        return folder, lambda: headers.of_folder(folder)
    if model and model.count("/") == 1 and not folder.exists():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(model, allow_patterns=SMALL)), lambda: headers.of_hub(model)
        except (HfHubHTTPError, LocalEntryNotFoundError) as fault:
            why = str(fault).partition("\n")[0] or type(fault).__name__
            raise ValueError(f"{model} is not to be had from the Hub · {why} · check the name") from fault
    what = f"{model} is no model" if model else "the built-in model is missing"
    raise ValueError(f"{what} · there is no config.json in {folder} · give a folder that `unmask train` made")


def describe(place: Path, weights: Headers) -> dict[str, Any]:
    """The facts of a model, from its config, the headers of its weights and its card."""
    if place.is_file():
        return describe_public(place, weights)
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type", "unmask") not in OURS:
        return describe_public(place, weights)
    adapter = config.get("model_type") == "unmask-adapter"
    backbone = config.get("backbone", config)
    family = config.get("objective")
    shape = {"vocabulary": "vocab_size", "context": "max_length", "layers": "n_layers", "width": "width"}
    if adapter:  # its shape is its base's
        shape = {"base": "base", "rank": "rank"}
    numbers = config.get("parameters") or headers.count(weights)
    stored = headers.by_kind(weights)
    return {
        "family": family,
        "parameters": numbers,
        "megabytes": _megabytes(place, stored),
        **{name: backbone.get(key) for name, key in shape.items()},
        "holes": AT_END if (config.get("options") or {}).get("plain") else holes_of(str(family)),
        **({} if adapter else memory(numbers, stored, backbone)),
        "licence": licence_of(place),
    }


def describe_public(place: Path, weights: Headers) -> dict[str, Any]:
    """The facts of a public folder or GGUF file; where it lies here without weights, from its settings alone."""
    import torch

    from unmask.backbone import Backbone
    from unmask.public import card_of, is_public, opened

    if not is_public(place):
        from unmask.folder import read_config

        read_config(place)  # says why it is none
    checkpoint = opened(place)
    config = checkpoint.config
    shape = config.backbone
    with torch.device("meta"):
        numbers = sum(weight.numel() for weight in Backbone(checkpoint.shape).parameters())
    stored = headers.by_kind(weights) if place.is_dir() else checkpoint.sizes
    plain = bool((config.options or {}).get("plain"))
    return {
        "family": config.objective,
        "parameters": headers.count(weights) or numbers,
        "megabytes": _megabytes(place, stored),
        "vocabulary": shape.vocab_size,
        "context": shape.max_length,
        "layers": shape.n_layers,
        "width": shape.width,
        "holes": AT_END if plain else holes_of(config.objective),
        **memory(numbers, stored, vars(shape)),
        "licence": licence_in(card_of(place)),
    }


def memory(numbers: int, stored: Mapping[str, int], backbone: Mapping[str, Any]) -> dict[str, Any]:
    """What a model takes, in bytes: stored by kind of number, read as float32 or bfloat16, and its cache.

    The cache is keys and values of all layers, for one token and for a context full of them, in the kind of number that
    most weights are stored in if it is a float of 16 bits or more, else in float32.
    """
    found: dict[str, Any] = {"stored_bytes": dict(stored)} if stored else {}
    found["memory_bytes"] = {"float32": 4 * numbers, "bfloat16": 2 * numbers}
    heads, width = backbone.get("n_heads"), backbone.get("width")
    if heads and width and backbone.get("n_layers"):
        kind = max(stored, key=lambda name: stored[name]) if stored else "float32"
        kind = kind if kind in WIDTHS else "float32"
        of_head = backbone.get("head_dim") or width // heads
        token = 2 * backbone["n_layers"] * (backbone.get("n_kv_heads") or heads) * of_head * WIDTHS[kind]
        context = backbone.get("max_length") or 0
        found["cache_bytes"] = {"token": token, "context": token * context, "dtype": kind}
    return found


def _megabytes(place: Path, stored: Mapping[str, int]) -> float:
    """Of all files; where weights lie elsewhere, of what they would be too."""
    files = [place] if place.is_file() else [path for path in place.iterdir() if path.is_file()]
    here = sum(path.stat().st_size for path in files)
    elsewhere = place.is_dir() and not any(place.glob("*.safetensors"))
    return round((here + (sum(stored.values()) if elsewhere else 0)) / 1e6, 1)


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


def _shown(name: str, value: Any) -> str:
    """A fact as a person reads it."""
    if isinstance(value, dict):
        parts = {key: _bytes(part) if isinstance(part, int) else part for key, part in value.items()}
        return ", ".join(part if key == "dtype" else f"{key} {part}" for key, part in parts.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def _bytes(number: int) -> str:
    """So many bytes, in the unit that suits."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number} B"
