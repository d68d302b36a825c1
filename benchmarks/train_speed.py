"""Training: tokens a CPU-second on one thread, and peak memory, against transformers' ModernBERT with its sparse head.

    python benchmarks/train_speed.py [--rounds 3] [--steps 5]

Both: 6 layers x 384, 6 heads, gated MLP of 1,024, vocabulary 8,192, a global layer and two local ones (64 to each
side) in turn, 15 % of tokens predicted, AdamW (fused) on all weights; 16 rows of 256 tokens, or of 16 to 256 tokens
drawn evenly (ours packed, theirs padded to the longest). A step is forward, backward and update; ours makes the
corruption too. Every measurement is a process of its own, one of each in turn; real tokens are counted, and CPU time
of the process. The rate of matrix products of the same shapes is measured in each process.
bfloat16 (autocast for both) only where the CPU has instructions for it.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LAYERS, WIDTH, HEADS, MLP, VOCAB = 6, 384, 6, 1024, 8192
ROWS, LONGEST, SHORTEST, HIDDEN = 16, 256, 16, 0.15
GLOBAL_EVERY, WINDOW = 3, 64
BATCHES = 4  # different ones, so that no shape is met only once


def lengths(ragged: bool) -> list[list[int]]:
    """Tokens of each row of each batch."""
    import torch

    if not ragged:
        return [[LONGEST] * ROWS] * BATCHES
    generator = torch.Generator().manual_seed(0)
    return torch.randint(SHORTEST, LONGEST + 1, (BATCHES, ROWS), generator=generator).tolist()


def ours(ragged: bool, autocast: bool) -> tuple[list[Callable[[], Any]], Any]:
    """A closure a batch that gives its loss, and the model."""
    import torch

    from unmask.backbone import BackboneConfig
    from unmask.canvas import Canvas, Role
    from unmask.masking import Hidden
    from unmask.model import Model, ModelConfig
    from unmask.noise import Noise

    backbone = BackboneConfig(
        vocab_size=VOCAB,
        width=WIDTH,
        n_layers=LAYERS,
        n_heads=HEADS,
        mlp_width=MLP,
        norm="layer",
        activation="gelu",
        qk_norm=False,
        rope_base=160_000.0,
        local_rope_base=10_000.0,
        global_every=GLOBAL_EVERY,
        window=WINDOW,
    )
    signs = {name: number for number, name in enumerate(("mask", "blank", "start", "end", "sep", "answer"))}
    model = Model(ModelConfig("masked_diffusion", backbone, signs, tuple(signs.values())))
    model.initialise(0)
    generator = torch.Generator().manual_seed(1)

    def batch(rows: list[int]) -> Callable[[], Any]:
        ids = torch.randint(6, VOCAB, (sum(rows),), generator=generator)
        offsets = torch.tensor([0, *rows]).cumsum(0)
        clean = Canvas.build(ids, offsets, role=torch.full_like(ids, Role.TEXT))
        mask = torch.rand(ids.numel(), generator=generator) < HIDDEN
        ones = torch.ones(len(rows), dtype=torch.float64)
        hidden = Hidden(mask, ones, clean.sum_rows(mask.double()), ones < 0)
        noise = Noise(0, torch.arange(len(rows)))

        def loss() -> Any:
            canvas, targets = model.objective.corrupt(clean, hidden, noise)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                found = model.objective.loss(model.predict(canvas, targets), canvas, targets)
            return found.total / found.count

        return loss

    return [batch(rows) for rows in lengths(ragged)], model


def theirs(ragged: bool, autocast: bool) -> tuple[list[Callable[[], Any]], Any]:
    """The same of transformers."""
    import torch
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    kinds = ["full_attention" if n % GLOBAL_EVERY == 0 else "sliding_attention" for n in range(LAYERS)]
    config = ModernBertConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        layer_types=kinds,
        local_attention=2 * WINDOW,
        max_position_embeddings=512,
        sparse_prediction=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
        attn_implementation="sdpa",
    )
    model = ModernBertForMaskedLM(config).train()
    generator = torch.Generator().manual_seed(1)

    def batch(rows: list[int]) -> Callable[[], Any]:
        seen = torch.arange(max(rows)) < torch.tensor(rows)[:, None]
        ids = torch.randint(6, VOCAB, seen.shape, generator=generator) * seen
        hide = (torch.rand(seen.shape, generator=generator) < HIDDEN) & seen
        labels = torch.where(hide, ids, -100)
        ids = torch.where(hide, 3, ids)
        attention = None if bool(seen.all()) else seen.long()

        def loss() -> Any:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                return model(input_ids=ids, attention_mask=attention, labels=labels).loss

        return loss

    return [batch(rows) for rows in lengths(ragged)], model


def flops(rows: list[int]) -> float:
    """Of a training step in matrix products: three times forward; both attend alike, whatever is computed in vain."""
    tokens = sum(rows)
    linear = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * MLP) * tokens + HIDDEN * tokens * WIDTH * VOCAB
    n_global = -(-LAYERS // GLOBAL_EVERY)
    pairs = sum(n_global * n * n + (LAYERS - n_global) * min(n, 2 * WINDOW + 1) * n for n in rows)
    return 3 * (2 * linear + 4 * WIDTH * pairs)


def matmul_rate(autocast: bool) -> float:
    """Operations a CPU-second of products of a layer's shapes, forward and both gradients, the best of five."""
    import torch

    dtype = torch.bfloat16 if autocast else torch.float32
    x, up, down = (torch.randn(shape, dtype=dtype) for shape in ((4096, WIDTH), (WIDTH, 2 * MLP), (2 * MLP, WIDTH)))
    best = 0.0
    for _ in range(6):
        begin = time.process_time()
        y = x @ up
        _ = y @ down, y.t() @ x
        best = max(best, 3 * 2 * 4096 * WIDTH * 2 * MLP / (time.process_time() - begin))
    return best


def measure(who: str, ragged: bool, autocast: bool, steps: int) -> None:
    """One process: print its figures as JSON."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    losses, model = (ours if who == "unmask" else theirs)(ragged, autocast)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(number: int) -> None:
        losses[number % BATCHES]().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    for number in range(2):
        step(number)
    begin = time.process_time()
    for number in range(steps):
        step(number)
    took = time.process_time() - begin
    rows = [lengths(ragged)[number % BATCHES] for number in range(steps)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # before the products below take some of their own
    achieved = sum(map(flops, rows)) / took
    figures = {
        "rate": sum(map(sum, rows)) / took,
        "share": achieved / matmul_rate(autocast),
        "megabytes": memory * (1 if sys.platform == "darwin" else 1024) / 1e6,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    print(json.dumps(figures))


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 by itself; without, it is slower than float32."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else platform.machine()
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16 "))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--one", nargs=3, metavar=("WHO", "ROWS", "PRECISION"), help="a single process; for itself")
    given = parser.parse_args()
    if given.one:
        who, rows, precision = given.one
        measure(who, rows == "ragged", precision == "bfloat16", given.steps)
        return
    precisions = ["float32", *(["bfloat16"] if has_bfloat16() else [])]
    heads = f"{'rows':7} {'precision':9} {'by':12} {'tokens/CPU-s':>12}"
    print(f"{heads} {'range':>13} {'ratio':>6} {'of matmul':>9} {'MB':>6}")
    for precision in precisions:
        for rows in ("full", "ragged"):
            found: dict[str, list[dict[str, float]]] = {"transformers": [], "unmask": []}
            for _ in range(given.rounds):
                for who in found:
                    command = [sys.executable, __file__, "--one", who, rows, precision, "--steps", str(given.steps)]
                    ended = subprocess.run(command, check=True, capture_output=True, text=True)
                    found[who].append(json.loads(ended.stdout.splitlines()[-1]))
            base = statistics.median(one["rate"] for one in found["transformers"])
            for who, some in found.items():
                rates = [one["rate"] for one in some]
                rate, share = statistics.median(rates), statistics.median(one["share"] for one in some)
                spread, most = f"{min(rates):.0f}-{max(rates):.0f}", max(one["megabytes"] for one in some)
                name = f"{rows:7} {precision:9} {who:12}"
                print(f"{name} {rate:12.0f} {spread:>13} {rate / base:6.2f} {share:9.0%} {most:6.0f}")
    if len(precisions) == 1:
        print("no bfloat16: this CPU has no instructions for it")


if __name__ == "__main__":
    main()
