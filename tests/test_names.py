"""A name of the Hub, `org/name`, is a model wherever one is asked for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

import unmask
from toys import TEXTS, toy
from unmask.adapter import base_of, read_adapter_config
from unmask.bases import on_hub, place_of
from unmask.cli import main
from unmask.folder import read_tokenizer
from unmask.training.run import train

TINY = ["batch_tokens=256", "data.max_tokens=64", "steps=2", "threads=1", "evaluate_every=0"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model on the Hub as `org/model`, in the Hub's cache; where we are nothing has that name."""
    folder = toy("masked_diffusion").save_pretrained(tmp_path / "cache" / "newest")

    def snapshot(name: str, revision: str | None = None, **asked: object) -> str:
        if name != "org/model":
            raise LocalEntryNotFoundError("no such thing there\nmore words")
        assert asked["allow_patterns"]
        return str(folder.with_name(revision or "newest"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("\n".join(TEXTS * 30) + "\n")
    return folder


def test_what_reads_like_a_name_of_the_hub(hub: Path) -> None:
    assert on_hub("org/model") and place_of("org/model") == hub
    for path in ("./model", "/model", "~/model", "model", "a/b/c", "cache/newest"):
        assert not on_hub(path)
        assert place_of(path) == Path(path)


def test_convert_takes_it(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "org/model", "whole"]) == 0, capsys.readouterr().err
    assert unmask.load("whole").tokenizer.fingerprint == read_tokenizer(hub).fingerprint
    assert main(["convert", "org/none", "other"]) == 1
    said = "org/none is no folder, and not to be had from the Hub · no such thing there · check the name"
    assert capsys.readouterr().err == f"unmask: {said}\n"
    for door in (unmask.load, lambda name: train("text.txt", [*TINY, f"model={name}"], out="runs/none")):
        with pytest.raises(ValueError, match="org/none is no folder, and not to be had from the Hub"):
            door("org/none")


def test_training_starts_from_it(hub: Path) -> None:
    run = train("text.txt", [*TINY, "model=org/model"], out="runs/whole")
    assert unmask.load(run / "model").model.config.objective == "masked_diffusion"
    run = train("text.txt", [*TINY, "model=org/model", "adapter.rank=2"], out="runs/adapted")
    config = read_adapter_config(run / "model")
    assert (config.base, config.revision) == ("org/model", "newest")  # by a name that holds on other machines
    assert base_of(config, run / "model") == hub
    earlier = hub.rename(hub.with_name("earlier"))  # and there is a newer one by now
    toy("left_to_right").save_pretrained(hub)
    config = replace(config, revision="earlier")
    assert base_of(config, run / "model") == earlier
    with pytest.raises(ValueError, match="it was trained on sha256"):
        base_of(replace(config, revision=None), run / "model")
    shutil.rmtree(hub)
    earlier.rename(hub)
    again = train("text.txt", [*TINY, f"model={run / 'model'}", "adapter.rank=2"], out="runs/again")
    assert read_adapter_config(again / "model").base == "org/model"
    assert main(["merge", str(run / "model"), "merged"]) == 0
