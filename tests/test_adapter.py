"""Adapters: what is trained and what stays, put together again, and kept apart from other bases."""

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch.utils.flop_counter import FlopCounterMode

import unmask
from families import clean_canvas, noise_for, tiny_model
from llamas import IDS, back, differs, gguf_of, llama, written
from test_training import TINY, losses, text  # noqa: F401  (`text` is a fixture)
from unmask import adapter as adapters
from unmask import bases
from unmask.adapter import (
    AdapterConfig,
    is_adapter,
    merge,
    origin,
    read,
    read_adapter,
    read_adapter_config,
    shapes,
    write_adapter,
)
from unmask.backbone import BackboneConfig
from unmask.backbone.embedding import RowEmbedding
from unmask.backbone.processor import has_layouts
from unmask.cli import main
from unmask.folder import SCALE, open_whole, packed, read_model, read_tensors, weights, write_model, write_tensors
from unmask.masking.mixture import Mixture
from unmask.model import Model, ModelConfig, hollow
from unmask.objectives import OBJECTIVES
from unmask.public import checkpoint
from unmask.training import lora, setup
from unmask.training.config import difference, resolve
from unmask.training.loop import Trainer
from unmask.training.run import train

SETTINGS = ["batch_tokens=256", "schedule.warmup=4", "learning_rate=0.01", "threads=1", "precision=float32"]
ADAPTER = [
    *SETTINGS, "adapter.rank=4", "objective.told=0.25", "steps=12", "checkpoint_every=5", "ema=0.5", "evaluate_every=6",
    "prompts=The ___ and the dog sat by the wall.",
]  # fmt: skip


def config(model, rank=3, alpha=6.0, targets=("qkv", "out", "up", "down"), **other) -> AdapterConfig:
    signs = tuple(sorted(model.config.signs, key=model.config.signs.get))
    given = {"base": "base", "revision": None, "sha256": "0", "objective": model.config.objective, "options": None}
    return AdapterConfig(**(given | {"rank": rank, "alpha": alpha, "targets": targets, "signs": signs} | other))


def adapted(objective: str, seed: int = 0, moved: bool = True, **backbone):
    """A tiny model with an adapter in it, whose tensors were moved away from where they begin."""
    model = tiny_model(objective, seed, **backbone)
    chosen = config(model)
    lora.inject(model, chosen, seed)
    generator = torch.Generator().manual_seed(seed)
    if moved:
        with torch.no_grad():
            for tensor in lora.trained(model).values():
                tensor += torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) * 0.2
    return model, chosen


def random_adapter(folder: Path, place: Path, base: str | None = None, rank: int = 2) -> Path:
    """An adapter of the model at `place`, drawn at random and small, as one that learned to fill would be written."""
    model = open_whole(place).config
    given = {"rank": rank, "alpha": float(rank), "options": {"told": 0.5}, "base": base or str(place)}
    signs = tuple(sorted(model.signs, key=model.signs.get))
    targets = ("qkv", "out", "up", "down")
    chosen = AdapterConfig(
        **given,
        revision=None,
        sha256=adapters.sha256_of(place),
        objective="left_to_right",
        targets=targets,
        signs=signs,
    )
    generator = torch.Generator().manual_seed(0)
    wanted = shapes(hollow(model, torch.float32), chosen)
    tensors = {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in wanted.items()}
    return write_adapter(folder, adapters.Adapter(chosen, tensors), "---\nlicense: cc0-1.0\n---\nAt random.\n")


def look(model, rows=((1, 2, 3, 4, 5), (6, 7, 8))):
    """The loss of a batch, and what the model predicts of it."""
    clean = clean_canvas([list(row) for row in rows])
    noise = noise_for(clean)
    begins = torch.ones(model.config.backbone.vocab_size, dtype=torch.int64)
    hidden = Mixture([{"law": "runs", "unit": "token"}], begins)(clean, noise)
    canvas, targets = model.objective.corrupt(clean, hidden, noise)
    prediction = model.predict(canvas, targets)
    return model.objective.loss(prediction, canvas, targets), prediction.words()


# The parts.


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_merged_model_says_what_the_two_say_together(objective, tied):
    model, chosen = adapted(objective, tied=tied)
    merged = merge(tiny_model(objective, tied=tied), adapters.Adapter(chosen, lora.trained(model)))
    (loss, words), (other_loss, other_words) = look(model), look(merged)
    base_loss = look(tiny_model(objective, tied=tied))[0]
    assert torch.allclose(words, other_words, atol=1e-9)
    assert loss.total.item() == pytest.approx(other_loss.total.item(), abs=1e-9)
    assert abs(base_loss.total.item() - loss.total.item()) > 1e-2
    assert not any(isinstance(part, RowEmbedding) for part in merged.modules())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_fresh_adapter_changes_nothing(objective):
    (loss, words), (base_loss, base_words) = look(adapted(objective, moved=False)[0]), look(tiny_model(objective))
    assert torch.allclose(words, base_words, atol=1e-12)
    assert loss.total.item() == pytest.approx(base_loss.total.item(), abs=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("tied", [True, False])
def test_its_gradient_is_that_of_the_merged_weights(objective, tied):
    """By the chain rule through W + alpha / rank * b a, and row by row of the signs."""
    model, chosen = adapted(objective, tied=tied)
    merged = merge(tiny_model(objective, tied=tied), adapters.Adapter(chosen, lora.trained(model)))
    look(model)[0].total.backward()
    look(merged)[0].total.backward()
    own, scale = lora.trained(model), chosen.alpha / chosen.rank
    whole = weights(merged)
    ids = adapters.sign_ids(merged, chosen)
    for name, tensor in own.items():
        matrix, _, kind = name.rpartition(".")
        by = whole[matrix].grad
        if kind == "rows":
            wanted = by[ids]
        elif kind == "a":
            wanted = scale * own[f"{matrix}.b"].detach().T @ by
        else:
            wanted = scale * by @ own[f"{matrix}.a"].detach().T
        assert torch.allclose(tensor.grad, wanted, atol=1e-9), name
        assert wanted.any() or name.startswith("backbone.output")  # where signs are never words


def test_the_frozen_have_no_gradient_and_cost_none():
    """Forward and backward of an adapter of rank 1 take two thirds of what the whole model's take, and a little."""
    shape = {"width": 64, "n_layers": 2, "n_heads": 2, "mlp_width": 128, "n_words": 500}
    spent = []
    for frozen in (False, True):
        model = tiny_model("left_to_right", dtype=torch.float32, **shape)
        if frozen:
            lora.inject(model, config(model, rank=1), 0)
        with FlopCounterMode(display=False) as counter:
            look(model)[0].total.backward()
        spent.append(counter.get_total_flops())
        if frozen:
            alone = {id(tensor) for tensor in lora.trained(model).values()}
            assert all((p.grad is not None) == (id(p) in alone) for p in model.parameters())
    assert spent[1] < 0.75 * spent[0]


def test_peft_leaves_the_global_generator_alone():
    one, other = tiny_model("left_to_right"), tiny_model("left_to_right")
    before = torch.get_rng_state()
    lora.inject(one, config(one), 0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    lora.inject(other, config(other), 0)
    assert all(torch.equal(a, b) for a, b in zip(lora.trained(one).values(), lora.trained(other).values(), strict=True))


def test_what_an_adapter_begins_with_is_drawn_by_its_seed():
    drawn = [lora.trained(adapted("left_to_right", seed, moved=False)[0]) for seed in (0, 1)]
    alike = {name for name, tensor in drawn[0].items() if torch.equal(tensor, drawn[1][name])}
    assert alike == {name for name in drawn[0] if name.endswith(".b")}  # which is zero


def test_targets_say_which_matrices():
    model = tiny_model("blank_lm")
    chosen = config(model, targets=("qkv", "down"))
    lora.inject(model, chosen, 0)
    names = {name.split(".")[-3] for name in lora.trained(model) if "layers" in name}
    assert names == {"qkv", "down"}
    assert {name: tuple(tensor.shape) for name, tensor in lora.trained(model).items()} == shapes(
        tiny_model("blank_lm"), chosen
    )


def test_the_adapter_of_a_model_of_135_million_is_a_few_megabytes():
    """Rank 24 beside all matrices of 30 layers of 576, and eight signs: 6.09 million numbers, 6.7 MB by bytes."""
    signs = {name: 49_152 + i for i, name in enumerate("mask blank start end sep answer word maybe".split())}
    shape = BackboneConfig(
        49_160, width=576, n_layers=30, n_heads=9, n_kv_heads=3, mlp_width=1536, qk_norm=False, max_length=2048
    )
    with torch.device("meta"):
        model = Model(ModelConfig("left_to_right", shape, signs, tuple(signs.values())))
    sizes = shapes(model, config(model, rank=24)).values()
    numbers = sum(map(math.prod, sizes))
    assert 134e6 < model.n_parameters() < 136e6
    assert numbers == 6_087_168
    assert numbers + 4 * sum(rows for rows, _ in sizes) == 6_720_800  # bytes, and a float32 scale a row


# On disk.


class Cut(BaseException):
    """As sudden as a process may end without ending this one."""


@pytest.fixture(scope="module")
def base(text, tmp_path_factory) -> Path:  # noqa: F811
    settings = [*TINY, "steps=20", "objective=left_to_right"]
    return train(text, settings, tmp_path_factory.mktemp("base") / "run", progress=False) / "model"


@pytest.fixture(scope="module")
def run(base, text, tmp_path_factory) -> Path:  # noqa: F811
    return train(text, [*ADAPTER, f"model={base}"], tmp_path_factory.mktemp("adapter") / "run", progress=False)


def test_a_run_leaves_an_adapter_and_nothing_of_the_base(run):
    small = {"adapter.safetensors", "config.json", "README.md"}
    assert {path.name for path in (run / "model").iterdir()} == small
    assert {path.name for path in (run / "checkpoints" / "step_12").iterdir()} == small | {
        "state.json", "optimiser.safetensors", "average.safetensors",
    }  # fmt: skip
    assert is_adapter(run / "model")
    assert losses(run)[-1] < losses(run)[0]
    card = (run / "model" / "README.md").read_text()
    assert "base_model: " in card and "rank 4 beside qkv, out, up, down" in card
    assert "(" not in (run / "samples.txt").read_text()  # a fault would stand in brackets


def test_the_optimiser_keeps_what_is_trained_alone(run, base):
    adapter = read_adapter(run / "model")
    kept = read_tensors(run / "checkpoints" / "step_12", "optimiser.safetensors")
    numbers = sum(tensor.numel() for tensor in adapter.tensors.values())
    assert sum(tensor.numel() for name, tensor in kept.items() if name.endswith("exp_avg")) == numbers
    assert not any(name.endswith("momentum") for name in kept)  # no matrix of an adapter is Muon's


def test_the_finished_adapter_is_the_average(run):
    average = read_tensors(run / "checkpoints" / "step_12", "average.safetensors")
    places = {"lora_A.default.weight": "weight.a", "lora_B.default.weight": "weight.b", "rows": "weight.rows"}
    named = {
        name.removesuffix(end) + ours: tensor
        for name, tensor in average.items()
        for end, ours in places.items()
        if name.endswith(f".{end}")
    }
    own, last = (read_adapter(run / place).tensors for place in ("model", "checkpoints/step_12"))
    assert own.keys() == named.keys() == last.keys() and len(named) == len(average)
    assert all(torch.equal(own[name], named[name]) for name in own)
    assert not all(torch.equal(own[name], last[name]) for name in own)


def test_training_moves_matrices_by_the_adapter_and_of_the_vocabulary_the_signs(run, base):
    adapter, (before, _), (after, _) = read_adapter(run / "model"), read_model(base), read(run / "model")
    old, new = weights(before), weights(after)
    signs = set(before.config.signs.values())
    assert old.keys() == new.keys()
    for name, weight in old.items():
        change = new[name] - weight
        if f"{name}.b" in adapter.tensors:
            a, b = adapter.tensors[f"{name}.a"], adapter.tensors[f"{name}.b"]
            assert float(b.abs().max()) > 0
            assert torch.allclose(change, 8 * b @ a, atol=1e-6)  # alpha 32, rank 4
        elif name == "backbone.embedding.weight":
            moved = set(change.abs().amax(1).nonzero().squeeze(1).tolist())
            assert moved <= signs and {before.config.signs[sign] for sign in ("blank", "sep", "answer")} <= moved
        else:
            assert not change.any(), name


def test_loading_puts_both_together(run, base):
    lm, alone = unmask.load(run / "model"), unmask.load(base)
    sentence = "The cat and the dog sat by the wall."
    assert lm.score(sentence).log_prob != alone.score(sentence).log_prob
    assert lm.fill("The ___ and the ___{1} sat by the wall.", n=2)
    assert lm.model.objective.told == 0.25 and alone.model.objective.told == 0
    assert not any(isinstance(part, RowEmbedding) or hasattr(part, "lora_A") for part in lm.model.modules())


@pytest.mark.parametrize(("dtype", "near"), [("float64", 1e-4), ("bfloat16", 0.5), ("int8", 0.5)])
def test_an_adapter_is_read_in_any_precision(dtype, near, run):
    if dtype == "int8" and not has_layouts():
        pytest.skip("no kernels for bytes here")
    sentence = "The cat and the dog sat by the wall."
    wanted = unmask.load(run / "model", dtype="float32").score(sentence).log_prob
    assert unmask.load(run / "model", dtype=dtype).score(sentence).log_prob == pytest.approx(wanted, abs=near)


def test_the_recipe_adapt_teaches_a_plain_model_to_fill(text, tmp_path):  # noqa: F811
    llama_folder = written(tmp_path / "llama", llama())
    with pytest.raises(ValueError, match="has not learned to fill before its end"):
        unmask.load(llama_folder).fill("The ___ sat.")
    few = [
        "steps=2",
        "batch_tokens=256",
        "data.max_tokens=24",
        "evaluate_every=0",
        "evaluate_tokens=100",
        "adapter.rank=2",
    ]
    made = train("adapt", [f"model={llama_folder}", f"data={text}", *few], tmp_path / "run", progress=False)
    lm = unmask.load(made / "model")
    assert lm.model.config.options == {"told": 0.5, "empty": 0.1}
    assert lm.fill("The ___{2} sat.")[0].text.endswith(" sat.")


def test_the_recipe_of_the_packages_adapter_reads_what_the_built_in_model_read():
    ours, built_in = (resolve(name, ["data.folder=x"]) for name in ("smollm2-135m-fill", "default"))
    general = resolve("adapt", ["data=y", "model=z"])
    assert ours.data.sources == built_in.data.sources
    same = ("objective", "masking", "optimiser", "schedule", "learning_rate")  # it reads more and has a higher rank
    assert all(getattr(ours, key) == getattr(general, key) for key in same)
    shipped = read_adapter_config(bases.ADAPTERS / "smollm2-135m-fill")
    assert (ours.adapter.rank, ours.adapter.alpha) == (shipped.rank, shipped.alpha)
    assert ours.model in bases.BASES


def test_what_was_put_together_is_saved_as_one_model_with_a_card_that_says_so(run, tmp_path):
    folder = unmask.load(run / "model").save_pretrained(tmp_path / "whole")
    card = (folder / "README.md").read_text()
    assert "An adapter and its base in one" in card and (run / "model" / "README.md").read_text().strip()[-200:] in card
    assert not is_adapter(folder)


def test_an_adapter_of_the_package_is_loaded_by_name(run, tmp_path, monkeypatch):
    monkeypatch.setattr(bases, "ADAPTERS", tmp_path)
    shutil.copytree(run / "model", tmp_path / "tiny-fill")
    sentence = "The cat and the dog sat by the wall."
    assert unmask.load("tiny-fill").score(sentence) == unmask.load(run / "model").score(sentence)
    said = json.loads((tmp_path / "tiny-fill" / "config.json").read_text()) | {"base": "smollm2-135m"}
    said["sha256"] = bases.BASES["smollm2-135m"].sha256
    (tmp_path / "tiny-fill" / "config.json").write_text(json.dumps(said))
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="run: unmask pull smollm2-135m"):
        unmask.load("tiny-fill")


def test_the_adapter_of_the_package_goes_by_its_name_through_every_door(tmp_path, monkeypatch, capsys):
    """`smollm2-135m-fill` as it will lie in the package, here at random and of a tiny base of that name."""
    name, whole = "smollm2-135m-fill", tmp_path / "whole"
    monkeypatch.setattr(bases, "ADAPTERS", tmp_path / "adapters")
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    place = gguf_of(tmp_path / "tiny.gguf", llama())
    known = bases.BASES["smollm2-135m"]
    tiny = adapters.replace(known, sha256=adapters.sha256_of(place), size=place.stat().st_size)
    monkeypatch.setitem(bases.BASES, "smollm2-135m", tiny)
    random_adapter(tmp_path / "adapters" / name, place, base="smollm2-135m")
    doors = [["fill", "The ___ sat.", "--model", name], ["score", "The cat.", "--model", name], ["info", name]]
    for words in (*doors[:2], ["merge", name, str(whole)]):  # `info` reads the adapter alone
        assert main(words) == 1
        said = capsys.readouterr()
        assert said.out == "" and said.err.endswith("· run: unmask pull smollm2-135m\n")
    assert not whole.exists()
    assert main(["pull", "smollm2-135m", "--from", str(place)]) == 0
    for words in (*doors, ["merge", name, str(whole)]):
        assert main(words) == 0, capsys.readouterr().err
    assert "smollm2-135m" in capsys.readouterr().out
    assert unmask.load(whole).fill("The ___ sat.", n=2) == unmask.load(name).fill("The ___ sat.", n=2)


def test_the_base_of_a_name_is_the_one_that_was_pulled_whatever_lies_there(tmp_path, monkeypatch):
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path))
    facts = dict.fromkeys(("title", "makers", "licence", "terms", "hub", "package"))
    whole = hashlib.sha256(b"GGUF").hexdigest()
    monkeypatch.setitem(bases.BASES, "tiny", bases.Base("tiny", file="tiny.gguf", size=4, sha256=whole, **facts))
    bases.BASES["tiny"].path.parent.mkdir(parents=True)
    bases.BASES["tiny"].path.write_bytes(b"GGUF")
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    chosen = config(tiny_model("left_to_right"), base="tiny", sha256=whole)
    assert adapters.base_of(chosen, "it") == bases.BASES["tiny"].path
    with pytest.raises(ValueError, match="it is no adapter of tiny"):  # trained on another of that name
        adapters.base_of(adapters.replace(chosen, sha256="def"), "it")


def test_what_is_no_adapter_is_not_merged(base, tmp_path, capsys):
    place = gguf_of(tmp_path / "tiny.gguf", llama())
    (tmp_path / "empty").mkdir()
    wrong = {
        place: "a whole model",
        base: "model_type",
        tmp_path / "empty": "no config.json",
        tmp_path / "x": "no such",
    }
    for path, why in wrong.items():
        assert main(["merge", str(path), str(tmp_path / "out")]) == 1
        assert re.fullmatch(
            rf"unmask: .*is no adapter · .*{why}.* · give the folder of one.*\n", capsys.readouterr().err
        )
    assert not (tmp_path / "out").exists()


def test_merged_and_apart_agree_in_float32(run, base):
    adapter, (model, tokenizer) = read_adapter(run / "model"), read_model(base)
    model.set_options(adapter.config.options)
    lora.inject(model, adapter.config, 0)
    lora.put(model, adapter, "it")
    texts = ["The cat and the ___ sat by the ___.", "The ___ sat."]
    apart = unmask.LanguageModel(model, tokenizer).fill(texts, n=3)
    together = unmask.load(run / "model", dtype="float32").fill(texts, n=3)
    for ours, theirs in zip(apart, together, strict=True):
        assert [fill.text for fill in ours] == [fill.text for fill in theirs]
        assert [fill.log_prob for fill in ours] == pytest.approx([fill.log_prob for fill in theirs], abs=1e-5)


@pytest.mark.parametrize("at", [3, 9])
def test_a_run_cut_off_goes_on_bit_for_bit(at, run, base, text, tmp_path, monkeypatch):  # noqa: F811
    old = Trainer.learn

    def cutting(self, *rest):
        if self.state.step == at:
            raise Cut
        return old(self, *rest)

    monkeypatch.setattr(Trainer, "learn", cutting)
    with pytest.raises(Cut):
        train(text, [*ADAPTER, f"model={base}"], tmp_path / "run", progress=False)
    monkeypatch.undo()
    out = train(None, out=tmp_path / "run", resume=True, progress=False)
    assert losses(out) == losses(run)
    for place in ("model", "checkpoints/step_12"):
        assert (out / place / "adapter.safetensors").read_bytes() == (run / place / "adapter.safetensors").read_bytes()


def test_a_run_does_not_go_on_from_another_base(base, text, tmp_path):  # noqa: F811
    moving = shutil.copytree(base, tmp_path / "base")
    settings = [*SETTINGS, "adapter.rank=2", "steps=4", "checkpoint_every=2", f"model={moving}"]
    out = train(text, settings, tmp_path / "run", progress=False)
    spoil(moving)
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read · .* is of another adapter or base"):
        train(None, out=out, resume=True, progress=False)


def test_bfloat16_is_a_way_to_multiply(base, text, tmp_path):  # noqa: F811
    settings = [*SETTINGS, f"model={base}", "adapter={}", "steps=3"]
    fine, coarse = (
        train(text, [*settings, f"precision={precision}"], tmp_path / precision, progress=False)
        for precision in ("float32", "bfloat16")
    )
    assert losses(coarse) != losses(fine)
    assert losses(coarse) == pytest.approx(losses(fine), rel=1e-2)


def test_a_base_in_bfloat16_is_kept_so_and_says_the_same(base, text, tmp_path, monkeypatch):  # noqa: F811
    lm = unmask.load(base, dtype="float32")
    stored = write_model(tmp_path / "stored", lm.model, lm.tokenizer, "", "bfloat16")
    settings = [*SETTINGS, f"model={stored}", "adapter={}", "steps=3", "precision=bfloat16"]
    kept: list[dict[str, torch.dtype]] = []
    real = setup.adapt

    def spied(model, recipe):
        found = real(model, recipe)
        kept.append({name: parameter.dtype for name, parameter in model.named_parameters()})
        return found

    monkeypatch.setattr(setup, "adapt", spied)
    narrow = train(text, settings, tmp_path / "narrow", progress=False)
    monkeypatch.setattr(setup, "narrow", lambda model: model.float())
    wide = train(text, settings, tmp_path / "wide", progress=False)
    assert set(kept[1].values()) == {torch.float32}
    halves = {name for name, dtype in kept[0].items() if dtype == torch.bfloat16}
    assert {name.split(".")[-2] for name in halves} >= {"base_layer", "embedding"}
    assert not any("lora" in name or "rows" in name or "norm" in name for name in halves)
    assert losses(narrow) == losses(wide)
    one, other = (read_adapter(out / "model") for out in (narrow, wide))
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    assert one.tensors[next(iter(one.tensors))].dtype == torch.float32
    assert "(" not in (narrow / "samples.txt").read_text()


def test_an_adapter_goes_on_as_an_adapter_or_as_a_whole_model(run, base, text, tmp_path):  # noqa: F811
    settings = [*SETTINGS, f"model={run / 'model'}", "steps=3"]
    further = train(text, [*settings, "adapter.rank=4"], tmp_path / "further", progress=False)
    before, after = read_adapter(run / "model"), read_adapter(further / "model")
    assert after.config == before.config and after.config.base == str(base)
    assert losses(further)[0] < losses(run)[0]
    whole = train(text, settings, tmp_path / "whole", progress=False)
    assert losses(whole)[0] == pytest.approx(losses(further)[0], abs=1e-4)
    assert read_model(whole / "model")[0].config.options == {"told": 0.25}
    with pytest.raises(ValueError, match=r"adapter.rank is 4 in .*, the recipe says 8 · .* say adapter.rank=4"):
        train(text, [*settings, "adapter.rank=8"], tmp_path / "other", progress=False)


def test_a_whole_model_takes_other_options_too(base, text, tmp_path):  # noqa: F811
    out = train(text, [*SETTINGS, f"model={base}", "objective.told=0.5", "steps=1"], tmp_path / "run", progress=False)
    assert read_model(out / "model")[0].objective.told == 0.5
    with pytest.raises(ValueError, match="has no option 'tld' · the nearest known is 'told'"):
        train(text, [*SETTINGS, f"model={base}", "objective.tld=0.5", "steps=1"], tmp_path / "other", progress=False)


# What goes wrong.


def spoil(folder: Path) -> None:
    """Change the last byte of a model's weights."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


def changed(folder: Path, **keys) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return folder


def test_the_hash_of_a_folder_is_what_sha256sum_says(base, tmp_path):
    names = ["config.json", "model.safetensors", "tokenizer.json"]
    printed = subprocess.run(["sha256sum", *names], cwd=base, capture_output=True, check=True).stdout
    assert origin(str(base)) == (str(base), None, hashlib.sha256(printed).hexdigest())
    other = shutil.copytree(base, tmp_path / "other")
    (other / "README.md").write_text("another card")
    assert adapters.sha256_of(other) == adapters.sha256_of(base)
    spoil(other)
    assert adapters.sha256_of(other) != adapters.sha256_of(base)
    file = tmp_path / "one.gguf"
    file.write_bytes(b"one")
    assert origin(str(file)) == (str(file), None, hashlib.sha256(b"one").hexdigest())


def test_another_base_is_refused(run, base, tmp_path):
    other = shutil.copytree(base, tmp_path / "other")
    mine = changed(shutil.copytree(run / "model", tmp_path / "mine"), base=str(other))
    assert read(mine)[0].config == read(run / "model")[0].config
    spoil(other)
    with pytest.raises(
        ValueError, match=r"is no adapter of .*other · it was trained on sha256 \w{12}, this has sha256"
    ):
        unmask.load(mine)
    shutil.rmtree(other)
    with pytest.raises(ValueError, match=r"the base of .*mine is not there: .*other · .* write its place as \"base\""):
        unmask.load(mine)


def test_a_base_that_was_named_from_where_we_were_is_found_from_anywhere(base, text, tmp_path, monkeypatch):  # noqa: F811
    here = tmp_path / "here"
    shutil.copytree(base, here / "mine")
    monkeypatch.chdir(here)
    made = train(text, [*SETTINGS, "model=mine", "adapter.rank=2", "steps=1"], here / "run", progress=False) / "model"
    assert read_adapter(made).config.base == str(here / "mine")
    monkeypatch.chdir(tmp_path)
    wanted = unmask.load(made).score("The cat sat.")
    changed(made, base="../../mine")  # as someone may write it who moves both together: seen from the adapter
    shutil.move(here, tmp_path / "there")
    moved = tmp_path / "there" / "run" / "model"
    assert unmask.load(moved).score("The cat sat.") == wanted
    further = train(text, [*SETTINGS, f"model={moved}", "adapter.rank=2", "steps=1"], tmp_path / "more", progress=False)
    assert Path(read_adapter(further / "model").config.base).samefile(tmp_path / "there" / "mine")
    assert unmask.load(further / "model").fill("The ___ sat.")
    shutil.rmtree(tmp_path / "there" / "mine")
    with pytest.raises(ValueError, match=r"the base of .*model is not there: .*there/run/model/../../mine · .* put it"):
        unmask.load(moved)


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_what_is_loaded_is_opened_and_hashed_once(kind, tmp_path, monkeypatch):
    theirs = llama()
    place = written(tmp_path / "llama", theirs) if kind == "folder" else gguf_of(tmp_path / "llama.gguf", theirs)
    mine = random_adapter(tmp_path / "adapter", place)
    seen: list[str] = []

    def counted(owner, name, said):
        whole = getattr(owner, name)

        def counting(*given, **named):
            seen.append(said)
            return whole(*given, **named)

        monkeypatch.setattr(owner, name, counting)

    counted(checkpoint.GGUF, "__init__", "opened")
    counted(checkpoint, "Tensors", "opened")
    counted(checkpoint.definitions, "extended", "tokenizer")
    counted(adapters, "sha256_of", "hashed")
    assert unmask.load(mine, device="cpu").fill("The ___ sat.")
    assert sorted(seen) == ["hashed", "opened", "tokenizer"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"format": 9}, "has format 9 · this version reads 1 · update unmask"),
        ({"rnk": 3}, "unknown key 'rnk' · the nearest known is 'rank'"),
        ({"rank": 5}, r"has shape .*, the base asks for .* · they do not go together"),
        ({"targets": ["qkv"]}, "has an unknown tensor 'backbone.layers.0.attention.out.weight.a'"),
        ({"signs": ["mask", "elsewhere"]}, "the base has no sign 'elsewhere'"),
        ({"objective": "blank_lm"}, "is of blank_lm, its base of left_to_right"),
        ({"options": {"tld": 2}}, "left_to_right has no option 'tld' · .* · update unmask"),
        ({"options": {"plain": True}}, "a plain model"),
        ({"options": {"told": "x"}}, "options.told is 'x' · it must be a number"),
        ({"options": ["told"]}, r"options is \['told'\] · it must be a table"),
        ({"alpha": "2"}, "alpha is '2' · it must be a number"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"rank": True}, "rank is True · it must be a whole number"),
        ({"signs": 3}, "signs is 3 · it must be a list of texts"),
        ({"targets": "qkv"}, "targets is 'qkv' · it must be a list of texts"),
        ({"base": 3}, "base is 3 · it must be a text"),
        ({"sha256": 0}, "sha256 is 0 · it must be a text"),
        ({"revision": 1}, "revision is 1 · it must be a text"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(keys, said, run, tmp_path):
    with pytest.raises(ValueError, match=said):
        unmask.load(changed(shutil.copytree(run / "model", tmp_path / "mine"), **keys))


def test_broken_parts_are_named(run, tmp_path):
    mine = shutil.copytree(run / "model", tmp_path / "mine")
    (mine / "adapter.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"adapter.safetensors is broken"):
        unmask.load(mine)
    (mine / "adapter.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no adapter.safetensors"):
        unmask.load(mine)
    tensors = packed(read_adapter(run / "model").tensors, "int8")
    name = next(name for name in tensors if name.endswith(SCALE))
    write_tensors(mine, {key: tensor for key, tensor in tensors.items() if key != name}, 10**9, adapters.WEIGHTS)
    with pytest.raises(ValueError, match=rf"mine: .* holds whole numbers and has no '{name}' · they are no weights"):
        unmask.load(mine)
    write_tensors(mine, tensors | {name: tensors[name][:1]}, 10**9, adapters.WEIGHTS)
    with pytest.raises(ValueError, match=rf"mine: '{name}' has shape \(1,\), .* each row has one scale"):
        unmask.load(mine)
    with pytest.raises(ValueError, match="is no adapter · its model_type is not 'unmask-adapter'"):
        read_adapter(tiny_folder(tmp_path))
    assert not is_adapter(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"nowhere is no adapter · there is no such folder"):
        read_adapter(tmp_path / "nowhere")


def tiny_folder(folder: Path) -> Path:
    (folder / "config.json").write_text('{"model_type": "unmask"}')
    return folder


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_an_adapter_is_stored_in_fewer_bytes(dtype, run, tmp_path):
    adapter = read_adapter(run / "model")
    small = read_adapter(write_adapter(tmp_path / dtype, adapter, "A card.\n", dtype))
    sizes = [(place / "adapter.safetensors").stat().st_size for place in (run / "model", tmp_path / dtype)]
    assert sizes[1] < sizes[0]
    for name, tensor in adapter.tensors.items():
        assert float((small.tensors[name].float() - tensor).abs().max()) <= float(tensor.abs().max()) / 120
    sentence = "The cat and the dog sat by the wall."
    near = [unmask.load(place).score(sentence).log_prob for place in (run / "model", tmp_path / dtype)]
    assert near[1] == pytest.approx(near[0], abs=0.2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["adapter.rank=4"], "an adapter of nothing · it changes a model that is there · name one"),
        (["adapter.rank=0", "model=x"], "adapter.rank cannot be 0"),
        (["adapter.rnk=1", "model=x"], "unknown key 'adapter.rnk' · the nearest known is 'adapter.rank'|'rank'"),
        (["adapter.targets=[head]", "model=x"], "adapter.targets.0 cannot be 'head'"),
        (["adapter.targets=[]", "model=x"], "adapter.targets cannot be"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(settings, said, text):  # noqa: F811
    with pytest.raises(ValueError, match=said):
        resolve(text, settings)


def test_no_matrix_of_an_adapter_is_muons(base, text, tmp_path):  # noqa: F811
    settings = [*SETTINGS, "adapter.rank=4", f"model={base}"]
    assert setup.filled(resolve(text, settings)).optimiser.kind == "adamw"
    with pytest.raises(ValueError, match="muon for an adapter · .* take optimiser=adamw"):
        train(text, [*settings, "optimiser=muon"], tmp_path / "run", progress=False)


def test_without_peft_the_extra_is_named(base, text, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"peft is not installed · .* pip install 'unmask\[train\]'"):
        train(text, [*SETTINGS, "adapter.rank=4", f"model={base}"], tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "config.yaml").exists()  # nothing stands in the way of another try


def test_info_says_what_it_is_an_adapter_of(run, base, capsys):
    assert main(["info", str(run / "model"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    numbers = sum(tensor.numel() for tensor in read_adapter(run / "model").tensors.values())
    assert (facts["base"], facts["rank"], facts["parameters"]) == (str(base), 4, numbers)
    assert "layers" not in facts and facts["family"] == "left_to_right"


def test_a_section_of_which_nothing_is_said_contradicts_nothing(base, text):  # noqa: F811
    old = resolve(text, [f"model={base}", "adapter.rank=4"])
    assert not difference(old, resolve(text, [f"model={base}", "adapter={}"]))[1]
    plain = resolve(text, [f"model={base}"])
    assert difference(plain, resolve(text, [f"model={base}", "adapter={}"]))[1] == ["adapter was None, now {}"]


def test_loading_needs_no_peft(run):
    heavy = "{'peft', 'transformers'}"
    code = f"import sys, unmask; unmask.load({str(run / 'model')!r}); print({heavy} & set(sys.modules))"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert out.stdout == "set()\n", out.stderr


# One whole model of both.


def test_merge_writes_one_whole_model(run, tmp_path, capsys, monkeypatch):
    whole = tmp_path / "some" / "where"
    assert main(["merge", str(run / "model"), str(whole)]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out == f"merged: {whole}\n"
    card = (whole / "README.md").read_text()
    assert card.startswith("---\n") and "An adapter and its base in one" in card and "rank 4" in card
    assert {path.name for path in whole.parent.iterdir()} == {"where"}
    model, (merged, _) = read_model(whole)[0], read(run / "model")
    assert model.config == merged.config
    assert all(torch.equal(weight, weights(merged)[name]) for name, weight in weights(model).items())
    monkeypatch.setattr(bases, "ADAPTERS", run)
    assert main(["merge", "model", str(tmp_path / "by name")]) == 0, capsys.readouterr().err
    assert read_tensors(tmp_path / "by name").keys() == read_tensors(whole).keys()
    capsys.readouterr()
    assert main(["merge", str(run / "model"), str(whole)]) == 2
    assert f"unmask: {whole} is already there · nothing is written over" in capsys.readouterr().err


def test_merge_keeps_what_the_base_is_stored_as(run, base, tmp_path, capsys):
    """`run` was trained on `base`; here the same base, stored narrower, has an adapter at random."""
    narrow = tmp_path / "narrow"
    write_model(narrow, *read_model(base), "", dtype="bfloat16")
    random_adapter(tmp_path / "adapter", narrow)
    for told, wanted in ((None, torch.bfloat16), ("float32", torch.float32), ("float64", torch.float64)):
        whole = tmp_path / f"whole {told}"
        words = ["merge", str(tmp_path / "adapter"), str(whole), *(["--dtype", told] if told else [])]
        assert main(words) == 0, capsys.readouterr().err
        assert {tensor.dtype for tensor in read_tensors(whole).values()} == {wanted}
    exact, kept = (read_tensors(tmp_path / f"whole {told}") for told in ("float32", None))
    assert all(torch.equal(exact[name].bfloat16(), tensor) for name, tensor in kept.items())
    assert main(["merge", str(run / "model"), str(tmp_path / "plain")]) == 0
    assert {tensor.dtype for tensor in read_tensors(tmp_path / "plain").values()} == {torch.float32}


def test_merge_wants_an_adapter_and_leaves_nothing_half(run, base, tmp_path, capsys, monkeypatch):
    assert main(["merge", str(base), str(tmp_path / "whole")]) == 1
    assert "is no adapter · its model_type is not 'unmask-adapter'" in capsys.readouterr().err
    monkeypatch.setattr("unmask.tensors.save_file", full)
    assert main(["merge", str(run / "model"), str(tmp_path / "whole")]) == 1
    assert re.fullmatch(r"unmask: \S+: no space left on device · .*\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def full(*_, **__) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_public_model_learns_to_fill_holes(kind, text, tmp_path, capsys):  # noqa: F811
    """From a checkpoint of another house, tied or not, to an adapter, and back to a checkpoint of theirs."""
    theirs = llama(tie_word_embeddings=kind == "file")
    place = gguf_of(tmp_path / "base.gguf", theirs) if kind == "file" else written(tmp_path / "base", theirs)
    settings = [*SETTINGS, f"model={place}", "adapter.rank=4", "objective.told=0.25", "steps=12", "data.max_tokens=32"]
    out = train(text, settings, tmp_path / "run", progress=False)
    assert losses(out)[-1] < losses(out)[0]
    assert not list(out.glob("**/model.safetensors"))
    lm, base = unmask.load(out / "model", dtype="float32"), unmask.load(place, dtype="float32")
    assert len(lm.fill("The ___{1,2} and the ___{2} sat.", n=2)) == 2
    with pytest.raises(ValueError, match="has not learned to fill"):
        base.fill("The ___{1,2} and the dog sat.")
    before, after = weights(base.model), weights(lm.model)
    for matrix in ("embedding", "output")[: 1 if kind == "file" else 2]:
        change = (after[f"backbone.{matrix}.weight"] - before[f"backbone.{matrix}.weight"]).abs().amax(1)
        moved = set(change.nonzero().squeeze(1).tolist())
        assert moved and moved <= set(base.model.config.signs.values()) and min(moved) >= 320  # behind all of theirs
    whole = tmp_path / "whole"
    assert main(["merge", str(out / "model"), str(whole), "--to", "transformers"]) == 0, capsys.readouterr().err
    assert differs(lm.model, back(whole), IDS) < 2e-5


# The real base, where it was pulled.


@pytest.fixture(scope="module")
def smollm2() -> Path:
    try:
        return bases.place_of("smollm2-135m")
    except ValueError as missing:
        pytest.skip(str(missing))  # which says what to run


FILLING = """
import pathlib, re, sys, unmask
from unmask import bases
bases.ADAPTERS = pathlib.Path(sys.argv[1])
lm = unmask.load("smollm2-135m-fill", device="cpu", dtype="int8")
fills = lm.fill("The ___ sat on the ___{1} when it was ___{cold|warm}.", n=3)
for fill in fills:
    assert fill.text.startswith("The ") and fill.kind == "exact" and fill.log_prob < 0, fill
print(len({fill.text for fill in fills}))
print(int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.slow
def test_an_adapter_of_smollm2_fills_in_700_megabytes(smollm2, tmp_path):
    """One drawn at random, since what is told of memory and of the way by name is the same for one that learned."""
    random_adapter(tmp_path / "smollm2-135m-fill", smollm2, base="smollm2-135m", rank=16)
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux says what this process alone held at most")
    done = subprocess.run([sys.executable, "-c", FILLING, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    n_fills, megabytes = map(int, done.stdout.split())
    assert n_fills == 3
    assert megabytes <= 700


@pytest.mark.slow
def test_an_adapter_of_another_smollm2_is_refused(smollm2, tmp_path):
    mine = random_adapter(tmp_path / "mine", smollm2, base="smollm2-135m")
    with pytest.raises(ValueError, match=r"mine is no adapter of smollm2-135m · it was trained on sha256 0{12}, this"):
        unmask.load(changed(mine, sha256="0" * 64, revision=bases.BASES["smollm2-135m"].hub.revision))
    with pytest.raises(ValueError, match=r"it was trained on revision ab12, this has sha256 b179c9523d0e"):
        unmask.load(changed(mine, revision="ab12"))
    by_path = random_adapter(tmp_path / "by path", smollm2)
    with pytest.raises(ValueError, match=r"is no adapter of .*\.gguf · it was trained on sha256 0{12}, this has"):
        unmask.load(changed(by_path, sha256="0" * 64))
