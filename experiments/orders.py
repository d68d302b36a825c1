"""Models that write in other orders than left to right: what they say of held-out text, a word, ends paid for.

    python experiments/orders.py --text ptb.train.txt --held-out ptb.test.txt --lines --out runs/orders --cpu 3600

Models of one size and backbone on the same text for the same processor time (or, by --tokens, on the same text): Blank
LM; insertion, scored by orders (the InsT of Shen et al. 2020) and by trees (Stern et al. 2019); fractional positions,
by trees; masked diffusion, which is told the length and so pays for no end; left to right, which pays for its end.
*2*: the bound by two random orders or trees on all passages. *10*, *100*, *jackknife*: more of them, on the first --few
passages. A bound is never below the true cost; the jackknife is an estimate. +/-: one standard error over passages.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from held_out import passages
from levels import scores
from pilot import Pilots, arguments, digest, run, seeds_of
from table import Row, Table, markdown, over_seeds, spread

COUNTED = {"law": "exact_count", "draw": "stratified"}
FROM_NOTHING = COUNTED | {"least": 0}
FAMILIES: dict[str, list[str]] = {
    "blank LM": ["objective=blank_lm", f"masking={json.dumps(COUNTED)}"],
    "insertion, by orders": [
        'objective={"name": "insertion", "order": "uniform", "place": "factorised", "finish": "last"}',
        f"masking={json.dumps(FROM_NOTHING)}",
    ],
    "insertion, by trees": ['objective={"name": "insertion", "place": "none"}', f"masking={json.dumps(FROM_NOTHING)}"],
    "fractional, by trees": ["objective=fractional", "masking=all"],
    "masked diffusion, length told": ["objective=masked_diffusion", f"masking={json.dumps(COUNTED)}"],
    "left to right": ["objective=left_to_right", "masking=all"],
}
COLUMNS = {
    "family": "", "kind": "", "nats a word": ".3f", "±": ".3f", "seeds": "", "perplexity": ".1f", "few, 2": ".3f",
    "few, 10": ".3f", "few, 100": ".3f", "few, jackknife": ".3f", "steps": ".0f", "Mtokens": ".2f", "CPU s": ".0f",
}  # fmt: skip


def of_few(lm: Any, texts: Sequence[str]) -> dict[str, float]:
    """Nats a word of some texts by more orders; nothing of a family with one, the jackknife where there is one."""
    if lm.model.objective.paths == "one":
        return {}
    asked: dict[str, tuple[int, str]] = {"2": (2, "bound"), "10": (10, "bound"), "100": (100, "bound")}
    if lm.model.objective.name == "blank_lm" or getattr(lm.model.objective, "closes", "") == "row":
        asked["jackknife"] = (10, "jackknife")
    out = {}
    for name, (orders, method) in asked.items():
        found = scores(lm, texts, orders, method)
        out[f"few, {name}"] = sum(found["cost"]) / sum(found["words"])
    return out


def summed(rows: Sequence[Row]) -> Row:
    """One line of the table from the rows of all seeds."""
    from unmask.evaluation.report import ratio

    words = rows[0]["words"]
    mean = over_seeds(rows, "cost")
    line: Row = {"family": rows[0]["family"], "kind": rows[0]["kind"]}
    names = [name for name in rows[0] if name.startswith("few, ")] + ["steps", "Mtokens", "CPU s"]
    line |= {name: sum(row[name] for row in rows) / len(rows) for name in names}
    line["nats a word"], line["±"] = ratio(mean, words)
    line["perplexity"] = math.exp(line["nats a word"])
    line["seeds"] = spread([sum(row["cost"]) / sum(words) for row in rows], ".3f")
    return line


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score and print the table."""
    parser = arguments(__doc__, "orders")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--lines", action="store_true", help="every line of the text is a text")
    parser.add_argument("-n", type=int, default=10_000, help="held-out passages at most (%(default)s)")
    parser.add_argument("--few", type=int, default=200, help="passages scored by more orders (%(default)s)")
    given = parser.parse_args(argv)
    lines = {"unit": "line", "document": "line", "hold_out": {"every": 20}}
    texts = [{"path": path} | lines for path in given.text] if given.lines else given.text
    pilots = Pilots(given, texts, *(["data.lengths={single: 1.0}"] if given.lines else []))
    from unmask.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(pilots.vocabulary)
    held = passages(given.text, given.held_out, tokenizer, given.n, given.row_tokens - 2, lines=given.lines)
    shared = {"models": pilots.name, "passages": digest(held), "few": given.few}

    def measure(key: Row) -> Row:
        made = pilots.make(key["family"], FAMILIES[key["family"]], key["seed"])
        lm = made.load()
        return made.cost | scores(lm, held, 2) | of_few(lm, held[: given.few])

    keys = [{"family": family, "seed": seed} | shared for family in given.families for seed in seeds_of(given)]
    rows = Table(given.out / "orders.jsonl").rows(keys, measure)
    print(markdown([summed([row for row in rows if row["family"] == family]) for family in given.families], COLUMNS))
    print(f"\n{len(held)} passages, {min(given.few, len(held))} of them by more orders; {given.seeds} seeds.")


if __name__ == "__main__":
    run(main)
