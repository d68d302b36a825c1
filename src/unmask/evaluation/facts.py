"""What a model knows: the objects of facts, whole, as blanks in sentences (ParaRel; Elazar et al. 2021)."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.evaluation import multiple_choice
from unmask.evaluation.cloze import Cloze
from unmask.evaluation.filling import filled, hits
from unmask.evaluation.report import Report

if TYPE_CHECKING:
    from unmask.evaluation import Tell
    from unmask.evaluation.asking import Filler

TOP = 10


def evaluate(lm: Filler, text: Sequence[Path], counts: Sequence[Path], n: int, seed: int, tell: Tell) -> Report:
    """Ask for the objects of `n` facts.

    Raises:
        ValueError: when a file holds no facts.
    """
    found = [fact for path in text for fact in facts(path, seed)]
    random.Random(seed).shuffle(found)
    found = found[:n]
    items = [item for item, _ in found]
    rows = []
    for name, told in (("model, free", False), ("model, told ___{k}", True)):
        rows.append(hits("object", name, items, filled(lm, items, told, TOP, seed, tell), TOP))
    offered = [multiple_choice.candidates(item, others, seed) for item, others in found]
    rows.append(multiple_choice.choice(lm, "object", items, offered, seed, tell))
    notes = ["hit: the fill is exactly the object's name; ± one standard error"]
    return Report(rows, [*notes, "of 10: among nine other objects of the same relation; ECE over ten bins"])


def facts(path: Path, seed: int) -> list[tuple[Cloze, list[str]]]:
    """Each fact as a sentence with a blank for its object, and all objects of its relation.

    The file maps relations to `{"facts": [{"sub_label", "obj_label"}], "patterns": [{"pattern": "[X] is in [Y] ."}]}`;
    one of the relation's patterns is drawn for each fact, and relations without any are left out.

    Raises:
        ValueError: when it does not.
    """
    try:
        relations = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as fault:  # a fault of JSON says which line
        why = "it is not UTF-8" if isinstance(fault, UnicodeDecodeError) else f"it is not JSON: {fault}"
        raise ValueError(f"{path} holds no facts · {why} · give a file in ParaRel's form") from None
    if not isinstance(relations, dict):
        raise ValueError(f"{path} holds no facts · it has no relations by name · give a file in ParaRel's form")
    found = []
    for name, relation in relations.items():
        relation = relation if isinstance(relation, dict) else {}
        try:
            known = _texts(relation.get("facts"), "sub_label", "obj_label")
            patterns = [one for (one,) in _texts(relation.get("patterns", []), "pattern") if "[Y]" in one]
        except ValueError as fault:
            raise ValueError(f"{path}: {name!r} holds no facts · {fault} · give a file in ParaRel's form") from None
        objects = sorted({thing for _, thing in known})
        if patterns:
            found += [(_sentence(patterns, subject, thing, seed), objects) for subject, thing in known]
    if not found:
        raise ValueError(f"{path} holds no facts · none of its relations has a pattern · give a file in ParaRel's form")
    return found


def _texts(entries: Any, *names: str) -> list[list[str]]:
    """What each of some entries has under these names.

    Raises:
        ValueError: when one of it is no text.
    """
    if not isinstance(entries, list):
        raise ValueError(f"there is no list of {' and '.join(names)}")
    found: list[list[Any]] = [
        [entry.get(name) if isinstance(entry, dict) else None for name in names] for entry in entries
    ]
    for number, values in enumerate(found, 1):
        for name, value in zip(names, values, strict=True):
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name} {number} is {value!r:.60}, no text")
    return found


def _sentence(patterns: Sequence[str], subject: str, thing: str, seed: int) -> Cloze:
    pattern = random.Random(f"{seed} {subject} {thing}").choice(patterns)
    before, _, after = re.sub(r" ([.,])", r"\1", pattern).partition("[Y]")
    return Cloze(before.replace("[X]", subject), after.replace("[X]", subject), thing)
