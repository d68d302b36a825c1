"""The training loop: the same numbers under any split, budgets and schedules, recipes, and faults that lose nothing."""

import errno
import json
import math
import os
import platform
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from families import clean_canvas, noise_for, tiny_model
from llamas import spoken
from unmask import cli, memory
from unmask.canvas import Canvas
from unmask.cli.info import DEFAULT, licence_of
from unmask.data.batches import Batches
from unmask.folder import load, read_config, read_model, read_tensors, stored, weights, write_model
from unmask.masking.hidden import Hidden
from unmask.masking.mixture import Mixture
from unmask.model import Model
from unmask.noise import Noise
from unmask.objectives import OBJECTIVES
from unmask.tokenizer import Tokenizer
from unmask.training import checkpoint, setup, trial
from unmask.training.budget import Budget, Clock, extended, rate
from unmask.training.card import card
from unmask.training.config import Recipe, ScheduleChoice, checked, difference, resolve
from unmask.training.config import load as load_yaml
from unmask.training.loop import Lesson, Trainer
from unmask.training.muon import Muon, orthogonal
from unmask.training.optimisers import Average, make_optimisers
from unmask.training.run import train

ANIMALS = "cat dog hen cow pig fox owl bee ant elk".split()
PLACES = "mat log hill wall roof path barn lake tree step".split()
TINY = [
    "batch_tokens=256", "tokenizer.vocab_size=320", "backbone.width=16", "backbone.n_layers=1", "backbone.n_heads=2",
    "data.max_tokens=32", "evaluate_every=0", "schedule.warmup=4", "precision=float32",
]  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "animals.txt"
    path.write_text(
        "".join(f"The {a} and the {b} sat by the {c}.\n" for a in ANIMALS for b in ANIMALS for c in PLACES[:4])
    )
    return path


def log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [entry["loss"] for entry in log(run)]


# One run, from text to model.


@pytest.fixture(scope="module")
def run(text, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    return train(text, [*TINY, "steps=40", "checkpoint_every=15", "evaluate_every=20", "ema=0.9"], out, progress=False)


def test_a_run_learns_and_leaves_what_the_contract_says(run):
    entries = log(run)
    assert [entry["step"] for entry in entries] == list(range(1, 41))
    assert {"step", "tokens", "loss", "parts", "learning_rate", "tokens_per_second", "seconds"} <= entries[0].keys()
    assert sum(losses(run)[-5:]) < sum(losses(run)[:5])
    assert 0 < sum(entry["cpu_seconds"] for entry in entries) < 60  # each of its own step alone
    assert entries[-1]["cpu_seconds"] < sum(entry["cpu_seconds"] for entry in entries) / 2
    assert [entry["step"] for entry in entries if "held_out" in entry] == [20, 40]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_30", "step_40"]  # the last two
    assert {path.name for path in (run / "model").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "README.md",
    }  # fmt: skip
    assert not [path for path in run.rglob("*") if path.suffix in (".pkl", ".pt", ".bin", ".partial")]


def test_the_finished_model_is_the_average(run):
    model, tokenizer = read_model(run / "model")
    assert tokenizer.vocab_size == model.config.backbone.vocab_size
    average = read_tensors(run / "checkpoints" / "step_40", checkpoint.AVERAGE)
    last = read_tensors(run / "checkpoints" / "step_40")
    own = weights(model)
    assert own.keys() == average.keys() == last.keys()
    assert all(torch.equal(own[name], average[name]) for name in own)
    assert not all(torch.equal(own[name], last[name]) for name in own)


def test_no_more_is_held_up_to_the_model_than_was_asked_for(run, text, tmp_path):
    few = train(text, [*TINY, "steps=1", "evaluate_tokens=40"], tmp_path / "run", progress=False)
    (short,), (_, whole) = (
        [entry["held_out"]["tokens"] for entry in log(one) if "held_out" in entry] for one in (few, run)
    )
    assert 0 < short <= 40 < whole


def test_the_config_is_complete_and_trains_the_same_again(run, tmp_path):
    again = train(run / "config.yaml", ["steps=8", "schedule.decay=1"], tmp_path / "again", progress=False)
    whole = load_yaml(run / "config.yaml")
    assert whole.keys() == Recipe.model_fields.keys()
    assert checked(whole).objective.name in OBJECTIVES
    assert losses(again)[0] == losses(run)[0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_goes_through_the_one_loop(name, text, tmp_path):
    out = train(text, [*TINY, f"objective={name}", "steps=6", "optimiser=adamw"], tmp_path / "run", progress=False)
    assert all(math.isfinite(loss) for loss in losses(out))
    assert read_model(out / "model")[0].config.objective == name


@pytest.mark.parametrize("name", OBJECTIVES)
def test_bfloat16_is_a_way_to_multiply(name, text, tmp_path):
    settings = [*TINY, f"objective={name}", "steps=3"]
    fine, coarse = (
        train(text, [*settings, f"precision={precision}"], tmp_path / precision, progress=False)
        for precision in ("float32", "bfloat16")
    )
    assert losses(coarse) != losses(fine)
    assert losses(coarse) == pytest.approx(losses(fine), rel=1e-2)
    assert all(weight.dtype == torch.float32 for weight in read_tensors(coarse / "model").values())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_held_out_losses_are_told_by_the_share_that_is_hidden(name, text, tmp_path):
    settings = [*TINY, f"objective={name}", "masking=exact_count", "steps=2", "ema=0.5", "optimiser=adamw"]
    out = train(text, settings, tmp_path / "run", progress=False)
    held = log(out)[-1]["held_out"]
    assert len(held["by_level"]) == 10
    # The finished model, which is the averaged one, says the same, read plainly.
    model, tokenizer = read_model(out / "model")
    recipe = checked(load_yaml(out / "config.yaml"))
    masking = setup.make_masking(recipe, tokenizer)
    batches = Batches.open(recipe.data, tokenizer, batch_tokens=recipe.batch_tokens)
    total = count = 0.0
    sums = torch.zeros(2, 10, dtype=torch.float64)
    for batch in batches.held_out(limit=recipe.evaluate_tokens):
        for row in range(batch.canvas.n_rows):
            one, noise = batch.canvas.take(torch.tensor([row])), Noise(0, batch.row_ids[row : row + 1])
            hidden = masking(one, noise)
            n_hidden = int(hidden.mask.sum())
            level = math.ceil(10 * n_hidden / int((~one.fixed).sum())) - 1
            for part in (
                hidden,
                replace(
                    hidden, weight=hidden.weight * 0 + 1, count=hidden.count * 0 + n_hidden, bound=hidden.bound & False
                ),
            ):
                canvas, targets = model.objective.corrupt(one, part, noise)
                with torch.no_grad():
                    loss = model.objective.loss(model.predict(canvas, targets), canvas, targets)
                if part is hidden:
                    total, count = total + float(loss.total), count + float(loss.count)
                else:
                    sums[:, level] += torch.tensor([float(loss.total), float(loss.count)])
    assert held["loss"] == pytest.approx(total / count, rel=1e-4)
    plain = [float(t / n) if n else None for t, n in sums.t()]
    assert [value is None for value in plain] == [value is None for value in held["by_level"]]
    known = [(a, b) for a, b in zip(plain, held["by_level"], strict=True) if a is not None]
    assert len(known) > 5
    assert [b for _, b in known] == pytest.approx([a for a, _ in known], rel=1e-3)


@pytest.mark.parametrize("finish", ["last", "stop"])
def test_a_text_that_lacks_nothing_counts_once_among_levels(finish):
    """With every hidden token of weight 1, what says that a text is whole weighs as under a law that weighs nothing."""
    model = tiny_model("insertion", options={"order": "uniform", "finish": finish})
    clean = clean_canvas([[1, 2, 3, 4, 5, 6]])
    masking = Mixture([{"law": "bernoulli", "clip": [0.0, 1e-9], "epsilon": 0}], torch.ones(16, dtype=torch.int64))
    nothing = Hidden(
        clean.index < 0, *(torch.full((1,), value, dtype=torch.float64) for value in (1, 0)), clean.rows[:1] < 0
    )
    canvas, targets = model.objective.corrupt(clean, nothing, noise_for(clean))
    with torch.no_grad():
        ((level, _, even),) = Lesson(model, masking, False).by_level(clean, noise_for(clean))
        plain = model.objective.loss(model.predict(canvas, targets), canvas, targets)
    assert level == 0 and float(even.total) == pytest.approx(float(plain.total)) and float(plain.total) > 0


@pytest.mark.parametrize("draw", ["stratified", "antithetic"])
def test_levels_drawn_over_a_step_are_those_of_any_split(draw, text, tmp_path):
    settings = [*TINY, "objective=masked_diffusion", f"masking={{law: bernoulli, draw: {draw}, complement: true}}"]
    whole, parts = (
        train(text, [*settings, "steps=5", f"accumulate={n}", "precision=float64"], tmp_path / str(n), progress=False)
        for n in (1, 3)
    )
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-9)


def test_samples_take_the_model_as_it_is(monkeypatch, text, tmp_path):
    monkeypatch.setattr(Model, "__deepcopy__", None, raising=False)
    settings = [*TINY, "steps=4", "evaluate_every=2", "prompts=The cat and the ___{hen|dog}."]
    out = train(text, settings, tmp_path / "run", progress=False)
    assert (out / "samples.txt").read_text().count("The cat and the ") == 2
    plain = train(text, [*TINY, "steps=4"], tmp_path / "plain", progress=False)
    assert losses(out) == losses(plain)  # looking at it in between stopped no learning


def test_rows_are_no_longer_than_the_context(run, text, tmp_path):
    model, tokenizer = read_model(run / "model")
    short = Model(replace(model.config, backbone=replace(model.config.backbone, max_length=24)))
    write_model(tmp_path / "short", short, tokenizer, "")
    settings = ["steps=1", "batch_tokens=256", f"model={tmp_path / 'short'}"]
    with pytest.raises(ValueError, match=r"data.max_tokens is 32, the context 24 · .*short says .* data.max_tokens=24"):
        train(text, [*settings, "data.max_tokens=32"], tmp_path / "a", progress=False)
    with pytest.raises(ValueError, match=r"data.max_tokens is 32, the context 30 · backbone.max_length says"):
        train(text, [*TINY, "steps=1", "backbone.max_length=30"], tmp_path / "b", progress=False)
    out = train(text, settings, tmp_path / "c", progress=False)
    assert load_yaml(out / "config.yaml")["data"]["max_tokens"] == 24


def test_a_masking_that_the_family_cannot_show_is_refused_before_the_first_step():
    plain, starts = tiny_model("left_to_right", options={"plain": True, "begin": 12, "stop": 13}), torch.ones(16).long()
    with pytest.raises(ValueError, match="take the masking law all"):
        trial.try_out(plain, Mixture([{"law": "runs", "unit": "word"}], starts, starts > 0), answers=False)
    trial.try_out(plain, Mixture([{"law": "all"}], starts, starts > 0), answers=False)
    for name in OBJECTIVES:
        trial.try_out(tiny_model(name), Mixture(setup.MASKING, starts, starts > 0), answers=False)


def test_training_goes_on_from_a_model(run, text, tmp_path):
    out = train(text, ["steps=4", "batch_tokens=256", f"model={run / 'model'}"], tmp_path / "run", progress=False)
    assert losses(out)[0] < losses(run)[0]
    assert (out / "tokenizer.json").read_text() == (run / "tokenizer.json").read_text()
    with pytest.raises(ValueError, match=r"backbone.width is 16 .* the recipe says 32"):
        train(text, [f"model={run / 'model'}", "backbone.width=32"], tmp_path / "other", progress=False)


def test_tensorboard_is_told(text, tmp_path):
    pytest.importorskip("tensorboard")
    out = train(text, [*TINY, "steps=3", "trackers=tensorboard"], tmp_path / "run", progress=False)
    assert list(out.rglob("events.out.tfevents*"))


# The loss is a sum over a true count.


PRECISE = {"float64": 1e-9, "float32": 1e-5}


def split_settings(precision):
    return [*TINY, "steps=20", f"precision={precision}", "evaluate_every=10", "threads=1"]


def test_two_processes_are_one(text, tmp_path):
    calls = [
        f"train({str(text)!r}, {split_settings(precision)!r}, {str(tmp_path / ('two-' + precision))!r}, progress=False)"
        for precision in PRECISE
    ]
    code = "; ".join(["from unmask.training.run import train", *calls])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    pair = [
        subprocess.Popen([sys.executable, "-c", code], env={**env, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"
    ]
    assert [process.wait(timeout=300) for process in pair] == [0, 0]
    for precision, within in PRECISE.items():
        one = train(text, split_settings(precision), tmp_path / f"one-{precision}", progress=False)
        two = tmp_path / f"two-{precision}"
        assert losses(two) == pytest.approx(losses(one), rel=0, abs=within)
        assert [entry["tokens"] for entry in log(two)] == [entry["tokens"] for entry in log(one)]
        held = [[entry["held_out"]["loss"] for entry in log(out) if "held_out" in entry] for out in (one, two)]
        assert held[1] == pytest.approx(held[0], rel=0, abs=within)


def test_micro_batches_are_one_batch(text, tmp_path):
    settings = [*TINY, "steps=8", "precision=float64"]
    one = train(text, settings, tmp_path / "one", progress=False)
    three = train(text, [*settings, "accumulate=3"], tmp_path / "three", progress=False)
    assert losses(three) == pytest.approx(losses(one), rel=0, abs=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_part_without_rows_gives_nothing_to_the_gradient(name):
    model = tiny_model(name)
    lesson = Lesson(model, Mixture([{"law": "exact_count"}], torch.ones(16, dtype=torch.int64)), False)
    clean = clean_canvas([[1, 2, 3], [4, 5]])
    empty = clean.take(torch.tensor([], dtype=torch.int64))
    loss = lesson(empty, noise_for(empty))
    loss.total.backward()
    assert loss.total.item() == 0 and loss.count.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    lesson(clean, noise_for(clean)).total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())  # each takes part: processes wait for all of them


def trainer_of(text, tmp_path, *settings) -> Trainer:
    """One whose weights move by the gradient itself."""
    recipe = setup.filled(resolve(text, [*TINY, "precision=float64", *settings]))
    tokenizer = setup.make_tokenizer(recipe)
    batches = Batches.open(recipe.data, tokenizer, batch_tokens=recipe.batch_tokens, seed=recipe.seed)
    model, masking = setup.make_model(recipe, tokenizer), setup.make_masking(recipe, tokenizer)
    folder, accelerator = checkpoint.RunFolder(tmp_path), Accelerator(cpu=True)
    trainer = Trainer(recipe, model, masking, batches, tokenizer, folder, accelerator)
    trainer.optimisers, trainer.rates = [torch.optim.SGD(trainer.parameters, lr=1.0)], [[1.0]]
    return trainer


def moved(trainer: Trainer, share: float) -> torch.Tensor:
    before = [p.detach().clone() for p in trainer.parameters]
    trainer.learn(share)
    return torch.cat([(a - b).flatten() for a, b in zip(before, trainer.parameters, strict=True)])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_gradient_is_that_of_the_mean_and_clipped_as_it_says(accumulate, text, tmp_path):
    trainer = trainer_of(text, tmp_path, "clip=null", f"accumulate={accumulate}")
    batch = next(trainer_of(text, tmp_path).batches)
    loss = trainer.lesson(*trainer.to_device(batch, trainer.recipe.seed))
    mean = torch.autograd.grad(loss.total / loss.count, trainer.parameters)
    gradient = torch.cat([part.flatten() for part in mean])
    torch.testing.assert_close(moved(trainer, 0.5), 0.5 * gradient, rtol=1e-9, atol=1e-12)
    clipped = moved(trainer_of(text, tmp_path, "clip=0.01", f"accumulate={accumulate}"), 0.5)
    torch.testing.assert_close(clipped, 0.5 * 0.01 * gradient / gradient.norm(), rtol=1e-4, atol=1e-9)


# Budgets and rates.


def test_the_rate_warms_up_and_comes_down():
    wsd, cosine = ScheduleChoice(warmup=10, decay=0.2), ScheduleChoice(kind="cosine", warmup=10)
    assert rate(0, 100, wsd) == pytest.approx(1 / 11)
    assert [rate(step, 100, wsd) for step in (10, 50, 80)] == [1, 1, 1]
    assert rate(90, 100, wsd) == pytest.approx(0.5) and rate(99, 100, wsd) == pytest.approx(0.05)
    assert rate(55, 100, cosine) == pytest.approx(0.5) and rate(99, 100, cosine) < 1e-3
    assert rate(500, None, wsd) == 1
    assert rate(1, 5, wsd) == 1  # a short run warms up for a fifth at most


def test_minutes_become_steps_and_stay_so(text, tmp_path):
    out = train(text, [*TINY, "minutes=0.01"], tmp_path / "run", progress=False)
    told = json.loads((out / "budget.json").read_text())
    assert told["bought"] == len(log(out)) and told["known_at"] > 0
    assert log(out)[-1]["seconds"] < 10


def test_a_budget_of_minutes():
    budget = Budget(minutes=1.0)
    assert budget.steps is None and budget.at(5) is None
    settled = budget.settled(step=10, seconds=6.0, per_step=0.5)
    assert settled.steps == 10 + 108
    assert settled.at(9) is None and settled.at(10) == 118  # before, the schedule did not know
    both = Budget(limit=50, minutes=1.0)
    assert (both.steps, both.at(0), both.settled(10, 6.0, 0.5).steps) == (50, 50, 50)  # what is known holds at once
    later = Budget(limit=500, minutes=1.0).settled(10, 6.0, 0.5)
    assert (later.at(9), later.at(10), later.timing) == (500, 118, False)


@pytest.mark.parametrize("limit", ["steps=5", "tokens=1280", "epochs=0.05"])
def test_minutes_overrun_no_other_budget(limit, text, tmp_path):
    out, alone = (
        train(text, [*TINY, "evaluate_tokens=40", *budget], tmp_path / str(len(budget)), progress=False)
        for budget in ([limit, "minutes=1"], [limit])
    )
    assert 0 < len(log(out)) < 15 and "held_out" in log(out)[-1]
    assert losses(out) == losses(alone)
    assert [entry["learning_rate"] for entry in log(out)] == [entry["learning_rate"] for entry in log(alone)]
    assert [path.name for path in (out / "checkpoints").iterdir()] == [f"step_{len(log(out))}"]


def test_the_clock_leaves_the_first_steps_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("unmask.training.budget.time.perf_counter", lambda: now[0])
    clock = Clock()
    told = []
    for step in range(15):
        now[0] += 100.0 if step == 0 else 2.0
        told.append(clock.tick(minutes=1e6))
    assert told == [None] * 14 + [2.0]


def test_epochs_and_tokens_are_counted(text, tmp_path):
    out = train(text, [*TINY, "epochs=0.2"], tmp_path / "run", progress=False)
    tokens = log(out)[-1]["tokens"]
    more = train(text, [*TINY, f"tokens={tokens}"], tmp_path / "more", progress=False)
    assert abs(len(log(more)) - len(log(out))) <= 1


def test_a_changed_budget():
    wsd, cosine = ScheduleChoice(decay=0.2), ScheduleChoice(kind="cosine")
    assert extended(Budget(100), Budget(200), 80, wsd).steps == 200
    long = extended(extended(Budget(100), Budget(200), 12, wsd), Budget(400), 14, wsd)
    assert long.steps == 400 and [rate(step, 400, wsd, long.warmup) for step in (14, 21)] == [
        rate(step, 100, wsd) for step in (14, 21)
    ]  # 20 steps of warm-up, a fifth of the first budget
    assert extended(Budget(minutes=1.0), Budget(200), 12, wsd).warmup == 60
    settled = Budget(minutes=1.0, bought=100, known_at=9)
    assert extended(settled, Budget(minutes=1.0), 90, cosine) is settled
    with pytest.raises(ValueError, match="with 100 steps the learning rate falls from step 80 on"):
        extended(Budget(100), Budget(200), 81, wsd)
    with pytest.raises(ValueError, match="a cosine schedule bends"):
        extended(Budget(100), Budget(200), 5, cosine)


# Recipes.


def test_dotted_overrides(text):
    recipe = resolve(text, ["steps=5", "learning_rate=1e-4", "data.max_tokens=40", "schedule=cosine",
                            "schedule.warmup=7",
                            "optimiser.betas=[0.9, 0.99]", "masking=exact_count", "masking.share=2",
                            "objective=any", "objective.depth=3"])  # fmt: skip
    assert recipe.steps == 5 and recipe.learning_rate == 1e-4
    assert recipe.data.max_tokens == 40 and recipe.data.sources[0].path == str(text)
    assert (recipe.schedule.kind, recipe.schedule.warmup) == ("cosine", 7)
    assert recipe.optimiser.betas == (0.9, 0.99)
    assert recipe.masking == ({"law": "exact_count", "share": 2},)
    assert recipe.objective.name == "any" and recipe.objective.options == {"depth": 3}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("learning_rte=1", "unknown key 'learning_rte' · the nearest known is 'learning_rate'"),
        ("data.max_token=3", "unknown key 'data.max_token' · the nearest known is 'max_tokens'"),
        ("data.sources.0.pat=3", "the nearest known is 'path'"),
        ("optimiser.beta=1", "the nearest known is 'betas'"),
        ("backbone.widht=16", "the nearest known is 'width'"),
        ("backbone.width=big", "backbone.width is 'big'"),
        ("backbone.width=30", "does not give"),
        ("objective=blank", "the nearest known is"),
        ("seed=-1", "seed cannot be -1"),
        ("seed=9223372036854775808", "seed cannot be 9223372036854775808"),
        ("steps=some", "steps cannot be 'some'"),
        ("schedule=cos", "schedule.kind cannot be 'cos'"),
        ("masking=some", "no masking law 'some'"),
        ("steps", "settings are key=value"),
        ("steps=[", "is not YAML"),
        ("data.sources.4=x", "has 1 entries"),
    ],
)
def test_a_wrong_setting_is_named(setting, said, text, tmp_path):
    with pytest.raises(ValueError) as fault:
        train(text, [*TINY, "steps=2", setting], tmp_path / "run", progress=False)
    assert said in str(fault.value) and "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.sources.5.path=x", "there is no 'data.sources.5' · data.sources has 1 entries"),
        ("data.sources.x.path=x", "there is no 'data.sources.x' · data.sources has 1 entries"),
        ("masking.5.share=2", "there is no 'masking.5' · masking has 1 entries"),
        ("masking={unit: word}", "masking names no law"),
        ("masking={law: [runs]}", "masking names no law"),
        ("masking=[]", "masking names no law"),
        ("tokens=.inf", "tokens cannot be inf"),
        ("epochs=.inf", "epochs cannot be inf"),
        ("minutes=.nan", "minutes cannot be nan"),
        ("learning_rate=.inf", "learning_rate cannot be inf"),
        ("data.sources.0.weight=.inf", "data.sources.0.weight cannot be inf"),
        ("data.lengths={single: .inf}", "data.lengths.single cannot be inf"),
        ("steps=" + "[" * 5000, "is not YAML"),
        ("steps=" + "7" * 5000, "is not YAML"),
    ],
)
def test_a_setting_that_is_none_is_told_by_the_recipe(setting, said, text):
    with pytest.raises(ValueError) as fault:
        resolve(text, ["masking=[{law: all}]", setting])
    assert said in str(fault.value) and "\n" not in str(fault.value) and len(str(fault.value)) < 600


def test_a_wrong_recipe_is_named(tmp_path):
    (tmp_path / "odd.yaml").write_text("a: [")
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5000)
    (tmp_path / "mine.yaml").write_text("steps: 3\n")
    for recipe, said in (
        (tmp_path / "odd.yaml", "is not YAML"),
        (tmp_path / "deep.yaml", "deep.yaml is not YAML"),
        (tmp_path / "mine.yml", r"did you mean .*mine.yaml"),
        (tmp_path / "mine.yaml", "no data"),
        (tmp_path / "nothing.txt", "no file or folder"),
        ("defualt", "'defualt' is no file, folder or recipe · recipes here: .*default"),
    ):
        with pytest.raises(ValueError, match=said):
            train(recipe, ["steps=1"], tmp_path / "run", progress=False)


def test_the_size_suits_the_data():
    assert [setup.vocabulary_for(n) for n in (1_000, 1_000_000, 10**9)] == [512, 4096, 8192]
    assert setup.shape_for(1_000_000, None)["width"] < setup.shape_for(10**8, 600)["width"]


def test_no_two_sample_prompts_are_of_one_text(tmp_path):
    (tmp_path / "a.txt").write_text(
        "The cat sat on the mat.\n" * 9 + "The dog lay by the log.\nTwo owls sat in a tree.\n"
    )
    wanted = ["The cat sat ___ the mat.", "The dog lay ___ the log.", "Two owls sat ___ a tree."]
    assert setup.prompts(resolve(tmp_path / "a.txt", ["data.sources.0.hold_out.last=null"])) == wanted


def test_a_tokenizer_learns_from_the_first_megabytes(tmp_path):
    (tmp_path / "two.txt").write_text("The cat sat.\n" * 99 + "A zebra ran.\n" * 99)

    def words(megabytes: float) -> list[bytes]:
        settings = ["tokenizer.vocab_size=512", f"tokenizer.train_megabytes={megabytes}"]
        return setup.make_tokenizer(resolve(tmp_path / "two.txt", settings)).token_bytes

    assert b" cat" in words(0.001) and b" zebra" not in words(0.001)
    assert b" cat" in words(1) and b" zebra" in words(1)


def test_what_a_token_begins():
    tokenizer = Tokenizer.train(["The cat's (old) mat, \u00e9t\u00e9 1999."] * 50, vocab_size=384)
    kinds = setup.begins(tokenizer)
    said = {tokenizer.token_bytes[i].decode(): int(kinds[i]) for i in tokenizer.encode("The cat's (old) mat,")}
    assert said[" The"] == said[" cat"] == said[" mat"] == 1
    assert said["'s"] == said["old"] == 0
    assert said[" ("] == said[")"] == said[","] == 2
    assert not kinds[tokenizer.special].any()
    digits = Tokenizer(json.loads(spoken().to_str()))
    row = digits.encode(" in 1984.", inside=True)
    assert [digits.token_bytes[i] for i in row][-6:-1] == [b" ", b"1", b"9", b"8", b"4"]
    assert setup.begins(digits)[row].tolist()[-6:] == [1, 0, 0, 0, 0, 2]  # the space belongs to the number


def test_what_may_change(text):
    old = resolve(text, ["steps=5", "seed=3"])
    new, barred = difference(old, resolve(text, ["steps=9", "checkpoint_every=2", "seed=3", "keep=4", "licence=mit"]))
    assert not barred and (new.steps, new.checkpoint_every, new.keep, new.licence) == (9, 2, 4, "mit")
    assert difference(old, resolve(text, []))[0].seed == 3  # what is not said stays
    assert difference(old, resolve(text, ["seed=4", "clip=2"]))[1] == [
        "clip was 1.0, now 2.0",
        "seed was 3, now 4",
    ] or (difference(old, resolve(text, ["seed=4", "clip=2"]))[1] == ["seed was 3, now 4", "clip was 1.0, now 2.0"])


def test_what_a_list_had_is_not_left_out():
    runs, rest = {"law": "runs", "rate": [0.1, 0.3]}, {"law": "all", "share": 0.3}
    sources = [{"path": "a", "include": ["x", "y"]}, {"path": "b", "name": "other"}]
    more = {"masking": [runs, rest], "prompts": ["a ___", "b ___"], "optimiser": {"betas": [0.9, 0.98]}}
    old = checked({"data": {"sources": sources}, **more})

    def barred(data=({"path": "a"}, {"path": "b"}), **said):
        return difference(old, checked({"data": {"sources": data}, **said}))[1]

    assert barred() == barred(masking=None) == barred(**more, data=sources) == barred(prompts=["c ___"]) == []
    assert barred(data=[{"path": "elsewhere"}, {"path": "b"}]) == []  # known by what they hold
    gone = "{} was there, now it is not"
    assert barred(masking=[runs]) == [gone.format("masking.1")]
    assert barred(masking=[{"law": "runs"}, rest]) == [
        f"masking.0.rate.{n} was {value}, now it is not said" for n, value in enumerate((0.1, 0.3))
    ]
    assert barred(data=[{"path": "a"}]) == [gone.format("data.sources.1")]
    assert barred(data=[{"path": "a", "include": ["x"]}, {"path": "b"}]) == [gone.format("data.sources.0.include.1")]
    assert barred(data=[{"path": name} for name in "abc"]) == ["data.sources.2.path was None, now c"]


def test_a_card_states_the_licence_that_the_recipe_gives(run, tmp_path):
    model, state = tiny_model("blank_lm"), checkpoint.State()

    def stated(licence: str | None) -> str:
        recipe = checked({"data": "x", "licence": licence, "objective": "blank_lm"})
        (tmp_path / "README.md").write_text(card(recipe, model, state, {}), encoding="utf-8")
        return licence_of(tmp_path)

    assert stated("cc-by-sa-4.0") == "cc-by-sa-4.0"
    assert stated(None) == licence_of(run / "model") == "not stated"
    with pytest.raises(ValueError, match="licence cannot be 'mine, all of it'"):
        stated("mine, all of it")


def test_the_default_recipe_has_the_licence_of_the_model_it_made():
    assert resolve("default", ["data.folder=x"]).licence == licence_of(DEFAULT)


# Optimisers.


def test_every_weight_has_one_optimiser():
    model = tiny_model("blank_lm")
    recipe = checked({"data": "x"})
    groups = [p for optimiser in make_optimisers(model, recipe) for g in optimiser.param_groups for p in g["params"]]
    assert len(groups) == len({id(p) for p in groups}) == len(list(model.parameters()))
    muon, adam = make_optimisers(model, recipe)
    assert {p.dim() for p in muon.param_groups[0]["params"]} == {2}
    assert (muon.param_groups[0]["lr"], adam.param_groups[0]["lr"], adam.param_groups[0]["betas"]) == (
        0.02, 3e-3, (0.9, 0.98),
    )  # fmt: skip


def test_muon_makes_matrices_orthogonal():
    matrices = torch.randn(3, 8, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices, steps=10))
    assert values.min() > 0.5 and values.max() < 1.5


def test_momentum_is_what_stays_of_the_gradients_before():
    first, second = torch.randn(2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def moved(momentum: float, *gradients: torch.Tensor) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))
        optimiser = Muon([weight], lr=1.0, momentum=momentum)
        for gradient in gradients:
            before, weight.grad = weight.detach().clone(), gradient.clone()
            optimiser.step()
        return weight.detach() - before

    torch.testing.assert_close(moved(0.0, first, second), moved(0.0, second))
    assert not torch.allclose(moved(0.9, first, second), moved(0.9, second))
    recipe = checked({"data": "x", "optimiser": {"momentum": 0.5}})
    assert make_optimisers(tiny_model("blank_lm"), recipe)[0].param_groups[0]["momentum"] == 0.5


def test_weights_decay_as_the_recipe_says():
    model = tiny_model("blank_lm")
    recipe = checked({"data": "x", "optimiser": {"weight_decay": 0.25}})
    muon, adam = make_optimisers(model, recipe)
    for optimiser, rate_of in ((muon, 0.02), (adam, 3e-3)):
        parameters = optimiser.param_groups[0]["params"]
        before = [p.detach().clone() for p in parameters]
        for p in parameters:
            p.grad = torch.zeros_like(p)
        optimiser.step()
        for old, new in zip(before, parameters, strict=True):
            torch.testing.assert_close(new.detach(), old * (1 - rate_of * 0.25), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("shape", "scale"), [((8, 2), 2.0), ((4, 4), 1.0), ((2, 8), 1.0)])
def test_muon_moves_tall_matrices_further(shape, scale):
    gradient = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    optimiser, weight.grad = Muon([weight], lr=0.5, momentum=0.0), gradient.clone()
    optimiser.step()
    torch.testing.assert_close(weight.detach(), -0.5 * scale * orthogonal(gradient[None])[0])


def test_a_young_average_forgets_faster():
    model = tiny_model("blank_lm")
    average = Average(model, 0.9)
    for step, kept in ((0, 0.1), (8, 0.5), (80, 0.9), (10_000, 0.9)):
        before = {name: mean.clone() for name, mean in average.mean.items()}
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1)
        average.update(step)
        for name, p in model.named_parameters():
            torch.testing.assert_close(average.mean[name], kept * before[name] + (1 - kept) * p.detach())


def test_swapping_the_average_twice_is_nothing():
    model = tiny_model("blank_lm")
    average = Average(model, 0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    average.update(100)
    average.swap()
    assert all(torch.allclose(p, before[name] + 0.5) for name, p in model.named_parameters())
    average.swap()
    assert all(torch.equal(p, before[name] + 1) for name, p in model.named_parameters())


# Faults.


def test_a_folder_that_holds_a_run_is_refused(run, text):
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    with pytest.raises(ValueError, match=r"holds another run .* --resume, or choose another --out"):
        train(text, TINY, run, progress=False)
    with pytest.raises(ValueError, match="seed was 0, now 8"):
        train(text, [*TINY, "seed=8"], run, resume=True, progress=False)
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before


def test_a_run_that_never_took_a_step_may_begin_anew(text, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(ValueError, match="no masking law 'none'"):
        train(text, [*TINY, "masking=none", "steps=1"], out, progress=False)
    train(text, [*TINY, "steps=1", "evaluate_tokens=40"], out, progress=False)
    assert (out / "model").is_dir()


def test_a_loss_that_is_no_number_stops_the_run(text, tmp_path, monkeypatch):
    whole = Trainer.to_device

    def spoiled(self, batch, seed):
        if self.state.step == 7:
            with torch.no_grad():
                self.model.backbone.norm.weight.fill_(math.nan)
        return whole(self, batch, seed)

    monkeypatch.setattr(Trainer, "to_device", spoiled)
    with pytest.raises(ValueError, match=r"no number at step 8 .*learning rate 0.003\).* last good checkpoint is kept"):
        train(text, [*TINY, "steps=12", "checkpoint_every=3"], tmp_path / "run", progress=False)
    kept = [path.name for path in checkpoint.RunFolder(tmp_path / "run").checkpoints()]
    assert kept == ["step_3", "step_6"]
    assert len(log(tmp_path / "run")) == 7
    monkeypatch.undo()
    out = train(text, [*TINY, "steps=12", "checkpoint_every=3"], tmp_path / "run", resume=True, progress=False)
    assert len(log(out)) == 12


def test_a_full_disk_loses_nothing(text, tmp_path, monkeypatch):
    whole = checkpoint.write_tensors

    def full(folder, *rest):
        if folder.name == ".step_6.partial":
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(folder, *rest)

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    settings = [*TINY, "steps=9", "checkpoint_every=3"]
    with pytest.raises(ValueError, match="the checkpoint of step 6 could not be written · the disk is full"):
        train(text, settings, tmp_path / "run", progress=False)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_3"]
    monkeypatch.undo()
    out = train(text, settings, tmp_path / "run", resume=True, progress=False)
    assert losses(out) == losses(train(text, settings, tmp_path / "whole", progress=False))


def test_no_text_is_said_so(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match=r"empty\.txt"):
        train(tmp_path / "empty.txt", TINY, tmp_path / "run", progress=False)
    (tmp_path / "some.txt").write_text("The cat sat on the mat.\n" * 40)
    assert train(
        tmp_path / "some.txt", [*TINY, "steps=2"], tmp_path / "run", progress=False
    )  # nothing stands in the way


def test_a_missing_extra_is_named(monkeypatch, text, tmp_path):
    monkeypatch.setattr("unmask.training.run.find_spec", lambda name: None if name == "accelerate" else object())
    with pytest.raises(ValueError, match=r"accelerate is not installed .* pip install 'unmask\[train\]'"):
        train(text, [], tmp_path / "run")


def test_a_process_settles_its_memory_once(monkeypatch):
    begun = []
    monkeypatch.setattr("os.execve", lambda *given: begun.append(given))
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.40"))
    for name in memory.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    memory.settle_memory()
    ((program, argv, env),) = begun
    assert program == argv[0] == sys.executable and env.items() >= memory.SETTINGS.items()
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    memory.settle_memory()
    assert len(begun) == 1


@pytest.mark.parametrize(("verb", "settled"), [("train", 1), ("evaluate", 1), ("distill", 1), ("fill", 0)])
def test_verbs_of_many_steps_settle_their_memory(monkeypatch, verb, settled):
    begun = []
    monkeypatch.setattr("unmask.memory.settle_memory", lambda: begun.append(verb))
    monkeypatch.setattr("unmask.cli.app.run", lambda argv: 0)
    monkeypatch.setattr("sys.argv", ["unmask", verb, "--model", "train"])
    assert cli.main() == 0 and len(begun) == settled


SOUNDED = """
import ctypes, torch
from unmask.memory import lean

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info

def apart(n_bytes):  # whether a block of that size has pages of its own
    before = libc.mallinfo2().hblkhd
    block = torch.empty(n_bytes, dtype=torch.uint8)
    return libc.mallinfo2().hblkhd > before

large = torch.empty(2**24, dtype=torch.uint8)
del large  # from here on glibc keeps what is smaller
found, more = [apart(2**22)], 12 * 2**20  # more than what the first left behind: it would be taken from there
with lean():
    found.append(apart(more))
found += [apart(more), apart(2**26)]
libc.malloc.restype = ctypes.c_void_p
blocks = [libc.malloc(2**22) for _ in range(12)]  # the last at the end of the heap
before = libc.mallinfo2().arena
for block in reversed(blocks):
    libc.free(ctypes.c_void_p(block))
found.append(libc.mallinfo2().arena == before)  # the end stays for what comes next
print(found)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc")
def test_what_is_freed_while_a_model_is_read_is_given_back():
    env = {name: value for name, value in os.environ.items() if name not in memory.SETTINGS}
    ended = subprocess.run([sys.executable, "-c", SOUNDED], env=env, capture_output=True, text=True, check=True)
    assert ended.stdout.split("\n")[0] == "[False, True, False, True, True]"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends(number, text, tmp_path, monkeypatch):
    whole, before = Trainer.learn, signal.getsignal(number)  # a shell's background jobs ignore SIGINT

    def learn(self, *rest):
        if self.state.step == 4:
            os.kill(os.getpid(), number)
        return whole(self, *rest)

    settings = [*TINY, "steps=8", "checkpoint_every=100"]
    monkeypatch.setattr(Trainer, "learn", learn)
    if number == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            train(text, settings, tmp_path / "run", progress=False)
    else:
        train(text, settings, tmp_path / "run", progress=False)
    n = len(log(tmp_path / "run"))
    assert n in (5, 6)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step_{n}"]
    assert not (tmp_path / "run" / "model").exists()
    assert signal.getsignal(number) == before


# Model folders.


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "int8"])
def test_a_model_comes_back(name, dtype, tmp_path):
    tokenizer = Tokenizer.train(["The cat sat."] * 9, vocab_size=320)
    model = tiny_model(name, dtype=torch.float32, n_words=tokenizer.vocab_size - 6)
    write_model(tmp_path, model, tokenizer, "A card.", dtype)
    again, _ = read_model(tmp_path)
    assert again.config == model.config == read_config(tmp_path)
    close = {None: 0.0, "float32": 0.0, "bfloat16": 2**-8, "int8": 1 / 250}[dtype]
    for key, weight in weights(model).items():
        bound = close * weight.abs().amax(-1, keepdim=True) if weight.dim() == 2 else close * weight.abs()
        assert ((weights(again)[key] - weight).abs() <= bound).all(), key
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), again.buffers(), strict=True))
    assert len(stored(model)) < len(model.state_dict())  # the shared matrix is there once


def test_large_weights_are_cut_into_shards(tmp_path):
    tokenizer = Tokenizer.train(["The cat sat."] * 9, vocab_size=320)
    model = tiny_model("blank_lm", dtype=torch.float32, n_words=tokenizer.vocab_size - 6)
    write_model(tmp_path, model, tokenizer, "A card.", shard_bytes=10_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2 and not (tmp_path / "model.safetensors").exists()
    again, _ = read_model(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_broken_folders_are_named(tmp_path):
    tokenizer = Tokenizer.train(["The cat sat."] * 9, vocab_size=320)
    model = tiny_model("blank_lm", dtype=torch.float32, n_words=tokenizer.vocab_size - 6)

    def fault(change) -> str:
        write_model(tmp_path / "m", model, tokenizer, "A card.")
        config = json.loads((tmp_path / "m" / "config.json").read_text())
        change(tmp_path / "m", config)
        (tmp_path / "m" / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError) as caught:
            read_model(tmp_path / "m")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    with pytest.raises(ValueError, match="is not there"):
        read_model(tmp_path / "none")
    assert "unknown key 'widht'" in fault(lambda folder, config: config["backbone"].update(widht=3))
    assert "model_type" in fault(lambda folder, config: config.update(model_type="bert"))
    assert "format 9" in fault(lambda folder, config: config.update(format=9))
    assert "has shape" in fault(lambda folder, config: config["backbone"].update(width=32))
    assert "weights are missing" in fault(lambda folder, config: (folder / "model.safetensors").unlink())
    assert "is broken" in fault(lambda folder, config: (folder / "model.safetensors").write_bytes(b"x" * 99))
    assert "lacks weight" in fault(lambda folder, config: config["backbone"].update(n_layers=3))
    with pytest.raises(ValueError, match="unknown weight"):
        load(model, {**stored(model), "extra": torch.zeros(1)}, "here")


def test_an_empty_canvas_is_a_canvas():
    assert Canvas.from_rows([]).n_rows == 0
