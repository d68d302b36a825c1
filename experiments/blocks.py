"""Block diffusion by the length of its blocks: the bound on held-out text, and text longer than any that was learned.

    python experiments/blocks.py --text my.txt --out runs/blocks --tokens 5e6 --seeds 2

Models of one size and backbone that differ in their blocks alone, from a few tokens to the whole row (masked
diffusion), and a left-to-right model beside them, on the same text. First table: held-out passages, the same draws for
all; +/-: one standard error over passages; seeds: from the lowest to the highest. A bound is never below the true cost.
Second table: each block model goes on from held-out prompts for --times the length of its training rows. What it wrote
is cut into windows of that length, and each is described by itself: its perplexity under the left-to-right model, which
reads it alone, and the share of its runs of four tokens that stood in the whole text before. Text that falls apart as
it grows gets worse from window to window. All layers are local, so that no layer ever meets a distance that is new to
it.
"""

import math
from collections.abc import Sequence
from typing import Any

from held_out import cut, passages
from levels import scores
from pilot import Pilots, arguments, digest, run, seeds_of
from table import Row, Table, markdown, over_seeds, spread

WHOLE, BASELINE, TRUE = "whole row", "left to right", "the held-out text"
BOUNDS = {
    "block": "", "kind": "", "nats a token": ".4f", "±": ".4f", "seeds": "", "nats a word": ".4f", "steps": ".0f",
    "Mtokens": ".2f", "CPU s": ".0f",
}  # fmt: skip
LONG = {"block": "", "window": "", "texts": "", "perplexity": ".1f", "seeds": "", "repeated": ".1%"}


def settings_of(pilots: Pilots, block: str) -> list[str]:
    """What sets a model apart; a block by its name in the table."""
    if block == BASELINE:
        return pilots.left_to_right()
    return [] if block == WHOLE else [f"objective.block={block}"]


def summed(block: str, rows: Sequence[Row]) -> Row:
    """One line of the first table from the rows of all seeds."""
    from unmask.evaluation.report import ratio

    tokens, words = rows[0]["tokens"], rows[0]["words"]
    cost = over_seeds(rows, "cost")
    line = {name: sum(row[name] for row in rows) / len(rows) for name in ("steps", "Mtokens", "CPU s")}
    line |= {"block": block, "kind": rows[0]["kind"], "nats a word": ratio(cost, words)[0]}
    line["nats a token"], line["±"] = ratio(cost, tokens)
    return line | {"seeds": spread([sum(row["cost"]) / sum(tokens) for row in rows], ".4f")}


def windows(judge: Any, texts: Sequence[str], length: int, times: int) -> list[Row]:
    """Texts by windows of `length` tokens: of each window the mean over the texts that reach its end."""
    cuts = [judge.tokenizer.encode(text) for text in texts]
    out = []
    for number in range(times):
        own = [ids[number * length : (number + 1) * length] for ids in cuts if len(ids) >= (number + 1) * length]
        whole = [ids[: (number + 1) * length] for ids in cuts if len(ids) >= (number + 1) * length]
        if not own:
            out.append({"texts": 0, "perplexity": None, "repeated": None})
            continue
        found = judge.score([judge.tokenizer.decode(ids) for ids in own])
        cost = -sum(one.log_prob for one in found) / sum(one.tokens for one in found)
        again = [_repeated(ids, len(ids) - length) for ids in whole]
        out.append({"texts": len(own), "perplexity": math.exp(cost), "repeated": sum(again) / len(again)})
    return out


def _repeated(ids: Sequence[int], start: int, n: int = 4) -> float:
    """Of the runs of `n` tokens that begin at `start` or later, the share that stood in the text before."""
    seen, again, total = set(), 0, 0
    for at, gram in enumerate(zip(*(ids[i:] for i in range(n)), strict=False)):
        if at >= start:
            total, again = total + 1, again + (gram in seen)
        seen.add(gram)
    return again / max(1, total)


def parsed(argv: Sequence[str] | None) -> Any:
    """What was said on the command line."""
    parser = arguments(__doc__, "blocks")
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 8, 16], metavar="TOKENS", help="(4 8 16)")
    parser.add_argument("--local", type=int, default=32, metavar="TOKENS", help="a layer sees so far (%(default)s)")
    parser.add_argument("-n", type=int, default=200, help="held-out passages (%(default)s)")
    parser.add_argument("--draws", type=int, default=16, help="sets of masks a passage is scored with (%(default)s)")
    parser.add_argument("--prompts", type=int, default=16, help="texts that are gone on from (%(default)s)")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of a prompt (%(default)s)")
    parser.add_argument("--times", type=int, default=4, help="windows that are written (%(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0, help="(%(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score, write and print both tables."""
    from unmask.decoding.masks import Masks
    from unmask.tokenizer import Tokenizer

    given = parsed(argv)
    room = (given.times + 1) * given.row_tokens + given.prompt + 2
    local = ["backbone.global_every=0", f"backbone.window={given.local}", f"backbone.max_length={room}"]
    pilots = Pilots(given, given.text, *local)
    tokenizer = Tokenizer.load(pilots.vocabulary)
    blocks, seeds = [*map(str, given.blocks), WHOLE, BASELINE], seeds_of(given)
    texts = passages(given.text, given.held_out, tokenizer, given.n, given.row_tokens - 2)
    long = given.row_tokens * given.times + given.prompt
    true = passages(given.text, given.held_out, tokenizer, given.prompts, long, long * 3 // 4)
    prompts = [cut(text, tokenizer, given.prompt, given.row_tokens)[0] for text in true]
    shared = {"models": pilots.name}

    def bound(key: Row) -> Row:
        made = pilots.make(f"block {key['block']}", settings_of(pilots, key["block"]), key["seed"])
        return made.cost | scores(made.load(), texts, given.draws)

    def write(key: Row) -> Row:
        judge = pilots.make(f"block {BASELINE}", settings_of(pilots, BASELINE), 0).load()
        if key["block"] == TRUE:
            return {"windows": windows(judge, true, given.row_tokens, given.times)}
        lm = pilots.make(f"block {key['block']}", settings_of(pilots, key["block"]), key["seed"]).load()
        masks = Masks(length=given.times * given.row_tokens + given.row_tokens // 2, ending="never")  # cut otherwise
        how: dict[str, Any] = {"policy": "random", "temperature": given.temperature, "seed": key["seed"]}
        found = [fill.holes[0].text for (fill,) in lm.generate(prompts, beam=1, masks=masks, **how)]
        return {"windows": windows(judge, found, given.row_tokens, given.times)}

    said = shared | {"passages": digest(texts), "draws": given.draws}
    rows = Table(given.out / "bounds.jsonl").rows(
        [{"block": block, "seed": seed} | said for block in blocks for seed in seeds], bound
    )
    print(markdown([summed(block, [row for row in rows if row["block"] == block]) for block in blocks], BOUNDS))
    print(f"\n{len(texts)} passages of {given.row_tokens} tokens, {given.draws} sets of masks, {given.seeds} seeds.\n")

    said = shared | {"prompts": digest(prompts), "times": given.times, "temperature": given.temperature}
    asked = [(TRUE, 0), *((str(block), seed) for block in given.blocks for seed in seeds)]
    rows = Table(given.out / "long.jsonl").rows([{"block": b, "seed": s} | said for b, s in asked], write)
    print(markdown([line for block in dict.fromkeys(b for b, _ in asked) for line in _lines(block, rows)], LONG))
    print(f"\n{len(prompts)} prompts, windows of {given.row_tokens} tokens; written one token a pass (first hitting).")


def _lines(block: str, rows: Sequence[Row]) -> list[Row]:
    """The windows of one block length, each the mean over seeds."""
    out = []
    for number, each in enumerate(zip(*(row["windows"] for row in rows if row["block"] == block), strict=True), 1):
        line: Row = {"block": block, "window": number, "texts": sum(one["texts"] for one in each)}
        known = [one for one in each if one["texts"]]
        if known:
            line |= {name: sum(one[name] for one in known) / len(known) for name in ("perplexity", "repeated")}
            line["seeds"] = spread([one["perplexity"] for one in known], ".1f")
        out.append(line)
    return out


if __name__ == "__main__":
    run(main)
