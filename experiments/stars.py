"""Star graphs: a way that is easy to see from its end, and from its beginning a guess, by order of writing.

    python experiments/stars.py --out runs/stars --tokens 20e6

A star has a few arms of nodes behind each other; its edges are told in any order, then two nodes, and the way between
them is wanted (Bachmann and Nagarajan 2024; as Patel et al. 2025 have it). `easy`: from the middle to the end of an
arm, all of one length. `medium`: from the end of one arm, through the middle, to that of another, arms of several
lengths. Whoever writes from the start must guess the arm; whoever may begin at the end reads it off the edges. Right is
the whole way, exactly. Masked diffusion is told how many tokens are missing.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pilot import Pilots, alone, arguments, run, seeds_of
from table import Row, Table, markdown, over_seeds, spread

BASELINE = "left to right"
COUNTED = {"law": "exact_count", "draw": "stratified"}
FROM_NOTHING = f"masking={json.dumps(COUNTED | {'least': 0})}"
MODELS: dict[str, list[str]] = {
    BASELINE: [],
    "masked diffusion": ['objective={"name": "masked_diffusion", "ends": true}', f"masking={json.dumps(COUNTED)}"],
    "insertion, any order": [
        'objective={"name": "insertion", "order": "uniform", "place": "factorised", "finish": "stop"}',
        FROM_NOTHING,
    ],
    "insertion, tree": ["objective=insertion", FROM_NOTHING],
    "blank LM": ["objective=blank_lm", f"masking={json.dumps(COUNTED)}"],
}
HOW: dict[str, dict[str, Any]] = {
    BASELINE: {},
    "masked diffusion": {"policy": "confident"},
    "insertion, any order": {"policy": "serial"},
    "insertion, tree": {"policy": "parallel"},
    "blank LM": {"policy": "confident"},
}
NODES = [a + b for a in "abcdefghijklmnopqrst" for b in "aeiou"]
ARMS, LONG = 3, {"easy": (5, 5), "medium": (3, 6)}  # and how many nodes they have beside the middle
COLUMNS = {
    "graphs": "", "model": "", "right": ".1%", "±": ".1%", "seeds": "", "steps": ".0f", "Mtokens": ".2f",
    "CPU s": ".0f",
}  # fmt: skip
BATCH = 50
Pair = dict[str, str]


def star(kind: str, n_names: int, draw: random.Random) -> Pair:
    """A graph and the question, and the way."""
    least, most = LONG[kind]
    lengths = [draw.randint(least, most) for _ in range(ARMS)]
    names = draw.sample(NODES[:n_names], 1 + sum(lengths))
    middle, rest = names[0], iter(names[1:])
    arms = [[middle, *(next(rest) for _ in range(n))] for n in lengths]
    edges = [pair for arm in arms for pair in zip(arm, arm[1:], strict=False)]
    draw.shuffle(edges)
    if kind == "easy":
        way = arms[0]
    else:
        way = arms[0][:0:-1] + arms[1]
        edges = [draw.sample(edge, 2) for edge in edges]  # either end first: the way goes both up and down
    told = " , ".join(" ".join(edge) for edge in edges)
    return {"prompt": f"{told} ; {way[0]} to {way[-1]}", "response": " ".join(way)}


def data(out: Path, kind: str, n: int, n_asked: int, n_names: int) -> tuple[Path, list[Pair]]:
    """Pairs to learn from, in a file, and others to be asked."""
    learned, asked = random.Random(0), random.Random(1)
    path = out / f"stars-{kind}-{n}-{n_names}.jsonl"
    with alone(out, path.name):
        if not path.exists():
            beside = path.with_suffix(".part")
            lines = (json.dumps(star(kind, n_names, learned)) + "\n" for _ in range(n))
            beside.write_text("".join(lines), encoding="utf-8")
            beside.rename(path)
    return path, [star(kind, n_names, asked) for _ in range(n_asked)]


def ways(lm: Any, asked: Sequence[Pair], model: str) -> list[str]:
    """What a model answers."""
    from unmask.decoding.masks import Masks

    sizes = [len(lm.tokenizer.encode(f" {pair['response']}", inside=True)) + 1 for pair in asked]  # an end behind it
    told = model == "masked diffusion"
    out = [""] * len(asked)
    for size in sorted(set(sizes)) if told else [0]:
        mine = [i for i in range(len(asked)) if not told or sizes[i] == size]
        for part in (mine[start : start + BATCH] for start in range(0, len(mine), BATCH)):
            how = HOW[model] | ({"masks": Masks(length=size)} if told else {})
            found = lm.generate([asked[i]["prompt"] for i in part], max_words=2 * LONG["medium"][1] + 2, beam=1, **how)
            for i, fills in zip(part, found, strict=True):
                out[i] = fills[0].holes[0].text.strip()
    return out


def lines(rows: Sequence[Row]) -> list[Row]:
    """The table: of each kind of graph and model the mean over seeds."""
    from unmask.evaluation.report import ratio

    out = []
    for name in dict.fromkeys((row["graphs"], row["model"]) for row in rows):
        some = [row for row in rows if (row["graphs"], row["model"]) == name]
        line = dict(some[0])
        hits = over_seeds(some, "hits")
        line["right"], line["±"] = ratio(hits, [1.0] * len(hits))
        line["seeds"] = spread([sum(row["hits"]) / len(row["hits"]) for row in some], ".1%")
        out.append(line)
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Learn, ask and print the table."""
    parser = arguments(__doc__, "stars", text=False, tokens=20e6)
    parser.add_argument("--graphs", nargs="+", choices=LONG, default=list(LONG), metavar="KIND", help="(easy medium)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--learned", type=int, default=50_000, help="graphs to learn from (%(default)s)")
    parser.add_argument("--names", type=int, default=20, help="of nodes (%(default)s)")
    parser.add_argument("-n", type=int, default=500, help="graphs that are asked (%(default)s)")
    given = parser.parse_args(argv)
    shared = {"learned": given.learned, "names": given.names, "n": given.n}
    keys: list[Row] = []
    kinds: dict[str, tuple[Pilots, list[Pair]]] = {}
    for kind in given.graphs:
        path, asked = data(given.out, kind, given.learned, given.n, given.names)
        whole = {"path": str(path), "unit": "dialogue", "hold_out": {}}
        kinds[kind] = Pilots(given, [whole], "backbone.n_segments=2", "backbone.global_every=1"), asked
        own = shared | {"graphs": kind, "models": kinds[kind][0].name}
        keys += [own | {"model": model, "seed": seed} for model in given.models for seed in seeds_of(given)]

    def measure(key: Row) -> Row:
        (pilots, asked), model = kinds[key["graphs"]], key["model"]
        own = pilots.left_to_right(stop="end") if model == BASELINE else MODELS[model]
        made = pilots.make(model, own, key["seed"])
        said = ways(made.load(), asked, model)
        hits = [a == pair["response"] for a, pair in zip(said, asked, strict=True)]
        return made.cost | {"hits": hits, "said": said[:20]}

    print(markdown(lines(Table(given.out / "stars.jsonl").rows(keys, measure)), COLUMNS))
    print(f"\n{given.n} graphs of each kind; {given.seeds} seeds.")


if __name__ == "__main__":
    run(main)
