"""Whole answers scored by draws and by DUEL, and the questions task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from toys import toy
from unmask.canvas import Canvas, Role
from unmask.cli import main
from unmask.decoding.duel import duel
from unmask.decoding.ranking import rank
from unmask.decoding.search import Search
from unmask.evaluation import TASKS, questions
from unmask.evaluation.questions import Question
from unmask.holes import Blank, Mask

ANSWERS = ("mat", "old man", "dog and the cat")  # of different lengths
ASKED = ["the cat sat on the ", Blank(candidates=ANSWERS), " at 12"]


def whole(answer: str) -> tuple[Canvas, torch.Tensor]:
    """The text with its answer, and which of its tokens are the answer's."""
    tokenizer = toy("masked_diffusion").tokenizer
    hole = tokenizer.read(ASKED).holes[0]
    n = len(tokenizer.candidate_ids(hole, answer))
    before = tokenizer.read([ASKED[0], Blank(), ASKED[2]]).canvas
    first = int((before.role == Role.SIGN).nonzero())
    canvas = tokenizer.read([f"the cat sat on the {answer} at 12"]).canvas
    where = torch.zeros(canvas.n_elements, dtype=torch.bool)
    where[first : first + n] = True
    return canvas, where


def test_by_duel_an_answer_has_the_probability_of_being_written_there() -> None:
    lm = toy("masked_diffusion")
    (found,) = rank(lm.model, lm.tokenizer, [ASKED], method="duel", policy="margin", steps=2)
    for answer, one in zip(ANSWERS, found, strict=True):
        wanted = duel(lm.model, *whole(answer), Search("margin", steps=2)).item()
        assert one.log_prob == pytest.approx(wanted, abs=1e-9)
        assert (one.kind, one.tokens) == ("exact", int(whole(answer)[1].sum()))


def test_by_draws_answers_share_their_luck() -> None:
    """Two questions that are one and the same, two that are not: the draws hang on the question alone."""
    lm = toy("masked_diffusion")
    twice = ["the cat sat on the ", Blank(candidates=("mat", "old man")), " at 12"]
    other = ["the dog sat on the ", Blank(candidates=ANSWERS), " at 12"]
    first, second, third = rank(lm.model, lm.tokenizer, [ASKED, twice, other], method="bound", orders=3)
    alone = rank(lm.model, lm.tokenizer, [twice], method="bound", orders=3)[0]
    assert [one.log_prob for one in second] == pytest.approx([one.log_prob for one in alone], abs=1e-9)
    assert len(third) == 3
    seeds = [rank(lm.model, lm.tokenizer, [ASKED], method="bound", orders=2, seed=s)[0] for s in range(40)]
    values = torch.tensor([[one.log_prob for one in some] for some in seeds], dtype=torch.float64)
    exact = rank(lm.model, lm.tokenizer, [ASKED], method="bound", orders=400)[0]
    for k, one in enumerate(exact):
        error = (values[:, k].var() / 40 + one.std_error**2).sqrt().item()
        assert abs(values[:, k].mean().item() - one.log_prob) < 4 * error + 1e-9
    assert {one.kind for one in first} == {"bound"}


@pytest.mark.parametrize("family", ["blank_lm", "left_to_right", "masked_diffusion"])
def test_every_family_ranks(family: str) -> None:
    lm = toy(family)
    for _, how in questions.ways(lm):
        (found,) = rank(lm.model, lm.tokenizer, [ASKED], **how)
        assert len(found) == 3
        assert all(one.log_prob < 0 for one in found)


@pytest.mark.parametrize("pieces", [["no hole"], ["one ", Blank()], [Mask()], [ASKED[1], " or ", ASKED[1]]])
def test_a_question_has_one_hole_with_candidates(pieces: list[Any]) -> None:
    lm = toy("masked_diffusion")
    with pytest.raises(ValueError, match="it has one, with candidates"):
        rank(lm.model, lm.tokenizer, [pieces])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    lines = [
        {"text": "the cat sat on the ___", "choices": ["mat", "old man"], "answer": 0},
        {"text": "a ___ ran to the cat", "choices": ["big old dog", "man", "mat"], "answer": 2},
    ]
    path.write_text("\n\n".join(map(json.dumps, lines)))
    return path


def test_the_task_counts_the_right_answers(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm = toy("masked_diffusion")
    report = TASKS["questions"].run(lm, [file], [], 9, 0, lambda *_: None)
    assert [(row["by"], row["kind"], row["n"]) for row in report.rows] == [("draws", "bound", 2), ("DUEL", "exact", 2)]
    right = []
    for question in questions.questions(file):
        (found,) = rank(lm.model, lm.tokenizer, [question.pieces], method="duel", policy="low_confidence")
        values = [one.log_prob for one in found]
        right.append(values.index(max(values)) == question.answer)
    assert report.rows[1]["top-1"] == sum(right) / 2
    folder = str(lm.save_pretrained(tmp_path / "model"))
    assert main(["evaluate", "questions", "--text", str(file), "--model", folder, "--json"]) == 0
    assert [json.loads(line)["by"] for line in capsys.readouterr().out.splitlines()] == ["draws", "DUEL"]
    assert main(["evaluate", "questions", "--text", str(file), "--ask", "{text}"]) == 2


def test_some_questions_are_drawn(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def seen(model: object, tokenizer: object, asked: list[Any], **how: Any) -> list[list[Any]]:
        drawn.extend(asked)
        return rank(lm.model, lm.tokenizer, asked, **how)

    monkeypatch.setattr("unmask.decoding.ranking.rank", seen)
    lm = toy("left_to_right")
    for seed in range(9):
        (row,) = TASKS["questions"].run(lm, [file], [], 1, seed, lambda *_: None).rows
        assert row["n"] == 1
    assert set(drawn) == {question.pieces for question in questions.questions(file)}


def test_a_long_answer_may_win_by_the_token() -> None:
    from unmask.decoding.score import Scored

    some = [Scored(-4.0, 0.0, "exact", "length", "duel", 1), Scored(-6.0, 0.0, "exact", "length", "duel", 3)]
    row = questions.row("x", [Question(("a", Blank(candidates=("b", "c"))), 1)], [some])
    assert (row["top-1"], row["a token"]) == (0.0, 1.0)
    assert row["ECE"] == pytest.approx(1 / (1 + 2.718281828**-2))


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{",
        '{"text": "a", "choices": ["b", "c"], "answer": 0}',
        '{"text": "a ___ [MASK]", "choices": ["b", "c"], "answer": 0}',
        '{"text": "a ___", "choices": ["b", "c"], "answer": 2}',
        '{"text": "a ___", "choices": ["b", "b"], "answer": 0}',
        '{"text": "a ___", "choices": ["b", "c"]}',
        '{"text": "a ___", "choices": [1, 2], "answer": 0}',
        '{"text": "a ___", "choices": null, "answer": 0}',
        '{"text": "a ___", "choices": "abc", "answer": 0}',
        '{"text": "a ___", "choices": ["b", ""], "answer": 0}',
        '{"text": "a ___", "choices": ["b", "c"], "answer": true}',
        '{"text": 3, "choices": ["b", "c"], "answer": 0}',
        "\udcff",
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    whole = '{"text": "a\u2028 ___", "choices": ["b", "c"], "answer": 1}\n'  # a line of its own to some, here text
    path.write_text(whole + line, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match="line 2, is no question") as caught:
        questions.questions(path)
    assert str(path) in str(caught.value) and str(caught.value).count(" · ") == 2
    path.write_text(whole, encoding="utf-8")
    assert questions.questions(path)[0].pieces[0] == "a\u2028 "
    path.write_text("\n")
    with pytest.raises(ValueError, match="holds no questions"):
        questions.questions(path)
