"""Dialogues: the forms people have, what is given and what is learned, how an answer ends, and what fills it up."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

import unmask
from unmask.canvas import Role
from unmask.cli import main
from unmask.data.batches import Batch, Batches
from unmask.data.corpus import tokenise
from unmask.data.dialogues import LeftOut, contents, encode, told
from unmask.data.sources import DataConfig, HoldOut, Source
from unmask.tokenizer import Tokenizer
from unmask.training.run import train

ASKED = ["What is red?", "What is blue?", "Who sat on the mat?", "Where did it rain?"]
SAID = ["Blood.", "The sky is blue.", "The cat, of course.", "It rained in the hills and by the sea, and in town."]
TURNS = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": ASKED[0]},
    {"role": "assistant", "content": SAID[0]},
    {"role": "user", "content": ASKED[1]},
    {"role": "assistant", "content": SAID[1]},
]
TINY = [
    "batch_tokens=256", "backbone.width=16", "backbone.n_layers=1", "backbone.n_heads=2", "data.max_tokens=64",
    "schedule.warmup=2", "evaluate_every=0", "optimiser=adamw", "tokenizer.vocab_size=320",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([*ASKED, *SAID] * 20, vocab_size=384, pads=True)


def write(folder: Path, rows: list[dict], name: str = "chat.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def source(folder: Path, rows: list[dict], **more: object) -> Source:
    return Source(path=str(write(folder, rows)), unit="dialogue", **more)


def pairs(n: int = 1) -> list[dict]:
    return [{"prompt": ask, "response": say} for ask, say in zip(ASKED, SAID, strict=True)] * n


def batches(folder: Path, tokenizer: Tokenizer, rows: list[dict], **more: object) -> Batches:
    config = DataConfig(sources=[source(folder, rows)], max_tokens=64, **more)
    return Batches.open(config, tokenizer, batch_tokens=512)


def rows_of(batch: Batch, tokenizer: Tokenizer) -> list[tuple[str, list[int]]]:
    """Of each row what is given, as text, and the ids that are not."""
    canvas, out = batch.canvas, []
    for row in range(canvas.n_rows):
        mine = canvas.rows == row
        text = mine & (canvas.role == Role.TEXT)
        out.append((tokenizer.decode(canvas.ids[text & canvas.fixed]), canvas.ids[text & ~canvas.fixed].tolist()))
    return out


def answer(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(f" {text}", inside=True)


def test_both_forms_are_read(tmp_path, tokenizer):
    forms = [{"messages": TURNS[1:3], "id": 7}, {"prompt": ASKED[0], "response": SAID[0], "topic": "colour"}]
    one, other = (told(row, "here") for row in forms)
    assert one == other
    assert contents(one) == [ASKED[0], SAID[0]]
    texts = list(DataConfig(sources=[source(tmp_path, [{"messages": TURNS}, *pairs()])]).texts())
    assert texts[:3] == ["Be short.", ASKED[0], SAID[0]]
    assert texts[-2:] == [ASKED[3], SAID[3]]


def test_a_row_is_what_was_asked_an_answer_and_its_end(tmp_path, tokenizer):
    end = tokenizer.signs["end"]
    found = rows_of(next(batches(tmp_path, tokenizer, pairs())), tokenizer)
    assert sorted(found) == sorted((ask, [*answer(tokenizer, say), end]) for ask, say in zip(ASKED, SAID, strict=True))


def test_a_prompt_is_laid_out_as_generate_does(tmp_path, tokenizer):
    ids, [(begin, end)] = next(encode([told({"prompt": "Who?  ", "response": " He. "}, "")], tokenizer, 60))
    assert ids[:begin] == tokenizer.read(["Who? ", unmask.holes.Blank()]).canvas.ids[1:-2].tolist()
    assert ids[begin:end] == answer(tokenizer, "He.")
    ids, [(begin, end)] = next(encode([told({"prompt": "Who?\n", "response": "He."}, "")], tokenizer, 60))
    assert ids[begin:end] == tokenizer.encode("He.", inside=True)


def test_each_visit_takes_a_dialogue_up_to_one_of_its_answers(tmp_path, tokenizer):
    drawn = batches(tmp_path, tokenizer, [{"messages": TURNS}] * 40)
    end, first, last = tokenizer.signs["end"], answer(tokenizer, SAID[0]), answer(tokenizer, SAID[1])
    shares = []
    for _ in range(2):
        epoch, found = drawn.epoch, []
        while drawn.epoch == epoch:
            found += rows_of(next(drawn), tokenizer)
        assert {tuple(said) for _, said in found} == {(*first, end), (*last, end)}
        for given, said in found:
            assert (ASKED[1] in given) == (SAID[0] in given) == (said == [*last, end])
            assert given.startswith("Be short.")
        shares.append([said == [*last, end] for _, said in found])
    assert all(5 < sum(share) < 35 for share in shares)
    assert shares[0] != shares[1]


@pytest.mark.parametrize("pad", ["none", "eos", "rainbow"])
def test_what_fills_an_answer_up(pad, tmp_path, tokenizer):
    signs = tokenizer.signs
    batch = next(batches(tmp_path, tokenizer, pairs(), pad=pad))
    lengths = batch.canvas.lengths.tolist()
    assert (len(set(lengths)) == 1) == (pad != "none")
    ids = {"eos": [signs["end"]], "rainbow": [signs[f"pad{k}"] for k in range(1, 8)]}.get(pad, [])
    for (ask, said), size in zip(rows_of(batch, tokenizer), lengths, strict=True):
        own = [*answer(tokenizer, SAID[ASKED.index(ask)]), signs["end"]]
        assert said[: len(own)] == own
        assert said[len(own) :] == [ids[k % len(ids)] for k in range(len(said) - len(own))]
        assert size == 2 + len(tokenizer.encode(ask)) + len(said)


def test_any_split_of_a_step_is_filled_up_alike(tmp_path, tokenizer):
    whole = next(batches(tmp_path, tokenizer, pairs(3), pad="eos"))
    parts = batches(tmp_path, tokenizer, pairs(3), pad="eos").micro_batches(n_micro=4)
    assert torch.cat([part.canvas.ids for part in parts]).tolist() == whole.canvas.ids.tolist()
    assert torch.cat([part.company.place for part in parts]).tolist() == whole.company.place.tolist()
    assert {part.company.size for part in parts} == {whole.canvas.n_rows}
    assert list(batches(tmp_path, tokenizer, pairs()).state_dict()) != list(
        batches(tmp_path, tokenizer, pairs(), pad="eos").state_dict()
    )


def test_a_prompt_may_be_hidden_too(tmp_path, tokenizer):
    batch = next(batches(tmp_path, tokenizer, pairs(), mask_prompt=True))
    assert torch.equal(batch.canvas.fixed, batch.canvas.role == Role.SCAFFOLD)


def test_dialogues_and_texts_share_a_run(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("The cat sat on the mat.\n" * 3)
    sources = [Source(path=str(tmp_path / "a.txt"), unit="line"), source(tmp_path, pairs())]
    config = DataConfig(sources=sources, max_tokens=64, pad="eos", lengths={"single": 1})
    batch = next(Batches.open(config, tokenizer, batch_tokens=512))
    text = batch.source == 0
    assert text.sum() == 3
    assert batch.canvas.lengths[~text].unique().numel() == 1
    n_given = batch.canvas.sum_rows((batch.canvas.fixed & (batch.canvas.role == Role.TEXT)).long())
    assert (n_given[text] == 0).all() and (n_given[~text] > 0).all()


def test_hold_out_and_cache(tmp_path, tokenizer):
    one = source(tmp_path, pairs(5), hold_out=HoldOut(every=4))
    plain, first, again = (tokenise(one, tokenizer, 64, cache) for cache in (None, tmp_path / "c", tmp_path / "c"))
    for a, b, c in zip(plain, first, again, strict=True):
        assert a.key == b.key == c.key
        assert a.answers.tolist() == b.answers.tolist() == c.answers.tolist()
    assert [part.n_units for part in plain] == [15, 5]


def test_what_is_longer_than_a_row(tmp_path, tokenizer):
    short, long = told({"messages": TURNS[:3]}, ""), told({"messages": TURNS}, "")
    (ids, spans), (cut, first), (_, none) = (next(encode([long], tokenizer, limit)) for limit in (60, 25, 6))
    assert len(spans) == 2 and len(first) == 1 and not none
    assert cut == next(encode([short], tokenizer, 60))[0] == ids[: first[0][1]]
    with pytest.raises(ValueError, match=r"1 of 1 dialogues left out .* a row, 9 tokens · raise data.max_tokens"):
        tokenise(source(tmp_path, [{"messages": TURNS}]), tokenizer, 9)


def test_how_many_are_left_out_is_always_said(tmp_path, tokenizer, capsys):
    long = {"prompt": "What is red?", "response": " ".join(SAID * 9)}
    path = write(tmp_path, [*pairs(3), long])
    said = (
        f"{path}: 1 of 13 dialogues left out · up to the end of its first answer each is longer than a row, 64 tokens"
    )
    counts = []
    for cache in (None, tmp_path / "c", tmp_path / "c"):
        config = DataConfig(sources=[Source(path=str(path), unit="dialogue", name=str(path))], max_tokens=64)
        opened = Batches.open(config, tokenizer, batch_tokens=512, cache=cache)
        counts.append(opened.left_out)
    assert counts == [[f"{said} · raise data.max_tokens"]] * 3
    assert not batches(tmp_path, tokenizer, pairs()).left_out
    how = [
        *TINY,
        "objective=masked_diffusion",
        "objective.ends=true",
        "steps=2",
        "threads=1",
        "data.sources.0.unit=dialogue",
    ]
    path = write(tmp_path, [*pairs(3), long])
    with pytest.warns(LeftOut, match="1 of 13 dialogues left out"):
        run = train(path, how, tmp_path / "run", progress=False)
    assert "1 of 13 dialogues left out." in (run / "model" / "README.md").read_text()
    assert main(["train", str(path), *how, "--out", str(tmp_path / "door")]) == 0
    assert "1 of 13 dialogues left out · " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "a"}, "is no dialogue · its columns are text"),
        ({"messages": []}, "it is a list of {role, content}"),
        ({"messages": [{"role": "user"}]}, "it is a list of {role, content}"),
        ({"messages": TURNS[:2]}, "has no answer"),
        ({"prompt": "a", "response": " "}, "has no answer"),
        ({"prompt": 3, "response": "b"}, "3 is no text"),
        ({"prompt": "\ud800", "response": "b"}, "is no text"),
    ],
)
def test_a_row_that_is_no_dialogue_is_named(row, said, tmp_path, tokenizer):
    one = source(tmp_path, [*pairs(), row])
    with pytest.raises(ValueError, match=r"chat.jsonl, line 5") as fault:
        list(one.parts())
    assert said in str(fault.value)


def test_settings_of_dialogues_are_checked(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("Text.\n")
    with pytest.raises(ValueError, match="holds no dialogues"):
        list(Source(path=str(tmp_path / "a.txt"), unit="dialogue").parts())
    with pytest.raises(ValidationError, match="leave normalise and streaming out"):
        source(tmp_path, pairs(), normalise=("quotes",))
    with pytest.raises(ValidationError, match="no source has them"):
        DataConfig(sources=[Source(path=str(tmp_path / "a.txt"))], pad="eos")
    with pytest.raises(ValueError, match=r"no pads in this vocabulary .* tokenizer.pads=true"):
        DataConfig(sources=[source(tmp_path, pairs())], pad="rainbow").pads(
            Tokenizer.train(SAID * 20, vocab_size=320).signs
        )


class Chatty:
    """A vocabulary with a template, as `tokenizer.chat` finds one."""

    def __init__(self, names: list[str]) -> None:
        definition = json.loads(json.dumps(Tokenizer.train([*ASKED, *SAID] * 20, vocab_size=384).definition))
        for name, added in zip(
            names, (a for a in definition["added_tokens"] if "unused" in a["content"]), strict=False
        ):
            added["content"], old = name, added["content"]
            definition["model"]["vocab"] = {
                (name if word == old else word): number for word, number in definition["model"]["vocab"].items()
            }
        self.tokenizer = Tokenizer(definition)


@pytest.mark.parametrize("form", [0, 1])
def test_a_vocabulary_with_a_template_lays_dialogues_out_by_it(form):
    from unmask.tokenizer.chat import FORMS, Template

    tokenizer = Chatty(FORMS[form].signs).tokenizer
    template = Template(tokenizer)
    ends = tokenizer.vocabulary[FORMS[form].ends]
    ids, spans = next(encode([told({"messages": TURNS}, "")], tokenizer, 200))
    for number, (begin, end) in zip((2, 4), spans, strict=True):
        assert ids[:begin] == template.ids(TURNS[:number], answer=True)
        assert ids[begin:end] == [*tokenizer.encode(TURNS[number]["content"], inside=True), ends]
    assert len(ids) == spans[-1][1]


# Training on them.


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    text = folder / "a.txt"
    text.write_text("\n".join([*ASKED, *SAID] * 30))
    settings = [*TINY, "objective=masked_diffusion", "tokenizer.pads=true", "masking=exact_count", "steps=3"]
    return train(text, settings, folder / "run", progress=False) / "model"


def run(base: Path, folder: Path, *settings: str) -> list[dict]:
    chat = write(folder, pairs(20))
    recipe = {"data": {"sources": [{"path": str(chat), "unit": "dialogue", "hold_out": {"every": 10}}]}}
    recipe |= {"model": str(base), "objective": {"ends": True}}
    asked = ["batch_tokens=256", "steps=12", "optimiser=adamw", "evaluate_every=0", "learning_rate=0.02", *settings]
    out = train(recipe, asked, folder / "run", progress=False)
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "settings",
    [
        ["data.pad=eos", "masking={law: bernoulli, per: sequence}"],
        ["data.pad=rainbow", "masking={law: bernoulli, per: batch, complement: true}"],
        ["data.pad=none", "masking=exact_count", "adapter.rank=2", "precision=float32"],
        ["data.pad=none", "masking=exact_count", "adapter.rank=2", "precision=bfloat16"],
    ],
    ids=lambda settings: f"{settings[0]}, {settings[-1]}",
)
def test_a_model_learns_to_answer_whole_or_by_an_adapter(settings, base, tmp_path):
    entries = run(base, tmp_path, *settings)
    losses = [entry["loss"] for entry in entries]
    assert sum(losses[-4:]) < sum(losses[:4])
    assert len(entries[-1]["held_out"]["by_level"]) == 10
    assert unmask.load(tmp_path / "run" / "model").model.config.options == {"ends": True}


def test_a_family_that_cannot_end_an_answer_says_so_before_the_first_step(base, tmp_path):
    with pytest.raises(ValueError, match=r"ends with a sign that this family does not write .* objective.ends=true"):
        run(base, tmp_path, "objective.ends=false", "masking=exact_count")
    assert not (tmp_path / "run" / "log.jsonl").exists()
