"""The scripts behind the tables, at sizes at which nothing is learned: every row is there, and every figure is one."""

import itertools
import json
import math
import random
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

import blocks
import facts
import held_out
import infilling
import lengths
import levels
import orders
import passes
import pilot
import reversal
import stars
import table
import translation
import unmask.training.run
import writing
from toys import tokenizer, toy
from unmask.holes import Blank

TINY = [
    "--steps", "2", "--width", "16", "--layers", "1", "--heads", "2", "--batch-tokens", "256", "--row-tokens", "40",
    "--vocabulary", "320", "--seeds", "1",
]  # fmt: skip
WORDS = "the cat an old man sat on looked at mat and small house river walked to bridge she saw green tree".split()


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    draw = random.Random(0)
    sentence = (" ".join(draw.choice(WORDS) for _ in range(draw.randint(5, 9))).capitalize() + "." for _ in range(600))
    path = tmp_path_factory.mktemp("text") / "my.txt"
    path.write_text("\n\n".join(" ".join(next(sentence) for _ in range(6)) for _ in range(100)))
    return path


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("out")


def shown(printed: str) -> list[dict[str, str]]:
    """The rows of the table that was printed."""
    head, rule, *rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("|")]
    assert set("".join(rule)) <= set("-|")
    return [dict(zip(head, row, strict=True)) for row in rows]


def number(cell: str) -> float:
    """A figure of a table; an error when it is none."""
    value = float(cell.replace(",", "").rstrip("%"))
    assert math.isfinite(value)
    return value


def nothing_is_trained(monkeypatch) -> None:
    def fail(*_, **__):
        raise AssertionError("it was trained already")

    monkeypatch.setattr(unmask.training.run, "train", fail)


@pytest.mark.parametrize("lines", [[], ["--lines"]])
def test_orders(text, out, capsys, monkeypatch, lines):
    if lines:
        text, sentences = out / "lines.txt", text.read_text().replace("\n\n", " ")
        text.write_text(sentences.replace(". ", ".\n"))
    asked = ["--text", str(text), "--out", str(out / "orders"), *TINY, "-n", "3", "--few", "2", *lines]
    orders.main(asked)
    first = capsys.readouterr().out
    rows = shown(first)
    assert [row["family"] for row in rows] == list(orders.FAMILIES)
    assert [row["kind"] for row in rows] == ["bound"] * 5 + ["exact"]
    for row in rows:
        assert math.log(number(row["perplexity"])) == pytest.approx(number(row["nats a word"]), abs=0.01)
        assert (row["few, 100"] == "–") == (row["family"] == "left to right")
        assert (row["few, jackknife"] == "–") == (row["family"] not in ("blank LM", "insertion, by orders"))
    nothing_is_trained(monkeypatch)
    orders.main(asked)
    assert capsys.readouterr().out == first


def test_levels(text, out, capsys, monkeypatch):
    asked = ["--text", str(text), "--out", str(out / "levels"), *TINY, "-n", "3", "--draws", "2"]
    levels.main(asked)
    first = capsys.readouterr().out
    rows = shown(first)
    assert [row["levels"] for row in rows] == [*levels.LAWS, "left to right"]
    assert [row["kind"] for row in rows] == ["bound"] * 8 + ["exact"]
    for row in rows:
        assert 3 < number(row["nats a token"]) < 9  # about log 320
        assert number(row["nats a word"]) > number(row["nats a token"])
        assert all(number(row[name]) >= 0 for name in ("±", "± a word", "steps", "Mtokens", "CPU s"))
    assert [row["against"] == "–" for row in rows] == [True] + [False] * 7 + [True]  # a bound, and a bound
    assert len({row["nats a token"] for row in rows}) == 9  # no two models are one

    nothing_is_trained(monkeypatch)
    levels.main(asked)
    assert capsys.readouterr().out == first
    (out / "levels" / "levels.jsonl").unlink()
    levels.main([*asked, "--laws", "iid", "clipped"])  # scored anew, by the models that are there
    assert shown(capsys.readouterr().out) == [rows[0], rows[7]]


def test_seeds_are_counted_from_the_first(text, out, capsys):
    levels.main(
        ["--text", str(text), "--out", str(out / "third"), *TINY, "--laws", "iid", "-n", "2", "--first-seed", "3"]
    )
    assert number(shown(capsys.readouterr().out)[0]["nats a token"])
    assert [folder.name.split("-")[2] for folder in (out / "third" / "pilots").iterdir()] == ["seed3"]


def test_a_budget_of_processor_time_is_measured(text, out, capsys, monkeypatch):
    asked = ["--text", str(text), "--out", str(out / "cpu"), *TINY[2:-2], "--cpu", "0.2", "--seeds", "2"]
    pilot.main([*asked, "--set", "backbone.qk_norm=false"])
    printed = capsys.readouterr().out
    one, two = shown(printed)
    assert number(one["steps"]) == number(two["steps"]) >= 1
    assert one["folder"] != two["folder"]
    run = Path(one["folder"])
    assert "qk_norm: false" in (run / "config.yaml").read_text()
    steps = [json.loads(line)["cpu_seconds"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert number(one["cpu_seconds"]) == pytest.approx(sum(steps), abs=0.06)
    assert len({path.name for path in (out / "cpu").glob("vocabulary-*")}) == 1
    nothing_is_trained(monkeypatch)
    pilot.main([*asked, "--set", "backbone.qk_norm=false"])
    assert capsys.readouterr().out == printed


def test_a_run_that_was_stopped_goes_on(text, out, capsys, monkeypatch):
    asked = ["--text", str(text), "--out", str(out / "stopped"), *TINY]
    real = unmask.training.run.train

    def stopped(recipe, settings, folder, **how):
        return folder

    monkeypatch.setattr(unmask.training.run, "train", stopped)
    with pytest.raises(SystemExit, match="was stopped · the same command goes on"):
        pilot.main(asked)
    monkeypatch.setattr(unmask.training.run, "train", real)
    pilot.main(asked)
    assert number(shown(capsys.readouterr().out)[0]["steps"]) == 2


def test_passes(text, out, capsys):
    sizes = ["-n", "2", "--prompt", "10", "--new", "8", "--budgets", "2", "8", "--block", "4", "--temperature", "0.5"]
    sizes += ["--policies", "low_confidence", "random", "--adaptive", "threshold:0.7", "factor:2"]
    passes.main(["--text", str(text), "--out", str(out / "passes"), *TINY, *sizes])
    truth, bound, baseline, *rows = shown(capsys.readouterr().out)
    ways = passes.ways(("low_confidence", "random"), ("threshold:0.7", "factor:2"), [2, 8], 4, 8)
    assert len(rows) == len(ways) == 2 * 2 + 2 + 4 * 2 + 4
    assert truth["policy"] == "the held-out text"
    assert bound["policy"] == "any order (bound)"
    for row, way in zip(rows, ways, strict=True):
        assert row["policy"] == way.policy
        assert (row["nats a token"] == "–") == (way.policy == "random")
        assert 1 <= number(row["passes"]) <= 8
        if way.steps is not None:
            assert number(row["passes"]) == way.steps  # counted, not taken from what was asked
        assert row["cache"] == (way.cache if way.block else "–")
    for row in [baseline, *rows]:
        assert all(number(row[name]) > 0 for name in ("perplexity", "written", "tokens a CPU-second"))
        assert 0 <= number(row["repeated"]) <= 100
    assert 3 < number(bound["nats a token"]) < 9
    assert 3 < number(baseline["nats a token"]) < 9
    assert number(truth["entropy"]) > 0


def test_passes_of_models_that_are_named(text, out, capsys):
    places = []
    for kind in ([], ["--left-to-right"]):
        pilot.main(["--text", str(text), "--out", str(out / "named"), *TINY, *kind])
        places.append(Path(shown(capsys.readouterr().out)[0]["folder"]) / "model")
    model, judge = places
    sizes = ["-n", "2", "--prompt", "10", "--new", "8", "--budgets", "2", "--block", "8", "--adaptive"]
    passes.main(
        ["--text", str(text), "--out", str(out / "named"), "--model", str(model), "--judge", str(judge), *sizes]
        + ["--policies", "margin", "--seeds", "1"]
    )
    rows = shown(capsys.readouterr().out)
    assert [row["policy"] for row in rows[2:]] == ["left to right (exact)", *["margin"] * 5]
    assert len(list((out / "named" / "pilots").iterdir())) == 2  # none was made


def test_reversal(out, capsys):
    folder = out / "reversal"
    reversal.main(["--out", str(folder), *TINY, "--facts", "2", "--both", "2", "--policy", "parallel"])
    rows = shown(capsys.readouterr().out)
    assert Counter(row["model"] for row in rows) == {
        "masked diffusion": 12, "left to right": 4, "left to right, with holes": 6,
    }  # fmt: skip
    assert {(row["told"], row["n"]) for row in rows} == {("name first", "2"), ("both orders", "2")}
    assert all(0 <= number(row["right"]) <= 100 and number(row["±"]) >= 0 for row in rows)
    assert len((folder / "facts.txt").read_text().splitlines()) == 2 * 5 + 2 * 10


@pytest.mark.parametrize("script", [reversal, lengths, stars])
def test_seeds_that_ask_the_same_questions_make_no_error_smaller(script):
    keys = {"model": "a", "length": None, "told": "b", "asked": "c", "filled up by": "none", "canvas": 1.0}
    one = keys | {"graphs": "easy", "words": 1.0, "hits": [True, False, False, True], "F1s": [1.0, 0.0, 0.5, 1.0]}
    other = one | {"hits": [True, True, False, False]}
    (alone,), (same,), (both,) = (script.lines(rows) for rows in ([one], [one] * 9, [one, other]))
    share, error = ("exact", "±") if script is lengths else ("right", "±")
    assert alone[error] == same[error] == pytest.approx((1 / 4 / 3) ** 0.5)
    assert both[share] == alone[share] == 0.5
    assert both[error] == pytest.approx((2 * 0.5**2 / 3 / 4) ** 0.5)  # of 1, 0.5, 0 and 0.5
    assert script is not lengths or (same["± of it"] == alone["± of it"] > 0 and both["canvas"] == "1 x")


def test_facts_are_told_as_the_question_wants():
    known = facts.facts(500, 250, seed=0)
    assert known == facts.facts(500, 250, seed=0) != facts.facts(500, 250, seed=1)
    assert len({fact.name for fact in known}) == len({fact.thing for fact in known}) == 750
    told = set(facts.sentences(known, 0))
    for fact in known:
        mine = fact.told()
        assert set(mine) <= told
        ahead = [sentence.index(fact.name) < sentence.index(fact.thing) for sentence in mine]
        assert all(ahead) != fact.both
        for how in ("forward", "reverse", "in place"):
            before, wanted, behind = fact.question(how)
            assert f"{before}{wanted}{behind}" not in told
            assert wanted == (fact.thing if how == "forward" else fact.name)
            (given,) = {fact.name, fact.thing} - {wanted}
            assert (given in behind) if how == "in place" else (given in before)
            assert before.endswith(" ")


def test_an_answer_that_is_right_counts():
    """By a model that knows one fact by heart, in the place of a trained one."""

    class Knows:
        class model:  # noqa: N801
            class config:  # noqa: N801
                options = None

        def fill(self, texts, **how):
            class Fill:
                class holes:  # noqa: N801
                    text = known[0].name

            Fill.holes = (Fill.holes,)
            return [[Fill] for _ in texts]

    known = facts.facts(2, 0, seed=0)
    assert reversal.answers(Knows(), known, "in place", None) == [known[0].name] * 2


def test_lengths(text, out, capsys):
    sizes = [
        "--row-tokens",
        "64",
        "--task",
        "repeat",
        "--taught",
        "256",
        "-n",
        "2",
        "--canvas",
        "0.5",
        "2",
        "--policy",
        "parallel",
    ]
    lengths.main(["--text", str(text), "--out", str(out / "lengths"), *TINY, *sizes])
    rows = shown(capsys.readouterr().out)
    ways = ["0.5 x", "2 x", "probe", "grow"]
    assert [(row["filled up by"], row["canvas"]) for row in rows] == [
        *((pad, way) for pad in lengths.PADS for way in ways),
        ("left to right", "ends by itself"),
    ]
    for row in rows:
        assert 0 <= number(row["exact"]) <= 100
        assert 0 <= number(row["F1"]) <= 1
        assert number(row["words"]) >= 0
        assert row["n"] == "2"
    pads = {path.name.split("-")[0] for path in (out / "lengths" / "pilots").iterdir()}
    assert pads == {"base", "eos", "rainbow", "none", "left"}
    for run in (out / "lengths" / "pilots").glob("rainbow-*"):
        assert "pad: rainbow" in (run / "config.yaml").read_text()


def test_pairs_of_ones_own(text, out, tmp_path, capsys):
    some = "".join(json.dumps({"prompt": "the cat", "response": f"sat on {n}"}) + "\n" for n in range(200))
    (tmp_path / "pairs.jsonl").write_text(some)
    sizes = ["--policy", "parallel", "--taught", "256", "-n", "2", "--canvas", "1", "--pads", "none"]
    own = ["--pairs", str(tmp_path / "pairs.jsonl"), "--asked", str(tmp_path / "pairs.jsonl")]
    lengths.main(["--text", str(text), "--out", str(out / "lengths"), *TINY, *sizes, *own])
    assert [row["canvas"] for row in shown(capsys.readouterr().out)] == ["1 x", "probe", "grow", "ends by itself"]
    with pytest.raises(SystemExit):
        lengths.main(["--text", str(text), *own[:2]])


def test_pairs_hang_on_the_sentence_alone():
    sentences = ["The cat sat on the mat and slept.", "Too short.", "She saw a small green house by the river."]
    made = lengths.pairs(iter(sentences), "rest", 10)
    assert [f"{pair['prompt']} {pair['response']}" for pair in made] == [sentences[0], sentences[2]]
    assert lengths.pairs(iter(sentences[2:]), "rest", 1) == made[1:]
    assert all(pair["prompt"].startswith(pair["response"]) for pair in lengths.pairs(iter(sentences), "repeat", 10))


def test_f1_by_hand():
    assert lengths.f1("the cat sat", "the cat sat") == 1
    assert lengths.f1("the dog", "the cat sat") == pytest.approx(2 / 5)
    assert lengths.f1("the the", "the cat") == pytest.approx(1 / 2)
    assert lengths.f1("", "the cat") == 0


@pytest.fixture(scope="module")
def translations(tmp_path_factory) -> Path:
    draw, path = random.Random(1), tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    said = ([draw.choice(WORDS) for _ in range(draw.randint(1, 6))] for _ in range(200))
    path.write_text("".join(json.dumps({"prompt": " ".join(s), "response": " ".join(s[::-1])}) + "\n" for s in said))
    return path


def test_translation(translations, out, capsys, monkeypatch):
    asked = ["--pairs", str(translations), "--asked", str(translations), "--out", str(out / "translation"), *TINY]
    asked += ["-n", "3", "--max-words", "4", "--distilled", "--penalties", "0", "1"]
    translation.main(asked)
    first = capsys.readouterr().out
    rows = shown(first)
    assert [row["model"] for row in rows[:2]] == ["left to right"] * 2
    for name, n in (("insertion, left to right", 2), ("insertion, tree", 8), ("insertion, uniform", 8)):
        assert sum(row["model"] == name for row in rows) == n
    assert Counter(row["learned from"] for row in rows) == {"the pairs": 20, "the teacher's": 16}
    for row in rows:
        assert all(number(row[name]) >= 0 for name in ("BLEU", "±", "chrF", "words"))
        assert min(number(row[name]) for name in ("passes", "read")) > 0
        assert (row["penalty"] == "–") == (row["model"] == "left to right")
    nothing_is_trained(monkeypatch)
    translation.main(asked)
    assert capsys.readouterr().out == first


def test_quality_by_hand():
    true = ["the old man sat on the mat", "a dog ran"]
    assert translation.quality(true, true)["BLEU"] == pytest.approx(100)
    found = translation.quality(["the old man sat on a mat", "a dog"], true)
    assert 0 < found["BLEU"] < 100 and found["words"] == pytest.approx(9 / 10)


def test_stars(out, capsys):
    stars.main(["--out", str(out / "stars"), *TINY, "--row-tokens", "150", "--learned", "60", "-n", "2"])
    rows = shown(capsys.readouterr().out)
    assert [(row["graphs"], row["model"]) for row in rows] == [(k, m) for k in stars.LONG for m in stars.MODELS]
    assert all(0 <= number(row["right"]) <= 100 for row in rows)


def test_graphs_that_are_asked_were_not_learned(tmp_path):
    path, few = stars.data(tmp_path, "easy", 200, 10, 20)
    same, many = stars.data(tmp_path, "easy", 200, 50, 20)
    learned = [json.loads(line) for line in path.read_text().splitlines()]
    assert path == same and len(learned) == 200 and many[:10] == few
    assert not [pair for pair in many if pair in learned]


@pytest.mark.parametrize("kind", ["easy", "medium"])
def test_the_way_through_a_star_follows_its_edges(kind):
    draw = random.Random(0)
    sizes = set()
    for _ in range(50):
        pair = stars.star(kind, 20, draw)
        told, asked = pair["prompt"].split(" ; ")
        edges = {frozenset(edge.split()) for edge in told.split(" , ")}
        way = pair["response"].split()
        assert asked == f"{way[0]} to {way[-1]}" and len(set(way)) == len(way)
        assert all(frozenset(step) in edges for step in zip(way, way[1:], strict=False))
        degree = Counter(node for edge in edges for node in edge)
        assert sorted(degree.values())[-2:] == [2, 3] and degree[way[-1]] == 1
        assert degree[way[0]] == (3 if kind == "easy" else 1)
        sizes.add(len(way))
    assert sizes == {6} if kind == "easy" else min(sizes) >= 7 and max(sizes) <= 13


def test_infilling(text, out, capsys):
    asked = ["--text", str(text), "--out", str(out / "infilling"), *TINY, "-n", "3", "--shares", "0.1", "0.5"]
    infilling.main(asked)
    rows = shown(capsys.readouterr().out)
    ways = sum(len(family.ways) for family in infilling.FAMILIES.values())
    assert len(rows) == 4 * (ways + 1)
    assert Counter((row["hidden"], row["in"]) for row in rows) == dict.fromkeys(
        itertools.product(("10%", "50%"), ("words", "runs")), ways + 1
    )
    for row in rows:
        assert 0 <= number(row["BLEU"]) <= 100 and 0 <= number(row["exact"]) <= 100 and number(row["holes"]) >= 3
    nothing = [row for row in rows if row["family"] == "nothing"]
    assert all(number(row["exact"]) == 0 and number(row["off by"]) >= 1 for row in nothing)


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_hidden_words_are_written_back(share, runs):
    draw = random.Random(0)
    for _ in range(30):
        said = " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 12)))
        task = infilling.Task.of(said, share, runs)
        assert task.whole(task.missing) == said
        n_hidden = sum(len(some.split()) for some in task.missing)
        assert max(1, round(share * len(said.split()))) <= n_hidden
        assert all(task.between[1:-1]) and all(task.missing)  # holes do not touch
        pieces = task.pieces([[Blank()] for _ in task.missing])
        parts = iter(task.missing)
        assert "".join(one if isinstance(one, str) else next(parts) for one in pieces) == said
    found = infilling.measured([infilling.Task(["the", "sat"], ["old cat"])], [["cat"]])
    assert (found["exact"], found["off by"], found["holes"]) == (0, 1, 1)


def test_a_table_is_measured_once(tmp_path, capsys):
    path, calls = tmp_path / "t.jsonl", []

    def measure(key):
        calls.append(key["a"])
        return {"b": key["a"] ** 2}

    keys = [{"a": 1}, {"a": 2}]
    assert table.Table(path).rows(keys[:1], measure) == [{"a": 1, "b": 1}]
    with path.open("a") as file:
        file.write('[{"a": 2}, {"b"')  # killed while it wrote
    found = table.Table(path).rows(keys, measure)
    assert found == table.Table(path).rows(keys, measure) == [{"a": 1, "b": 1}, {"a": 2, "b": 4}]
    assert calls == [1, 2]
    assert "[2/2] t: a 2" in capsys.readouterr().err
    assert table.markdown([{"a": 1.26, "b": None}], {"a": ".1f", "b": ".2f"}) == "| a | b |\n|---|---|\n| 1.3 | – |"


def test_processes_share_a_table(tmp_path):
    path, keys, began, go_on = tmp_path / "t.jsonl", [{"a": 1}, {"a": 2}, {"a": 3}], Event(), Event()

    def slowly(key):
        if key["a"] == 1:
            began.set()
            assert go_on.wait(10)
        return {"by": "slow"}

    def at_once(key):
        if key["a"] == 3:
            go_on.set()
        return {"by": "fast"}

    with ThreadPoolExecutor() as pool:  # locks tell objects apart, as they do processes
        first = pool.submit(lambda: table.Table(path).rows(keys, slowly))
        assert began.wait(10)
        second = table.Table(path).rows(keys[:1] + keys[2:], at_once)
    assert first.result()[::2] == second == [{"a": 1, "by": "slow"}, {"a": 3, "by": "fast"}]
    assert len(path.read_text().splitlines()) == 3


def test_rows_of_many_writers_are_lines(tmp_path):
    path, keys = tmp_path / "t.jsonl", [{"a": n} for n in range(40)]
    with ThreadPoolExecutor(8) as pool:  # rows are long, so that one could be caught half written
        made = [pool.submit(table.Table(path).rows, [key], lambda key: {"b": "x" * 100_000}) for key in keys]
    assert all(one.result() for one in made)
    assert sorted(json.loads(line)[0]["a"] for line in path.read_text().splitlines()) == list(range(40))


def test_passages_are_held_out_and_cut_at_words(text):
    tok = tokenizer()
    found = held_out.passages([text], None, tok, n=3, most=60, least=20)
    assert len(found) == 3
    kept = " ".join(text.read_text().split())
    for one in found:
        assert kept.index(one) > 0.9 * len(kept)
        assert 20 <= len(tok.encode(one)) <= 60
        prompt, behind = held_out.cut(one, tok, 10, 20)
        assert one.startswith(prompt + behind) and prompt.endswith(" ")
        assert len(tok.encode(prompt[:-1])) <= 10
        assert len(tok.encode(f" {behind}", inside=True)) <= 20
    whole = held_out.passages([text], [text], tok, n=1000, most=60)
    assert len(whole) > len(found)
    with pytest.raises(ValueError, match="no passage of 5000 to 60 tokens"):
        held_out.passages([text], None, tok, n=3, most=60, least=5000)


def test_what_a_text_is_like():
    assert writing.repeated([1, 2, 3, 4, 5]) == 0
    assert writing.repeated([1] * 8) == pytest.approx(4 / 5)
    assert writing.repeated([1, 2]) == 0
    assert writing.entropy([1, 2, 3, 4]) == pytest.approx(math.log(4))
    assert writing.entropy([7, 7]) == 0


def test_chances_are_of_what_follows_alone():
    lm = toy("left_to_right")
    (found,) = writing.chances(lm, [("the cat ", "sat on the mat")])
    assert (found.kind, found.tokens) == ("exact", len(lm.tokenizer.encode(" sat on the mat", inside=True)))
    (duel,) = writing.chances(toy("masked_diffusion"), [("the cat ", "sat on")], method="duel", steps=1)
    assert duel.kind == "exact"


@pytest.mark.parametrize("script", [pilot, levels, passes, reversal, lengths])
def test_each_says_what_it_does(script, capsys):
    with pytest.raises(SystemExit) as ended:
        script.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"python experiments/{script.__name__}.py" in said
    assert {"--out", "--seeds", "--tokens", "--cpu"} <= set(re.findall(r"--[\w-]+", said))


def test_blocks(text, out, capsys):
    own = ["--blocks", "2", "5", "-n", "4", "--draws", "2", "--prompts", "2", "--prompt", "6", "--local", "8"]
    blocks.main([*TINY, "--text", str(text), "--out", str(out / "blocks"), "--times", "2", *own])
    rows = shown(capsys.readouterr().out.partition("\n\n")[0])
    assert [row["block"] for row in rows] == ["2", "5", "whole row", "left to right"]
    assert [row["kind"] for row in rows] == ["bound", "bound", "bound", "exact"]
    assert all(0 < number(row["nats a token"]) < 12 for row in rows)
    blocks.main([*TINY, "--text", str(text), "--out", str(out / "blocks"), "--times", "2", *own])
    rows = shown(capsys.readouterr().out.partition(".\n\n")[2])
    assert [(row["block"], row["window"]) for row in rows] == [
        (block, window) for block in ("the held-out text", "2", "5") for window in "12"
    ]
    assert all(number(row["perplexity"]) > 1 for row in rows if number(row["texts"]))
    assert all(number(row["texts"]) == 2 for row in rows if row["block"] != "the held-out text")


def test_a_run_of_four_that_stood_before_is_found_where_it_comes_again():
    assert blocks._repeated([1, 2, 3, 4, 9, 1, 2, 3, 4, 5], 5) == 1 / 2
    assert blocks._repeated([1, 2, 3, 4, 9, 1, 2, 3, 4, 5], 0) == 1 / 7
