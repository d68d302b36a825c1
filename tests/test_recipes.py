"""The recipes of masked diffusion: a user's text in, a model out; then its answers, from a user's dialogues."""

import json
from pathlib import Path

import pytest

import unmask
from unmask.data.sources import DataConfig, Source
from unmask.training.config import load, resolve
from unmask.training.run import train

SMALL = [
    "batch_tokens=512", "backbone.width=16", "backbone.n_layers=1", "backbone.n_heads=2", "tokenizer.vocab_size=320",
    "evaluate_every=0", "threads=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "a.txt").write_text("The cat sat on the mat. The dog lay on the log.\n\n" * 150)
    rows = [{"prompt": f"Where is {it}?", "response": f"The {it} is on the mat."} for it in ("cat", "dog", "hen")]
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 40))
    return folder


@pytest.fixture(scope="module")
def base(texts) -> Path:
    return train("llada", [*SMALL, f"data={texts / 'a.txt'}", "steps=4"], texts / "base", progress=False)


def test_a_text_in_the_place_of_all_data_keeps_how_it_is_read(base, texts):
    recipe = load(base / "config.yaml")
    assert recipe["data"]["max_tokens"] == 128
    assert recipe["data"]["lengths"] == {"full": 0.99, "cropped": 0.01}
    assert recipe["data"]["sources"][0]["hold_out"]["last"] == 0.05
    law = {"law": "bernoulli", "epsilon": 0.001, "draw": "stratified", "bell": [3, 3], "importance": False}
    assert recipe["masking"] == [law]
    other = resolve("default", [f"data={texts / 'a.txt'}"])  # a recipe that names its texts gives way as a whole
    assert other.data == DataConfig(sources=[Source.of(str(texts / "a.txt"))])


def test_a_recipe_of_the_package_asks_for_data():
    with pytest.raises(ValueError, match="no data · a recipe says what to train on"):
        resolve("llada")


@pytest.mark.parametrize("pad", ["eos", "rainbow", "none"])
def test_the_model_then_learns_to_answer(pad, base, texts, tmp_path):
    settings = [f"model={base / 'model'}", f"data={texts / 'chat.jsonl'}", f"data.pad={pad}", "batch_tokens=512"]
    out = train("llada-sft", [*settings, "epochs=null", "steps=3", "threads=1"], tmp_path / "run", progress=False)
    recipe = load(out / "config.yaml")
    assert recipe["data"]["sources"][0]["unit"] == "dialogue"
    assert recipe["data"]["pad"] == pad
    lm = unmask.load(out / "model")
    assert lm.model.config.options == {"ends": True}
    assert {"pad1", "pad7"} <= lm.tokenizer.signs.keys()


def test_dialogues_are_known_by_their_first_row(tmp_path):
    for name, row, unit in [
        ("a.jsonl", {"messages": [{"role": "user", "content": "a"}]}, "dialogue"),
        ("b.jsonl", {"prompt": "a", "response": "b"}, "dialogue"),
        ("c.jsonl", {"text": "a", "messages": []}, "sentence"),
        ("d.jsonl", {"prompt": "a"}, "sentence"),
        ("e.txt", {"prompt": "a", "response": "b"}, "sentence"),
    ]:
        (tmp_path / name).write_text("\n" + json.dumps(row))
        assert Source.of(str(tmp_path / name)).unit == unit
    (tmp_path / "f.jsonl").write_text("{")
    assert Source.of(str(tmp_path / "f.jsonl")).unit == "sentence"
