"""The doors with a real, tiny, untrained model in a folder: what comes out is nonsense, in the right form."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import unmask
from toys import TEXT, nonsense
from unmask.cli import main
from unmask.cli.app import EXAMPLES
from unmask.cli.info import DEFAULT
from unmask.evaluation import TASKS


@pytest.fixture(scope="module", params=["blank_lm", "left_to_right"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return nonsense(request.param, tmp_path_factory.mktemp("model"))


def objects(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_fill(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["The ___ sat on the ___{2}.", "no hole here", "My ___{dog|old cat} barks."]
    code = main(["fill", *texts, "--model", folder, "--json", "-n", "3", "--max-words", "3"])
    two_holes, plain, candidates = objects(capsys)
    assert code == (1 if "error" in plain else 0)
    logs = [fill["log_prob"] for fill in two_holes["fills"]]
    assert len({fill["text"] for fill in two_holes["fills"]}) == 3
    assert logs == sorted(logs, reverse=True)
    for fill in two_holes["fills"]:
        assert fill["text"].startswith("The ")
        for hole in fill["holes"]:
            assert fill["text"][hole["start"] : hole["end"]] == hole["text"]
        assert len(fill["holes"][1]["text"].split()) == 2
    ranked = {fill["holes"][0]["text"]: fill["holes"][0]["prob"] for fill in candidates["fills"]}
    assert set(ranked) == {"dog", "old cat"}
    assert sum(ranked.values()) == pytest.approx(1)


def test_a_watched_text_that_fails_is_shown_once(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill", "un___{2}able", "--watch", "--model", folder]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines().count("  0  un___able") == 1
    assert said.err.startswith("unmask: nothing fits")


@pytest.mark.parametrize("options", [["--marks", "roman"], ["--blank", "a b"]])
def test_signs_that_cannot_be_are_wrong_use(
    folder: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fill", "The ___{1} sat.", "--json", "--model", folder, *options]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n"), said.err.count(" · ")) == ("", 1, 2)


def test_a_method_the_model_lacks_is_wrong_use(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    family = json.loads((Path(folder) / "config.json").read_text())["objective"]
    code = main(["score", "The cat sat.", "--method", "jackknife", "--model", folder, "--json"])
    said = capsys.readouterr()
    assert code == (0 if family == "blank_lm" else 2)
    assert ("no likelihood method 'jackknife'" in said.err) == (code == 2)


def test_tables(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill", "The ___ sat.", "--model", folder, "-n", "2", "--max-words", "2"]) == 0
    assert "log p (" in capsys.readouterr().out
    assert main(["fill", "The ___ sat.", "--model", folder, "--by-length", "--max-words", "2"]) == 0
    assert "2 words a blank" in capsys.readouterr().out


def test_watch(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill", "The ___{2} sat.", "--model", folder, "--watch"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2
    assert all(line[5:].startswith("The ") and line.endswith(" sat.") for line in lines)


def test_score(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "The cat sat.", "The dog ran home.", "--model", folder, "--json"]) == 0
    for line in objects(capsys):
        assert line["log_prob"] < 0
        assert math.isfinite(line["log_prob"])
        assert line["words"] in (3, 4)
        assert "prompt" not in line
    ask = ["score", "sat.", "ran home.", "--prompt", "The cat", "--model", folder, "--json"]
    assert main(ask) == 0
    lm = unmask.load(folder)
    for line in objects(capsys):
        assert (line["prompt"], line["words"]) == ("The cat", len(line["input"].split()))
        assert line["log_prob"] == pytest.approx(lm.score(line["input"], "The cat").log_prob, abs=1e-3)


def test_generate(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "The cat", "--model", folder, "--json", "--max-words", "3"]) == 0
    (line,) = objects(capsys)
    assert line["fills"][0]["text"].startswith("The cat")


def test_info(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", folder, "--json"]) == 0
    (line,) = objects(capsys)
    config = json.loads((Path(folder) / "config.json").read_text())
    assert (line["family"], line["licence"], line["width"]) == (config["objective"], "cc0-1.0", 32)
    assert line["parameters"] > line["vocabulary"] * 32


def test_evaluate(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "held_out.txt"
    text.write_text(TEXT)
    command = ["evaluate", "blanks", "--model", folder, "--json", "-n", "2"]
    assert main([*command, "--text", str(text), "--counts", str(text)]) == 0
    rows = objects(capsys)
    assert {row["by"] for row in rows} >= {"count table", "model, free", "model, told ___{1}"}
    assert all(row["task"] == "blanks" and row["model"] == folder for row in rows)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_its_module(task: str) -> None:
    from importlib import import_module

    assert callable(import_module(TASKS[task].module).evaluate)


@pytest.mark.parametrize("verb", EXAMPLES)
def test_examples_work_as_pasted(verb: str, tmp_path: Path) -> None:
    if verb != "train" and not (DEFAULT / "config.json").exists():
        pytest.skip("the built-in model is not in this copy")
    command = tmp_path / "bin" / "unmask"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W error -m unmask.cli "$@"\n')
    command.chmod(0o755)
    source = str(DEFAULT.parents[1])
    places = {"PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": source}
    ended = subprocess.run(
        ["bash", "-e", "-c", EXAMPLES[verb]], cwd=tmp_path, env=os.environ | places, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
