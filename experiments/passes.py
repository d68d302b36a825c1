"""How good masked diffusion writes in how many forward passes: policies, budgets, blocks and caches.

    python experiments/passes.py --text my.txt --out runs/passes --tokens 20e6
    python experiments/passes.py --text my.txt --model RUN/model --judge RUN2/model --out runs/passes

Held-out prompts, as many new tokens for each, one text at a time. DUEL (nats a token, exact): what the true text after
the prompt costs when this policy writes it in so many passes; only for policies that draw no places. The text that is
written, drawn at --temperature, is described by itself: the share of its runs of four tokens that stood in it before,
the entropy of its tokens (nats), and its perplexity behind the prompt under a left-to-right model. Of low perplexity
alone nothing follows: repetition has it, too. The held-out text itself and that left-to-right model stand beside.
Passes are counted at the backbone; with a cache most of them compute a block only. Without --model and --judge both
are trained here, of one size on the same text.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from held_out import Passage, cut, passages
from pilot import Pilots, arguments, digest, loaded, run, say, seeds_of
from spent import spending
from table import Row, Table, markdown, spread
from writing import chances, described

BUDGETED = ("low_confidence", "margin", "confident", "random", "leftmost")
ADAPTIVE = (
    "threshold:0.9", "threshold:0.7", "threshold:0.5", "factor:0.5", "factor:1", "factor:2", "entropy_bound:0.1",
    "entropy_bound:0.5", "entropy_bound:2",
)  # fmt: skip
CACHES = ("none", "prefix", "dual", "delayed")
COLUMNS = {
    "policy": "", "block": "", "cache": "", "budget": "", "passes": ".1f", "nats a token": ".3f", "±": ".3f",
    "temperature": "", "perplexity": ".1f", "seeds": "", "repeated": ".1%", "entropy": ".2f", "written": ".1f",
    "tokens a CPU-second": ".0f",
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """A way to write: a policy, its budget of passes, and within a block what is kept."""

    policy: str
    steps: int | None = None
    block: int | None = None
    cache: str = "none"

    def options(self, **more: Any) -> dict[str, Any]:
        """As `generate` and `score` take it; `more` of `Masks`."""
        from unmask.decoding.masks import Masks

        masks = Masks(block=self.block, cache=None if self.cache == "none" else self.cache, **more)
        return {"policy": self.policy, "steps": self.steps, "masks": masks}

    @property
    def told(self) -> Row:
        """Columns of the table."""
        cache = None if self.block is None else self.cache
        return {"policy": self.policy, "budget": self.steps, "block": self.block, "cache": cache}


def ways(policies: Sequence[str], adaptive: Sequence[str], budgets: Sequence[int], block: int, new: int) -> list[Way]:
    """All of the table: each policy at each budget, those that find their own; then the first of both by blocks."""
    found = [Way(policy, steps) for policy in policies for steps in budgets] + [Way(policy) for policy in adaptive]
    enough = [steps for steps in budgets if steps >= -(-new // block)]
    found += [Way(policy, n, block, cache) for policy in policies[:1] for cache in CACHES for n in enough]
    return found + [Way(policy, None, block, cache) for policy in adaptive[:1] for cache in CACHES]


def exact(lm: Any, pairs: Sequence[Passage], **how: Any) -> Row:
    """The cost of the true texts, nats a token."""
    from unmask.evaluation.report import ratio

    scores = [one for pair in pairs for one in chances(lm, [pair], **how)]
    cost, error = ratio([-one.log_prob for one in scores], [one.tokens for one in scores])
    return {"nats a token": cost, "±": error, "kind": scores[0].kind}


def written(
    lm: Any, judge: Any, pairs: Sequence[Passage], temperature: float, seed: int, way: Way | None, new: int
) -> Row:
    """What a model writes behind the prompts, one by one, and what that takes; no `way`: from left to right."""
    texts = []
    with spending(lm) as spent:
        for prompt, true in pairs:
            if way is None:
                how: dict[str, Any] = {"max_words": len(true.split())}
            else:
                how = way.options(length=new, ending="never")
            (fill,) = lm.generate(prompt, temperature=temperature, seed=seed, beam=1, **how)
            texts.append((prompt, fill.holes[0].text))
    said = described(judge, texts)
    speed = said["written"] * len(pairs) / max(spent.seconds, 1e-9)
    return said | {"passes": spent.passes / len(pairs), "tokens a CPU-second": speed}


def mean(rows: Sequence[Row], *names: str) -> Row:
    """Of some columns, over rows; nothing of none."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in names if rows}


def lines(duels: Sequence[Row], texts: Sequence[Row], ways: Sequence[Way | None]) -> list[Row]:
    """The table: of each way and temperature the means over seeds."""
    out = []
    for way in ways:
        mine = [row for row in texts if row["way"] == (way and asdict(way))]
        cost = mean([row for row in duels if row["way"] == (way and asdict(way))], "nats a token", "±")
        for temperature in dict.fromkeys(row["temperature"] for row in mine):
            some = [row for row in mine if row["temperature"] == temperature]
            line = mean(some, "passes", "perplexity", "repeated", "entropy", "written", "tokens a CPU-second")
            line |= {"temperature": temperature, "seeds": spread([row["perplexity"] for row in some], ".1f")}
            out.append(line | cost | (way.told if way else {"policy": "left to right (exact)"}))
    return out


class Models:
    """The writer and the judge of each seed: those that are named, or pilots."""

    def __init__(self, given: Any) -> None:
        """Nothing is loaded yet."""
        self.given = given
        self.pilots = None if given.model and given.judge else Pilots(given, given.text)
        named = [str(path) for path in (given.model, given.judge) if path]
        self.name = digest(self.pilots.name if self.pilots else "", named)

    def __call__(self, role: str, seed: int) -> Any:
        """`model` or `judge`."""
        if place := getattr(self.given, role):
            return loaded(place)
        assert self.pilots is not None
        own = self.pilots.left_to_right() if role == "judge" else []
        return self.pilots.make("left to right" if own else "masked diffusion", own, seed).load()


def parsed(argv: Sequence[str] | None) -> Any:
    """What was said on the command line."""
    parser = arguments(__doc__, "passes", row_tokens=258)
    parser.add_argument("--model", type=Path, help="a masked diffusion model's folder; else one is trained")
    parser.add_argument("--judge", type=Path, help="a left-to-right model's folder; else one is trained")
    parser.add_argument("-n", type=int, default=32, help="prompts (%(default)s)")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt, at most (%(default)s)")
    parser.add_argument("--new", type=int, default=128, help="tokens that are written (%(default)s)")
    parser.add_argument("--budgets", type=int, nargs="+", default=[8, 16, 32, 64, 128], metavar="PASSES")
    parser.add_argument("--policies", nargs="*", default=BUDGETED, metavar="POLICY")
    parser.add_argument("--adaptive", nargs="*", default=ADAPTIVE, metavar="POLICY", help="they find their own passes")
    parser.add_argument("--block", type=int, default=32, help="of the rows with blocks and caches (%(default)s)")
    parser.add_argument("--draws", type=int, default=16, help="sets of masks of the bound (%(default)s)")
    parser.add_argument("--temperature", type=float, nargs="+", default=[1.0], help="(%(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Write, score and print the table."""
    import torch

    from unmask.decoding.choices import POLICIES, level_of

    given = parsed(argv)
    torch.set_num_threads(given.threads)
    models = Models(given)
    tokenizer = models("judge", 0).tokenizer
    texts = passages(
        given.text, given.held_out, tokenizer, given.n, given.prompt + given.new, (given.prompt + given.new) * 3 // 4
    )
    pairs = [cut(text, tokenizer, given.prompt, given.new) for text in texts]
    every = ways(given.policies, given.adaptive, given.budgets, given.block, given.new)
    shared = {"models": models.name, "prompts": digest(pairs), "new": given.new}
    drawn = {way for way in every if not POLICIES[level_of(way.policy)[0]].deterministic}
    seeds = seeds_of(given)
    table = Table(given.out / "passes.jsonl")

    def duel(key: Row) -> Row:
        if key["what"] == "bound":
            return exact(models("model", key["seed"]), pairs, method="bound", orders=given.draws)
        if key["way"] is None:
            return exact(models("judge", key["seed"]), pairs)
        return exact(models("model", key["seed"]), pairs, method="duel", **Way(**key["way"]).options())

    def write(key: Row) -> Row:
        judge, way = models("judge", key["seed"]), key["way"] and Way(**key["way"])
        lm = models("model", key["seed"]) if way else judge
        return written(lm, judge, pairs, key["temperature"], key["seed"], way, given.new)

    scored = [None, *(asdict(way) for way in every if way not in drawn)]
    made = range(1) if given.model and given.judge else seeds
    bound = shared | {"what": "bound", "draws": given.draws}
    bounds = table.rows([bound | {"seed": seed} for seed in made], duel)
    duels = table.rows([shared | {"what": "duel", "way": way, "seed": seed} for way in scored for seed in made], duel)
    asked = [(way, heat, seed) for way in [None, *map(asdict, every)] for heat in given.temperature for seed in seeds]
    keys = [shared | {"what": "text", "way": way, "temperature": heat, "seed": seed} for way, heat, seed in asked]
    found = table.rows(keys, write)
    say("describing the held-out text")
    truth = described(models("judge", 0), pairs) | {"policy": "the held-out text"}
    any_order = mean(bounds, "nats a token", "±") | {"policy": "any order (bound)"}
    print(markdown([truth, any_order, *lines(duels, found, [None, *every])], COLUMNS))
    print(
        f"\n{len(pairs)} prompts of {given.prompt} tokens, {given.new} new ones, {given.seeds} seeds, float32, batch 1."
    )


if __name__ == "__main__":
    run(main)
