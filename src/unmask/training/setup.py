"""What a recipe leaves open, and the makers it speaks of: tokenizer, model, adapter, masking, prompts."""

from __future__ import annotations

import inspect
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from unmask.adapter import (
    AdapterConfig,
    base_of,
    is_adapter,
    open_model,
    origin,
    place_of_base,
    read_adapter,
    read_adapter_config,
)
from unmask.backbone import BackboneConfig
from unmask.backbone.processor import has_bfloat16_products
from unmask.bases import place_of
from unmask.data.sources import DataConfig
from unmask.folder import read_tokenizer
from unmask.masking.laws import WHOLES
from unmask.masking.mixture import Mixture
from unmask.model import Model, ModelConfig
from unmask.objectives import OBJECTIVES
from unmask.tokenizer import Tokenizer
from unmask.training.config import BUDGET, AdapterChoice, Recipe, checked, nearest
from unmask.training.lora import inject, narrow, put, require_peft

MINUTES = 4.0  # the budget of a recipe that names none
UNKNOWN_SIZE = 64_000_000  # bytes; a data set of the Hub is taken to be so large

# Mostly what people blank, runs of whole words; for the rest any set of tokens or words, so that every canvas that
# comes up while filling has been seen.
MASKING: tuple[dict[str, Any], ...] = (
    {"law": "exact_count", "unit": "token", "share": 0.15, "bound": False},
    {"law": "exact_count", "unit": "word", "share": 0.15, "bound": False},
    {
        "law": "runs",
        "unit": "word",
        "share": 0.7,
        "lengths": [0.45, 0.2, 0.13, 0.09, 0.06, 0.04, 0.03],
        "rate": [0.05, 0.25],
        "single": 0.2,
    },
)
_CONTRACTION = re.compile("['\u2019][A-Za-z]+".encode())


def filled(recipe: Recipe) -> Recipe:
    """The recipe with all that it left open chosen.

    Raises:
        ValueError: when there is no such objective or setting of it, or the data or what trains it are not there.
    """
    if recipe.adapter is not None:
        require_peft()
        if "kind" in recipe.optimiser.model_fields_set and recipe.optimiser.kind != "adamw":
            raise ValueError(
                f"{recipe.optimiser.kind} for an adapter · it takes whole matrices, which stay as they are here · "
                "take optimiser=adamw, or leave it out"
            )
    tree = recipe.model_dump(mode="json")
    if recipe.model is not None:
        start = place_of(recipe.model)
        config = open_model(start).config
        _agree(recipe, config)
        options = recipe.objective.options or config.options or {}
        kept = {name: value for name, value in (config.options or {}).items() if name == "block"}
        options = {**kept, **options}  # what its elements see stays, whatever else a recipe asks of the family
        check_objective(config.objective, options)
        tree["objective"] = {"name": config.objective, **options}
        shape = asdict(config.backbone)
        tree["data"]["max_tokens"] = _row(recipe.data, config.backbone.max_length, recipe.model)
        adapted = is_adapter(start)
        tree["tokenizer"]["path"] = place_of_base(read_adapter_config(start), start) if adapted else recipe.model
    else:
        name = recipe.objective.name or next(iter(OBJECTIVES))
        check_objective(name, recipe.objective.options)
        tree["objective"] = {"name": name, **recipe.objective.options}
        n_bytes = text_bytes(recipe.data)
        if recipe.tokenizer.path is None and recipe.tokenizer.vocab_size is None:
            tree["tokenizer"]["vocab_size"] = vocabulary_for(n_bytes)
        asked = {"positions": getattr(OBJECTIVES[name], "positions", "rotary")}
        shape = {**shape_for(n_bytes, recipe.minutes), **asked, **recipe.backbone}
        shape.setdefault("max_length", max(512, recipe.data.max_tokens))
        shape = asdict(shape_of(shape, vocab_size=1))
        _row(recipe.data, shape["max_length"], "backbone.max_length")
    del shape["vocab_size"]  # the tokenizer's word
    tree["backbone"] = shape
    tree["masking"] = recipe.masking or MASKING
    own = tree["objective"]
    if getattr(OBJECTIVES[own["name"]], "learns_wholes", lambda options: False)(own):
        tree["masking"] = recipe.masking or ({"law": "exact_count", "least": 0},)
        if not any(law["law"] in WHOLES or law.get("least") == 0 for law in tree["masking"]):
            raise ValueError(
                f"masking leaves no text whole · finish={own['finish']} is learned from texts that lack nothing · "
                "say masking={law: exact_count, least: 0}, or leave it out"
            )
    tree["precision"] = precision(recipe.precision)
    if recipe.adapter is not None:
        tree["optimiser"]["kind"] = "adamw"
    if all(getattr(recipe, name) is None for name in BUDGET):
        tree["minutes"] = MINUTES
    return checked(tree)


def check_objective(name: str, options: dict[str, Any]) -> None:
    """See that there is such an objective with such options.

    Raises:
        ValueError: when there is not.
    """
    if name not in OBJECTIVES:
        near = nearest(name, list(OBJECTIVES))
        raise ValueError(f"no objective {name!r} · the nearest known is {near!r} · objectives: {', '.join(OBJECTIVES)}")
    known = list(inspect.signature(OBJECTIVES[name]).parameters)[3:]  # after vocabulary, width, embedding
    if unknown := sorted(options.keys() - set(known)):
        hint = f"the nearest known is {nearest(unknown[0], known)!r}" if known else "it has none"
        raise ValueError(f"objective {name!r} has no option {unknown[0]!r} · {hint} · mend the recipe")


def shape_of(given: dict[str, Any], vocab_size: int) -> BackboneConfig:
    """A backbone's shape from a recipe's section.

    Raises:
        ValueError: when a key or value is not one.
    """
    known = [field.name for field in fields(BackboneConfig) if field.name != "vocab_size"]
    if unknown := sorted(given.keys() - set(known)):
        near = nearest(unknown[0], known)
        raise ValueError(f"unknown key 'backbone.{unknown[0]}' · the nearest known is {near!r} · mend the recipe")
    try:
        return TypeAdapter(BackboneConfig).validate_python({**given, "vocab_size": vocab_size})
    except ValidationError as fault:
        first = fault.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        place = ".".join(str(part) for part in ("backbone", *first["loc"]))
        raise ValueError(
            said if " · " in said else f"{place} is {first['input']!r} · {said} · mend the recipe"
        ) from None


def text_bytes(data: DataConfig) -> int:
    """About how much text there is, in bytes, without reading it."""
    total = 0
    for source in data.placed():
        files = source.files()
        packed = (file.stat().st_size * (3 if file.suffix == ".gz" else 1) for file in files or ())
        total += int(sum(packed)) if files is not None else UNKNOWN_SIZE
    return total


def vocabulary_for(n_bytes: int) -> int:
    """A vocabulary whose words come up often enough: about 256 bytes of text an entry, 512 to 8,192 of them."""
    return int(2 ** min(13, max(9, round(math.log2(max(n_bytes, 1) / 256)))))


def shape_for(n_bytes: int, minutes: float | None) -> dict[str, int]:
    """Width, layers and heads that suit the data and the time."""
    spare = minutes or MINUTES
    if n_bytes < 300_000 or spare < 2:
        return {"width": 128, "n_layers": 3, "n_heads": 2}
    if n_bytes < 4_000_000 or spare < 20:
        return {"width": 192, "n_layers": 4, "n_heads": 3}
    return {"width": 256, "n_layers": 6 if spare < 240 else 8, "n_heads": 4}


def precision(wanted: str) -> str:
    """`auto` is bfloat16 where the machine multiplies it in hardware, else float32."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if has_bfloat16_products() else "float32"


def make_tokenizer(recipe: Recipe) -> Tokenizer:
    """Load the tokenizer the recipe names, or train one on the text that is not held out."""
    if recipe.tokenizer.path is not None:
        return read_tokenizer(place_of(recipe.tokenizer.path))
    texts = _first_bytes(recipe.data.texts("train"), int(recipe.tokenizer.train_megabytes * 1e6))
    size = recipe.tokenizer.vocab_size or vocabulary_for(text_bytes(recipe.data))
    choice = recipe.tokenizer
    return Tokenizer.train(texts, size, normalise_quotes=choice.normalise_quotes, pads=choice.pads)


def make_model(recipe: Recipe, tokenizer: Tokenizer) -> Model:
    """The model the recipe starts from, or one with fresh weights; where an adapter goes on, its base."""
    if (start := _start(recipe)) is not None:
        on_disk, dtype = open_model(start), dtype_of(recipe)
        if recipe.adapter is not None and recipe.precision == "bfloat16" and on_disk.dtype == torch.bfloat16:
            dtype = torch.bfloat16  # as it is stored, and as `adapt` keeps it: the wider whole is never there
        model = on_disk.read(dtype)[0]
        model.set_options(recipe.objective.options)
        return model.train()
    special = tuple(int(number) for number in tokenizer.special.nonzero().squeeze(1))
    shape = shape_of(recipe.backbone, tokenizer.vocab_size)
    name = str(recipe.objective.name)
    model = Model(ModelConfig(name, shape, dict(tokenizer.signs), special, recipe.objective.options or None))
    model.initialise(recipe.seed)
    return model.to(dtype_of(recipe))


def answers_apart(recipe: Recipe) -> bool:
    """Whether the model tells segments apart: then an answer is one of its own."""
    start = _start(recipe)
    n = int(recipe.backbone.get("n_segments", 0)) if start is None else open_model(start).shape.n_segments
    return n > 1


def _start(recipe: Recipe) -> Path | None:
    """The folder of weights that training starts from; of an adapter that goes on, its base's."""
    if recipe.model is None:
        return None
    start = place_of(recipe.model)
    return base_of(read_adapter_config(start), start) if recipe.adapter is not None and is_adapter(start) else start


def adapt(model: Model, recipe: Recipe) -> AdapterConfig | None:
    """Put the adapter that the recipe asks for into its base; None where it asks for none.

    Raises:
        ValueError: when peft is not there, or the recipe starts from an adapter of another shape.
    """
    if recipe.adapter is None or recipe.model is None:
        return None
    config = _adapted(model, recipe, recipe.model, recipe.adapter)
    if recipe.precision == "bfloat16":
        narrow(model)
    return config


def _adapted(model: Model, recipe: Recipe, name: str, choice: AdapterChoice) -> AdapterConfig:
    start, options = place_of(name), recipe.objective.options or None
    said: dict[str, Any] = {"rank": choice.rank, "alpha": choice.alpha, "targets": choice.targets}
    if not is_adapter(start):
        signs = tuple(sorted(model.config.signs, key=lambda sign: model.config.signs[sign]))
        config = AdapterConfig(*origin(name), model.config.objective, options, signs=signs, **said)
        inject(model, config, recipe.seed)
        return config
    earlier = read_adapter(start)
    for key, value in said.items():
        if (had := getattr(earlier.config, key)) != value:
            raise ValueError(
                f"adapter.{key} is {had} in {name}, the recipe says {value} · an adapter keeps its shape · "
                f"say adapter.{key}={had}"
            )
    config = replace(earlier.config, base=place_of_base(earlier.config, start), options=options)
    inject(model, config, recipe.seed)
    put(model, earlier, start)
    return config


def dtype_of(recipe: Recipe) -> torch.dtype:
    """How weights that are trained are kept; bfloat16 is a way to multiply, not to keep."""
    return torch.float64 if recipe.precision == "float64" else torch.float32


def make_masking(recipe: Recipe, tokenizer: Tokenizer, device: torch.device | str = "cpu") -> Mixture:
    """What is hidden."""
    starts = tokenizer.table.starts_word.to(device)
    block = recipe.objective.options.get("block")  # of a family that has such an option
    return Mixture(recipe.masking or MASKING, begins(tokenizer).to(device), starts, block)


def begins(tokenizer: Tokenizer) -> Tensor:
    """What each token begins, `[V]` int64: 0 nothing (it goes on), 1 a word, 2 a sign of punctuation."""
    table = tokenizer.table
    letters = table.first_alnum | ~(table.whole_characters | table.special)  # a piece of a character goes on
    ending = torch.tensor([_CONTRACTION.fullmatch(token) is not None for token in tokenizer.token_bytes])
    kind = torch.where(table.starts_word, torch.where(letters, 1, 2), torch.where(letters | ending, 0, 2))
    lone = table.starts_word & ~(table.leading_space | table.has_inner_space)  # " 1984" as a space and four digits
    return torch.where(table.special, 0, torch.where(lone, 1, kind))


def prompts(recipe: Recipe, n: int = 3) -> list[str]:
    """Texts with a hole to fill as training goes: the recipe's, or sentences of the held-out text (else any)."""
    if recipe.prompts is not None:
        return list(recipe.prompts)
    found: list[str] = []
    seen: set[str] = set()
    for text in itertools.islice(itertools.chain(recipe.data.texts("held_out"), recipe.data.texts("train")), 10_000):
        words = text.split(" ")
        plain = "_" not in text and "[" not in text and "\\" not in text and "\n" not in text
        if 5 <= len(words) <= 20 and plain and words[len(words) // 2].isalpha() and text not in seen:
            seen.add(text)
            words[len(words) // 2] = "___"
            found.append(" ".join(words))
        if len(found) == n:
            break
    return found


def _first_bytes(texts: Iterable[str], limit: int) -> Iterator[str]:
    for text in texts:
        limit -= len(text.encode("utf-8", "surrogatepass"))
        yield text
        if limit <= 0:
            return


def _row(data: DataConfig, longest: int, whose: str) -> int:
    """Most tokens a row: what the data say, or what the model reads where they say nothing.

    Raises:
        ValueError: when they say more.
    """
    if data.max_tokens > longest and "max_tokens" in data.model_fields_set:
        raise ValueError(
            f"data.max_tokens is {data.max_tokens}, the context {longest} · {whose} says how long a row may be · "
            f"say data.max_tokens={longest}, or less"
        )
    return min(data.max_tokens, longest)


def _agree(recipe: Recipe, config: ModelConfig) -> None:
    """The recipe must not contradict the model it starts from."""
    own = {
        "objective": config.objective,
        **{f"backbone.{key}": value for key, value in asdict(config.backbone).items()},
    }
    said = {f"backbone.{key}": value for key, value in recipe.backbone.items()}
    if recipe.objective.name is not None:
        said["objective"] = recipe.objective.name
    for key, value in said.items():
        if own.get(key) != value:
            raise ValueError(
                f"{key} is {own.get(key)} in {recipe.model}, the recipe says {value} · a model keeps its shape · "
                f"leave {key} out, or model="
            )
