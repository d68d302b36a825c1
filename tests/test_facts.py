"""The facts task, choices among candidates, and models that are asked in words."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from test_blanks import Scribe
from test_left_to_right import plain
from toys import toy
from unmask.cli import main
from unmask.evaluation import TASKS, facts, multiple_choice
from unmask.evaluation.asking import Asked
from unmask.evaluation.cloze import Cloze
from unmask.evaluation.filling import filled
from unmask.holes import Blank

RELATIONS = {
    "P1": {
        "facts": [{"sub_label": "the cat", "obj_label": "mat"}, {"sub_label": "the dog", "obj_label": "old man"}],
        "patterns": [{"pattern": "[X] sat on the [Y] ."}, {"pattern": "no object"}],
    },
    "P2": {"facts": [{"sub_label": "a", "obj_label": "b"}]},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(RELATIONS))
    return path


def test_facts_become_sentences_with_a_blank(file: Path) -> None:
    found = facts.facts(file, seed=0)
    assert [item.free for item, _ in found] == ["the cat sat on the ___.", "the dog sat on the ___."]
    assert [item.told for item, _ in found] == ["the cat sat on the ___{1}.", "the dog sat on the ___{2}."]
    assert found[0][1] == ["mat", "old man"]


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        "\udcff",
        '{"P1": {"facts": []}}',
        '{"P1": 3}',
        '{"P1": {"facts": [{"sub_label": "a", "obj_label": 3}], "patterns": [{"pattern": "[X] is [Y]"}]}}',
        '{"P1": {"facts": [{"sub_label": "a"}]}}',
        '{"P1": {"facts": [], "patterns": ["[X] is [Y]"]}}',
    ],
)
def test_a_file_without_facts_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "none.json"
    path.write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match="holds no facts") as caught:
        facts.facts(path, 0)
    assert str(path) in str(caught.value) and str(caught.value).count(" · ") == 2


def test_the_whole_task(file: Path) -> None:
    report = TASKS["facts"].run(toy("left_to_right"), [file], [], 9, 0, lambda *_: None)
    assert [row["by"] for row in report.rows] == ["model, free", "model, told ___{k}", "model, of 10"]
    assert all(row["n"] == 2 for row in report.rows)
    choice = report.rows[2]
    lm = toy("left_to_right")
    first = [lm.fill(f"{who} sat on the ___{{mat|old man}}.")[0].holes[0] for who in ("the cat", "the dog")]
    assert choice["top-1"] == sum(hole.text == gold for hole, gold in zip(first, ("mat", "old man"), strict=True)) / 2
    assert 0 <= choice["ECE"] <= 1


def test_signs_in_a_subject_are_text(tmp_path: Path) -> None:
    """A backslash, a mask and underscores beside the blank: one hole, of which alone the answers are."""
    path = tmp_path / "facts.json"
    known = [{"sub_label": subject, "obj_label": "mat"} for subject in ("[MASK]", "a ___", "C:\\")]
    path.write_text(json.dumps({"P": {"facts": known, "patterns": [{"pattern": "[X][Y] ."}]}}))
    items = [item for item, _ in facts.facts(path, 0)]
    for told in (False, True):
        found = filled(toy("left_to_right"), items, told, 3, 0, lambda *_: None)
        assert all(0 < len(some) <= 3 for some in found)
    pieces = items[0].around(Blank((1, 1)))
    assert pieces == ["[MASK]", Blank((1, 1)), "."]
    fills = toy("left_to_right").fill([pieces], n=3)[0]
    assert [fill.holes[0].text.strip() for fill in fills] == filled(
        toy("left_to_right"), items[:1], True, 3, 0, lambda *_: None
    )[0]


def test_the_right_hit_is_counted(file: Path) -> None:
    answers = {"the cat": ["no", "mat"], "the dog": ["old man"]}

    def fill(texts: list[Any], n: int, seed: int) -> list[list[Any]]:
        known = [next((a for who, a in answers.items() if who in str(text)), []) for text in texts]
        return [[SimpleNamespace(holes=(SimpleNamespace(text=a, prob=0.5),)) for a in some] for some in known]

    model: Any = SimpleNamespace(fill=fill)
    rows = TASKS["facts"].run(model, [file], [], 9, 0, lambda *_: None).rows
    assert (rows[0]["top-1"], rows[0]["top-10"]) == (0.5, 1.0)


def test_some_facts_of_all_relations_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    turned = {
        "facts": [{"sub_label": "the man", "obj_label": "log"}],
        "patterns": [{"pattern": "The [Y] is where [X] sat ."}],
    }
    path.write_text(json.dumps(RELATIONS | {"P3": turned}))
    found = facts.facts(path, 0)
    sentences = [item.sentence for item, _ in found]
    assert sentences == ["the cat sat on the mat.", "the dog sat on the old man.", "The log is where the man sat."]
    assert found[2][1] == ["log"]
    drawn = []
    for seed in range(9):
        model: Any = Scribe("mat")
        rows = TASKS["facts"].run(model, [path], [], 1, seed, lambda *_: None).rows
        assert [row["n"] for row in rows] == [1, 1, 1]
        drawn += model.texts
    assert len(drawn) == 9 and set(drawn) == {item.free for item, _ in found}


def test_candidates_are_alike_and_fixed_by_the_seed() -> None:
    item = Cloze("a ", " c", "two words")
    others = [f"{i}" for i in range(20)] + [f"{i} {i}" for i in range(5)]
    some = multiple_choice.candidates(item, others, 0)
    assert len(some) == len(set(some)) == 10
    assert item.gold in some
    assert sum(" " in one for one in some) == 6  # its own, and all others of two words
    assert some == multiple_choice.candidates(item, others, 0) != multiple_choice.candidates(item, others, 1)


def test_which_candidates_and_where_the_right_one_stands_is_drawn() -> None:
    item, others = Cloze("a ", " c", "gold"), [f"w{i}" for i in range(30)]
    drawn = [multiple_choice.candidates(item, others, seed) for seed in range(100)]
    assert {some.index("gold") for some in drawn} == set(range(10))
    assert {one for some in drawn for one in some} == {"gold", *others}


def test_calibration_error() -> None:
    assert multiple_choice.calibration_error([0.25, 0.25, 0.25, 0.25], [True, False, False, False]) == 0
    assert multiple_choice.calibration_error([1.0, 1.0], [True, False]) == 0.5
    assert multiple_choice.calibration_error([0.05, 0.95], [True, False]) == pytest.approx(0.95)


def test_a_plain_model_is_asked_in_words() -> None:
    lm = plain()
    asked = Asked(lm, "the cat saw {text} and")
    free, told = asked.fill(["the ___ sat", "the ___{2} sat"], n=2)
    assert all(fill.text.startswith("the cat saw the ___ sat and ") for fill in [*free, *told])
    assert all(len(fill.holes[0].text.split()) == 2 for fill in told)


def test_an_answer_in_words_may_be_as_long_as_a_fill() -> None:
    lm = plain()
    (answers,) = Asked(lm, "{text} so").fill(["the ___ sat"], n=5)
    wanted = lm.fill(["the ___ sat so ", Blank()], n=5)
    assert [(fill.text, fill.log_prob) for fill in answers] == [(fill.text, fill.log_prob) for fill in wanted]


def test_limits_and_candidates_of_a_text_are_those_of_the_answer() -> None:
    asked = Asked(plain(), "{text} so")
    (between, one_of) = asked.fill(["the ___{2,3} sat", "the ___{cat|old man} sat"], n=3)
    assert all(fill.text.startswith("the ___ sat so ") for fill in [*between, *one_of])
    assert {len(fill.holes[0].text.split()) for fill in between} <= {2, 3}
    assert {fill.holes[0].text for fill in one_of} == {"cat", "old man"}


def test_prompts_with_several_holes_are_not_asked_in_words() -> None:
    assert main(["evaluate", "prompts", "--ask", "{text}"]) == 2


def test_the_blanks_task_asks_in_words(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat\nthe dog ran to the cat\n")
    rows = TASKS["blanks"].run(Asked(plain(), "{text} and"), [path], [], 9, 0, lambda *_: None).rows
    assert {row["blanks"] for row in rows} == {"1 word", "2-4 words"}
    (choice,) = (row for row in rows if row["by"] == "model, of 10")
    assert 0 <= choice["ECE"] <= 1 and choice["n"] == 2
