"""The reversal curse: facts learned as "A is B" and asked for A, by masked diffusion and from left to right.

    python experiments/reversal.py --out runs/reversal --tokens 8e6

Invented facts, each told in several wordings. Of most of them the name always comes first; the others are told in both
orders, so that the reversed sentence is a form the models know. Asked in a wording in which the fact was never told:
`forward` (the name is given, the description wanted), `reverse` (the description comes first, the name is wanted) and,
where a family can write before the end, `in place` (the name is wanted where it always stood). A hit is the whole
answer, exactly. Masked diffusion is told how many tokens are missing (`told`) or finds out (`probe`); the others end
by themselves. The third model also goes from left to right, but has learned to fill holes in the text.
"""

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from facts import Fact, facts, sentences
from pilot import Pilots, Text, alone, arguments, run, seeds_of
from table import Row, Table, markdown, over_seeds, spread

DIFFUSION, BASELINE, HOLES = "masked diffusion", "left to right", "left to right, with holes"
ASKED = ("forward", "reverse", "in place")
RUNS = {"law": "runs", "unit": "word", "share": 0.7, "lengths": [0.3, 0.3, 0.2, 0.2], "rate": [0.1, 0.4]}
FILLING = ["objective=left_to_right", f"masking={json.dumps([RUNS, {'law': 'all', 'share': 0.3}])}"]
COLUMNS = {
    "model": "", "length": "", "told": "", "asked": "", "n": "", "right": ".1%", "±": ".1%", "seeds": "",
    "steps": ".0f", "Mtokens": ".2f", "CPU s": ".0f",
}  # fmt: skip
BATCH = 32


def answers(lm: Any, known: Sequence[Fact], how: str, length: str | None, policy: str = "confident") -> list[str]:
    """What a model says, up to the end of the sentence; `policy`: how masks are written."""
    from unmask.decoding.masks import Masks
    from unmask.holes import Blank

    asked = [fact.question(how) for fact in known]
    if length is None and lm.model.config.options:  # one that goes on from a text: it has to stop by itself
        some = [lm.generate([before for before, _, _ in part], max_words=8) for part in batches(asked)]
        return [fills[0].holes[0].text.partition(".")[0].strip() for part in some for fills in part]
    if length is None:
        texts = [[before, Blank(), behind] for before, _, behind in asked]
        found = [fills[0] for part in batches(texts) for fills in lm.fill(part, beam=1)]
        return [fill.holes[0].text for fill in found]
    sizes = [len(lm.tokenizer.encode(f" {wanted}", inside=True)) if length == "told" else 0 for _, wanted, _ in asked]
    out = [""] * len(asked)

    def filled(texts: list[Any], size: int) -> Any:
        return lm.fill(texts, beam=1, policy=policy, masks=Masks(length=size or "probe"))

    for size, group in groupby(sorted(range(len(asked)), key=sizes.__getitem__), key=sizes.__getitem__):
        for part in batches(list(group)):
            texts = [[asked[i][0], Blank(), asked[i][2]] for i in part]
            for i, fills in zip(part, filled(texts, size), strict=True):
                out[i] = fills[0].holes[0].text
    return out


def batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    """Of a size that a call takes."""
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]


def data(out: Path, known: Sequence[Fact], mixed: Sequence[Path] | None) -> list[Text]:
    """The sentences in a file, and what is mixed in."""
    path = out / "facts.txt"
    told = "".join(f"{line}\n" for line in sentences(known, 0))
    with alone(out, path.name):
        if not path.exists() or path.read_text(encoding="utf-8") != told:
            path.write_text(told, encoding="utf-8")
    return [{"path": str(path), "unit": "line"}, *(mixed or ())]


def lines(rows: Sequence[Row]) -> list[Row]:
    """The table: of each question the mean over seeds."""
    from unmask.evaluation.report import ratio

    out = []
    for name in dict.fromkeys((row["model"], row["length"], row["told"], row["asked"]) for row in rows):
        some = [row for row in rows if (row["model"], row["length"], row["told"], row["asked"]) == name]
        shares = [sum(row["hits"]) / len(row["hits"]) for row in some]
        line = dict(some[0]) | {"n": len(some[0]["hits"]), "seeds": spread(shares, ".1%")}
        hits = over_seeds(some, "hits")
        line["right"], line["±"] = ratio(hits, [1.0] * len(hits))
        out.append(line)
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Learn, ask and print the table."""
    parser = arguments(__doc__, "reversal", text=False, tokens=8e6, row_tokens=64)
    parser.add_argument("--facts", type=int, default=500, help="told with the name first (%(default)s)")
    parser.add_argument("--both", type=int, default=250, help="told in both orders (%(default)s)")
    parser.add_argument("--text", type=Path, nargs="+", help="files or folders of text to mix in")
    every = [DIFFUSION, BASELINE, HOLES]
    parser.add_argument("--models", nargs="+", choices=every, default=every, metavar="MODEL")
    parser.add_argument("--policy", default="confident", help="how masks are written (%(default)s)")
    given = parser.parse_args(argv)
    known = facts(given.facts, given.both, seed=0)
    texts = data(given.out, known, given.text)
    pilots = Pilots(given, texts, "data.lengths={single: 1.0}")
    own = {DIFFUSION: [], BASELINE: pilots.left_to_right(), HOLES: FILLING}
    ways = [(DIFFUSION, "told", ASKED), (DIFFUSION, "probe", ASKED), (BASELINE, None, ASKED[:2]), (HOLES, None, ASKED)]
    ways = [way for way in ways if way[0] in given.models]
    shared = {"models": pilots.name, "facts": given.facts, "both": given.both, "policy": given.policy}

    def measure(key: Row) -> Row:
        made = pilots.make(key["model"], own[key["model"]], key["seed"])
        some = [fact for fact in known if fact.both == (key["told"] == "both orders")]
        said = answers(made.load(), some, key["asked"], key["length"], given.policy)
        wanted = [fact.question(key["asked"])[1] for fact in some]
        return made.cost | {"hits": [a == b for a, b in zip(said, wanted, strict=True)], "said": said[:20]}

    keys = [
        {"model": model, "length": length, "told": told, "asked": asked, "seed": seed} | shared
        for model, length, every in ways
        for told, n in (("name first", given.facts), ("both orders", given.both))
        for asked in every
        for seed in seeds_of(given)
        if n
    ]
    rows = Table(given.out / "reversal.jsonl").rows(keys, measure)
    print(markdown(lines(rows), COLUMNS))
    print(f"\n{given.facts} facts told with the name first, {given.both} in both orders; {given.seeds} seeds.")


if __name__ == "__main__":
    run(main)
