"""Sources, corpora and batches: every token once an epoch, the same order for ever, and every fault by its name."""

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from unmask.canvas import Role
from unmask.data.batches import Batches
from unmask.data.corpus import Stream, tokenise
from unmask.data.draws import draws, order, uniform
from unmask.data.keys import cache_key
from unmask.data.sentences import cut, normalise, sentences
from unmask.data.sources import DataConfig, HoldOut, Manifest, Source
from unmask.tokenizer import Tokenizer

START, END = 0, 1


class Words:
    """A tokenizer whose tokens are words, numbered as they come; `-` within a word cuts it into tokens."""

    signs = {"start": START, "end": END}
    vocab_size = 5000
    fingerprint = "words"

    def __init__(self):
        self.ids = {}
        self.n_encoded = 0

    @property
    def word_starts(self):
        starts = np.ones(self.vocab_size, bool)
        starts[[i for token, i in self.ids.items() if token.startswith("-")]] = False
        return starts

    def encode_batch(self, texts):
        self.n_encoded += len(texts)
        tokens = [[t for w in text.split() for t in w.replace("-", " -").split()] for text in texts]
        return [[self.ids.setdefault(token, len(self.ids) + 2) for token in row] for row in tokens]

    def text(self, ids):
        names = {i: token for token, i in self.ids.items()}
        return " ".join(names[int(i)] for i in ids)


def numbered(n, first=0, words=(2, 3, 9, 4, 1, 6)):
    """Sentences of different lengths, one a line; no word occurs twice."""
    counter, lines = first, []
    for i in range(n):
        size = words[i % len(words)] + 1
        lines.append(" ".join(f"W{counter + j}" for j in range(size)) + ".")
        counter += size
    return lines


def rows_of(batch):
    bounds = batch.canvas.offsets.tolist()
    return [batch.canvas.ids[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


def make(tmp_path, encoder=None, *, n=120, batch_tokens=64, max_tokens=24, seed=3, **more):
    (tmp_path / "a.txt").write_text("\n\n".join(numbered(n)))
    config = DataConfig(sources=[Source(path=str(tmp_path / "a.txt"))], max_tokens=max_tokens, window=4, **more)
    return Batches.open(config, encoder or Words(), batch_tokens=batch_tokens, seed=seed)


def epoch_of(batches, n=0):
    found = []
    while batches.epoch == n:
        found.append(next(batches))
    return found


# --- text into units ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paragraph", "want"),
    [
        ("It rained. We stayed in.", ["It rained.", "We stayed in."]),
        ("Mr. Smith met Dr. J. R. Jones. They ate.", ["Mr. Smith met Dr. J. R. Jones.", "They ate."]),
        ('"Why?" said he. "No reason." So they went.', ['"Why?" said he.', '"No reason."', "So they went."]),
        ("See vol. 2 and no. 7 now! Yes.", ["See vol. 2 and no. 7 now!", "Yes."]),
        ("It was I. He lied.", ["It was I.", "He lied."]),
        ("Pi is 3.14 today… or so. “Quite,” she said.", ["Pi is 3.14 today… or so.", "“Quite,” she said."]),
        ("The U.S. Navy came.", ["The U.S. Navy came."]),
        ("no end", ["no end"]),
        ("", [""]),
    ],
)
def test_sentences(paragraph, want):
    assert sentences(paragraph) == want


def test_long_runs_of_stops_take_no_time():
    text = "a" + "." * 200_000 + "b " + "! " * 50_000
    assert len(sentences(text)) == 1


def test_units():
    text = "One. Two.\nThree.\n \nFour."
    assert cut(text, "sentence") == ["One.", "Two.", "Three.", "Four."]
    assert cut(text, "paragraph") == ["One. Two.\nThree.", "Four."]
    assert cut(text, "line") == ["One. Two.", "Three.", "Four."]
    assert cut(text, "document") == [text]
    with pytest.raises(ValueError, match="'verse' is no unit · "):
        cut(text, "verse")


def test_normalise():
    assert normalise("“It’s—well…”", ("quotes",)) == '"It\'s--well..."'
    assert normalise(" a \n b\t", ("spaces",)) == "a b"
    assert normalise("“a”", ()) == "“a”"
    with pytest.raises(ValueError, match="'case' is no clean-up rule · "):
        normalise("a", ("case",))


# --- files into parts --------------------------------------------------------------------


def test_every_format_gives_the_same_texts(tmp_path):
    texts = ["One two three.", "Vier fünf.", "Six seven."]
    (tmp_path / "a.txt").write_text("\ufeff" + "\r\n".join(texts), encoding="utf-8", newline="")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"id": 1, "text": t}) for t in texts) + "\n\n")
    (tmp_path / "plain.tsv").write_text("\n".join(f"{i}\t{t}" for i, t in enumerate(texts)))
    (tmp_path / "head.tsv").write_text("\n".join(["n\ttext", *(f"{i}\t{t}" for i, t in enumerate(texts))]))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("\n".join(texts).encode()))
    (tmp_path / "text").write_text("\n".join(texts))
    for name, more in [
        ("a.txt", {}),
        ("a.jsonl", {}),
        ("plain.tsv", {"column": 1}),
        ("head.tsv", {}),
        ("a.txt.gz", {}),
    ]:
        for unit in ("line", "sentence", "paragraph"):
            assert list(Source(path=str(tmp_path / name), unit=unit, **more).texts()) == texts, (name, unit)
    assert list(Source(path=str(tmp_path / "text")).texts()) == texts
    assert list(Source(path=str(tmp_path / "text"), unit="document").texts()) == ["\n".join(texts)]


def test_parquet(tmp_path):
    pytest.importorskip("datasets")
    import pyarrow
    import pyarrow.parquet

    texts = [f"Row {i}." for i in range(10)]
    pyarrow.parquet.write_table(pyarrow.table({"body": texts, "n": list(range(10))}), tmp_path / "a.parquet")
    source = Source(path=str(tmp_path / "a.parquet"), column="body", hold_out=HoldOut(last=0.3))
    assert list(source.texts()) == texts[:7]
    assert list(source.texts("held_out")) == texts[7:]
    with pytest.raises(ValueError, match=r"no column 'text' · its columns are body, n · choose one with column="):
        list(Source(path=str(tmp_path / "a.parquet")).texts())
    (tmp_path / "b.parquet").write_text("not at all")
    with pytest.raises(ValueError, match=r"b.parquet is broken · .* · write it again"):
        list(Source(path=str(tmp_path / "b.parquet")).texts())
    whole = bytearray((tmp_path / "a.parquet").read_bytes())
    whole[4:40] = bytes(36)  # the first page, where nothing looks before it is read
    (tmp_path / "c.parquet").write_bytes(whole)
    with pytest.raises(ValueError, match=r"c.parquet cannot be read on from row 0 · .* · fetch or write it again"):
        list(Source(path=str(tmp_path / "c.parquet"), column="body").texts())


def test_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.md", "sub/c.txt", "skip.csv", "verses.tgt"):
        (tmp_path / name).write_text(f"Text of {name}")
    names = lambda **more: [f.name for f in Source(path=str(tmp_path), **more).files()]  # noqa: E731
    assert names() == ["a.md", "b.txt", "c.txt"]
    assert names(include=["*.tgt"]) == ["verses.tgt"]
    assert names(exclude=["sub/*", "a*"]) == ["b.txt"]
    with pytest.raises(ValueError, match=r"gives no file · looked for \*\.doc · "):
        names(include=["*.doc"])


@pytest.mark.parametrize("listed", [True, False])
def test_manifest(tmp_path, listed):
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("Some text.")
    if listed:
        entries = [
            {"repo": "there/a", "free": True, "title": "b"},
            {"repo": "there/b", "free": False},
            {"repo": "there/c"},
        ]
    else:
        entries = {"a.txt": {"free": True}, "b.txt": {"free": False}, "c.txt": {}}
    (tmp_path / "M.json").write_text(json.dumps(entries))
    name = "repo" if listed else None
    source = lambda **more: Source(path=str(tmp_path), include_manifest=Manifest(**{"file": "M.json"} | more))  # noqa: E731
    assert [f.name for f in source(key="free", name=name).files()] == ["a.txt"]
    with pytest.raises(ValueError, match=r"has no key 'fre' · its keys are .*free.* · choose"):
        source(key="fre").files()
    with pytest.raises(ValueError, match=r"no manifest .*N.json · .* · mend the name"):
        source(key="free", file="N.json").files()
    (tmp_path / "M.json").write_text("[{")
    with pytest.raises(ValueError, match=r"M.json is not JSON · .* · mend it"):
        source(key="free").files()
    for odd in ("[1, 2]", "3", '{"a.txt": true}', "null", '"free"', "[[]]"):
        (tmp_path / "M.json").write_text(odd)
        with pytest.raises(ValueError, match=r"M.json is no manifest · .* · it is a list of entries"):
            source(key="free").files()
    for odd in ("[" * 100_000, "7" * 5000):
        (tmp_path / "M.json").write_text(odd)
        with pytest.raises(ValueError, match=r"M.json is not JSON · .* · mend it"):
            source(key="free").files()
    (tmp_path / "M.json").write_text('[{"repo": "x", "free": true}]')
    with pytest.raises(ValueError, match=r"lets no file in · 'free' is true for none of 3 · check"):
        source(key="free").files()


def test_hold_out_parts_are_disjoint_complete_and_stable(tmp_path):
    lines = numbered(200)
    (tmp_path / "a.txt").write_text("\n".join(lines[:100]))
    (tmp_path / "b.txt").write_text("\n".join(lines[100:]))
    for rule in ({"every": 20}, {"last": 0.1}, {"hash": 5}, {"files": ["b*"]}, {"every": 7, "hash": 9}):
        source = Source(path=str(tmp_path), unit="line", hold_out=HoldOut(**rule))
        train, held = list(source.texts()), list(source.texts("held_out"))
        assert sorted(train + held) == sorted(lines), rule
        assert not set(train) & set(held), rule
        assert held and train, rule
        assert held == list(source.texts("held_out"))
    held = lambda **rule: list(Source(path=str(tmp_path), unit="line", hold_out=HoldOut(**rule)).texts("held_out"))  # noqa: E731
    assert held(every=20) == lines[19::20]
    assert held(files=["b.txt"]) == lines[100:]
    for part in (lines[:100], lines[100:]):  # the last tenth of each file, by bytes
        of_file = [line for line in held(last=0.1) if line in part]
        assert of_file == part[-len(of_file) :]
        assert 0.05 < sum(map(len, of_file)) / sum(map(len, part)) < 0.12
    by_hash = held(hash=5)
    (tmp_path / "a.txt").write_text("\n".join(["A new line.", *reversed(lines[:100])]))  # the hash asks for no place
    assert set(held(hash=5)) - {"A new line."} == set(by_hash)


def test_a_gap_left_by_the_hold_out_ends_a_document(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(["A b. C d.", "E f.", "G h.", "I j."]))
    source = Source(path=str(tmp_path / "a.txt"), hold_out=HoldOut(every=3))
    assert list(source.parts()) == [
        (False, False, "A b."),
        (False, True, "C d."),
        (False, True, "E f."),
        (True, False, "G h."),
        (False, False, "I j."),
    ]


def test_sources_are_checked_without_torch():
    code = "import sys, unmask.data.sources; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_distinct(tmp_path):
    (tmp_path / "a.txt").write_text("A b. C d. A b. E f.\n\nC d.")
    source = Source(path=str(tmp_path / "a.txt"), distinct=True)
    assert list(source.parts()) == [(False, False, "A b."), (False, True, "C d."), (False, False, "E f.")]
    assert len(list(Source(path=str(tmp_path / "a.txt")).parts())) == 5


def test_the_default_recipe_names_its_data():
    yaml = pytest.importorskip("yaml")
    recipe = yaml.safe_load((files("unmask.recipes") / "default.yaml").read_text(encoding="utf-8"))
    config = DataConfig.model_validate(recipe["data"])
    with pytest.raises(ValueError, match="give data.folder="):
        next(config.texts())


def test_short_forms_of_the_config(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(numbered(40)))
    config = DataConfig.model_validate(str(tmp_path / "a.txt"))
    assert config.sources[0].hold_out.last == 0.05
    assert list(config.texts("held_out")) and len(list(config.texts())) > 30
    assert DataConfig.model_validate("org/name").sources[0].hold_out.hash == 50
    assert list(DataConfig(folder=str(tmp_path), sources=[{"path": "a.txt"}]).texts()) == numbered(40)
    with pytest.raises(ValidationError, match="extra"):
        DataConfig.model_validate({"sources": [{"path": "x", "colum": "text"}]})
    with pytest.raises(ValidationError, match=r"two sources are called 'x' · .* · give them name:"):
        DataConfig.model_validate([{"path": "x"}, {"path": "y/x.txt"}])
    with pytest.raises(ValidationError, match=r"are no shares · "):
        DataConfig(sources=[{"path": "x"}], lengths={"single": 0.0})
    with pytest.raises(ValueError, match=r"no source is called 'b' · there are a · choose"):
        config.texts(source="b")


# --- faults ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "more", "message"),
    [
        ("a.txt", b"", {}, r"a.txt holds no text · .* · remove it"),
        ("a.txt", b" \n\n ", {}, r"a.txt holds no text · .* · remove it"),
        ("a.txt", b"good\nbad \xe9t\xe9\n", {}, r"is not UTF-8 · byte 0xe9 at offset 9 \(line 2\) · convert it"),
        ("a.txt.gz", b"\x1f\x8bno", {}, r"cannot be unpacked · .* · copy or pack it again"),
        ("a.txt.gz", gzip.compress(b"ab" * 99, mtime=0)[:-12], {}, r"cannot be unpacked · .* · copy or pack it again"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "y"\n', {}, r"a.jsonl, line 2 is not JSON · .* at column 13 · mend"),
        ("a.jsonl", b"[" * 100_000, {}, r"a.jsonl, line 1 cannot be read as JSON · .*recursion.* · mend or remove"),
        ("a.jsonl", b'{"n": ' + b"7" * 5000 + b"}", {}, r"line 1 cannot be read as JSON · Exceeds the limit .* · mend"),
        ("a.jsonl", b'"x"\n', {}, r"a.jsonl, line 1 is no JSON object · .* · mend it"),
        ("a.jsonl", b'{"body": "x", "n": 1}\n', {}, r"line 1 has no column 'text' · its columns are body, n · choose"),
        ("a.jsonl", b'{"text": 7}\n', {}, r"line 1: 'text' is 7, not text · "),
        ("a.jsonl", b'{"text": "\\ud800"}\n', {}, r"line 1: 'text' is not Unicode text · "),
        ("a.tsv", b"one\ttwo\n1\t2\n", {}, r"line 1 has no column 'text' · its columns are one, two · "),
        ("a.tsv", b"one\ttwo\nx\n", {"column": 1}, r"line 2 has no column '1' · its columns are 0 · "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("measured", [True, False])
def test_broken_files(tmp_path, name, content, more, message, measured):
    (tmp_path / name).write_bytes(content)
    hold_out = HoldOut(last=0.5) if measured else HoldOut()
    Source.of(str(tmp_path / name))  # who only looks what it is leaves faults to who reads it
    with pytest.raises(ValueError, match=message):
        list(Source(path=str(tmp_path / name), hold_out=hold_out, **more).texts())


def test_missing_paths_name_the_nearest(tmp_path):
    (tmp_path / "novels.txt").write_text("Text.")
    with pytest.raises(ValueError, match=r"no file or folder .*novel.txt · did you mean .*novels.txt\? · check"):
        Source(path=str(tmp_path / "novel.txt")).files()
    with pytest.raises(ValueError, match=r"no file or folder .* · .* holds nothing of a like name · check"):
        Source(path=str(tmp_path / "zzz" / "qqq.txt")).files()
    with pytest.raises(ValueError, match=r"\$\{data\} is not filled in · .* · give data.folder="):
        DataConfig(folder="${data}", sources=[{"path": "books"}]).placed()[0].files()


def test_nothing_left_to_train_on(tmp_path):
    (tmp_path / "a.txt").write_text("Word.\n\nOther.")
    with pytest.raises(ValueError, match=r"leaves nothing to train on · .* · ease hold_out"):
        tokenise(Source(path=str(tmp_path / "a.txt")), Words(), 24)


def test_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for path in ("org/name", str(tmp_path / "a.parquet")):
        (tmp_path / "a.parquet").write_bytes(b"PAR1")
        with pytest.raises(ValueError, match=r"is read through `datasets` · .* · pip install 'unmask\[train\]'"):
            list(Source(path=path).texts())


# --- the Hub, without a network ----------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []
    texts = [{"text": line, "n": i} for i, line in enumerate(numbered(50))]

    def load_dataset(path, config=None, *, split, streaming):
        asked.append((path, config, split, streaming))
        if path == "org/none":
            raise datasets.exceptions.DatasetNotFoundError("Dataset 'org/none' doesn't exist on the Hub\nmore")
        table = datasets.Dataset.from_list(texts)
        return table.to_iterable_dataset() if streaming else table

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize("streaming", [True, False])
def test_hub(hub, streaming):
    source = Source(path="org/name", config="en", split="dev", streaming=streaming, hold_out=HoldOut(every=10))
    assert list(source.texts("held_out")) == numbered(50)[9::10]
    assert hub == [("org/name", "en", "dev", streaming)]
    with pytest.raises(ValueError, match=r"has no column 'body' · its columns are text, n · "):
        list(Source(path="org/name", column="body", streaming=streaming).texts())
    with pytest.raises(
        ValueError,
        match=r"org/none cannot be opened · Dataset 'org/none' doesn't exist .* · no local file has this name; check",
    ):
        list(Source(path="org/none").texts())
    with pytest.raises(ValueError, match=r"hold_out by last or files needs local files · use hash or every"):
        list(Source(path="org/name", hold_out=HoldOut(last=0.1)).texts())


@pytest.mark.parametrize("path", ["org/name", None])
def test_stream_is_taken_shard_by_shard_and_resumes(hub, tmp_path, path):
    (tmp_path / "a.txt").write_text("\n".join(numbered(50)))
    source = Source(path=path or str(tmp_path / "a.txt"), unit="line", streaming=True, shard_records=20)
    config = DataConfig(sources=[source], max_tokens=16, lengths={"single": 1})
    encoder = Words()
    batches = Batches.open(config, encoder, batch_tokens=64)
    shards = [Counter(encoder.text(row[1:-1]) for b in epoch_of(batches, e) for row in rows_of(b)) for e in range(4)]
    lines = [line for line in numbered(50) if " " in line]
    assert shards[0] + shards[1] + shards[2] == Counter(lines)
    assert shards[3] == shards[0]  # begun anew
    assert shards[1] == Counter(line for line in numbered(50)[20:40] if " " in line)
    again = Batches.open(config, encoder, batch_tokens=64)
    again.load_state_dict(batches.state_dict())
    assert same(next(again), next(batches))
    with pytest.raises(ValueError, match=r"epochs of .* cannot be counted · it is streaming · give the budget in"):
        batches.n_steps()


def test_stream_without_text_to_train_on(tmp_path):
    (tmp_path / "a.txt").write_text("One.\nTwo.\nThree four.")
    source = Source(path=str(tmp_path / "a.txt"), streaming=True, shard_records=1)
    with pytest.raises(ValueError, match=r"leaves nothing to train on · in records 0 to 1 .* · ease hold_out or raise"):
        Stream(source, Words(), 16).shard(0)


# --- corpora -----------------------------------------------------------------------------


def test_long_units_are_cut_at_word_starts(tmp_path):
    text = "a b-c-d e f-g h i j-k l m n\n\no p\n\n" + "q" + "-r" * 19
    (tmp_path / "a.txt").write_text(text)
    encoder = Words()
    encoder.encode_batch([text])
    corpus, held = tokenise(Source(path=str(tmp_path / "a.txt"), unit="paragraph"), encoder, 7)
    pieces = [encoder.text(corpus.ids[a:b]) for a, b in zip(corpus.offsets, corpus.offsets[1:], strict=False)]
    assert " ".join(pieces[:4]) == "a b -c -d e f -g h i j -k l m n o p"
    assert not any(piece.startswith("-") for piece in pieces[:4])
    assert corpus.offsets[-1] == corpus.n_tokens and max(np.diff(corpus.offsets)) <= 5
    assert corpus.first.tolist() == [True] + [False] * (corpus.n_units - 1)
    assert held.n_units == 0


@pytest.mark.parametrize(
    "lengths", [{"single": 1}, {"uniform": 1}, {"full": 1}, {"single": 0.5, "uniform": 0.3, "full": 0.2}]
)
def test_rows_share_out_all_units(tmp_path, lengths):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("\n\n".join(numbered(50, first=1000 * ord(name))))
    corpus, _ = tokenise(Source(path=str(tmp_path)), Words(), 32)
    starts, sizes = corpus.rows(lengths, 30, (1, 2))
    assert (
        starts[0] == 0 and (starts[1:] == starts[:-1] + sizes[:-1]).all() and starts[-1] + sizes[-1] == corpus.n_tokens
    )
    assert set(starts) <= set(corpus.offsets) and sizes.max() <= 30
    assert set(corpus.offsets[:-1][corpus.first]) <= set(starts)  # no row reaches into the next document
    if lengths == {"single": 1}:
        assert len(starts) == corpus.n_units
    if lengths == {"full": 1}:
        assert sizes.mean() > 24
    again, other = corpus.rows(lengths, 30, (1, 2)), corpus.rows(lengths, 30, (1, 3))
    assert (again[0] == starts).all()
    assert ("uniform" not in lengths) or len(other[0]) != len(starts) or (other[0] != starts).any()


def test_some_rows_are_cropped_to_any_length(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(numbered(4000)))
    corpus, _ = tokenise(Source(path=str(tmp_path / "a.txt")), Words(), 42)
    whole, cut = (corpus.rows(lengths, 40, (1, 2)) for lengths in ({"full": 1}, {"cropped": 1}))
    assert (whole[0] == cut[0]).all() and (cut[1] <= whole[1]).all()
    drawn = cut[1][cut[1] < whole[1]]
    assert len(drawn) > 0.6 * len(cut[1])
    assert np.bincount(drawn, minlength=31)[1:31].min() > 0  # all lengths come up, also in the middle of a unit
    some = corpus.rows({"full": 0.9, "cropped": 0.1}, 40, (1, 2))
    assert 0.05 < (some[1] < whole[1]).mean() < 0.15


def test_no_row_of_a_batch_crosses_a_border_of_documents(tmp_path):
    encoder = Words()
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text("\n\n".join(numbered(30, first=1000 * number)))
    config = DataConfig(sources=[Source(path=str(tmp_path))], max_tokens=40, lengths={"full": 1})
    for batch in epoch_of(Batches.open(config, encoder, batch_tokens=120)):
        for row in rows_of(batch):  # a row is all that its tokens see
            assert len({int(word[1:].rstrip(".")) // 1000 for word in encoder.text(row[1:-1]).split()}) == 1


def test_cache(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(numbered(60)))
    source, encoder = Source(path=str(tmp_path / "a.txt"), hold_out=HoldOut(every=5)), Words()
    plain = tokenise(source, encoder, 16)
    first = tokenise(source, encoder, 16, tmp_path / "cache")
    seen = encoder.n_encoded
    second = tokenise(source.model_copy(update={"weight": 0.5}), encoder, 16, tmp_path / "cache")
    assert encoder.n_encoded == seen and second[0].weight == 0.5
    for a, b, c in zip(plain, first, second, strict=True):
        for name in ("ids", "offsets", "first"):
            assert np.array_equal(getattr(a, name), getattr(b, name)) and np.array_equal(
                getattr(a, name), getattr(c, name)
            )
        assert a.key == b.key == c.key and a.ids.dtype == b.ids.dtype == np.uint16
    assert len(list((tmp_path / "cache").iterdir())) == 1  # nothing half made stays behind
    tokenise(source, encoder, 17, tmp_path / "cache")
    (tmp_path / "a.txt").write_text("\n\n".join(numbered(61)))
    tokenise(source, encoder, 16, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 3 and encoder.n_encoded > seen


def test_the_cache_knows_a_text_by_what_it_holds(tmp_path):
    texts = ["\n".join(f"{word} one two." for _ in range(40)) for word in ("Ab", "Cd")]
    kept, encoder = [], Words()
    for name, text in zip("ab", texts, strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.txt").write_text(text)
        os.utime(tmp_path / name / "same.txt", (1e9, 1e9))
        kept.append(tokenise(Source(path=str(tmp_path / name / "same.txt")), encoder, 16, tmp_path / "cache")[0])
    assert kept[0].key != kept[1].key and not np.array_equal(kept[0].ids, kept[1].ids)
    n_encoded = encoder.n_encoded
    (tmp_path / "a" / "same.txt").rename(tmp_path / "moved.txt")
    assert tokenise(Source(path=str(tmp_path / "moved.txt")), encoder, 16, tmp_path / "cache")[0].key == kept[0].key
    assert encoder.n_encoded == n_encoded


def test_a_large_file_is_known_by_samples_from_its_beginning_to_its_end(tmp_path):
    file, size = tmp_path / "a.txt", 1 << 21
    whole = bytes(size)
    found = set()
    for at in (None, 0, size * 7 // 15, size - 1):
        file.write_bytes(whole if at is None else whole[:at] + b"x" + whole[at + 1 :])
        found.add(cache_key(Source(path=str(file)), [file], "words", 16, times=False))
    assert len(found) == 4


def test_a_stream_of_files_is_known_by_what_they_hold(tmp_path):
    def stream(name, text):
        (tmp_path / name).write_text(text)
        return Stream(Source(path=str(tmp_path / name), streaming=True), Words(), 16)

    first = stream("a.txt", "One two.\nThree four.").key
    assert stream("b.txt", "One two.\nThree four.").key == stream("a.txt", "One two.\nThree four.").key == first
    assert stream("a.txt", "One two.\nThree five.").key != first
    assert stream("a.tsv", "One two.\nThree four.").key != first  # another reading of the same


def test_two_builds_at_once_share_one_cache(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(numbered(10)))
    source = Source(path=str(tmp_path / "a.txt"))

    class Slow(Words):
        def encode_batch(self, texts):
            tokenise(source, Words(), 16, tmp_path / "cache")  # another process comes first
            return super().encode_batch(texts)

    corpus, _ = tokenise(source, Slow(), 16, tmp_path / "cache")
    assert corpus.n_tokens > 10 and len(list((tmp_path / "cache").iterdir())) == 1


def test_a_failed_build_leaves_no_cache(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"Good text here.\n\nBad \xff\n")
    with pytest.raises(ValueError, match="UTF-8"):
        tokenise(Source(path=str(tmp_path / "a.txt")), Words(), 16, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


# --- batches -----------------------------------------------------------------------------


def test_every_token_once_an_epoch(tmp_path):
    encoder = Words()
    batches = make(tmp_path, encoder)
    corpus = batches.train[0]
    assert batches.n_steps() > 4 and batches.n_tokens() == corpus.n_tokens
    orders = []
    for epoch in range(2):
        drawn = epoch_of(batches, epoch)
        rows = [row for batch in drawn for row in rows_of(batch)]
        assert all(row[0] == START and row[-1] == END for row in rows)
        tokens = torch.cat([row[1:-1] for row in rows])
        assert sorted(tokens.tolist()) == sorted(corpus.ids.tolist())
        assert all(batch.canvas.n_elements <= 64 for batch in drawn)
        orders.append(tokens.tolist())
        if epoch == 0:
            assert len(drawn) == batches.n_steps()
    assert orders[0] != orders[1]
    assert batches.n_steps(2) == batches.step


def test_what_a_batch_is(tmp_path):
    batch = next(make(tmp_path))
    canvas = batch.canvas
    scaffold = canvas.role == Role.SCAFFOLD
    assert (scaffold == ((canvas.ids == START) | (canvas.ids == END))).all()
    assert (canvas.fixed == scaffold).all() and (canvas.role[~scaffold] == Role.TEXT).all()
    assert canvas.ids.dtype == torch.int64 and batch.row_ids.dtype == torch.int64
    assert len(batch.row_ids) == canvas.n_rows == len(batch.source)
    assert (canvas.lengths.diff() >= 0).all()  # alike in length, shortest first


def test_lengths_within_a_batch_are_alike(tmp_path):
    drawn = epoch_of(make(tmp_path, n=600, batch_tokens=128, lengths={"single": 1}))
    inside = np.mean([b.canvas.lengths.double().std(correction=0) for b in drawn])
    overall = torch.cat([b.canvas.lengths for b in drawn]).double().std(correction=0)
    assert inside < 0.5 * overall
    means = [float(b.canvas.lengths.double().mean()) for b in drawn]
    assert means != sorted(means)


@pytest.mark.parametrize("words", [(2, 3, 9, 4, 1, 6), (20, 1)])
def test_a_window_of_one_batch_is_filled_with_rows_of_all_lengths(tmp_path, words):
    (tmp_path / "a.txt").write_text("\n".join(numbered(600, words=words)))
    source = Source(path=str(tmp_path / "a.txt"), unit="line")
    config = DataConfig(sources=[source], max_tokens=24, window=1, lengths={"single": 1})
    batches = Batches.open(config, Words(), batch_tokens=256)
    drawn = epoch_of(batches)
    sizes = [batch.canvas.n_elements for batch in drawn]
    assert max(sizes) <= 256 and np.mean(sizes[:-1]) > 0.93 * 256
    assert len(drawn) == batches.n_steps()
    lengths = torch.cat([batch.canvas.lengths for batch in drawn]).double()
    inside = np.mean([batch.canvas.lengths.double().std(correction=0) for batch in drawn[:-1]])
    assert len(lengths) == 600 and inside > 0.85 * lengths.std(correction=0)


def rows_and_lengths(batches, epoch):
    """The rows of each batch of an epoch, and their mean length."""
    drawn = epoch_of(batches, epoch)
    rows = [frozenset(tuple(row.tolist()) for row in rows_of(batch)) for batch in drawn]
    return rows, [float(batch.canvas.lengths.double().mean()) for batch in drawn]


def test_rows_meet_others_from_all_over_the_text_in_each_epoch(tmp_path):
    batches = make(tmp_path, n=600, lengths={"single": 1})
    (first, _), (second, _) = (rows_and_lengths(batches, epoch) for epoch in (0, 1))
    n = len(set().union(*first))
    for some in (first, second):
        last = max(id for rows in some for row in rows for id in row)
        early = [id for rows in some[:4] for row in rows for id in row[1:-1]]  # of the first window
        assert min(early) < 0.2 * last and max(early) > 0.8 * last
    assert n == len(set().union(*second)) == 600
    assert len(set(first) & set(second)) < 0.1 * len(first)


def test_batches_of_all_lengths_come_in_another_order_in_each_window(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(numbered(400, words=range(1, 21))))
    source = Source(path=str(tmp_path / "a.txt"), unit="line")
    for window in (64, 8):
        config = DataConfig(sources=[source], max_tokens=24, window=window, lengths={"single": 1})
        batches = Batches.open(config, Words(), batch_tokens=256)
        orders = []
        for epoch in range(2 if window == 64 else 1):
            means = rows_and_lengths(batches, epoch)[1]
            size = len(means) if window == 64 else 8
            orders += [np.argsort(means[at : at + 8]).tolist() for at in range(0, len(means) - size + 1, size)]
        assert len(orders) > 1 and len({tuple(one) for one in orders}) == len(orders)


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_rows_are_cut_otherwise_in_each_pass(tmp_path, weight):
    (tmp_path / "a.txt").write_text("\n\n".join(numbered(200)))
    source = Source(path=str(tmp_path / "a.txt"), weight=weight)
    config = DataConfig(sources=[source], max_tokens=40, lengths={"uniform": 1})
    batches = Batches.open(config, Words(), batch_tokens=80)
    passes = Counter(row for epoch in range(2) for rows in rows_and_lengths(batches, epoch)[0] for row in rows)
    assert sum(passes.values()) > 50 * weight
    assert sum(n > 1 for n in passes.values()) < 0.7 * len(passes)


def test_row_ids_never_repeat(tmp_path):
    batches = make(tmp_path)
    ids = torch.cat([b.row_ids for b in epoch_of(batches, 0) + epoch_of(batches, 1)])
    assert len(ids.unique()) == len(ids)


def same(a, b):
    return (
        torch.equal(a.canvas.ids, b.canvas.ids)
        and torch.equal(a.canvas.offsets, b.canvas.offsets)
        and torch.equal(a.row_ids, b.row_ids)
        and torch.equal(a.source, b.source)
    )


def test_resume_at_any_step(tmp_path):
    batches = make(tmp_path, n=60)
    n = batches.n_steps(2) + 3
    states, drawn = [], []
    for _ in range(n):
        states.append(json.loads(json.dumps(batches.state_dict())))
        drawn.append(next(batches))
    for step in range(n):
        again = make(tmp_path, n=60)
        again.load_state_dict(states[step])
        assert again.step == step
        assert same(next(again), drawn[step])
        if step + 1 < n:
            assert same(next(again), drawn[step + 1])
    backwards = make(tmp_path, n=60)
    for step in (n - 1, 2, 0):
        backwards.load_state_dict(states[step])
        assert same(next(backwards), drawn[step])


def test_seeds_differ_and_repeat(tmp_path):
    a, b, c = (make(tmp_path, seed=seed) for seed in (1, 1, 2))
    first, again, other = next(a), next(b), next(c)
    assert same(first, again) and not same(first, other)


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"batch_tokens": 65}, {"max_tokens": 25}, {"n": 121}, {"lengths": {"full": 1}}]
)
def test_state_of_other_batches_is_refused(tmp_path, change):
    state = make(tmp_path).state_dict()
    with pytest.raises(
        ValueError, match=r"the data cannot go on where they stood · .* was .*, now .* · use the run's own"
    ):
        make(tmp_path, **change).load_state_dict(state)


@pytest.mark.parametrize(("world", "n_micro"), [(1, 3), (2, 1), (3, 2), (4, 40)])
def test_ranks_and_micro_batches_are_splits_of_one_batch(tmp_path, world, n_micro):
    whole = make(tmp_path)
    ranks = [make(tmp_path) for _ in range(world)]
    for _ in range(12):
        batch = next(whole)
        parts = [part for rank, own in enumerate(ranks) for part in own.micro_batches(rank, world, n_micro)]
        assert len(parts) == world * n_micro
        assert torch.equal(torch.cat([p.row_ids for p in parts]), batch.row_ids)
        assert torch.equal(torch.cat([p.canvas.ids for p in parts]), batch.canvas.ids)
        sizes = [p.canvas.n_elements for p in parts]
        if batch.canvas.n_rows >= len(parts):
            assert min(sizes) > 0
            assert max(sizes) - min(sizes) <= 2 * int(batch.canvas.lengths.max())


def test_weights(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("\n".join(numbered(30, first=1000 * ord(name), words=(3, 5))))
    weights = {"a": 1.0, "b": 0.5, "c": 2.5}
    config = DataConfig(
        sources=[Source(path=str(tmp_path / f"{n}.txt"), unit="line", weight=w) for n, w in weights.items()],
        max_tokens=16,
    )
    batches = Batches.open(config, Words(), batch_tokens=64)
    assert batches.sources == ["a", "b", "c"]
    rows = Counter()
    for epoch in range(4):
        drawn = epoch_of(batches, epoch)
        n = Counter(torch.cat([b.source for b in drawn]).tolist())
        assert n == {0: 30, 1: 15, 2: 75}
        for batch in drawn:
            rows.update((k, tuple(row.tolist())) for k, row in zip(batch.source.tolist(), rows_of(batch), strict=True))
    times = {k: {n for (source, _), n in rows.items() if source == k} for k in range(3)}
    assert times == {0: {4}, 1: {2}, 2: {10}}  # over whole passes every row comes up as often as every other


def test_small_weights_skip_epochs(tmp_path):
    (tmp_path / "a.txt").write_text("One two.\nThree four.")
    source = Source(path=str(tmp_path / "a.txt"), unit="line", weight=0.2)
    batches = Batches.open(DataConfig(sources=[source], max_tokens=16), Words(), batch_tokens=16)
    rows = []
    while len(rows) < 4:
        rows += [tuple(r.tolist()) for r in rows_of(next(batches))]
    assert len(set(rows)) == 2 and batches.epoch > 5


def test_held_out(tmp_path):
    lines = numbered(60)
    (tmp_path / "a.txt").write_text("\n".join(lines))
    (tmp_path / "b.txt").write_text("\n".join(numbered(10, first=2000)))
    sources = [
        Source(path=str(tmp_path / "b.txt")),
        Source(path=str(tmp_path / "a.txt"), unit="line", hold_out=HoldOut(every=2)),
    ]
    config = DataConfig(sources=sources, max_tokens=16)
    encoder = Words()
    batches = Batches.open(config, encoder, batch_tokens=64, seed=1)
    held = list(batches.held_out(32))
    other = list(Batches.open(config, Words(), batch_tokens=64, seed=2).held_out(32))
    assert all(same(a, b) for a, b in zip(held, other, strict=True))
    texts = [encoder.text(row[1:-1]) for batch in held for row in rows_of(batch)]
    assert sorted(texts) == sorted(t for t in config.texts("held_out") if " " in t)
    assert {batches.sources[k] for batch in held for k in batch.source.tolist()} == {"a"}
    assert all(batch.canvas.n_elements <= 32 for batch in held)
    assert len(list(batches.held_out(32, source="a"))) == len(held)
    some = list(batches.held_out(32, limit=60))
    assert 40 < sum(b.canvas.n_elements for b in some) <= 60
    with pytest.raises(ValueError, match=r"nothing is held out of b · parts: a · give hold_out"):
        next(batches.held_out(source="b"))


def test_nothing_to_draw_from_or_too_small_a_batch(tmp_path):
    with pytest.raises(ValueError, match=r"no data to train on · "):
        Batches([], start=0, end=1, batch_tokens=64, max_tokens=16)
    with pytest.raises(
        ValueError, match=r"batch_tokens 16 is less than a row of max_tokens 24 · raise batch_tokens or lower"
    ):
        make(tmp_path, batch_tokens=16)


GOLDEN = 12035550249420947055  # of the first release; another value would break the resume of every run


def test_draws_are_fixed_for_ever():
    assert draws(3, 1, 2).tolist() == draws(2, 1, 2).tolist() + [draws(3, 1, 2).tolist()[2]]
    assert draws(2, 1, 2).tolist() != draws(2, 2, 1).tolist()
    assert sorted(order(50, 4).tolist()) == list(range(50))
    assert abs(uniform(draws(20_000, 9)).mean() - 0.5) < 0.01
    assert draws(1, 0).tolist() == [GOLDEN]


def test_with_the_real_tokenizer(tmp_path):
    words = "one two three four five six seven eight nine ten".split()
    lines = [" ".join(words[(i * k) % 10] for k in range(1, 4 + i % 9)).capitalize() + "." for i in range(150)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    config = DataConfig(
        sources=[Source(path=str(tmp_path / "a.txt"), unit="line")], max_tokens=40, lengths={"single": 1}
    )
    tokenizer = Tokenizer.train(config.texts(), vocab_size=320)
    batches = Batches.open(config, tokenizer, batch_tokens=256, cache=tmp_path / "cache")
    texts = [tokenizer.decode(row[1:-1]) for batch in epoch_of(batches) for row in rows_of(batch)]
    assert Counter(texts) == Counter(lines)
    short = DataConfig(sources=config.sources, max_tokens=10, lengths={"single": 1})
    pieces = tokenise(short.sources[0], tokenizer, 10)[0]
    begins = pieces.ids[pieces.offsets[:-1]]
    assert pieces.n_units > 150 and tokenizer.word_starts[begins].mean() > 0.95
