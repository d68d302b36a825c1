"""Filling on a CPU: milliseconds a fill, the plain float32 path against the one chosen by itself, and what it changes.

    python benchmarks/decode.py [--model M] [--dtypes float32,auto] [--text HELD_OUT.txt] [--threads 1]

Ten texts with one or two holes, n = 5, in one process, paths in turn. Agreement: of top-5 lists, over the prompts and,
with --text, over 200 one-word blanks; the bound is on the sentences of those.
Aim: at least twice as fast, lists that agree to 98 %, a bound within 0.01 nats a word.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import unmask
from unmask.evaluation import cloze
from unmask.evaluation.prompts import prompts
from unmask.evaluation.report import ratio


def loaded(model: str | None, dtype: str) -> Any:
    """The model at one precision."""
    return unmask.load(model, dtype=dtype) if model else unmask.load(dtype=dtype)


def timed(lm: Any, texts: list[str]) -> float:
    """Milliseconds a text, one call each."""
    begin = time.perf_counter()
    for text in texts:
        lm.fill(text, n=5)
    return (time.perf_counter() - begin) * 1000 / len(texts)


def top_five(lm: Any, texts: list[str]) -> list[list[str]]:
    """The five best fills of each text."""
    return [[fill.text for fill in fills] for fills in lm.fill(texts, n=5)]


def scored(lm: Any, texts: list[str]) -> list[Any]:
    """The scores of whole texts, as `unmask evaluate blanks` takes them: the same random orders for every path."""
    how: dict[str, Any] = {"method": "bound", "orders": 2} if lm.model.objective.paths == "many" else {}
    return [score for start in range(0, len(texts), 32) for score in lm.score(texts[start : start + 32], **how)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder; else the built-in model")
    parser.add_argument("--dtypes", default="float32,auto", help="the first is what the others are compared with")
    parser.add_argument("--text", type=Path, help="held-out text")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    models = {dtype: loaded(given.model, dtype) for dtype in given.dtypes.split(",")}
    ten = [text for text in prompts() if "{" not in text][:10]
    asked, whole = prompts(), [text.split("___")[0] + "it." for text in prompts()]
    if given.text:
        whole = cloze.choose(cloze.sentences([given.text]), 200, seed=0)
        asked = asked + [item.free for item in cloze.one_word(whole, seed=0)]

    times: dict[str, list[float]] = {dtype: [] for dtype in models}
    for number in range(given.rounds + 1):  # the first round warms up
        for dtype, lm in models.items():
            took = timed(lm, ten)
            if number:
                times[dtype].append(took)
    lists = {dtype: top_five(lm, asked) for dtype, lm in models.items()}
    scores = {dtype: scored(lm, whole) for dtype, lm in models.items()}

    first = next(iter(models))
    print(f"torch {torch.__version__}, {given.threads} thread(s), {len(ten)} texts, {len(asked)} lists")
    heads = f"{'path':10} {'ms a fill':>10} {'range':>15} {'faster':>7}"
    print(f"{heads} {'same list':>10} {'same fills':>11} {'nats/word':>10}")
    for dtype in models:
        median = statistics.median(times[dtype])
        pairs = list(zip(lists[first], lists[dtype], strict=True))
        same = sum(a == b for a, b in pairs) / len(pairs)
        shared = sum(len(set(a) & set(b)) for a, b in pairs) / sum(len(a) for a, _ in pairs)
        nats, _ = ratio([-score.log_prob for score in scores[dtype]], [score.words for score in scores[dtype]])
        spread = f"{min(times[dtype]):.1f}-{max(times[dtype]):.1f}"
        faster = statistics.median(times[first]) / median
        print(f"{dtype:10} {median:10.1f} {spread:>15} {faster:6.2f}x {same:10.1%} {shared:11.1%} {nats:10.4f}")


if __name__ == "__main__":
    main()
