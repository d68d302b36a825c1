"""Infilling of unknown length: words and runs of words hidden from held-out text, written back by each family.

    python experiments/infilling.py --text my.txt --out runs/infilling --tokens 12e6

Models of one size and backbone learn the same text with the same words hidden, each in its own dialect; each row says
how many words were hidden, one by one or in runs (of 3 on average). Nobody is told how many words a hole lacks but
`told`: masked diffusion with a mask for each token that is missing; `probed`: with a length that it finds (CAL);
`nothing`: holes that stay empty. Where one place is written at a time, four ways to go on are followed, as a beam: the
likeliest word of all places, taken for good, is often a comma that leaves both its sides open. BLEU of the whole text
by sacrebleu, against the text as it was; exact: holes that are filled as they were; off by: words too many or too few,
of a hole, on average.
"""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from held_out import passages
from pilot import Pilots, arguments, digest, run, seeds_of
from table import Row, Table, markdown, spread
from translation import quality

RUNS = {"law": "runs", "unit": "word", "share": 0.5, "lengths": [0.4, 0.2, 0.15, 0.1, 0.08, 0.07], "rate": [0.03, 0.2]}
ALONE = {"law": "runs", "unit": "word", "share": 0.5, "rate": [0.05, 0.5]}
HIDDEN = f"masking={json.dumps([RUNS, ALONE])}"
NOTHING, TOLD, PROBED = "nothing", "told", "probed"
BEAM, ROUNDS = "beam of 4", "all slots a round"
AT_ONCE = {"policy": "parallel", "beam": 1}


@dataclass(frozen=True)
class Family:
    """How a family is trained and asked."""

    settings: list[str]
    ways: dict[str, dict[str, Any]] = field(default_factory=lambda: {BEAM: {"beam": 4}})


FAMILIES = {
    "blank LM": Family(["objective=blank_lm", HIDDEN]),
    "insertion": Family(["objective=insertion", HIDDEN], {BEAM: {"beam": 4}, ROUNDS: AT_ONCE}),
    "fractional": Family(["objective=fractional", HIDDEN], {ROUNDS: AT_ONCE}),
    "left to right, with holes": Family(["objective=left_to_right", HIDDEN]),
    "masked diffusion": Family(["objective=masked_diffusion", HIDDEN], {TOLD: {"beam": 4}, PROBED: {"beam": 4}}),
}  # fmt: skip
COLUMNS = {
    "hidden": "", "in": "", "family": "", "writes": "", "BLEU": ".1f", "±": ".1f", "seeds": "", "exact": ".1%",
    "off by": ".2f", "holes": "", "CPU ms": ".0f", "steps": ".0f", "Mtokens": ".2f",
}  # fmt: skip
BATCH = 16


@dataclass(frozen=True)
class Task:
    """A text without some of its words: what stands between holes, and what stood in them."""

    between: list[str]  # one more than holes; "" where a hole begins or ends the text
    missing: list[str]

    @classmethod
    def of(cls, text: str, share: float, runs: bool) -> "Task":
        """With about that share of the words hidden; what is drawn depends on the text alone."""
        words, draw = text.split(), random.Random(text)
        hidden, wanted = set[int](), max(1, round(share * len(words)))
        while len(hidden) < wanted:
            size = 1
            while runs and size < wanted and draw.random() < 2 / 3:
                size += 1
            start = draw.randrange(len(words))
            hidden |= set(range(start, min(len(words), start + size)))
        between, missing = [[]], list[list[str]]()
        for i, word in enumerate(words):
            if i not in hidden:
                between[-1].append(word)
            elif i - 1 in hidden:
                missing[-1].append(word)
            else:
                missing.append([word])
                between.append([])
        return cls([" ".join(some) for some in between], [" ".join(some) for some in missing])

    def whole(self, fills: Sequence[str]) -> str:
        """The text with its holes filled."""
        parts = [self.between[0]]
        for fill, text in zip(fills, self.between[1:], strict=True):
            parts += [fill, text]
        return " ".join(part.strip() for part in parts if part.strip())

    def pieces(self, signs: Sequence[Sequence[Any]]) -> list[Any]:
        """As `fill` takes it, with `signs` of each hole."""
        out: list[Any] = [f"{self.between[0]} "]
        for some, text in zip(signs, self.between[1:], strict=True):
            out += [*some, f" {text} "]
        out[-1] = out[-1].rstrip()
        return [piece for piece in out if piece != "" and piece != " "]


def filled(lm: Any, tasks: Sequence[Task], way: str, how: dict[str, Any]) -> list[list[str]]:
    """What a model writes into the holes of each text."""
    from unmask.decoding.masks import Masks
    from unmask.holes import Blank, Mask

    out = []
    more = how | ({"masks": Masks(length="probe")} if way == PROBED else {})
    for part in (tasks[start : start + BATCH] for start in range(0, len(tasks), BATCH)):
        sizes = [[len(lm.tokenizer.encode(f" {text}", inside=True)) for text in task.missing] for task in part]
        signs = [[[Mask()] * n if way == TOLD else [Blank()] for n in some] for some in sizes]
        texts = [task.pieces(some) for task, some in zip(part, signs, strict=True)]
        for some, fills in zip(signs, lm.fill(texts, max_words=12, **more), strict=True):
            said = iter(hole.text for hole in fills[0].holes)
            out.append(["".join(next(said) for _ in hole).strip() for hole in some])
    return out


def measured(tasks: Sequence[Task], said: Sequence[Sequence[str]]) -> Row:
    """How near fills are to what stood there."""
    holes = [pair for task, fills in zip(tasks, said, strict=True) for pair in zip(task.missing, fills, strict=True)]
    whole = [task.whole(fills) for task, fills in zip(tasks, said, strict=True)]
    found = quality(whole, [task.whole(task.missing) for task in tasks])
    off = [abs(len(a.split()) - len(b.split())) for a, b in holes]
    return {"BLEU": found["BLEU"], "±": found["±"], "exact": sum(a == b for a, b in holes) / len(holes),
            "off by": sum(off) / len(off), "holes": len(holes)}  # fmt: skip


def lines(rows: Sequence[Row]) -> list[Row]:
    """The table: of each task and way the means over seeds."""
    out = []
    names = ("hidden", "in", "family", "writes")
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        some = [row for row in rows if tuple(row[name] for name in names) == key]
        numbers = [name for name in COLUMNS if name in some[0] and name not in names]
        line = {name: sum(row[name] for row in some) / len(some) for name in numbers}
        line |= dict(zip(names, key, strict=True)) | {"seeds": spread([row["BLEU"] for row in some], ".1f")}
        out.append(line | {"hidden": f"{key[0]:.0%}", "holes": some[0]["holes"]})
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Learn, hide, fill and print the table."""
    parser = arguments(__doc__, "infilling", tokens=12e6)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.3, 0.5], help="of words that are hidden")
    parser.add_argument("--most", type=int, default=48, help="tokens of a text, at most (%(default)s)")
    parser.add_argument("-n", type=int, default=200, help="held-out texts (%(default)s)")
    given = parser.parse_args(argv)
    pilots = Pilots(given, given.text)
    from unmask.tokenizer import Tokenizer

    texts = passages(given.text, given.held_out, Tokenizer.load(pilots.vocabulary), given.n, given.most)

    def measure(key: Row) -> Row:
        tasks = [Task.of(text, key["hidden"], key["in"] == "runs") for text in texts]
        if key["family"] == NOTHING:
            return measured(tasks, [[""] * len(task.missing) for task in tasks])
        family = FAMILIES[key["family"]]
        made = pilots.make(key["family"], family.settings, key["seed"])
        lm, begin = made.load(), time.process_time()
        said = filled(lm, tasks, key["writes"], family.ways[key["writes"]])
        spent = 1000 * (time.process_time() - begin) / len(tasks)
        return made.cost | measured(tasks, said) | {"CPU ms": spent, "said": said[:20]}

    shared = {"models": pilots.name, "texts": digest(texts)}
    ways = [(name, way) for name in given.families for way in FAMILIES[name].ways]
    keys = [
        shared | {"hidden": share, "in": unit, "family": name, "writes": way, "seed": seed}
        for share in given.shares
        for unit in ("words", "runs")
        for name, way in [(NOTHING, ""), *ways]
        for seed in (seeds_of(given) if name != NOTHING else [0])
    ]
    print(markdown(lines(Table(given.out / "infilling.jsonl").rows(keys, measure)), COLUMNS))
    print(f"\n{len(texts)} texts of at most {given.most} tokens; {given.seeds} seeds.")


if __name__ == "__main__":
    run(main)
