"""Writing 128 masks behind 128 tokens on a CPU: each way of reading them, against the plain algorithm.

    python benchmarks/masks.py [--model FOLDER --text HELD_OUT.txt] [--batch 8 --ragged] [--passes 128,32]

The plain algorithm is LLaDA's own sampler at temperature 0: at every pass the whole canvas, the whole head, a softmax
in float64. Its rows are packed as ours are; padded ones would be slower. All ways in turn in one process, processor
time, each with the opening of its texts. 6 layers of width 384 with random weights; with --model a trained model. Then
two more columns count: *same*, the share of tokens that are the plain algorithm's (its blocks are of 32, as ours are),
and *DUEL*, the nats a token that a way asks for what stands in --text behind the prompt.
Aim, float32, as it lies or packed as `load` packs it: 6 times the plain algorithm at 128 passes, 3.5 times at 32, 80 %
of both in a ragged batch; 95 % of the same tokens, or DUEL within 0.02.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import unmask
from random_models import DTYPES, in_dtype, random_model
from unmask import Masks
from unmask.canvas import Canvas, Role
from unmask.decoding.duel import duel
from unmask.decoding.infill import infill
from unmask.decoding.opening import open_all
from unmask.decoding.search import Search
from unmask.evaluation.prompts import prompts
from unmask.holes import Blank
from unmask.language_model import LanguageModel
from unmask.model import Model
from unmask.tokenizer import Reading
from unmask.view import View

BLOCK = 32
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "whole": ("low_confidence", {}),
    "prefix": ("low_confidence", {"cache": "prefix"}),
    "dual": ("low_confidence", {"cache": "dual"}),
    "dual, anew every 8": ("low_confidence", {"cache": "dual", "refresh": 8}),
    "delayed": ("low_confidence", {"cache": "delayed"}),
    "delayed, 32 behind": ("low_confidence", {"cache": "delayed", "suffix": 32}),
    "delayed, threshold": ("threshold", {"cache": "delayed"}),
}


def plain(model: Model, canvas: Canvas, steps: int, block: int) -> Tensor:
    """The ids of a canvas once its masks are written, `[N]`: low-confidence remasking as LLaDA's own sampler has it."""
    ids, everything = canvas.ids.clone(), torch.arange(canvas.n_elements)
    masks = [(canvas.role == Role.SIGN).logical_and(canvas.rows == row).nonzero()[:, 0] for row in range(canvas.n_rows)]
    n_blocks = -(-max(row.numel() for row in masks) // block)
    each = steps // n_blocks
    for number in range(n_blocks):
        open_now = [row[number * block : (number + 1) * block] for row in masks]
        for left in range(each, 0, -1):
            view = View(ids, canvas.offsets, canvas.index, everything)
            logits = model.head.words.logits(model.backbone(view))  # type: ignore[union-attr]
            word = logits.argmax(-1)
            sure = logits.double().softmax(-1).gather(1, word[:, None])[:, 0]
            for row, some in enumerate(open_now):
                best = sure[some].argsort(descending=True, stable=True)[: -(-some.numel() // left)]
                ids[some[best]] = word[some[best]]
                stays = torch.ones_like(some, dtype=torch.bool)
                stays[best] = False
                open_now[row] = some[stays]
    return ids


def search_of(way: str, steps: int, **masks: Any) -> Search:
    """How one of the ways writes."""
    policy, more = WAYS[way]
    return Search(policy, steps=steps, masks=Masks(block=BLOCK, **masks, **more))


def written(lm: LanguageModel, readings: list[Reading], new: int, steps: int, way: str) -> tuple[Tensor, int]:
    """The ids of all rows, as the house writes them, and in how many passes."""
    search = search_of(way, steps, length=new, ending="never")
    with torch.inference_mode():
        opened = open_all(lm.model, lm.tokenizer, readings, None, search.masks)
    found: dict[int, Tensor] = {}
    for moment in infill(lm.model, opened.requests, opened.rules, opened.classes, search):
        found |= {number: some[0].canvas.ids for number, some in moment.finished.items()}
    return torch.cat([found[number] for number in range(len(readings))]), moment.passes


def asked(lm: LanguageModel, way: str, steps: int, pairs: list[tuple[str, str]]) -> float:
    """Nats a token that a way asks for the second text of each pair behind the first, by DUEL."""
    clean = unmask.canvas.concat([lm.tokenizer.read([before + behind]).canvas for before, behind in pairs])
    given = torch.tensor([lm.tokenizer.read([before]).canvas.n_elements - 1 for before, _ in pairs])
    hidden = (clean.role == Role.TEXT) & (clean.index >= given[clean.rows])
    with torch.inference_mode():
        return -float(duel(lm.model, clean, hidden, search_of(way, steps)).sum() / hidden.sum())


def cut(lm: LanguageModel, text: str, n_tokens: int, new: int, batch: int, ragged: bool) -> list[tuple[str, str]]:
    """Prompts of `n_tokens` and what stands behind each; ragged ones have a quarter of that to all of it."""
    size, pairs = n_tokens + new, []
    ids = lm.tokenizer.encode(" ".join(text[: 40 * size * batch].split()))
    for number in range(batch):
        first = number * len(ids) // batch
        last = first + n_tokens - (number * 3 * n_tokens // (4 * max(batch - 1, 1)) if ragged else 0)
        pairs.append((lm.tokenizer.decode(ids[first:last]), lm.tokenizer.decode(ids[last : last + new], inside=True)))
    return pairs


def bar(lm: LanguageModel, reading: Reading) -> None:
    """Make words that ours may not write all but impossible, so that the plain algorithm has the same choice."""
    classes = open_all(lm.model, lm.tokenizer, [reading], None, Masks(length=1)).classes
    lm.model.head.words.bias.sub_(30.0 * ~classes.usable[classes.of])  # type: ignore


def main() -> None:
    """Print a table for each number of passes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a trained masked-diffusion model; else random weights")
    parser.add_argument("--text", type=Path, help="held-out text; else everyday sentences")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--prompt", type=int, default=128, help="tokens")
    parser.add_argument("--new", type=int, default=128, help="tokens")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--ragged", action="store_true", help="prompts of a quarter of the tokens to all of them")
    parser.add_argument("--passes", default="128,32")
    parser.add_argument("--dtypes", default="float32,packed,int8", help=DTYPES)
    parser.add_argument("--ways", default=";".join(WAYS), help="with ; between them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.model:
        lm = unmask.load(given.model, dtype="float32")
    else:
        lm = random_model("masked_diffusion", given.layers, given.width)
    text = given.text.read_text(encoding="utf-8") if given.text else " ".join(prompts()).replace("___", "and") * 9
    pairs = cut(lm, text, given.prompt, given.new, given.batch, given.ragged)
    readings = [lm.tokenizer.read([before, Blank()]) for before, _ in pairs]
    bar(lm, readings[0])
    models = {dtype: in_dtype(lm, dtype, readings[0]) for dtype in given.dtypes.split(",")}
    canvas = open_all(lm.model, lm.tokenizer, readings, None, Masks(length=given.new)).requests
    start = unmask.canvas.concat([one.starts for one in canvas])
    masks = start.role == Role.SIGN
    print(
        f"torch {torch.__version__}, {given.threads} thread(s), rows {start.lengths.tolist()}, {given.new} of each new"
    )
    for steps in [int(one) for one in given.passes.split(",")]:
        times: dict[tuple[str, str], list[float]] = {}
        same: dict[tuple[str, str], tuple[float, int]] = {("plain", "float32"): (1.0, steps)}
        for _ in range(given.rounds):
            begin = time.process_time()
            with torch.inference_mode():
                theirs = plain(lm.model, start, steps, BLOCK)
            times.setdefault(("plain", "float32"), []).append(time.process_time() - begin)
            for dtype in given.dtypes.split(","):
                for way in given.ways.split(";"):
                    begin = time.process_time()
                    ours, passes = written(models[dtype], readings, given.new, steps, way)
                    times.setdefault((way, dtype), []).append(time.process_time() - begin)
                    same[way, dtype] = float((ours == theirs)[masks].double().mean()), passes
        print(f"\n{steps} passes")
        heads = f"{'CPU s':>7} {'range':>13} {'faster':>7} {'same':>7} {'DUEL':>7}"
        print(f"{'way':20} {'precision':9} {'passes':>6} {heads}")
        for (way, dtype), took in times.items():
            middle, spread = statistics.median(took), f"{min(took):.2f}-{max(took):.2f}"
            ratio = statistics.median(times["plain", "float32"]) / middle
            share, passes = same[way, dtype]
            nats = (
                asked(models[dtype], "whole" if way == "plain" else way, steps, pairs) if given.text else float("nan")
            )
            line = f"{middle:7.2f} {spread:>13} {ratio:6.2f}x {share:7.1%} {nats:7.3f}"
            print(f"{way:20} {dtype:9} {passes:6} {line}")


if __name__ == "__main__":
    main()
