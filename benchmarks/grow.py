"""Growing a text on a CPU: positions fixed at birth and a cache, against reading all anew and against left to right.

    python benchmarks/grow.py [--new 16,64,256,1024] [--batch 1] [--prompt 16] [--rounds 3]

Random weights, 6 layers of width 384, whose ends come when a hole is full, so that every way writes the same number of
tokens: what it costs, not how good it is. All ways in turn in one process, processor time, each with the opening of its
texts; float32, and with --dtypes the same weights as they may lie for filling. *Tokens read*: elements that went
through the layers. *FLOPs*: of products and attention in float32, as torch counts them. *Grows as*: the exponent of
processor time in new tokens, a line through the logarithms. Ways that read all anew for every word stop at --most
tokens.
"""

import argparse
import math
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from random_models import DTYPES, in_dtype, random_model
from unmask.backbone.transformer import Layer
from unmask.decoding.infill import infill
from unmask.decoding.opening import open_all
from unmask.decoding.search import Search
from unmask.evaluation.prompts import prompts
from unmask.holes import Blank
from unmask.language_model import LanguageModel
from unmask.tokenizer import Reading


@dataclass(frozen=True)
class Way:
    """A family, and how it writes."""

    family: str
    policy: str
    anew: bool = False  # every word costs a reading of all
    options: dict[str, Any] = field(default_factory=dict)


WAYS = {
    "cached, all slots a round": Way("fractional", "parallel"),
    "cached, word by word": Way("fractional", "serial"),
    "queries, all slots a round": Way("fractional", "parallel", options={"queries": True}),
    "queries, word by word": Way("fractional", "serial", True, {"queries": True}),
    "read anew, all slots a round": Way("insertion", "parallel", options={"place": "none"}),
    "read anew, word by word": Way("insertion", "serial", True, {"place": "none"}),
    "left to right, cached": Way("left_to_right", "leftmost"),
}


def made(way: Way, longest: int) -> LanguageModel:
    """Random weights; an end is never the likeliest where a word may come."""
    positions = "affine" if way.family == "fractional" else "rotary"
    lm = random_model(way.family, 6, 384, options=way.options, max_length=longest, positions=positions)
    with torch.no_grad():
        lm.model.objective.head.words.bias[lm.model.objective.end] = -1e4
    return lm


def prompts_of(lm: LanguageModel, batch: int, n_tokens: int) -> list[Reading]:
    """Texts of so many tokens with a hole behind them."""
    ids = lm.tokenizer.encode(" ".join(text.replace("___", "it") for text in prompts()))
    ids = ids * (1 + batch * n_tokens // len(ids))
    cut = [ids[row * n_tokens : (row + 1) * n_tokens] for row in range(batch)]
    return [lm.tokenizer.read([lm.tokenizer.decode(some), Blank()]) for some in cut]


class Read:
    """How many elements go through the layers of a model."""

    def __init__(self, lm: LanguageModel) -> None:
        """Count in its first layer."""
        self.n = 0
        first = next(part for part in lm.model.modules() if isinstance(part, Layer))
        first.register_forward_pre_hook(self._count)

    def _count(self, layer: object, given: tuple[torch.Tensor, ...]) -> None:
        self.n += given[0].shape[0]


def write(lm: LanguageModel, way: Way, readings: list[Reading], new: int) -> int:
    """Write so many tokens into each; in how many passes."""
    search = Search(way.policy)
    with torch.inference_mode():
        opened = open_all(lm.model, lm.tokenizer, readings)
    full = torch.full_like(opened.rules.max_tokens, new)
    rules = replace(opened.rules, max_tokens=full, max_words=full, spaced=full < 0)
    for moment in infill(lm.model, opened.requests, rules, opened.classes, search):
        for found, *_ in moment.finished.values():
            written = (found.canvas.hole >= 0) & (found.canvas.role == 0)
            assert int(written.sum()) == new, f"{int(written.sum())} tokens in the place of {new}"
    return moment.passes


def slope(sizes: list[int], seconds: list[float]) -> float:
    """The exponent of a power law through points."""
    x, y = ([math.log(value) for value in values] for values in (sizes, seconds))
    mx, my = statistics.mean(x), statistics.mean(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def main() -> None:
    """Print a table for each batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new", default="16,64,256,1024", help="tokens, with commas between them")
    parser.add_argument("--batch", default="1", help="texts, with commas between them")
    parser.add_argument("--prompt", type=int, default=16, help="tokens")
    parser.add_argument("--dtypes", default="float32", help=f"of {DTYPES}; with commas between them")
    parser.add_argument("--ways", default=";".join(WAYS), help="with ; between them")
    parser.add_argument("--most", type=int, default=256, help="new tokens of ways that read all anew for every word")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    sizes = [int(size) for size in given.new.split(",")]
    ways, models = {}, {}
    for name in given.ways.split(";"):
        lm = made(WAYS[name], given.prompt + 3 * max(sizes) + 8)
        for dtype in given.dtypes.split(","):
            full = name if dtype == "float32" else f"{name}, {dtype}"
            ways[full], models[full] = WAYS[name], in_dtype(lm, dtype, prompts_of(lm, 1, given.prompt)[0])
    for batch in (int(batch) for batch in given.batch.split(",")):
        cells: dict[tuple[str, int], tuple[int, int, float, float]] = {}
        for size in sizes:
            able = [name for name, way in ways.items() if size <= given.most or not way.anew]
            seconds: dict[str, list[float]] = {name: [] for name in able}
            for turn in range(given.rounds + 1):
                for name in able:
                    lm, readings = models[name], prompts_of(models[name], batch, given.prompt)
                    if turn == 0:  # also warms up
                        read = Read(lm)
                        with FlopCounterMode(display=False) as counter:
                            passes = write(lm, ways[name], readings, size)
                        cells[name, size] = passes, read.n, counter.get_total_flops() / 1e9, 0.0
                        continue
                    begin = time.process_time()
                    write(lm, ways[name], readings, size)
                    seconds[name].append(time.process_time() - begin)
                    print(f"{name}, {batch} x {size}: {seconds[name][-1]:.2f} s", file=sys.stderr)
            for name in able:
                cells[name, size] = *cells[name, size][:3], statistics.median(seconds[name])
        print(f"\nBatch {batch}, {given.prompt} tokens given\n")
        print("| way | new tokens | passes | tokens read | GFLOPs | CPU s | tokens a CPU-second | grows as |")
        print("|---|---|---|---|---|---|---|---|")
        for name in ways:
            done = [size for size in sizes if (name, size) in cells]
            long = [size for size in done if size >= 64]
            for size in done:
                passes, n, flops, cpu = cells[name, size]
                last = size == done[-1] and len(long) > 1
                grows = f"n^{slope(long, [cells[name, some][3] for some in long]):.2f}" if last else ""
                products = f"{flops:,.0f}" if name in WAYS else "–"
                cost = f"{passes} | {n:,} | {products} | {cpu:.2f} | {batch * size / cpu:.1f}"
                print(f"| {name} | {size} | {cost} | {grows} |")


if __name__ == "__main__":
    main()
