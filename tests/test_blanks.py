"""The blanks task: which words are taken, what counting reaches, how figures and their errors are made."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unmask.evaluation import TASKS, blanks, cloze, filling
from unmask.evaluation.asking import Asked
from unmask.evaluation.neighbours import Neighbours, backed_off, common_words
from unmask.evaluation.prompts import prompts
from unmask.evaluation.report import proportion, ratio
from unmask.holes import Blank, merge, parse
from unmask.results import NoFillError

TEXT = "The cat sat on the mat. The cat sat on the log. The dog sat on the mat. A cat ran to the old mat."


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT.replace(". ", ".\n"), encoding="utf-8")
    return path


def test_sentences_are_cut_and_counted(tmp_path: Path) -> None:
    lines, paragraphs = tmp_path / "lines.txt", tmp_path / "paragraphs.txt"
    lines.write_text("One two three four five\nToo short.\nSix six six six six six.\nSix six six six six six.\n")
    paragraphs.write_text("A sentence over\ntwo lines here. And one more of  six words.\n\nThe ___ is a hole itself.\n")
    assert cloze.sentences([lines]) == ["One two three four five", "Six six six six six six."]
    assert cloze.sentences([paragraphs]) == ["A sentence over two lines here.", "And one more of six words."]


def test_what_is_no_utf8_is_said(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8"):
        cloze.sentences([path])


def test_what_is_offered_is_the_same_in_every_process() -> None:
    code = (
        "from unmask.evaluation import cloze, multiple_choice\n"
        "print(multiple_choice.candidates(cloze.Cloze('a ', ' c', 'b'), [f'w{i}' for i in range(30)], 0))"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, env=env | {"PYTHONHASHSEED": seed}, check=True
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout != b""


def test_punctuation_stays_outside() -> None:
    (item,) = cloze.one_word(['1 2 3 4 "don\'t," 5'], seed=0)
    assert item.gold == "don't"
    assert item.free == '1 2 3 4 "___," 5'
    assert item.told == '1 2 3 4 "___{1}," 5'
    assert parse(item.free) == item.around(Blank())
    assert parse(item.told) == item.around(Blank((1, 1)))
    assert item.sentence == '1 2 3 4 "don\'t," 5'


def test_a_phrase_has_no_punctuation_inside() -> None:
    for seed in range(20):
        (item,) = cloze.phrases(["Well, (two words) and, no, 7 more."], seed)
        assert item.gold == "two words"
        assert item.told == "Well, (___{2}) and, no, 7 more."
    assert cloze.phrases(["a, b, c, d, e"], 0) == []


def test_the_choice_is_the_seed_and_the_sentence_alone() -> None:
    chosen = cloze.choose([f"{word} walked home in the rain" for word in "abcdefgh"], 5, seed=3)
    assert chosen == cloze.choose([f"{word} walked home in the rain" for word in "abcdefgh"], 5, seed=3)
    together = cloze.one_word(chosen, 3)
    assert [cloze.one_word([sentence], 3)[0] for sentence in chosen] == together
    assert cloze.one_word(chosen, 4) != together


def test_every_length_of_phrase_is_drawn() -> None:
    sentence = "the cat sat on the mat and purred"
    lengths = {cloze.phrases([sentence], seed)[0].gold.count(" ") + 1 for seed in range(40)}
    assert lengths == {2, 3, 4}


def table(*contexts: tuple[str, str]) -> Neighbours:
    made = Neighbours(contexts)
    for sentence in TEXT.split(". "):
        made.read(cloze.tokens(sentence))
    made.prepare()
    return made


def test_neighbours_on_both_sides_come_first() -> None:
    counted = table(("the", "sat"), ("the", "."), ("no", "where"))
    assert counted.best("the", "sat", 2) == ["cat", "dog"]
    assert counted.both["the", "sat"] == {"cat": 2, "dog": 1}
    assert counted.best("no", "where", 3) == counted.commonest(3)  # unknown neighbours: the commonest words
    assert counted.commonest(2) == ["The", "cat"] or counted.alone["the"] == counted.alone["cat"] + 1


def test_one_neighbour_is_better_than_none() -> None:
    counted = table(("on", "?"))
    assert counted.best("on", "?", 1) == ["the"]
    assert counted.best("ON", "?", 1) == ["the"]


def test_backing_off_is_a_distribution() -> None:
    counted = table(("the", "sat"))
    alone = {word: count / counted.alone.total() for word, count in counted.alone.items()}
    assert sum(backed_off(counted.left["the"], alone).values()) == pytest.approx(1)


def test_commonest_words_whatever_their_capitals() -> None:
    assert common_words(table().alone, 1) == {"the"}


def test_errors() -> None:
    assert proportion([True, False, False, False]) == (0.25, pytest.approx(math.sqrt(0.25 * 0.75 / 4)))
    value, error = ratio([2.0, 4.0, 6.0], [1, 2, 3])
    assert (value, error) == (2.0, 0.0)
    assert ratio([2.0, 2.0], [1, 1]) == (2.0, 0.0)
    assert ratio([1.0, 3.0], [1, 1]) == (2.0, pytest.approx(1.0))


class Scribe:
    """A model that keeps what it is asked, as pieces, and says the same of every text."""

    def __init__(self, *answers: str) -> None:
        self.answers = answers
        self.asked: list[tuple[Any, ...]] = []
        self.model = SimpleNamespace(objective=SimpleNamespace(paths="one"))

    def fill(self, texts: list[Any], n: int = 1, **how: Any) -> list[list[Any]]:
        self.asked += [merge(parse(text) if isinstance(text, str) else text) for text in texts]
        said = [SimpleNamespace(holes=(SimpleNamespace(text=answer, prob=0.5),)) for answer in self.answers[:n]]
        return [said for _ in texts]

    def score(self, texts: list[str], **how: Any) -> list[Any]:
        return [SimpleNamespace(log_prob=-1.0, words=1, kind="exact") for _ in texts]

    @property
    def signs(self) -> list[Any]:
        """What may stand in the hole of each text."""
        return [piece for pieces in self.asked for piece in pieces if not isinstance(piece, str)]

    @property
    def texts(self) -> set[str]:
        """The texts, each hole a plain blank."""
        return {"".join(piece if isinstance(piece, str) else "___" for piece in pieces) for pieces in self.asked}


def test_a_blank_that_nothing_fits_is_a_miss_and_stops_nobody() -> None:
    class Picky(Scribe):
        def fill(self, texts: list[Any], n: int = 1, **how: Any) -> list[list[Any]]:
            if any("odd" in str(text) for text in texts):
                raise NoFillError("nothing fits")
            return super().fill(texts, n, **how)

    items = [cloze.Cloze("the ", " sat", "cat"), cloze.Cloze("an odd ", "", "cat"), cloze.Cloze("", " ran", "cat")]
    found = filling.filled(Picky("cat", "dog"), items, False, 5, 0, lambda *_: None)
    assert found == [["cat", "dog"], [], ["cat", "dog"]]
    row = filling.hits("1 word", "model", items, found, 5)
    assert row["no answer"] == 1 and row["top-1"] == pytest.approx(2 / 3)
    assert "no answer" not in filling.hits("1 word", "model", items[:1], found[:1], 5)


@pytest.mark.parametrize("asked", [False, True])
def test_a_blank_says_how_many_words_where_they_are_told(asked: bool) -> None:
    items = [cloze.Cloze("the ", " sat", "big old cat"), cloze.Cloze("", " ran", "dogs")]
    for told, signs in ((True, [Blank((1, 1)), Blank((3, 3))]), (False, [Blank()] * 2)):
        scribe: Any = Scribe("x")
        assert filling.filled(Asked(scribe, "{text} so") if asked else scribe, items, told, 1, 0, lambda *_: None)
        assert sorted(scribe.signs, key=lambda sign: sign.words) == signs


def test_answers_in_words_are_told_apart_without_what_closes_them() -> None:
    scribe: Any = Scribe("mat.", "mat", '"old man!"', "log", "dog", "cat")
    (found,) = filling.filled(
        Asked(scribe, "{text} so"), [cloze.Cloze("the ", "", "mat")], False, 2, 0, lambda *_: None
    )
    assert found == ["mat", "old man"]


class Oracle:
    """A model that knows half of the answers."""

    def __init__(self, sentences: list[str]) -> None:
        self.sentences = sentences
        self.batches: list[int] = []
        self.model = SimpleNamespace(objective=SimpleNamespace(paths="many"))

    def fill(self, texts: list[Any], n: int, seed: int) -> list[list[Any]]:
        self.batches.append(len(texts))
        if any(getattr(piece, "candidates", ()) for piece in texts[0]):
            return [[self._choice(pieces)] for pieces in texts]
        said = ["".join(piece if isinstance(piece, str) else "___" for piece in text) for text in texts]
        return [[self._fill("wrong"), self._fill(self._answer(text))][:n] for text in said]

    def score(self, texts: list[str], **how: Any) -> list[Any]:
        kinds = ["exact" if len(text.split()) < 7 else "estimate" for text in texts]
        return [
            SimpleNamespace(log_prob=-5.0 * len(text.split()), words=len(text.split()), kind=kind)
            for text, kind in zip(texts, kinds, strict=True)
        ]

    def _answer(self, text: str) -> str:
        before, after = text.split("___")
        (sentence,) = [s for s in self.sentences if s.startswith(before) and s.endswith(after)][:1]
        return sentence[len(before) : len(sentence) - len(after)]

    def _choice(self, pieces: list[Any]) -> Any:
        (blank,) = (piece for piece in pieces if not isinstance(piece, str))
        return SimpleNamespace(holes=(SimpleNamespace(text=blank.candidates[0], prob=0.75),))

    def _fill(self, word: str) -> Any:
        return SimpleNamespace(holes=(SimpleNamespace(text=word),))


def test_the_whole_task(file: Path) -> None:
    model: Any = Oracle(cloze.sentences([file]))
    told: list[str] = []
    report = TASKS["blanks"].run(model, [file], [file], 100, 0, lambda done, total, what: told.append(what))
    rows = {(row["blanks"], row["by"]): row for row in report.rows}
    assert {row["by"] for row in report.rows} >= {"commonest words", "count table", "model, free"}
    free = rows["1 word", "model, free"]
    assert (free["top-1"], free["n"]) == (0.0, 4)
    assert free["top-5"] >= 0.5
    assert rows["2-4 words", "model, told ___{k}"]["top-5"] >= 0.5  # two of the sentences differ by one word
    assert rows["1 word", "count table"]["top-5"] > 0.5
    choice = rows["1 word", "model, of 10"]
    assert choice["ECE"] == pytest.approx(abs(0.75 - choice["top-1"]))
    assert rows["whole sentences", "model, bound"]["nats a word"] == 5.0
    counts = [rows["whole sentences", f"model, {kind}"]["n"] for kind in ("bound", "estimate")]
    assert counts == [3, 1]  # kinds are not mixed
    assert {"counting words", "filling", "scoring"} <= set(told)


def test_the_seed_chooses_the_blanks(file: Path) -> None:
    sentences = cloze.sentences([file])
    for seed in (1, 2):
        model: Any = Scribe("cat")
        TASKS["blanks"].run(model, [file], [], 100, seed, lambda *_: None)
        wanted, others = ([kind(sentences, s) for kind in (cloze.one_word, cloze.phrases)] for s in (seed, 0))
        assert model.texts == {item.free for items in wanted for item in items}
        assert all(mine != theirs for mine, theirs in zip(wanted, others, strict=True))


def test_without_a_text_to_count_there_is_no_table(file: Path) -> None:
    model: Any = Oracle(cloze.sentences([file]))
    report = TASKS["blanks"].run(model, [file], [], 2, 0, lambda *_: None)
    assert {row["by"] for row in report.rows} >= {"model, free"}
    assert not {row["by"] for row in report.rows} & {"commonest words", "count table"}
    assert any("evaluated text itself" in note for note in report.notes)


def test_answers_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "BATCH", 2)
    answers = filling.batched(lambda some: [text.upper() for text in some], ["ccc", "a", "bb"], lambda *_: None, "")
    assert answers == ["CCC", "A", "BB"]


def test_rare_words_are_reported_apart() -> None:
    items = [cloze.Cloze("", " sat", "The"), cloze.Cloze("a ", "", "zebra")]
    rows = blanks._one_word_rows("x", items, [["The"], ["cat", "zebra"]], frozenset({"the"}))
    assert [(row["n"], row["top-1"], row["top-5"]) for row in rows] == [(2, 0.5, 1.0), (1, 0.0, 1.0)]


def test_nothing_to_blank(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("Too short.\n")
    model: Any = Oracle([])
    with pytest.raises(ValueError, match="nothing to blank"):
        TASKS["blanks"].run(model, [path], [], 5, 0, lambda *_: None)


def test_prompts() -> None:
    assert len(prompts()) == 15
    assert all("___" in prompt for prompt in prompts())
    model: Any = Oracle([])
    model._answer = lambda text: "right"
    report = TASKS["prompts"].run(model, [], [], 1, 0, lambda *_: None)
    assert report.rows[0] == {"prompt": prompts()[0], "fills": "wrong | right"}
