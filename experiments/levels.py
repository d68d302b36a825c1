"""How noise levels are drawn in training: the bound on held-out text of models that differ in nothing else.

    python experiments/levels.py --text my.txt --out runs/levels --cpu 1200 --seeds 2

Each law trains a masked diffusion model from the same seeds for the same processor time (or, by --tokens, on the same
text); beside them a left-to-right model of the same size. All are scored on the same held-out passages with the same
draws. +/-: one standard error over passages; seeds: from the lowest to the highest; against: the mean difference to
the first law, passage by passage, with its own standard error. A bound (of masked diffusion, told the length) is never
below the true cost, and not of a kind with the exact cost of left to right.
"""

import json
from collections.abc import Sequence
from typing import Any

from held_out import passages
from pilot import Pilots, arguments, digest, run, seeds_of
from table import Row, Table, markdown, over_seeds, spread

STRATIFIED = {"law": "bernoulli", "draw": "stratified"}
LAWS: dict[str, dict[str, Any]] = {
    "iid": {"law": "bernoulli", "draw": "uniform"},
    "stratified": STRATIFIED,
    "antithetic": {"law": "bernoulli", "draw": "antithetic"},
    "exact count": {"law": "exact_count", "draw": "stratified"},
    "complementary": STRATIFIED | {"complement": True},
    "bell": STRATIFIED | {"bell": [3, 3]},
    "bell, unweighted": STRATIFIED | {"bell": [3, 3], "importance": False},
    "clipped": STRATIFIED | {"clip": [0.3, 0.8]},
}
BASELINE = "left to right"
COLUMNS = {
    "levels": "", "kind": "", "nats a token": ".4f", "±": ".4f", "seeds": "", "against": "+.4f", "± of it": ".4f",
    "nats a word": ".4f", "± a word": ".4f", "steps": ".0f", "Mtokens": ".2f", "CPU s": ".0f",
}  # fmt: skip


def scores(lm: Any, texts: Sequence[str], draws: int, method: str = "bound") -> Row:
    """The costs of texts by the best that the family has, the same draws for each model."""
    several: dict[str, Any] = {"method": method, "orders": draws, "seed": 0}
    how = several if lm.model.objective.paths == "many" else {}
    found = [one for start in range(0, len(texts), 32) for one in lm.score(list(texts[start : start + 32]), **how)]
    return {
        "kind": found[0].kind,
        "cost": [round(-one.log_prob, 4) for one in found],
        "tokens": [one.tokens for one in found],
        "words": [one.words for one in found],
    }


def summed(rows: Sequence[Row], first: Sequence[Row]) -> Row:
    """One line of the table from the rows of all seeds; `first`: those of the law it is compared with."""
    from unmask.evaluation.report import ratio

    tokens, words = rows[0]["tokens"], rows[0]["words"]
    cost, other = (over_seeds(some, "cost") for some in (rows, first))
    line = {name: sum(row[name] for row in rows) / len(rows) for name in ("steps", "Mtokens", "CPU s")}
    line |= {"levels": rows[0]["levels"], "kind": rows[0]["kind"]}
    line["nats a token"], line["±"] = ratio(cost, tokens)
    line["nats a word"], line["± a word"] = ratio(cost, words)
    line["seeds"] = spread([sum(row["cost"]) / sum(tokens) for row in rows], ".4f")
    if rows is not first and rows[0]["kind"] == first[0]["kind"]:
        difference = [a - b for a, b in zip(cost, other, strict=True)]
        line["against"], line["± of it"] = ratio(difference, tokens)
    return line


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score and print the table."""
    parser = arguments(__doc__, "levels")
    parser.add_argument("--laws", nargs="+", choices=[*LAWS, BASELINE], default=[*LAWS, BASELINE], metavar="LAW")
    parser.add_argument("-n", type=int, default=200, help="held-out passages (%(default)s)")
    parser.add_argument("--draws", type=int, default=16, help="sets of masks a passage is scored with (%(default)s)")
    given = parser.parse_args(argv)
    pilots = Pilots(given, given.text)
    from unmask.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(pilots.vocabulary)
    texts = passages(given.text, given.held_out, tokenizer, given.n, given.row_tokens - 2)
    shared = {"models": pilots.name, "passages": digest(texts), "draws": given.draws}

    def measure(key: Row) -> Row:
        law = key["levels"]
        own = pilots.left_to_right() if law == BASELINE else [f"masking={json.dumps(LAWS[law])}"]
        made = pilots.make(law, own, key["seed"])
        return made.cost | scores(made.load(), texts, given.draws)

    keys = [{"levels": law, "seed": seed} | shared for law in given.laws for seed in seeds_of(given)]
    rows = Table(given.out / "levels.jsonl").rows(keys, measure)
    by_law = [[row for row in rows if row["levels"] == law] for law in given.laws]
    print(markdown([summed(some, by_law[0]) for some in by_law], COLUMNS))
    print(f"\n{len(texts)} passages, {given.draws} sets of masks each, {given.seeds} seeds; against {given.laws[0]}.")


if __name__ == "__main__":
    run(main)
