"""The options that several verbs share, each written once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from unmask.cli import inputs
from unmask.decoding import choices, masks

Texts = Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="The texts; - reads standard input.")]
File = Annotated[str | None, typer.Option("--file", help="A file with one text a line; - is standard input.")]
Whole = Annotated[bool, typer.Option("--whole", help="The file is one text, line ends and all.")]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="M", help="A folder, GGUF file, base or org/name; else the built-in one."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Count = Annotated[int, typer.Option("-n", min=1, help="How many different answers.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0: the likeliest; 1: as the model says.")]
TopP = Annotated[
    float | None, typer.Option("--top-p", min=0.0, max=1.0, help="Draw from the likeliest words with this share.")
]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, help="Draw from so many words, the likeliest.")]
Beam = Annotated[int | None, typer.Option("--beam", min=1, help="How many hypotheses the search keeps.")]
MaxWords = Annotated[int | None, typer.Option("--max-words", min=1, help="Most words of a hole that does not say.")]
Policy = Annotated[
    str | None, typer.Option("--policy", help=f"Which hole is written next: {', '.join(choices.POLICIES)}.")
]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Most forward passes.")]
EndPenalty = Annotated[
    float | None, typer.Option("--end-penalty", help="Nats off the end of a slot, by models that write into slots.")
]
PANEL = "Models that write into masks"
Length = Annotated[
    str | None,
    typer.Option("--length", metavar="N|probe|grow", help="Tokens of a free blank.", rich_help_panel=PANEL),
]
Block = Annotated[
    int | None, typer.Option("--block", min=1, help="Masks written before those behind may be.", rich_help_panel=PANEL)
]
Guidance = Annotated[
    float | None, typer.Option("--guidance", min=0, help="How much to lean on your text.", rich_help_panel=PANEL)
]
Ending = Annotated[
    str | None,
    typer.Option("--ending", help=f"When a text may end: {', '.join(masks.ENDINGS)}.", rich_help_panel=PANEL),
]
Remask = Annotated[
    str | None,
    typer.Option("--remask", help=f"Take tokens back: {', '.join(masks.REMASKS)}.", rich_help_panel=PANEL),
]
CacheKind = Annotated[
    str | None,
    typer.Option("--cache", help=f"Keep what was read: {', '.join(masks.CACHES)}.", rich_help_panel=PANEL),
]
Refresh = Annotated[
    int | None, typer.Option("--refresh", min=1, help="Steps until all is read anew.", rich_help_panel=PANEL)
]
Suffix = Annotated[
    int | None, typer.Option("--suffix", min=0, help="Masks behind the block that are read.", rich_help_panel=PANEL)
]
BlankSign = Annotated[str | None, typer.Option("--blank", metavar="SIGN", help="Another sign for ___.")]
Marks = Annotated[str | None, typer.Option("--marks", help="leiden: an epigraphers' [---] is a blank too.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="RUN", help="The folder the run is kept in; else runs/ and the recipe's name."),
]


def _seed(seed: int) -> int:
    inputs.agree(lambda: choices.check_seed(seed))
    return seed


Seed = Annotated[int, typer.Option("--seed", callback=_seed, help="The same seed gives the same answer.")]


@dataclass(frozen=True)
class Origin:
    """Where the texts of a command come from."""

    texts: Texts = None
    file: File = None
    whole: Whole = False

    def read(self) -> Iterator[inputs.Input]:
        """The texts, one by one.

        Raises:
            typer.BadParameter: when there are none, or from two places.
        """
        return inputs.read(self.texts, self.file, self.whole)


@dataclass(frozen=True)
class Decoding:
    """How to decode; what is not said is left to the library."""

    seed: Seed = 0
    temperature: Temperature = 0.0
    top_p: TopP = None
    top_k: TopK = None
    beam: Beam = None
    max_words: MaxWords = None
    policy: Policy = None
    steps: Steps = None
    end_penalty: EndPenalty = None
    length: Length = None
    block: Block = None
    guidance: Guidance = None
    ending: Ending = None
    remask: Remask = None
    cache: CacheKind = None
    refresh: Refresh = None
    suffix: Suffix = None

    def asked(self, n: int) -> dict[str, Any]:
        """What to ask the library for, by its own names; `n` answers.

        Raises:
            typer.BadParameter: when that cannot be asked of any text.
        """
        told = given(**vars(self))
        into = {one.name: told.pop(one.name) for one in fields(masks.Masks) if one.name in told}
        if into.get("length", "").isdigit():
            into["length"] = int(into["length"])
        made: list[masks.Masks] = []
        inputs.agree(lambda: made.append(masks.Masks(**into)))
        how = {"n": n} | told | ({"masks": made[0]} if into else {})
        inputs.agree(lambda: choices.check(choices.POLICIES, **given(**(how | {"max_words": None}))))
        return how


def given(**options: Any) -> dict[str, Any]:
    """The options that were set; the rest is left to the library's own defaults."""
    return {name: value for name, value in options.items() if value is not None}


def laid_out(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb as typer takes it, which knows no groups of options: each group gives way to its options."""
    groups: dict[str, Any] = {}
    flat: dict[str, tuple[Any, Any]] = {}  # name to annotation and default
    for name, parameter in inspect.signature(verb, eval_str=True).parameters.items():
        if is_dataclass(group := parameter.annotation):
            groups[name] = group
            hints = get_type_hints(group, include_extras=True)
            flat |= {one.name: (hints[one.name], one.default) for one in fields(group)}
        else:
            flat[name] = parameter.annotation, parameter.default

    def run(**told: Any) -> None:
        made = {
            name: group(**{one.name: told.pop(one.name) for one in fields(group)}) for name, group in groups.items()
        }
        verb(**made, **told)

    one_by_one = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in flat.items()
    ]
    run.__doc__, run.__signature__ = verb.__doc__, inspect.Signature(one_by_one)  # type: ignore[attr-defined]
    return run
