"""A recipe: everything a run needs to know, from YAML, a path to text, and dotted overrides."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from unmask.data.sources import DataConfig, Source
from unmask.decoding.choices import MOST_SEED

BUDGET = ("steps", "tokens", "epochs", "minutes")
# What a resumed run may change: nothing that a step's numbers depend on, save the budget (see `budget`).
FREE = {*BUDGET, "checkpoint_every", "keep", "evaluate_every", "evaluate_tokens"}
FREE |= {"trackers", "threads", "prompts", "licence"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class ObjectiveChoice(BaseModel):
    """The family, and its own options beside its name."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str | None = None  # none: the first of the table

    @property
    def options(self) -> dict[str, Any]:
        """The family's own."""
        return dict(self.model_extra or {})


class TokenizerChoice(_Strict):
    """Trained on the data, or taken from a folder or file."""

    path: str | None = None
    vocab_size: int | None = Field(default=None, ge=64)  # none: by the size of the data
    normalise_quotes: bool = False  # read typographic quotes, dashes and spaces as a typewriter has them
    train_megabytes: float = Field(default=64, gt=0)  # of text to learn from, at most
    pads: bool = False  # with the signs that data.pad=rainbow takes


class ScheduleChoice(_Strict):
    """How the learning rate runs: up over `warmup` steps, then down to 0."""

    kind: Literal["cosine", "wsd"] = "wsd"
    warmup: int = Field(default=60, ge=0)  # steps, at most a fifth of all
    decay: float = Field(default=0.4, gt=0, le=1)  # of all steps, at the end: `wsd` is constant before


class OptimiserChoice(_Strict):
    """`muon` for the matrices of the layers with AdamW for the rest, or `adamw` for all."""

    kind: Literal["muon", "adamw"] = "muon"
    matrix_learning_rate: float = Field(default=0.02, gt=0)  # Muon's
    momentum: float = Field(default=0.95, ge=0, lt=1)  # Muon's
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(default=0.01, ge=0)


class AdapterChoice(_Strict):
    """Train a small change of a model in the place of all its weights: `alpha / rank * b @ a` beside each matrix."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    targets: tuple[Literal["qkv", "out", "up", "down"], ...] = Field(default=("qkv", "out", "up", "down"), min_length=1)


class Recipe(_Strict):
    """A recipe as it may be written; all keys but `data` have a default."""

    model: str | None = None  # a folder, GGUF file, base, adapter or org/name to start from; none: fresh
    adapter: AdapterChoice | None = None  # what is trained of `model`; none: all of it
    objective: ObjectiveChoice = ObjectiveChoice()
    data: DataConfig
    steps: int | None = Field(default=None, ge=1)
    tokens: float | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    minutes: float | None = Field(default=None, gt=0)
    batch_tokens: int = Field(default=4_096, ge=4)  # of a step, over all processes
    accumulate: int = Field(default=1, ge=1)  # parts that a step's batch is read in
    learning_rate: float = Field(default=3e-3, gt=0)  # AdamW's
    schedule: ScheduleChoice = ScheduleChoice()
    optimiser: OptimiserChoice = OptimiserChoice()
    clip: float | None = Field(default=1.0, gt=0)  # of the gradient's norm
    ema: float | None = Field(default=None, gt=0, lt=1)  # decay of averaged weights; none: the last weights
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    seed: int = Field(default=0, ge=0, le=MOST_SEED)
    checkpoint_every: int = Field(default=500, ge=1)  # steps
    keep: int = Field(default=2, ge=1)  # checkpoints
    evaluate_every: int = Field(default=500, ge=0)  # steps; 0: only at the end
    evaluate_tokens: int = Field(default=100_000, ge=1)  # of held-out text, at most
    prompts: tuple[str, ...] | None = None  # texts with holes to fill as it goes; none: from the held-out text
    trackers: tuple[str, ...] = ()  # as `accelerate` names them: tensorboard, wandb, ...
    threads: int | None = Field(default=None, ge=1)
    licence: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.+-]+$")  # of the model, for its card: apache-2.0
    tokenizer: TokenizerChoice = TokenizerChoice()
    backbone: dict[str, Any] = {}  # the shape; what is not said is chosen by data and budget
    masking: tuple[dict[str, Any], ...] | None = None  # laws with their shares

    @field_validator("objective", mode="before")
    @classmethod
    def _name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    @field_validator("schedule", "optimiser", mode="before")
    @classmethod
    def _kind(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given

    @field_validator("tokenizer", mode="before")
    @classmethod
    def _path(cls, given: Any) -> Any:
        return {"path": given} if isinstance(given, str) else given

    @field_validator("masking", mode="before")
    @classmethod
    def _one_law(cls, given: Any) -> Any:
        given = {"law": given} if isinstance(given, str) else given
        return [given] if isinstance(given, Mapping) else given

    @field_validator("masking")
    @classmethod
    def _named(cls, given: tuple[dict[str, Any], ...] | None) -> tuple[dict[str, Any], ...] | None:
        if given is not None and not all(isinstance(part.get("law"), str) for part in given or ({},)):
            raise ValueError("masking names no law · each of its parts has one · as in masking={law: runs, unit: word}")
        return given

    @field_validator("trackers", "prompts", mode="before")
    @classmethod
    def _one(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _adapted(self) -> Recipe:
        if self.adapter is not None and self.model is None:
            raise ValueError("an adapter of nothing · it changes a model that is there · name one: model=FOLDER")
        return self

    def to_yaml(self) -> str:
        """The whole recipe, every key."""
        return yaml.safe_dump(flat_free(self.model_dump(mode="json")), sort_keys=False, allow_unicode=True)


def flat_free(tree: Any) -> Any:
    """Plain lists and dicts all the way down, as YAML writes them."""
    if isinstance(tree, Mapping):
        return {str(key): flat_free(value) for key, value in tree.items()}
    return [flat_free(value) for value in tree] if isinstance(tree, (list, tuple)) else tree


def resolve(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from YAML, the name of one that comes with the package, a path to text or a mapping, and overrides.

    Raises:
        ValueError: when a key or value is not one.
    """
    tree, where = spelled(recipe)
    for override in overrides:
        _override(tree, override)
    return checked(tree, where)


def checked(tree: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """The recipe that a mapping spells out.

    Raises:
        ValueError: when a key or value is not one.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as fault:
        first = fault.errors()[0]
        raise ValueError(f"{where}: {_told(first)}") from None


def load(path: Path) -> dict[str, Any]:
    """A YAML file as a mapping.

    Raises:
        ValueError: when it cannot be read.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as fault:
        why = " ".join(str(fault).split())
        raise ValueError(f"{path} is not YAML · {why} · mend it") from None
    if tree is not None and not isinstance(tree, dict):
        raise ValueError(f"{path} is no recipe · it has no keys · a text to train on ends in .txt or .jsonl")
    return tree or {}


def difference(old: Recipe, new: Recipe) -> tuple[Recipe, list[str]]:
    """The old recipe with what the new one states and may change; and the keys it states but may not change."""
    stated = leaves(new.model_dump(mode="json", exclude_unset=True))
    had = leaves(old.model_dump(mode="json"))
    tree = old.model_dump(mode="json")
    barred = []
    for key, value in stated.items():
        if value == {} and any(name.startswith(f"{key}.") for name in had):
            continue  # a section of which nothing is said
        moved = key in had and re.fullmatch(r"data\.(folder|cache)|data\.sources\.\d+\.path", key)
        if had.get(key) == value or moved:
            continue  # that the data are the same is known by what they hold
        if key.split(".")[0] in FREE:
            tree[key.split(".")[0]] = new.model_dump(mode="json")[key.split(".")[0]]
        elif not (key == "precision" and value == "auto"):
            barred.append(f"{key} was {had.get(key)}, now {value}")
    barred += _left_out(had, stated)
    for name in ("folder", "cache"):
        if name in new.data.model_fields_set:
            tree["data"][name] = getattr(new.data, name)
    if any(getattr(new, name) is not None for name in BUDGET):
        tree.update({name: getattr(new, name) for name in BUDGET})
    return checked(tree), barred


def _left_out(had: Mapping[str, Any], stated: Mapping[str, Any]) -> list[str]:
    """What a list had, and has no more as it is stated: its last entries, and of a masking law any setting."""
    given = [key.split(".") for key, value in stated.items() if value is not None]
    said = {".".join(parts[:n]) for parts in given for n in range(1, len(parts) + 1)}
    found: dict[str, str] = {}
    for key, value in had.items():
        parts = key.split(".")
        if parts[0] in FREE or key in said or value is None:
            continue
        places = [n for n, part in enumerate(parts) if part.isdigit() and ".".join(parts[:n]) in said]
        gone = next((entry for n in places if (entry := ".".join(parts[: n + 1])) not in said), None)
        if gone is not None:
            found[gone] = f"{gone} was there, now it is not"
        elif parts[0] == "masking" and "masking" in said:
            found[key] = f"{key} was {value}, now it is not said"
    return list(found.values())


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The values of nested dicts and lists by dotted key."""
    if isinstance(tree, Mapping) and tree:
        items = tree.items()
    elif isinstance(tree, (list, tuple)) and tree:
        items = enumerate(tree)  # type: ignore[assignment]
    else:
        return {prefix: tree}
    return {
        key: leaf
        for name, value in items
        for key, leaf in leaves(value, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def spelled(recipe: str | Path | Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """What a recipe says, unchecked, and what to call it: a mapping, a name, a YAML file, or a path to text."""
    if isinstance(recipe, Mapping):
        return flat_free(recipe), "recipe"
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], 1, 0.4)
            hint = f"did you mean {path.with_name(near[0])}?" if near else "nothing of a like name is there"
            raise ValueError(f"no recipe {path} · {hint} · check the path")
        return load(path), str(path)
    if not path.exists() and re.fullmatch(r"[\w-]+", str(recipe)):
        return load(_own(str(recipe))), str(recipe)
    return {"data": str(path.absolute() if path.exists() else recipe)}, "recipe"


def _own(name: str) -> Path:
    """A recipe of the package, by its name."""
    own = {path.stem: path for path in Path(str(files("unmask"))).glob("recipes/*.yaml")}
    if name not in own:
        here = ", ".join(sorted(own))
        raise ValueError(f"{name!r} is no file, folder or recipe · recipes here: {here} · give a path, or one of these")
    return own[name]


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
        raise ValueError(f"{override!r} is no setting · settings are key=value · as in steps=1000 or seed=3")
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as fault:
        raise ValueError(f"{override!r:.200} is not YAML · {' '.join(str(fault).split())} · quote it") from None
    *path, last = key.split(".")
    here: Any = tree
    for depth, name in enumerate(path):
        if isinstance(here, list):
            _see_entry(here, name, path[:depth], override)
        inner = here[int(name)] if isinstance(here, list) else here.get(name)
        if isinstance(inner, str):  # the short form of a section
            inner = _long(path[: depth + 1], inner)
        if not isinstance(inner, (dict, list)):
            inner = {}
        if isinstance(here, list):
            here[int(name)] = inner
        else:
            here[name] = inner
        here = inner
    if isinstance(here, list):
        _see_entry(here, last, path, override)
        here[int(last)] = value
    elif key == "data" and isinstance(value, str) and isinstance(old := here.get(last), dict) and "sources" not in old:
        here[last] = old | _long([last], value)  # how text is read is said, and which is not
    else:
        here[last] = value


def _see_entry(entries: list[Any], name: str, path: list[str], override: str) -> None:
    if not re.fullmatch(r"[0-9]{1,9}", name) or int(name) >= len(entries):
        there, said = ".".join(path), f"{len(entries)} entries, from 0"
        raise ValueError(f"{override!r}: there is no '{there}.{name}' · {there} has {said} · name one of them")


def _long(path: list[str], short: str) -> dict[str, Any]:
    """The long form of a section that was given by one word."""
    if path == ["data"]:
        return {"sources": [Source.of(short).model_dump(mode="json", exclude_unset=True)]}
    return {{"objective": "name", "tokenizer": "path", "masking": "law"}.get(path[0], "kind"): short}


def _told(error: Any) -> str:
    """One line for one of pydantic's findings."""
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _known(error["loc"][:-1])
        near = nearest(str(error["loc"][-1]), known)
        return f"unknown key {place!r} · the nearest known is {near!r} · keys here: {', '.join(sorted(known))}"
    if error["type"] == "missing" and place in ("data", "data.sources"):
        return "no data · a recipe says what to train on · give data=PATH"
    said = error["msg"].removeprefix("Value error, ")
    return said if " · " in said else f"{place} cannot be {error['input']!r} · {said} · mend it"


def nearest(name: str, known: Sequence[str]) -> str:
    """The known name most like this one."""
    return difflib.get_close_matches(name, known, 1, 0.0)[0]


def _known(place: Sequence[Any]) -> list[str]:
    """The keys of the section at a place."""
    section: Any = Recipe
    for part in place:
        if isinstance(part, str) and part in getattr(section, "model_fields", {}):
            section = _section(section.model_fields[part].annotation)
    return list(section.model_fields)


def _section(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section(part)) is not None), None)


class _Loader(yaml.SafeLoader):
    """YAML in which 3e-3 is a number, as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)
