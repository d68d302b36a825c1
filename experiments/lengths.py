"""What a wrong length costs: answers on a canvas that is too short or too long, by what filled them up in training.

    python experiments/lengths.py --text my.txt --out runs/lengths --tokens 8e6 --taught 2e6
    python experiments/lengths.py --text my.txt --pairs my.jsonl --asked held_out.jsonl --out runs/lengths

A masked diffusion model learns a text, then answers (`llada-sft`), which in the rows of a step that are shorter than
the longest are filled up by ends (`eos`), by a rainbow of signs, or not at all (`none`). Each is then asked with a
canvas of some times the true length (the end of the answer is one of its tokens), with a length that it probes, and
with a canvas that grows. The pairs are `{"prompt": ..., "response": ...}` a line, or made of --text: a sentence's
beginning and the rest of it (`--task rest`), or some words that are to be said again (`--task repeat`, of which an
answer is right or wrong). A left-to-right model that learned the same ends by itself. Exact: the answer is the true
one; F1: of its words and signs, of any order.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pilot import Pilots, alone, arguments, digest, run, seeds_of
from table import Row, Table, markdown, over_seeds, spread

PADS = ("eos", "rainbow", "none")
BASELINE, ITSELF = "left to right", "ends by itself"
FACTORS = (0.5, 1.0, 1.5, 2.0, 4.0)
FOUND = ("probe", "grow")
COLUMNS = {
    "filled up by": "", "canvas": "", "exact": ".1%", "±": ".1%", "seeds": "", "F1": ".3f", "± of it": ".3f",
    "words": ".2f", "n": "", "steps": ".0f", "CPU s": ".0f",
}  # fmt: skip
BATCH = 32
Pair = dict[str, str]


def rest(words: Sequence[str], draw: random.Random) -> Pair:
    """A sentence's first part, and the rest of it."""
    at = draw.randint(max(1, len(words) // 3), max(1, 2 * len(words) // 3))
    return {"prompt": " ".join(words[:at]), "response": " ".join(words[at:])}


def repeat(words: Sequence[str], draw: random.Random) -> Pair:
    """Some words of a sentence, and the same again."""
    n = draw.randint(1, min(12, len(words)))
    at = draw.randint(0, len(words) - n)
    said = " ".join(words[at : at + n])
    return {"prompt": f"{said} | again:", "response": said}


TASKS = {"rest": rest, "repeat": repeat}


def pairs(sentences: Iterator[str], task: str, most: int) -> list[Pair]:
    """Of each sentence of 4 to 40 words a pair; what is drawn depends on the sentence alone. At most `most` of them."""
    made = []
    for sentence in sentences:
        words = sentence.split()
        if 4 <= len(words) <= 40:
            made.append(TASKS[task](words, random.Random(sentence)))
        if len(made) == most:
            break
    return made


def data(given: Any) -> tuple[Path, list[Pair]]:
    """The file to learn answers from, and what is asked.

    Raises:
        ValueError: when there is nothing to ask.
    """
    from unmask.data.sources import DataConfig, Source

    if given.pairs:
        asked = [json.loads(line) for line in given.asked.read_text(encoding="utf-8").splitlines() if line.strip()]
        return given.pairs, asked[: given.n]
    learned = DataConfig(sources=tuple(Source.of(str(path)) for path in given.text))
    texts = [text for source in learned.sources for text in source.texts("train")]
    held = (
        (text for path in given.held_out for text in Source(path=str(path)).texts("train"))
        if given.held_out
        else (text for source in learned.sources for text in source.texts("held_out"))
    )
    lines = [json.dumps(pair) + "\n" for pair in pairs(iter(texts), given.task, len(texts))]
    path = given.out / f"pairs-{given.task}.jsonl"
    with alone(given.out, path.name):
        if not path.exists() or path.read_text(encoding="utf-8") != "".join(lines):
            path.write_text("".join(lines), encoding="utf-8")
    if not (asked := pairs(held, given.task, given.n)):
        raise ValueError("nothing to ask · the held-out text has no sentence of 4 to 40 words · name --held-out")
    return path, asked


def answers(lm: Any, asked: Sequence[Pair], canvas: float | str, policy: str) -> list[str]:
    """What a model answers on canvases of so many times the true length, or of a length that it finds."""
    from unmask.decoding.masks import Masks

    sizes = [len(lm.tokenizer.encode(f" {pair['response']}", inside=True)) + 1 for pair in asked]
    wanted = [canvas if isinstance(canvas, str) else max(1, math.ceil(canvas * size)) for size in sizes]
    order = sorted(range(len(asked)), key=lambda i: str(wanted[i]))
    out = [""] * len(asked)
    for length, group in groupby(order, key=lambda i: wanted[i]):
        places = list(group)
        for part in (places[start : start + BATCH] for start in range(0, len(places), BATCH)):
            prompts = [asked[i]["prompt"] for i in part]
            how = {} if canvas == ITSELF else {"policy": policy, "masks": Masks(length=length)}
            for i, fills in zip(part, lm.generate(prompts, beam=1, **how), strict=True):
                out[i] = fills[0].holes[0].text
    return out


def f1(said: str, true: str) -> float:
    """The harmonic mean of precision and recall of the words and signs of an answer (Rajpurkar et al. 2016)."""
    from unmask.evaluation.cloze import tokens

    a, b = Counter(tokens(said)), Counter(tokens(true))
    shared = (a & b).total()
    return 2 * shared / (a.total() + b.total()) if shared else 0.0


def lines(rows: Sequence[Row]) -> list[Row]:
    """The table: of each padding and canvas the mean over seeds."""
    from unmask.evaluation.report import ratio

    out = []
    for name in dict.fromkeys((row["filled up by"], row["canvas"]) for row in rows):
        some = [row for row in rows if (row["filled up by"], row["canvas"]) == name]
        line = dict(some[0]) | {"n": len(some[0]["hits"])}
        line["seeds"] = spread([sum(row["hits"]) / len(row["hits"]) for row in some], ".1%")
        for figure, error, each in (("exact", "±", "hits"), ("F1", "± of it", "F1s")):
            scores = over_seeds(some, each)
            line[figure], line[error] = ratio(scores, [1.0] * len(scores))
        line["words"] = sum(row["words"] for row in some) / len(some)
        line["canvas"] = name[1] if isinstance(name[1], str) else f"{name[1]:g} x"
        out.append(line)
    return out


def parsed(argv: Sequence[str] | None) -> Any:
    """What was said on the command line."""
    parser = arguments(__doc__, "lengths")
    parser.add_argument("--pairs", type=Path, help="JSONL of prompt and response to learn from; else made of --text")
    parser.add_argument("--asked", type=Path, help="JSONL of those that are asked; goes with --pairs")
    parser.add_argument("--task", choices=TASKS, default="rest", help="how pairs are made of a text (%(default)s)")
    parser.add_argument("--taught", type=float, default=1e6, help="tokens of the second training (%(default).0f)")
    parser.add_argument("--pads", nargs="*", choices=PADS, default=PADS, help="(all); with no name left to right alone")
    parser.add_argument("--canvas", type=float, nargs="+", default=FACTORS, help="times the true length")
    parser.add_argument("--policy", default="low_confidence", help="(%(default)s)")
    parser.add_argument("-n", type=int, default=200, help="that are asked (%(default)s)")
    given = parser.parse_args(argv)
    if bool(given.pairs) != bool(given.asked):
        parser.error("--pairs and --asked go together: to learn from, and to ask")
    return given


def main(argv: Sequence[str] | None = None) -> None:
    """Learn, teach, ask and print the table."""
    given = parsed(argv)
    path, asked = data(given)
    pilots = Pilots(given, given.text)
    teaching = max(1, round(given.taught / given.batch_tokens))
    shared = {"models": pilots.name, "taught": given.taught, "policy": given.policy}
    task = given.task if given.pairs is None else given.pairs.stem
    shared |= {"asked": digest(asked)}

    def measure(key: Row) -> Row:
        pad = key["filled up by"]
        own = pilots.left_to_right(stop="end") if pad == BASELINE else []
        base = pilots.make("base", own, key["seed"])
        settings = [*own, f"data.pad={'none' if own else pad}", "epochs=null"]
        how: dict[str, Any] = {"recipe": "llada-sft", "start": base, "texts": [path], "steps": teaching}
        made = pilots.make(f"{pad} {task}", settings, key["seed"], **how)
        said = answers(made.load(), asked, key["canvas"], given.policy)
        true = [pair["response"] for pair in asked]
        words = sum(len(one.split()) for one in said) / sum(len(one.split()) for one in true)
        hits = [a.strip() == b for a, b in zip(said, true, strict=True)]
        scores = [round(f1(a, b), 4) for a, b in zip(said, true, strict=True)]
        return made.cost | {"hits": hits, "F1s": scores, "words": words, "said": said[:20]}

    seeds = seeds_of(given)
    ways = [(pad, canvas) for pad in given.pads for canvas in [*given.canvas, *FOUND]] + [(BASELINE, ITSELF)]
    keys = [{"filled up by": pad, "canvas": canvas, "seed": s} | shared for pad, canvas in ways for s in seeds]
    print(markdown(lines(Table(given.out / "lengths.jsonl").rows(keys, measure)), COLUMNS))
    print(f"\n{len(asked)} asked, {given.seeds} seeds; words: how many were written for each true one.")


if __name__ == "__main__":
    run(main)
