"""What `unmask info` says of a model, without loading it: parameters, bytes, cache."""

import json
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch

from lladas import CONFIG, END, MASK, SIZE, folder_of, named, theirs, vocabulary
from llamas import gguf_of, llama, written
from unmask.backbone import BackboneConfig
from unmask.cli import main
from unmask.cli.headers import of_folder
from unmask.folder import write_model
from unmask.model import Model, ModelConfig
from unmask.tokenizer import Tokenizer


def told(place, capsys) -> dict:
    assert main(["info", str(place), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_llada(tmp_path, capsys):
    oracle = theirs(n_kv_heads=2).to(torch.bfloat16)
    folder = folder_of(tmp_path / "in", oracle, shards=3, n_kv_heads=2)
    n = sum(tensor.numel() for tensor in named(oracle).values())
    facts = told(folder, capsys)
    assert (facts["family"], facts["parameters"], facts["vocabulary"]) == ("masked_diffusion", n, SIZE)
    assert facts["stored_bytes"] == {"bfloat16": 2 * n} and facts["context"] == 64
    assert facts["memory_bytes"] == {"float32": 4 * n, "bfloat16": 2 * n}
    token = 2 * 2 * 2 * 8 * 2  # keys and values, layers, heads, their width, bytes
    assert facts["cache_bytes"] == {"token": token, "context": 64 * token, "dtype": "bfloat16"}
    assert any(hole.startswith("[MASK]") for hole in facts["holes"])
    assert main(["info", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert f"stored bytes  bfloat16 {2 * n / 1000:.2f} kB" in shown and "cache bytes" in shown
    for path in folder.glob("*.safetensors"):
        path.unlink()
    facts = told(folder, capsys)  # from its settings alone
    assert facts["parameters"] == n and "stored_bytes" not in facts
    assert facts["cache_bytes"] == {"token": 2 * token, "context": 64 * 2 * token, "dtype": "float32"}


def test_weights_are_not_read(tmp_path, capsys):
    folder = folder_of(tmp_path / "in")
    wanted = told(folder, capsys)
    (path,) = folder.glob("*.safetensors")
    data = path.read_bytes()
    path.write_bytes(data[: 8 + int.from_bytes(data[:8], "little")])  # the header alone
    assert told(folder, capsys) | {"megabytes": 0} == wanted | {"megabytes": 0}
    path.write_bytes(data[:50])
    assert main(["info", str(folder)]) == 1
    assert "is broken · its header cannot be read" in capsys.readouterr().err


def test_the_8b_from_its_settings(tmp_path, capsys):
    """A folder with the settings of the public 8B and a small vocabulary: 8.02 billion, and no memory for them."""
    big = dict(d_model=4096, n_layers=32, n_heads=32, n_kv_heads=32, mlp_hidden_size=12288, max_sequence_length=4096)
    said = CONFIG | big | dict(vocab_size=126464, embedding_size=126464, rope_theta=500000.0)
    (tmp_path / "config.json").write_text(json.dumps(said))
    vocabulary().save(str(tmp_path / "tokenizer.json"))
    facts = told(tmp_path, capsys)
    assert facts["parameters"] == 8_015_581_184 and facts["memory_bytes"]["bfloat16"] == 16_031_162_368
    assert (said["mask_token_id"], said["eos_token_id"]) == (MASK, END)


def test_gguf_and_ours(tmp_path, capsys):
    pytest.importorskip("gguf")
    oracle = llama(tie_word_embeddings=True)
    n = sum(tensor.numel() for name, tensor in oracle.state_dict().items() if name != "lm_head.weight")
    facts = told(gguf_of(tmp_path / "a.gguf", oracle), capsys)
    assert facts["parameters"] == n and facts["stored_bytes"] == {"F32": 4 * n}
    assert facts["cache_bytes"]["dtype"] == "float32" and facts["cache_bytes"]["token"] == 2 * 2 * 2 * 8 * 4
    folder = written(tmp_path / "in", oracle)
    assert told(folder, capsys)["stored_bytes"] == {"float32": 4 * n}

    tokenizer = Tokenizer.train(["the cat"] * 9, vocab_size=320)
    shape = BackboneConfig(vocab_size=tokenizer.vocab_size, width=32, n_layers=3, n_heads=4, max_length=100)
    model = Model(ModelConfig("blank_lm", shape, dict(tokenizer.signs), tuple(tokenizer.signs.values())))
    model.initialise(0)
    facts = told(write_model(tmp_path / "ours", model, tokenizer, "A card.", "int8"), capsys)
    assert facts["parameters"] == model.n_parameters() and list(facts["stored_bytes"]) == ["int8", "float32"]
    assert facts["cache_bytes"] == {"token": 2 * 3 * 32 * 4, "context": 2 * 3 * 32 * 4 * 100, "dtype": "float32"}


def test_of_the_hub_no_weights_are_fetched(tmp_path, capsys, monkeypatch):
    whole = folder_of(tmp_path / "whole", shards=2)
    wanted, found = told(whole, capsys), of_folder(whole)
    here = folder_of(tmp_path / "here", shards=2)
    for path in here.glob("*.safetensors"):
        path.unlink()

    def snapshot(name, allow_patterns):
        assert name == "org/model" and not any("safetensors" in pattern for pattern in allow_patterns)
        assert {"*.json", "README.md"} == set(allow_patterns)  # the index is json too
        return str(here)

    def metadata(name):
        tensors = {key: SimpleNamespace(dtype=one.kind, shape=list(one.shape)) for key, one in found.items()}
        return SimpleNamespace(files_metadata={"a": SimpleNamespace(tensors=tensors)})

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "get_safetensors_metadata", metadata)
    facts = told("org/model", capsys)
    assert facts | {"model": 0, "megabytes": 0} == wanted | {"model": 0, "megabytes": 0}
    assert facts["megabytes"] == pytest.approx(wanted["megabytes"], abs=0.1)  # those of the weights too

    def offline(name, allow_patterns):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    assert main(["info", "org/model"]) == 1
    assert capsys.readouterr().err == "unmask: org/model is not to be had from the Hub · no network · check the name\n"


def test_every_family_says_what_holes_it_fills() -> None:
    from unmask.cli.info import HOLES, holes_of
    from unmask.objectives import OBJECTIVES

    for name, family in OBJECTIVES.items():
        assert holes_of(name) == [HOLES.get(kind, kind) for kind in sorted(family.holes)], name
