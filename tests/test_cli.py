"""The doors: what is printed where, how a command ends, and that help costs nothing."""

import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import unmask
from unmask.cli import evaluate, main, watching
from unmask.cli.app import EXAMPLES, VERBS
from unmask.cli.drawing import BAR, bar, draw_fills, draw_scores, shares
from unmask.cli.evaluate import spread
from unmask.cli.watching import highlighted
from unmask.evaluation.report import Report
from unmask.results import Fill, HoleFill, Score, Step

SIGN = "___"


@dataclass
class StandIn:
    """A model that fills every blank with the same words, and refuses a text without one."""

    words: tuple[str, ...] = ("cat", "dog", "bird")
    calls: list[dict[str, Any]] = field(default_factory=list)

    def fill(self, texts: Any, n: int = 1, **how: Any) -> Any:
        self.calls += [{"n": n, **how}] if texts else []
        if how.get("by_length"):
            return [[self._fills(text, n)] * 4 for text in texts]
        return [self._fills(text, n) for text in texts]

    def _fills(self, text: str, n: int) -> list[Any]:
        if SIGN not in text:
            raise ValueError("the text has no hole · there is nothing to fill · write ___ where words are missing")
        fills = []
        for rank, word in enumerate(self.words[:n]):
            start = text.index(SIGN)
            hole = HoleFill(0, start, start + len(word), word, -1.0 - rank)
            text_filled = text.replace(SIGN, word, 1)
            fills.append(Fill(text_filled, -1.0 - rank, "bound", None, "finished", (hole,)))
        return fills

    def generate(self, texts: list[str], n: int = 1, **how: Any) -> Any:
        self.calls += [{"n": n, **how}] if texts else []
        return [self._fills(text + " " + SIGN, n) for text in texts]

    def score(self, texts: list[str], prompt: str | None = None, **how: Any) -> Any:
        return [
            Score(-9.5, "exact", None, math.nan if len(text) < 2 else 0.0, tokens=8, words=len(text.split()))
            for text in texts
        ]

    def watch(self, text: str, **how: Any) -> Iterator[Any]:
        self.calls.append(how)
        yield Step(text, (), (), 0)
        yield Step(text.replace(SIGN, "cat"), ("cat",), (), 1)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    monkeypatch.setitem(unmask.__dict__, "load", lambda *_: made)
    return made


def objects(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


def feed(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))


def test_fill_prints_a_table(model: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill", "The ___ sat.", "-n", "3"]) == 0
    out, err = capsys.readouterr()
    assert [line in out for line in ("The cat sat.", "The dog sat.", "log p (bound)", "-1.00", "█")] == [True] * 5
    assert err == ""


def test_fill_json(model: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill", "The ___ sat.", "Ein ___ weiß.", "--json", "-n", "2"]) == 0
    first, second = objects(capsys.readouterr().out)
    assert set(first) == {"input", "model", "fills"}
    assert [fill["text"] for fill in second["fills"]] == ["Ein cat weiß.", "Ein dog weiß."]
    assert set(first["fills"][0]) == {"text", "log_prob", "kind", "given", "status", "holes"}
    assert set(first["fills"][0]["holes"][0]) == {"index", "start", "end", "text", "log_prob", "prob"}


def test_only_what_was_asked_reaches_the_model(model: StandIn) -> None:
    main(["fill", "a ___", "--json"])
    main(["fill", "a ___", "--json", "--beam", "7", "--top-p", "0.9", "--blank", "<f>", "--policy", "confident"])
    main(["generate", "a", "--json", "--top-k", "3", "--temperature", "1", "--max-words", "2", "--seed", "4"])
    assert model.calls[0] == {"n": 5, "seed": 0, "temperature": 0.0}
    assert model.calls[1] == model.calls[0] | {"beam": 7, "top_p": 0.9, "blank": "<f>", "policy": "confident"}
    assert model.calls[2] == {"n": 1, "seed": 4, "temperature": 1.0, "top_k": 3, "max_words": 2}


def test_one_bad_text_does_not_stop_the_others(
    model: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes("The ___ sat.\r\nno hole\n\xff\n".encode("latin-1") + b"A ___ ran.")
    assert main(["fill", "--file", str(file), "--json"]) == 1
    out = capsys.readouterr().out
    good, bad, broken, last = objects(out)
    assert bad["error"].startswith("line 2: the text has no hole · ")
    assert good["fills"][0]["text"] == "The cat sat."
    assert bad["input"] == "no hole"
    assert set(bad) == {"input", "error"}
    assert "line 3 is not UTF-8" in broken["error"]
    assert last["fills"][0]["text"] == "A cat ran."


def test_a_bad_text_without_json_is_a_line_on_standard_error(
    model: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fill", "no hole", "The ___ sat."]) == 1
    out, err = capsys.readouterr()
    assert "The cat sat." in out
    assert (
        err == "unmask: text 1: the text has no hole · there is nothing to fill · write ___ where words are missing\n"
    )


@pytest.mark.parametrize("arguments", [["-"], ["--file", "-"]])
def test_standard_input(
    model: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    feed(monkeypatch, b"The ___ sat.\nA ___.\n")
    assert main(["fill", *arguments, "--json"]) == 0
    assert [line["input"] for line in objects(capsys.readouterr().out)] == ["The ___ sat.", "A ___."]


@pytest.mark.parametrize("more", [[], ["--whole"]])
def test_the_mark_of_utf8_is_no_text(
    model: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    feed(monkeypatch, "\ufeffThe ___ sat.".encode())
    assert main(["fill", "-", *more, "--json"]) == 0
    assert [line["input"] for line in objects(capsys.readouterr().out)] == ["The ___ sat."]


def test_a_whole_file_is_one_text(model: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(b"One.\r\nThe ___ sat.\n")
    assert main(["fill", "--file", str(file), "--whole", "--json"]) == 0
    assert objects(capsys.readouterr().out)[0]["input"] == "One.\r\nThe ___ sat.\n"


def test_what_stands_after_two_dashes_is_text(model: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill", "--json", "--", "--debug ___"]) == 0
    assert objects(capsys.readouterr().out)[0]["input"] == "--debug ___"


def test_watch_is_plain_lines_in_a_pipe(model: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill", "The ___ sat.", "--watch"]) == 0
    assert capsys.readouterr().out == "  0  The ___ sat.\n  1  The cat sat.\n"


def test_watch_shows_what_changed() -> None:
    text = highlighted("The cat sat.", "The ___ sat.")
    assert [(span.start, span.end) for span in text.spans] == [(4, 7)]


def test_by_length(model: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill", "The ___ sat.", "--by-length", "--json", "-n", "2"]) == 0
    assert [fill["words"] for fill in objects(capsys.readouterr().out)[0]["fills"]] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert main(["fill", "The ___ sat.", "--by-length"]) == 0
    assert "The ___ sat. · 2 words a blank" in capsys.readouterr().out


def test_score(model: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "The cat sat.", "--json"]) == 0
    (line,) = objects(capsys.readouterr().out)
    assert set(line) == {"input", "model", "log_prob", "kind", "given", "std_error", "tokens", "words"}
    assert main(["score", "The cat sat."]) == 0
    assert "log p (exact)" in capsys.readouterr().out


def test_what_is_no_number_is_null(model: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "x", "--json"]) == 0
    assert objects(capsys.readouterr().out)[0]["std_error"] is None


def test_generate(model: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "Once upon", "--max-words", "9", "--json"]) == 0
    assert objects(capsys.readouterr().out)[0]["fills"][0]["text"] == "Once upon cat"
    assert model.calls[-1]["max_words"] == 9


WRONG = [
    (["fill"], "no text"),
    (["fil"], "no such command 'fil'"),
    (["fill", "a ___", "--foo"], "no such option"),
    (["fill", "a ___", "-n", "0"], "greater than or equal to 1"),
    (["fill", "a ___", "--file", "x"], "--file together"),
    (["fill", "a ___", "--whole"], "--whole without --file"),
    (["fill", "-", "a ___"], "- among other texts"),
    (["fill", "a ___", "--watch", "--json"], "--watch with --json"),
    (["score", "a", "--method", "guess"], "methods: exact, bound, jackknife"),
    (["score", "a", "--seed", "-1"], "seed is -1"),
    (["fill", "a ___", "--seed", str(2**63)], "seed is 9223372036854775808"),
    (["generate", "a", "--seed", str(2**70)], "seed is"),
    (["evaluate", "prompts", "--seed", "-5"], "seed is -5"),
    (["train"], "nothing to learn from"),
    (["train", "recipe", "steps"], "no key=value"),
    (["train", "recipe", "--resume"], "--resume without --out"),
    (["evaluate", "nothing"], "no task 'nothing'"),
    (["evaluate", "blanks"], "blanks without --text"),
]


@pytest.mark.parametrize(("arguments", "what"), WRONG, ids=lambda value: " ".join(value))
def test_wrong_use_ends_with_two_and_one_line(
    arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("unmask: ")
    assert err.count("\n") == 1
    assert err.count(" · ") == 2
    assert what in err.lower()


FAILURES: list[tuple[Exception, str]] = [
    (ValueError("what · why · mend"), "unmask: what · why · mend"),
    (ModuleNotFoundError("no", name="accelerate.utils"), "pip install 'unmask[train]'"),
    (FileNotFoundError(2, "No such file or directory", "x.txt"), "x.txt: no such file or directory · "),
    (OSError(28, "No space left on device"), "no space left on device · "),
    (RuntimeError("two\nlines"), "RuntimeError: two lines · this should not happen · "),
]


@pytest.mark.parametrize(("fault", "said"), FAILURES, ids=lambda value: type(value).__name__)
def test_a_failure_ends_with_one_and_one_line(
    fault: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise fault

    monkeypatch.setitem(unmask.__dict__, "load", fail)
    assert main(["fill", "a ___"]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert main(["fill", "a ___", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["fill", "--file", "none.txt"], ["train", "none"], ["info", "none"]])
def test_what_is_not_there(
    arguments: list[str], model: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(arguments) == 1
    assert "none" in capsys.readouterr().err


def alone(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run in a process of its own, and report which heavy modules it imported."""
    code = (
        "import sys; from unmask.cli import main; code = main(sys.argv[1:]); "
        "print('HEAVY', [m for m in ('torch', 'rich', 'numpy', 'tokenizers') if m in sys.modules]); "
        "sys.exit(code)"
    )
    path = {"PYTHONPATH": str(Path(unmask.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env=os.environ | path
    )


UNUSABLE = [
    ["--policy", "best"], ["--policy", "parallel", "-n", "2"], ["--beam", "4", "--temperature", "1"], ["--beam", "0"],
    ["--top-p", "0"], ["--top-p", "1.5"], ["--top-k", "0"], ["--temperature", "nan"], ["--temperature", "inf"],
    ["-n", "0"], ["-n", "two"], ["--seed", "-1"],
]  # fmt: skip


@pytest.mark.parametrize("options", UNUSABLE, ids=" ".join)
def test_options_that_suit_no_text_are_wrong_use(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both verbs say so before any model is asked for."""
    monkeypatch.setitem(unmask.__dict__, "load", None)
    for verb in ("fill", "generate"):
        assert main([verb, "The ___{1} sat.", "--json", *options]) == 2
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n"), said.err.count(" · ")) == ("", 1, 2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"], *([verb, "--help"] for verb in VERBS), ["fill"], ["fill", "--no"],
        ["fill", "a ___", "--policy", "x"], ["generate", "a", "-n", "2", "--policy", "parallel"],
        ["score", "a", "--method", "x"],
    ],
)  # fmt: skip
def test_help_and_wrong_use_import_nothing_heavy(arguments: list[str]) -> None:
    ended = alone(*arguments)
    assert ended.stdout.endswith("HEAVY []\n"), ended.stdout + ended.stderr
    assert ended.returncode == (0 if "--help" in arguments else 2)


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_shows_its_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    for line in EXAMPLES[verb].splitlines():
        assert f"  {line}\n" in out


def test_bare_command_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Commands:" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"unmask {unmask.__version__}\n"


def test_bars_and_shares() -> None:
    assert [bar(share).rstrip() for share in (0.0, 1.0, 0.5)] == ["", "█" * BAR, "█" * (BAR // 2)]
    fills = StandIn()._fills("a ___", 3)
    assert sum(shares(fills)) == pytest.approx(1)
    fills[2] = replace(fills[2], kind="estimate")  # not to be compared with a bound
    assert shares(fills)[2] == 1
    some = [
        replace(fill, holes=(replace(fill.holes[0], prob=prob),))
        for fill, prob in zip(fills, (0.5, 0.3, 0.1), strict=True)
    ]
    assert shares(some) == [0.5, 0.3, 0.1]


EVIL = "\x1b]0;a title\x07\x9b2J \x00\x7f"


def screen(**how: Any) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False, markup=False, **how)


def drawn(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def test_a_terminal_is_told_nothing_by_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    fill = StandIn(("cat\x1b[31m",))._fills(f"{EVIL} ___ sat", 1)[0]
    report = Report([{"task": EVIL, "n": 1}], [f"of {EVIL}"])
    for draw in (
        lambda to: draw_fills(to, [fill], EVIL),
        lambda to: draw_scores(to, [(EVIL, Score(-1.0, "exact", None, 0.0, 1, 1))]),
        lambda to: monkeypatch.setattr("unmask.cli.drawing.console", lambda: to) or evaluate.draw(report),
        lambda to: monkeypatch.setattr(watching, "console", lambda: to) or watching._live([Step(EVIL, (), (), 0)]),
    ):
        draw(to := screen(color_system=None))
        plain = re.sub(r"\x1b\[\?25[lh]|\r\x1b\[2K", "", drawn(to))  # `Live` hides the cursor and goes back
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", plain)
        assert r"\x1b]0;a title\x07\x9b2J \x00\x7f" in plain


def test_what_was_written_is_marked_where_it_stands() -> None:
    fill = StandIn(("cat\x1b[31m",))._fills(f"{EVIL} ___ sat", 1)[0]
    draw_fills(to := screen(color_system="standard"), [fill], "title")
    assert "\x1b[1;7mcat\\x1b[31m\x1b[0m sat" in drawn(to)


def test_a_pipe_gets_the_bytes(model: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    model.words = ("cat\x1b[31m",)
    for how, want in (([], "a cat\x1b[31m"), (["--watch"], "a cat"), (["--json"], "a cat\\u001b[31m")):
        assert main(["fill", "a ___ \x1b]0;", *how]) == 0
        out = capsys.readouterr().out
        assert want in out
        assert ("\x1b]0;" if "--json" not in how else "\\u001b]0;") in out


def test_many_files_after_one_option() -> None:
    words = ["evaluate", "blanks", "--text", "a", "b", "-n", "5", "--counts", "c", "d"]
    assert spread(words) == "evaluate blanks --text a --text b -n 5 --counts c --counts d".split()
    assert spread(["fill", "--text", "a", "b"]) == ["fill", "--text", "a", "b"]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """What reached the training that stands in for the real one."""
    called: list[tuple[Any, ...]] = []

    def train(*given: Any) -> Path:
        called.append(given)
        return tmp_path

    monkeypatch.setitem(sys.modules, "unmask.training.run", SimpleNamespace(train=train))
    return called


def test_train_passes_on_what_was_typed(trainings: list[tuple[Any, ...]], tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    data.write_text("text\n")
    run = str(tmp_path)
    assert main(["train", str(data), "steps=6", "--out", run, "--resume"]) == 0
    assert main(["train", "steps=8", "--out", run, "--resume"]) == 0
    assert main(["train", "--out", run, "--resume"]) == 0
    assert main(["train", "model=base", f"data={data}", "adapter.rank=4", "--out", run]) == 0
    assert main(["train", "model=base", "adapter.rank=4", "--out", run]) == 2  # nothing to learn from
    assert trainings == [
        (str(data), ["steps=6"], tmp_path, True),
        (None, ["steps=8"], tmp_path, True),
        (None, [], tmp_path, True),
        ({}, ["model=base", f"data={data}", "adapter.rank=4"], tmp_path, False),
    ]


def test_train_says_where_the_model_is(
    trainings: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--out", str(tmp_path), "--resume"]) == 0
    assert "stopped before the end" in capsys.readouterr().out
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "samples.txt").write_text("step 5\n  An old fill.\nstep 10\n  A fill.\n  Another.\n")
    assert main(["train", "--out", str(tmp_path), "--resume"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1:3] == ["  A fill.", "  Another."]
    assert str(tmp_path / "model") in out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with nothing in it but what `info` reads."""
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "I8", "shape": [100, 64], "data_offsets": [0, 6400]},
            "a.scale": {"dtype": "F32", "shape": [100], "data_offsets": [6400, 6800]},
            "b": {"dtype": "F32", "shape": [64], "data_offsets": [6800, 7056]},
        }
    ).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(7056))
    backbone = {"vocab_size": 100, "max_length": 512, "n_layers": 2, "width": 64}
    (tmp_path / "config.json").write_text(json.dumps({"objective": "blank_lm", "backbone": backbone}))
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return tmp_path


def test_info(folder: Path) -> None:
    ended = alone("info", str(folder), "--json")
    told = json.loads(ended.stdout.splitlines()[0])
    assert "torch" not in ended.stdout.splitlines()[1]
    assert told["family"] == "blank_lm"
    assert told["parameters"] == 6464
    assert (told["vocabulary"], told["context"], told["licence"]) == (100, 512, "apache-2.0")
    assert any(kind.startswith("___ ") for kind in told["holes"])
    assert "6464" in alone("info", str(folder)).stdout
