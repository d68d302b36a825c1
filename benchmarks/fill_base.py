"""Filling with an adapted base on a CPU: time and memory a fill, beside the built-in model and a peer's beam search.

    python benchmarks/fill_base.py [ADAPTER] [--also MODEL] [--rounds 5]

ADAPTER is a run's `model` folder or a name. One hole in thirty tokens of text, n = 5, one thread, ten texts in turn.
*Asked*: the adapter's base, by a question in words. transformers has the merged model, the same tokens before it (the
text with its blank and the separator) and beam search with as many rows, up to the same number of new tokens. Every
measurement is a process of its own, one of each in turn; CPU time of the process, its peak memory, and what it reads
from disk.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEXTS = [
    "The old man walked slowly down the street and ___ at the people "
    "who stood in front of the little shop on the corner of the square.",
    "When the rain had stopped, the children went out into the garden and "
    "played under the big ___ until their mother called them in for supper.",
    "She had never seen so many ___ in one place before, and for "
    "a while she could do nothing but stand there and look at them.",
    "In the middle of the nineteenth century the town had about two "
    "thousand inhabitants, most of whom worked in the ___ or on the farms around it.",
    "He opened the letter, read it twice, and then put it ___ into "
    "the fire without saying a word to anybody in the room that evening.",
    "The river rises in the mountains to the north, flows through a long "
    "narrow valley, and reaches the ___ near the old harbour of the city.",
    "If you want to know what really happened that night, you should "
    "ask the ___ who was sitting at the window of the house across the road.",
    "The museum is open every day except Monday, and on the first ___ "
    "of each month there is no charge for visitors from the town itself.",
    "I would have come earlier, but the train was late again and "
    "there was no ___ to be found anywhere near the station at that hour.",
    "After a long discussion the committee decided to ___ the plan, "
    "since nobody could say how much it would cost in the end or who would pay.",
]
N, MOST = 5, 8
WORDING = "Which word or words are missing in this sentence? {text}\nThe missing word is"


def filled(name: str | None) -> dict[str, float]:
    """CPU milliseconds a fill, and the peak of the process."""
    import torch

    import unmask

    torch.set_num_threads(1)
    return timed(unmask.load(name, device="cpu")) | {"disk": on_disk(name)}


def asked(name: str) -> dict[str, float]:
    """The base of an adapter, by a question."""
    import torch

    import unmask
    from unmask.adapter import base_of, read_adapter_config
    from unmask.bases import place_of
    from unmask.evaluation.asking import Asked

    torch.set_num_threads(1)
    base = str(base_of(read_adapter_config(place := place_of(name)), place))
    return timed(Asked(unmask.load(base, device="cpu"), WORDING)) | {"disk": on_disk(base)}


def timed(lm: Any) -> dict[str, float]:
    """CPU milliseconds a fill, after one that is not counted, and the peak of the process."""
    lm.fill([TEXTS[0]], n=N)
    begin = time.process_time()
    for text in TEXTS:
        lm.fill([text], n=N)
    return {"ms": (time.process_time() - begin) * 1000 / len(TEXTS), "megabytes": memory()}


def on_disk(name: str | None) -> float:
    """Megabytes of a model's files, its base's among them; None: the built-in model's."""
    import unmask
    from unmask.adapter import base_of, is_adapter, read_adapter_config
    from unmask.bases import place_of

    place = place_of(name) if name else Path(unmask.__file__).parent / "weights"
    places = [place, base_of(read_adapter_config(place), place)] if is_adapter(place) else [place]
    files = [file for one in places for file in (one.rglob("*") if one.is_dir() else [one])]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def beam_search(name: str) -> dict[str, float]:
    """The merged model in transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    import unmask
    from unmask.public import write_public

    torch.set_num_threads(1)
    lm = unmask.load(name, device="cpu", dtype="float32")
    objective, contexts = lm.model.objective, []
    for text in TEXTS:
        reading = lm.tokenizer.read(text)
        contexts.append(objective.open(reading.canvas, reading.holes).ids[None])
    with tempfile.TemporaryDirectory() as folder:
        write_public(folder, lm.model, lm.tokenizer)
        disk = on_disk(folder)
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    end = lm.tokenizer.signs["answer"]

    def fill(ids: torch.Tensor) -> None:
        theirs.generate(
            ids, attention_mask=torch.ones_like(ids), num_beams=2 * N, num_return_sequences=N, max_new_tokens=MOST,
            do_sample=False, eos_token_id=end, pad_token_id=end, early_stopping=True,
        )  # fmt: skip

    with torch.inference_mode():
        fill(contexts[0])
        begin = time.process_time()
        for ids in contexts:
            fill(ids)
    took = (time.process_time() - begin) * 1000 / len(TEXTS)
    return {"ms": took, "megabytes": memory(), "disk": disk}


def memory() -> float:
    """Peak of the process, megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


WAYS: dict[str, Callable[[str], dict[str, float]]] = {
    "built-in model": lambda name: filled(None),
    "adapted": filled,
    "asked": asked,
    "transformers, merged": beam_search,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", nargs="?", default="smollm2-135m-fill")
    parser.add_argument("--also", metavar="MODEL", help="another model that fills, in a row of its own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", metavar="WAY", help="a single process; for itself")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(WAYS[given.one](given.adapter)))
        return
    runs = {way: (given.adapter, way) for way in WAYS}
    if given.also:
        runs[given.also] = given.also, "adapted"
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for _ in range(given.rounds):
        for name, (model, way) in runs.items():
            command = [sys.executable, __file__, model, "--one", way]
            ended = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name].append(json.loads(ended.stdout.splitlines()[-1]))
    base = statistics.median(one["ms"] for one in found["built-in model"])
    print(f"{'way':22} {'CPU ms a fill':>13} {'range':>13} {'times':>6} {'memory, MB':>10} {'disk, MB':>8}")
    for way, some in found.items():
        took = [one["ms"] for one in some]
        middle, spread = statistics.median(took), f"{min(took):.0f}-{max(took):.0f}"
        most = max(one["megabytes"] for one in some)
        sizes = f"{most:10.0f} {some[0]['disk']:8.0f}"
        print(f"{way:22} {middle:13.0f} {spread:>13} {middle / base:6.2f} {sizes}")


if __name__ == "__main__":
    main()
