"""Writing 128 masks behind 128 tokens on a CPU: each way of reading them, against the plain algorithm.

    python benchmarks/masks.py [--model FOLDER] [--batch 8 --ragged] [--passes 128,32] [--dtypes float32,int8]

The plain algorithm is LLaDA's own sampler at temperature 0: at every pass the whole canvas, the whole head, a softmax
in float64. Its rows are packed as ours are; padded ones would be slower. All ways in turn in one process, processor
time, each with the opening of its texts. 6 layers of width 384 with random weights; with --model a trained model, and
then the share of tokens that are the plain algorithm's counts too (its blocks are of 32, as ours are).
Aim, float32: 6 times the plain algorithm at 128 passes, 3.5 times at 32, 80 % of both in a ragged batch.
"""

import argparse
import statistics
import time
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

import unmask
from unmask import Masks
from unmask.backbone import BackboneConfig
from unmask.canvas import Canvas, Role
from unmask.decoding.infill import infill
from unmask.decoding.opening import open_all
from unmask.decoding.search import Search
from unmask.evaluation.prompts import prompts
from unmask.holes import Blank
from unmask.language_model import LanguageModel
from unmask.model import Model, ModelConfig, quantise
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


def written(lm: LanguageModel, readings: list[Reading], new: int, steps: int, way: str) -> tuple[Tensor, int]:
    """The ids of all rows, as the house writes them, and in how many passes."""
    policy, more = WAYS[way]
    search = Search(policy, steps=steps, masks=Masks(length=new, block=BLOCK, **more))
    with torch.inference_mode():
        opened = open_all(lm.model, lm.tokenizer, readings, None, search.masks)
    found: dict[int, Tensor] = {}
    for moment in infill(lm.model, opened.requests, opened.rules, opened.classes, search):
        found |= {number: some[0].canvas.ids for number, some in moment.finished.items()}
    return torch.cat([found[number] for number in range(len(readings))]), moment.passes


def texts(lm: LanguageModel, n_tokens: int, batch: int, ragged: bool) -> list[Reading]:
    """Rows of `n_tokens` of text with a blank behind them; ragged ones have a quarter of that to all of it."""
    ids = lm.tokenizer.encode(" ".join(prompts()).replace("___", "and") * 9)
    sizes = [n_tokens - (i * 3 * n_tokens // (4 * max(batch - 1, 1)) if ragged else 0) for i in range(batch)]
    cut = [lm.tokenizer.decode(ids[37 * i : 37 * i + size]) for i, size in enumerate(sizes)]
    return [lm.tokenizer.read([text, Blank()]) for text in cut]


def of_shape(layers: int, width: int) -> LanguageModel:
    """A model with random weights, and the vocabulary of the built-in model."""
    lm = unmask.load()
    config, shape = lm.model.config, BackboneConfig(lm.tokenizer.vocab_size, width, layers, width // 64)
    model = Model(ModelConfig("masked_diffusion", shape, config.signs, config.special))
    model.initialise(0)
    return LanguageModel(model, lm.tokenizer)


def bar(lm: LanguageModel, reading: Reading) -> None:
    """Give the model itself no words that ours may not write, so that the plain algorithm has the same choice."""
    classes = open_all(lm.model, lm.tokenizer, [reading], None, Masks(length=1)).classes
    lm.model.head.words.bias.masked_fill_(~classes.usable[classes.of], -torch.inf)  # type: ignore


def main() -> None:
    """Print a table for each number of passes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a trained masked-diffusion model; else random weights")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--prompt", type=int, default=128, help="tokens")
    parser.add_argument("--new", type=int, default=128, help="tokens")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--ragged", action="store_true", help="prompts of a quarter of the tokens to all of them")
    parser.add_argument("--passes", default="128,32")
    parser.add_argument("--dtypes", default="float32,int8")
    parser.add_argument("--ways", default=";".join(WAYS), help="with ; between them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    lm = unmask.load(given.model, dtype="float32") if given.model else of_shape(given.layers, given.width)
    readings = texts(lm, given.prompt, given.batch, given.ragged)
    bar(lm, readings[0])
    models = {"float32": lm}
    if "int8" in given.dtypes.split(","):
        models["int8"] = LanguageModel(quantise(deepcopy(lm.model), readings[0].canvas), lm.tokenizer)
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
        print(f"{'way':20} {'precision':9} {'passes':>6} {'CPU s':>7} {'range':>13} {'faster':>7} {'same':>7}")
        for name, took in times.items():
            middle, spread = statistics.median(took), f"{min(took):.2f}-{max(took):.2f}"
            ratio = statistics.median(times["plain", "float32"]) / middle
            share, passes = same[name]
            print(f"{name[0]:20} {name[1]:9} {passes:6} {middle:7.2f} {spread:>13} {ratio:6.2f}x {share:7.1%}")


if __name__ == "__main__":
    main()
