"""A teacher's answers as a student's data: all of them, once, also when it was stopped."""

import json
from pathlib import Path

import pytest

from toys import nonsense
from unmask.cli import distill as module
from unmask.cli import main
from unmask.language_model import LanguageModel

PROMPTS = ["The cat", "The dog ran", "We had", "soup for\u2028dinner", "went home and"]


@pytest.fixture(scope="module", params=["blank_lm", "left_to_right", "insertion"])
def teacher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return nonsense(request.param, tmp_path_factory.mktemp("teacher"))


def told(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [json.dumps({"prompt": prompt, "response": "of a person"}, ensure_ascii=False) for prompt in PROMPTS]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_its_answers_are_those_that_it_generates(teacher: str, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = pairs.with_name("target.jsonl")
    words = ["distill", str(pairs), str(target), "--model", teacher, "--max-words", "3"]
    code, rows = main(words), told(target)
    lm = LanguageModel.from_pretrained(teacher)
    wanted = [lm.generate(prompt, max_words=3)[0].holes[0].text.strip() for prompt in PROMPTS]
    said = [(p, w) for p, w in zip(PROMPTS, wanted, strict=True) if w]
    assert len(said) >= 3
    assert [(row["prompt"], row["response"]) for row in rows] == said
    assert code == (0 if len(said) == len(PROMPTS) else 1)
    assert sorted(path.name for path in pairs.parent.iterdir()) == ["pairs.jsonl", "target.jsonl"]
    assert main(words) == 2  # nothing is written over
    assert "already there" in capsys.readouterr().err


@pytest.mark.parametrize("temperature", ["0", "1"])
def test_one_that_was_stopped_goes_on(
    teacher: str, pairs: Path, temperature: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ["--model", teacher, "--max-words", "3", "--temperature", temperature, "--seed", "5"]
    whole, target = pairs.with_name("whole.jsonl"), pairs.with_name("target.jsonl")
    main(["distill", str(pairs), str(whole), *how])
    asked: list[str] = []
    generate = LanguageModel.generate

    def until_stopped(self: LanguageModel, prompts: list[str], **told: object) -> object:
        if len(asked) >= 2:
            raise KeyboardInterrupt
        asked.extend(prompts)
        return generate(self, prompts, **told)

    monkeypatch.setattr(module.inputs.each, "__defaults__", (2,))
    with monkeypatch.context() as here:
        here.setattr(LanguageModel, "generate", until_stopped)
        assert main(["distill", str(pairs), str(target), *how]) == 130
    part = Path(f"{target}.part")
    assert not target.exists()
    assert len(told(part)) == 2
    with part.open("a", encoding="utf-8") as file:
        file.write('{"prompt": "We ha')  # cut off while it was written
    assert main(["distill", str(pairs), str(target), *how[:-1], "6"]) == 1
    assert "seed was 5, now 6" in capsys.readouterr().err

    def not_again(self: LanguageModel, prompts: list[str], **told: object) -> object:
        assert not set(prompts) & set(asked)
        return generate(self, prompts, **told)

    monkeypatch.setattr(LanguageModel, "generate", not_again)
    main(["distill", str(pairs), str(target), *how])
    assert target.read_text(encoding="utf-8") == whole.read_text(encoding="utf-8")


def test_a_bad_line_costs_only_itself(teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs, target = tmp_path / "pairs.jsonl", tmp_path / "target.jsonl"
    rows = [b'{"prompt": "The cat"}', b"nonsense", b'{"response": "x"}', b'{"prompt": "\xff"}', b'{"prompt": "We had"}']
    long = json.dumps({"prompt": "cat " * 2000}).encode()
    rows += [b"[" * 100_000, b'{"prompt": "half \\ud800 a sign"}', b'{"prompt": ' + b"7" * 5000 + b"}"]
    pairs.write_bytes(b"\n".join([*rows, long]) + b"\n")
    assert main(["distill", str(pairs), str(target), "--model", teacher, "--max-words", "2"]) == 1
    said = capsys.readouterr()
    assert {row["prompt"] for row in told(target)} <= {"The cat", "We had"}
    assert told(target)
    assert "line 2 has no prompt" in said.err
    assert "line 3 has no prompt" in said.err
    assert "line 4 is not UTF-8" in said.err
    assert "line 6 has no prompt" in said.err
    assert "line 7: the prompt has half a character at 5" in said.err
    assert "line 8 has no prompt" in said.err
    assert "shorten it" in said.err
    assert f"{len(told(target))} pairs · {9 - len(told(target))} left out" in said.out


def test_other_prompts_are_no_place_to_go_on(teacher: str, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = pairs.with_name("target.jsonl")
    Path(f"{target}.part").write_text('{"prompt": "Another", "response": "x"}\n')
    settings = {"model": teacher, "max_words": "3", "n": "1", "seed": "0", "temperature": "0.0"}
    Path(f"{target}.part.json").write_text(json.dumps(settings))
    assert main(["distill", str(pairs), str(target), "--model", teacher, "--max-words", "3"]) == 1
    assert "answers to other prompts" in capsys.readouterr().err
    assert main(["distill", str(pairs.with_name("none")), str(target), "--model", teacher]) == 1
    assert "is no file" in capsys.readouterr().err


def test_a_wrong_name_leaves_nothing_behind_and_answers_are_kept(
    teacher: str, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = pairs.with_name("target.jsonl")
    assert main(["distill", str(pairs), str(target), "--model", "nomodel"]) != 0
    assert [path.name for path in pairs.parent.iterdir()] == ["pairs.jsonl"]
    part = Path(f"{target}.part")
    part.write_text('{"prompt": "The cat", "response": "of somebody"}\n')
    capsys.readouterr()
    assert main(["distill", str(pairs), str(target), "--model", teacher]) != 0
    assert "has answers, and" in capsys.readouterr().err and "somebody" in part.read_text()
    pairs.write_text("")
    assert main(["distill", str(pairs), str(target), "--model", teacher]) == 2
    assert "has no pairs" in capsys.readouterr().err
