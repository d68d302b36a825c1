"""Translation, or any text for a text: what an order of writing costs in quality, and saves in passes.

    python experiments/translation.py --pairs train.jsonl --asked test.jsonl --out runs/translation --tokens 12e6

The pairs are `{"prompt": source, "response": target}` a line. Models of one size and backbone learn the target as a
segment of its own: from left to right, by insertion from left to right, in balanced trees or in any order (Stern et al.
2019), and by fractional positions. With --distilled all but the first two also learn what the left-to-right one writes
for the same sources. Each then writes in its ways, one sentence at a time: word by word, or all slots a round, with
nats taken off the ends of slots (--penalties). BLEU and chrF by sacrebleu, +/- half of its 95 % interval (bootstrap);
passes, elements read and processor time a sentence; at best: what a balanced tree would take, floor(log2 n) + 2 rounds
for n tokens, one of them to end.
"""

import json
import math
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilot import Pilot, Pilots, Text, alone, arguments, digest, run, seeds_of
from spent import spending
from table import Row, Table, markdown, spread

BASELINE = "left to right"
FROM_NOTHING = f"masking={json.dumps({'law': 'exact_count', 'draw': 'stratified', 'least': 0})}"
MODELS: dict[str, list[str]] = {
    BASELINE: [],
    "insertion, left to right": ['objective={"name": "insertion", "order": "left_to_right"}', FROM_NOTHING],
    "insertion, tree": ["objective=insertion", FROM_NOTHING],
    "insertion, uniform": ['objective={"name": "insertion", "order": "uniform"}', FROM_NOTHING],
    "fractional, tree": ["objective=fractional", "masking=all"],
    "fractional, with queries": ['objective={"name": "fractional", "queries": true}', "masking=all"],
}
STUDENTS = tuple(MODELS)[2:]
OWN, TEACHER = "the pairs", "the teacher's"
COLUMNS = {
    "model": "", "learned from": "", "writes": "", "penalty": "", "BLEU": ".1f", "±": ".1f", "seeds": "", "chrF": ".1f",
    "words": ".2f", "passes": ".1f", "at best": ".1f", "read": ".0f", "CPU ms": ".0f", "steps": ".0f",
    "Mtokens": ".2f", "CPU s": ".0f",
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """How a model writes; `ends`: its slots say when they are done."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    ends: bool = True


SERIAL = Way("word by word", {"policy": "serial", "beam": 1})
ROUNDS = Way("all slots a round", {"policy": "parallel", "beam": 1})
WAYS = {
    BASELINE: (Way("greedy", {"beam": 1}, ends=False), Way("beam 4", {"beam": 4}, ends=False)),
    "insertion, left to right": (SERIAL,),
    "insertion, tree": (SERIAL, ROUNDS),
    "insertion, uniform": (SERIAL, ROUNDS),
    "fractional, tree": (SERIAL, ROUNDS),
    "fractional, with queries": (SERIAL, ROUNDS),
}


def translated(lm: Any, sources: Sequence[str], way: Way, penalty: float, most: int) -> Row:
    """What a model writes, one source at a time, and what that takes."""
    said, sizes = [], []
    how = way.options | ({"end_penalty": penalty} if way.ends else {})
    with spending(lm) as spent:
        for source in sources:
            said.append(lm.generate(source, max_words=most, **how)[0].holes[0].text.strip())
    sizes = [len(lm.tokenizer.encode(f" {text}", inside=True)) for text in said if text]
    costs = {"passes": spent.passes, "read": spent.read, "CPU ms": 1000 * spent.seconds}
    best = sum(math.floor(math.log2(size)) + 2 for size in sizes) / max(1, len(sizes))
    return {name: value / len(sources) for name, value in costs.items()} | {"said": said, "at best": best}


def quality(said: Sequence[str], true: Sequence[str]) -> Row:
    """BLEU and chrF of a corpus (sacrebleu), and how many words were written for each true one."""
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise ValueError("BLEU takes sacrebleu · it is not installed · pip install sacrebleu") from None
    bleu: Any = BLEU().corpus_score(list(said), [list(true)], n_bootstrap=200)
    n_words = sum(len(text.split()) for text in said) / max(1, sum(len(text.split()) for text in true))
    return {"BLEU": bleu.score, "±": bleu._ci, "chrF": CHRF().corpus_score(list(said), [list(true)]).score,
            "words": n_words}  # fmt: skip


def pairs_of(path: Path, most: int | None = None) -> list[Row]:
    """The lines of a file of pairs."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [json.loads(line) for line in lines[:most]]


def distilled(out: Path, made: Pilot, path: Path, most: int) -> Path:
    """What a model writes for the sources of a file, as pairs, by `unmask distill`; written once."""
    from unmask.cli import main as unmask

    target = out / f"distilled-{made.folder.name}-{most}.jsonl"
    with alone(out, target.name):
        if not target.exists():
            asked = ["distill", path, target, "--model", made.folder / "model", "--max-words", most, "--beam", 1]
            with redirect_stdout(sys.stderr):  # here stdout is for the table
                code = unmask([str(word) for word in asked])
            if code == 2:
                raise ValueError(f"{target} was not written · the line above says why · mend it, and run this again")
    return target


def lines(rows: Sequence[Row]) -> list[Row]:
    """The table: of each model and way the means over seeds."""
    out = []
    names = ("model", "learned from", "writes", "penalty")
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        some = [row for row in rows if tuple(row[name] for name in names) == key]
        numbers = [name for name in COLUMNS if isinstance(some[0].get(name), int | float) and name not in names]
        line = dict(zip(names, key, strict=True)) | {n: sum(row[n] for row in some) / len(some) for n in numbers}
        out.append(line | {"seeds": spread([row["BLEU"] for row in some], ".1f")})
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Learn, translate and print the table."""
    parser = arguments(__doc__, "translation", text=False, tokens=12e6, batch_tokens=8192)
    parser.add_argument("--pairs", type=Path, required=True, help="JSONL of prompt and response to learn from")
    parser.add_argument("--asked", type=Path, required=True, help="JSONL of those that are asked")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--distilled", action="store_true", help="students of the left-to-right model, too")
    parser.add_argument("--penalties", type=float, nargs="+", default=[0.0], metavar="NATS", help="(0)")
    parser.add_argument("--max-words", type=int, default=60, help="of an answer (%(default)s)")
    parser.add_argument("-n", type=int, default=1000, help="that are asked, at most (%(default)s)")
    given = parser.parse_args(argv)
    whole: Text = {"path": str(given.pairs), "unit": "dialogue", "hold_out": {}}
    pilots, asked = Pilots(given, [whole], "backbone.n_segments=2", "backbone.global_every=1"), pairs_of(given.asked)
    asked = asked[: given.n]

    def made(model: str, data: str, seed: int) -> Pilot:
        own = pilots.left_to_right(stop="end") if model == BASELINE else MODELS[model]
        if data == OWN:
            return pilots.make(model, own, seed)
        teacher = made(BASELINE, OWN, seed)
        written: Text = whole | {"path": str(distilled(given.out, teacher, given.pairs, given.max_words))}
        return pilots.make(f"{model} distilled", own, seed, texts=[written])

    def measure(key: Row) -> Row:
        pilot = made(key["model"], key["learned from"], key["seed"])
        (way,) = (way for way in WAYS[key["model"]] if way.name == key["writes"])
        sources = [pair["prompt"] for pair in asked]
        found = translated(pilot.load(), sources, way, key["penalty"] or 0.0, given.max_words)
        return pilot.cost | found | quality(found["said"], [pair["response"] for pair in asked])

    shared = {"models": pilots.name, "asked": digest(asked), "max_words": given.max_words}
    learners = [(model, OWN) for model in given.models]
    learners += [(model, TEACHER) for model in given.models if model in STUDENTS and given.distilled]
    keys = [
        {"model": model, "learned from": data, "writes": way.name, "penalty": penalty, "seed": seed} | shared
        for model, data in learners
        for way in WAYS[model]
        for penalty in (given.penalties if way.ends else [None])
        for seed in seeds_of(given)
    ]
    print(markdown(lines(Table(given.out / "translation.jsonl").rows(keys, measure)), COLUMNS))
    print(f"\n{len(asked)} asked, one at a time; {given.seeds} seeds.")


if __name__ == "__main__":
    run(main)
