"""A run that was cut off goes on to the same losses, bit for bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from test_training import TINY, log, losses, text  # noqa: F401  (`text` is a fixture)
from unmask.training.checkpoint import RunFolder
from unmask.training.loop import Trainer
from unmask.training.run import train

STEPS = 24
SETTINGS = [*TINY, f"steps={STEPS}", "checkpoint_every=5", "evaluate_every=12", "ema=0.9", "accumulate=2"]


class Cut(BaseException):
    """As sudden as a process may end without ending this one."""


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory) -> Path:  # noqa: F811
    return train(text, SETTINGS, tmp_path_factory.mktemp("whole") / "run", progress=False)


def same(run: Path, whole: Path) -> bool:  # noqa: F811
    """All that does not tell the time is equal, weights too."""
    timeless = [[{k: v for k, v in e.items() if "second" not in k} for e in log(out)] for out in (run, whole)]
    weights = [(out / "model" / "model.safetensors").read_bytes() for out in (run, whole)]
    average = [load_file(out / "checkpoints" / f"step_{STEPS}" / "average.safetensors") for out in (run, whole)]
    same_average = all(bool((average[0][name] == average[1][name]).all()) for name in average[1])
    return timeless[0] == timeless[1] and weights[0] == weights[1] and same_average


def cut_off(text, out, monkeypatch, *, at: int, where: str = "learn") -> None:  # noqa: F811
    owner = RunFolder if where == "save" else Trainer
    old = getattr(owner, where)

    def cutting(self, *rest):
        step = rest[0].step if where == "save" else self.state.step
        if step == at:
            raise Cut
        return old(self, *rest)

    monkeypatch.setattr(owner, where, cutting)
    with pytest.raises(Cut):
        train(text, SETTINGS, out, progress=False)
    monkeypatch.undo()


@pytest.mark.parametrize(("at", "where"), [(2, "learn"), (17, "learn"), (15, "save")])
def test_a_run_cut_off_goes_on_bit_for_bit(at, where, whole, text, tmp_path, monkeypatch):  # noqa: F811
    cut_off(text, tmp_path / "run", monkeypatch, at=at, where=where)
    moved = shutil.move(tmp_path / "run", tmp_path / "elsewhere")  # a run may be moved
    with (moved / "log.jsonl").open("a") as file:
        file.write('{"step": 1')  # the line that was being written
    out = train(text, SETTINGS, moved, resume=True, progress=False)
    assert same(out, whole)


def test_a_run_goes_on_by_its_own_recipe(whole, text, tmp_path, monkeypatch):  # noqa: F811
    cut_off(text, tmp_path / "run", monkeypatch, at=8)
    assert same(train(None, out=tmp_path / "run", resume=True, progress=False), whole)


def test_half_a_checkpoint_is_never_read(whole, text, tmp_path, monkeypatch):  # noqa: F811
    cut_off(text, tmp_path / "run", monkeypatch, at=12)
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copytree(checkpoints / "step_10", checkpoints / ".step_11.partial")  # the machine went down while writing
    shutil.copytree(checkpoints / "step_10", checkpoints / "step_12")
    (checkpoints / "step_12" / "model.safetensors").write_bytes(b"half")  # the disk lied
    assert same(train(text, SETTINGS, tmp_path / "run", resume=True, progress=False), whole)


def test_a_checkpoint_that_cannot_be_read_costs_no_good_one(whole, text, tmp_path, monkeypatch):  # noqa: F811
    cut_off(text, tmp_path / "run", monkeypatch, at=12)
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.move(checkpoints / "step_10", checkpoints / "step_90")
    (checkpoints / "step_90" / "model.safetensors").write_bytes(b"half")
    out = train(text, [*SETTINGS, "keep=1"], tmp_path / "run", resume=True, progress=False)
    assert sorted(path.name for path in checkpoints.iterdir()) == [f"step_{STEPS}", "step_90"]
    assert same(out, whole)


def test_nothing_whole_is_said_so(text, tmp_path, monkeypatch):  # noqa: F811
    cut_off(text, tmp_path / "run", monkeypatch, at=7)
    (tmp_path / "run" / "checkpoints" / "step_5" / "optimiser.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read · .*optimiser.safetensors"):
        train(text, SETTINGS, tmp_path / "run", resume=True, progress=False)


def test_a_finished_run_stays_as_it_is(whole):
    before = losses(whole), (whole / "model" / "model.safetensors").read_bytes()
    train(None, out=whole, resume=True, progress=False)
    assert (losses(whole), (whole / "model" / "model.safetensors").read_bytes()) == before


def test_minutes_that_became_steps_stay_so(text, tmp_path, monkeypatch):  # noqa: F811
    settings = [*TINY, "minutes=0.02", "checkpoint_every=4"]
    old = Trainer.learn

    def cutting(self, *rest):
        if self.state.step == 18:
            raise Cut
        return old(self, *rest)

    monkeypatch.setattr(Trainer, "learn", cutting)
    with pytest.raises(Cut):
        train(text, settings, tmp_path / "run", progress=False)
    monkeypatch.undo()
    told = json.loads((tmp_path / "run" / "budget.json").read_text())
    train(text, settings, tmp_path / "run", resume=True, progress=False)
    assert json.loads((tmp_path / "run" / "budget.json").read_text()) == told
    assert len(log(tmp_path / "run")) == told["bought"]


def test_a_run_is_made_longer_while_the_rate_is_constant(text, tmp_path):  # noqa: F811
    settings = [*TINY, "schedule.decay=0.5", "schedule.warmup=2", "checkpoint_every=4"]
    out = train(text, [*settings, "steps=12"], tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="the budget cannot change at step 12"):
        train(text, [*settings, "steps=40"], out, resume=True, progress=False)
    early = train(text, [*settings, "steps=12", "keep=9"], tmp_path / "early", progress=False)
    for step in (8, 12):
        shutil.rmtree(early / "checkpoints" / f"step_{step}")
    longer = train(text, [*settings, "steps=16"], early, resume=True, progress=False)
    straight = train(text, [*settings, "steps=16"], tmp_path / "straight", progress=False)
    assert losses(longer) == losses(straight)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_goes_on_bit_for_bit(whole, text, tmp_path):  # noqa: F811
    """SIGKILL, five times, wherever it happens to be: starting, stepping, writing."""
    code = (
        "import sys; from unmask.training.run import train; "
        f"train({str(text)!r}, {SETTINGS!r}, {str(tmp_path / 'run')!r}, resume=True, progress=False)"
    )
    slowly = (
        "import time; from unmask.training.loop import Trainer; learn = Trainer.learn; "
        "Trainer.learn = lambda self, *rest: (time.sleep(0.5), learn(self, *rest))[1]; "
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    draw = random.Random(0)
    killed = 0
    while killed < 5:
        process = subprocess.Popen([sys.executable, "-c", slowly + code], env=env)
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "log.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)  # the first time, let it begin
        time.sleep(draw.uniform(0.0, 6.0 if killed else 2.0))
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0
    assert same(tmp_path / "run", whole)
