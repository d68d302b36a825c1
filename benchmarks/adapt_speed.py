"""Adapting: tokens a CPU-second on one thread, and peak memory, against transformers and peft on the same batches.

    python benchmarks/adapt_speed.py [--rounds 3] [--steps 3] [--precision bfloat16]

Both: the shape of SmolLM2-135M (30 layers x 576, 9 heads over 3, MLP of 1,536, vocabulary 49,160, random weights), LoRA
of rank 16 beside every matrix of the layers, AdamW. Batches of 16 rows of 24 to 96 tokens, a fifth of them
hidden and to be answered behind the text: ours packed, theirs padded to the longest, loss on the answers alone. A step
is forward, backward and update; ours makes the corruption too, and trains the rows of its signs. Our matrices are
fused, so that we have 4 pairs a layer (q, k and v share one, gate and up another) where peft has 7. Every measurement
is a process of its own, one of each in turn; real tokens are counted, and CPU time of the process. In bfloat16 both
keep the frozen matrices so and train under autocast.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

LAYERS, WIDTH, HEADS, KV_HEADS, MLP, VOCAB = 30, 576, 9, 3, 1536, 49_160
ROWS, SHORTEST, LONGEST, RANK, ALPHA = 16, 24, 96, 16, 32
BATCHES = 3  # different ones, so that no shape is met only once
SIGNS = ("mask", "blank", "start", "end", "sep", "answer", "word", "maybe")
LAW = {"law": "runs", "lengths": [0.5, 0.2, 0.15, 0.1, 0.05], "rate": [0.05, 0.2]}


def ours() -> tuple[list[tuple[Callable[[], Any], Any]], Any]:
    """Of each batch a closure that gives its loss, and the canvas it reads; and the model."""
    import torch

    from unmask.adapter import AdapterConfig
    from unmask.backbone import BackboneConfig
    from unmask.canvas import Canvas, Role
    from unmask.masking import Mixture
    from unmask.model import Model, ModelConfig
    from unmask.noise import Noise
    from unmask.training import lora

    signs = {name: VOCAB - len(SIGNS) + number for number, name in enumerate(SIGNS)}
    shape = BackboneConfig(
        vocab_size=VOCAB, width=WIDTH, n_layers=LAYERS, n_heads=HEADS, n_kv_heads=KV_HEADS, mlp_width=MLP,
        qk_norm=False, rope_base=100_000.0, output_bias=False,
    )  # fmt: skip
    model = Model(ModelConfig("left_to_right", shape, signs, tuple(signs.values())))
    model.initialise(0)
    targets = ("qkv", "out", "up", "down")
    lora.inject(model, AdapterConfig("", None, "", "left_to_right", None, RANK, ALPHA, targets, SIGNS), seed=0)
    starts = torch.ones(VOCAB, dtype=torch.int64)
    mixture, generator = Mixture([LAW], starts), torch.Generator().manual_seed(1)

    def batch(number: int) -> tuple[Callable[[], Any], Any]:
        sizes = torch.randint(SHORTEST, LONGEST + 1, (ROWS,), generator=generator)
        ids = torch.randint(0, VOCAB - len(SIGNS), (int(sizes.sum()),), generator=generator).split(sizes.tolist())
        rows = [[signs["start"], *row.tolist(), signs["end"]] for row in ids]
        clean = Canvas.from_rows(rows)
        edge = clean.ids >= VOCAB - len(SIGNS)
        clean = Canvas.build(clean.ids, clean.offsets, role=torch.where(edge, int(Role.SCAFFOLD), int(Role.TEXT)))
        noise = Noise(number, torch.arange(ROWS))

        def corrupted() -> Any:
            return model.objective.corrupt(clean, mixture(clean, noise), noise)

        def loss() -> Any:
            canvas, told = corrupted()
            found = model.objective.loss(model.predict(canvas, told), canvas, told)
            return found.total / found.count

        return loss, corrupted()

    return [batch(number) for number in range(BATCHES)], model


def theirs() -> tuple[list[tuple[Callable[[], Any], Any]], Any]:
    """The same batches, padded, through transformers and peft."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    made = [canvas for _, canvas in ours()[0]]
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, tie_word_embeddings=True, use_cache=False,
        attn_implementation="sdpa", pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=names, task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM(config), lora).train()

    def batch(canvas: Any, targets: Any) -> tuple[Callable[[], Any], Any]:
        lengths = canvas.lengths
        seen = torch.arange(int(lengths.max())) < lengths[:, None]
        ids = torch.zeros(seen.shape, dtype=torch.int64).masked_scatter(seen, canvas.ids)
        answers = torch.zeros(canvas.n_elements, dtype=torch.bool)
        answers[targets.read + 1] = True
        asked = torch.zeros_like(seen).masked_scatter(seen, answers)
        labels = torch.where(asked, ids, -100)
        return lambda: model(input_ids=ids, attention_mask=seen.long(), labels=labels).loss, (canvas, targets)

    return [batch(*one) for one in made], model


def measure(who: str, steps: int, narrow: bool) -> None:
    """One process: print its figures as JSON."""
    import torch

    from unmask.training import lora

    torch.set_num_threads(1)
    torch.manual_seed(0)
    batches, model = (ours if who == "unmask" else theirs)()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if narrow:
        lora.narrow(model)
    optimiser = torch.optim.AdamW(trained, lr=1e-3, fused=True)

    def step(number: int) -> int:
        loss, (canvas, _) = batches[number % BATCHES]
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            value = loss()
        value.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return int(canvas.n_elements)

    step(0)
    begin = time.process_time()
    tokens = sum(step(number) for number in range(steps))
    took = time.process_time() - begin
    figures = {
        "rate": tokens / took,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024)
        / 1e6,
        "trained": sum(parameter.numel() for parameter in trained),
    }
    print(json.dumps(figures))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--one", metavar="WHO", help="a single process; for itself")
    given = parser.parse_args()
    if given.one:
        measure(given.one, given.steps, given.precision == "bfloat16")
        return
    found: dict[str, list[dict[str, float]]] = {"transformers + peft": [], "unmask": []}
    for _ in range(given.rounds):
        for who in found:
            command = [sys.executable, __file__, "--one", who, "--steps", str(given.steps)]
            command += ["--precision", given.precision]
            ended = subprocess.run(command, check=True, capture_output=True, text=True)
            found[who].append(json.loads(ended.stdout.splitlines()[-1]))
    base = statistics.median(one["rate"] for one in found["transformers + peft"])
    print(f"{'by':20} {'tokens/CPU-s':>12} {'range':>13} {'ratio':>6} {'MB':>6} {'trained':>10}")
    for who, some in found.items():
        rates = [one["rate"] for one in some]
        rate, most = statistics.median(rates), max(one["megabytes"] for one in some)
        spread = f"{min(rates):.0f}-{max(rates):.0f}"
        print(f"{who:20} {rate:12.0f} {spread:>13} {rate / base:6.2f} {most:6.0f} {some[0]['trained']:10,.0f}")


if __name__ == "__main__":
    main()
