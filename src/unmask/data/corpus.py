"""A corpus is a source tokenised once: units end to end in one flat array, so that any run of units is one slice."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from unmask.data.dialogues import encode, too_long
from unmask.data.draws import draws, uniform
from unmask.data.keys import cache_key
from unmask.data.sources import Source

CHUNK = 2_048  # units encoded at a time
KEPT = {"keys": "key", "left_out": "left_out"}  # of both parts of a corpus, beside its arrays

Ints = NDArray[np.int64]


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """How many ids."""

    @property
    def signs(self) -> dict[str, int]:
        """Ids of `start` and `end`, among others."""

    @property
    def fingerprint(self) -> str:
        """Changes when any text would be encoded otherwise."""

    @property
    def word_starts(self) -> NDArray[np.bool_]:
        """Which ids begin a word, `[V]`."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without start and end."""


@dataclass(frozen=True)
class Corpus:
    """Units of one part of a source: unit `u` is `ids[offsets[u]:offsets[u + 1]]`."""

    name: str
    ids: NDArray[Any]  # [T] uint16 or int32, perhaps on disk
    offsets: Ints  # [U + 1]
    first: NDArray[np.bool_]  # [U], the unit begins a document; any other goes on where the one before it stopped
    weight: float = 1.0
    key: str = ""  # says what it holds
    answers: Ints | None = None  # [A, 2], begin and end of each answer in the ids, where units are dialogues
    left_out: int = 0  # dialogues that are no units: no answer of theirs ends within a row

    @property
    def n_units(self) -> int:
        """How many units."""
        return len(self.first)

    @property
    def n_tokens(self) -> int:
        """How many tokens."""
        return len(self.ids)

    def rows(self, lengths: Mapping[str, float], limit: int, seed: Sequence[int]) -> tuple[Ints, Ints]:
        """Share out all units among rows: each unit lies in exactly one row, each row within one document.

        Every row draws a kind: `single` (one unit), `uniform` (consecutive units, at least one, up to a length drawn
        from 1 to `limit`), `full` (up to `limit`) or `cropped` (the same, cut off at a length drawn from 1 to `limit`;
        what is cut off is not seen in this pass).

        Args:
            lengths: Shares of the kinds, of rows.
            limit: Most tokens a row.
            seed: Words that fix the draw.

        Returns:
            The first token of each row and its length, `[R]` each, in the order of the text.
        """
        n = self.n_units
        if n == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        # As if a row began at each unit: where would it stop? Then only the chain from unit 0 is kept.
        room = np.full(n, limit, np.int64)
        shares = np.array([lengths.get(kind, 0.0) for kind in ("single", "uniform", "full", "cropped")])
        kind = np.searchsorted(np.cumsum(shares / shares.sum())[:-1], uniform(draws(n, *seed, 0)), side="right")
        drawn = 1 + (uniform(draws(n, *seed, 1)) * limit).astype(np.int64)
        room = np.where(kind == 0, 0, np.where(kind == 1, drawn, room))
        after = np.searchsorted(self.offsets, self.offsets[:-1] + room, side="right") - 1
        bounds = np.append(np.flatnonzero(self.first), n)
        document_end = bounds[np.searchsorted(bounds[:-1], np.arange(n), side="right")]
        begins = _chain(np.append(np.clip(after, np.arange(n) + 1, document_end), n))
        starts = self.offsets[begins]
        sizes = np.diff(np.append(starts, self.offsets[-1]))
        return starts, np.where(kind[begins] == 3, np.minimum(sizes, drawn[begins]), sizes)

    def visits(self, seed: Sequence[int]) -> tuple[Ints, Ints, Ints]:
        """One row of each dialogue: all up to the end of one of its answers, which a draw chooses.

        Args:
            seed: Words that fix the draw.

        Returns:
            The first token of each row, its length, and how many of its tokens come before the answer, `[U]` each.
        """
        assert self.answers is not None
        begins, ends = self.answers[:, 0], self.answers[:, 1]
        first = np.searchsorted(begins, self.offsets[:-1])
        n_answers = np.diff(np.append(first, len(begins)))
        chosen = first + (uniform(draws(self.n_units, *seed)) * n_answers).astype(np.int64)
        return self.offsets[:-1], ends[chosen] - self.offsets[:-1], begins[chosen] - self.offsets[:-1]


def _chain(following: Ints) -> Ints:
    """All units reached from unit 0, by doubling; `following [U + 1]` ends in itself."""
    n = len(following) - 1
    reached = np.zeros(n + 1, bool)
    reached[0] = True
    count, jump = 0, following
    while count != (count := int(reached.sum())):
        reached[jump[reached]] = True
        jump = jump[jump]
    return np.flatnonzero(reached[:n])


def tokenise(source: Source, encoder: Encoder, max_tokens: int, cache: Path | None = None) -> tuple[Corpus, Corpus]:
    """Tokenise a source, or open what an earlier call left in the cache.

    Units longer than a row are cut at word starts into pieces that follow each other; units of less than two tokens are
    dropped.

    Args:
        source: What to read.
        encoder: The tokenizer.
        max_tokens: Longest row, its two signs included.
        cache: A folder; None keeps the corpus in memory.

    Returns:
        The part to train on and the part held out.

    Raises:
        ValueError: when the data are missing or broken, or leave nothing to train on.
    """
    files = source.files()
    key = cache_key(source, files, encoder.fingerprint, max_tokens)
    if cache is not None and (cache / key).is_dir():
        return _opened(source, cache / key)
    if cache is None:
        corpora = [builder.corpus() for builder in _build(source, encoder, max_tokens, None)]
    else:
        cache.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f"{key}.part-", dir=cache))
        try:
            built = [builder.corpus() for builder in _build(source, encoder, max_tokens, beside)]
            said: dict[str, Any] = {name: [getattr(one, of) for one in built] for name, of in KEPT.items()}
            said["source"] = source.model_dump(mode="json")
            (beside / "corpus.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
            beside.chmod(0o755)
            try:
                beside.rename(cache / key)
            except OSError:
                if not (cache / key).is_dir():  # else another process was first, with the same content
                    raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        corpora = list(_opened(source, cache / key))
    if corpora[0].n_units == 0:
        raise ValueError(
            f"{source.path} leaves nothing to train on · all is held out or shorter than two tokens · ease hold_out"
        )
    return corpora[0], corpora[1]


def _opened(source: Source, folder: Path) -> tuple[Corpus, Corpus]:
    said = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    train, held = (
        Corpus(
            source.title,
            np.asarray(np.load(folder / f"{part}.ids.npy", mmap_mode="r")),
            np.load(folder / f"{part}.offsets.npy"),
            np.load(folder / f"{part}.first.npy"),
            source.weight,
            said["keys"][number],
            np.load(answers) if (answers := folder / f"{part}.answers.npy").exists() else None,
            said.get("left_out", (0, 0))[number],  # caches of earlier versions do not know
        )
        for number, part in enumerate(("train", "held_out"))
    )
    return train, held


class _Builder:
    """A corpus in the making; ids go to disk as they come when it has a folder."""

    def __init__(self, source: Source, part: str, dtype: type[Any], folder: Path | None) -> None:
        self.source, self.part, self.dtype, self.folder = source, part, dtype, folder
        self.checksum = 0
        self.ids: list[NDArray[Any]] = []
        self.lengths: list[Ints] = []
        self.first: list[NDArray[np.bool_]] = []
        self.answers: list[Ints] | None = [] if source.unit == "dialogue" else None
        self.n_ids = self.left_out = 0
        if folder is not None:
            np.save(folder / f"{part}.ids.npy", np.zeros(0, dtype))

    def add(self, ids: NDArray[Any], lengths: Ints, first: NDArray[np.bool_], answers: Ints | None = None) -> None:
        if self.answers is not None and answers is not None:
            self.answers.append(answers + self.n_ids)
            self.checksum = crc32(answers.tobytes(), self.checksum)
        self.lengths.append(lengths)
        self.first.append(first)
        self.n_ids += len(ids)
        self.checksum = crc32(first.tobytes(), crc32(lengths.tobytes(), crc32(ids.tobytes(), self.checksum)))
        if self.folder is None:
            self.ids.append(ids)
        else:
            with (self.folder / f"{self.part}.ids.npy").open("ab") as file:
                file.write(ids.tobytes())

    def corpus(self) -> Corpus:
        offsets = np.concatenate([np.zeros(1, np.int64), *self.lengths]).cumsum()
        first = np.concatenate([np.zeros(0, bool), *self.first])
        ids = np.concatenate([np.zeros(0, self.dtype), *self.ids])
        answers = None if self.answers is None else np.concatenate([np.zeros((0, 2), np.int64), *self.answers])
        if self.folder is not None:
            with (self.folder / f"{self.part}.ids.npy").open("r+b") as file:
                head = {"descr": np.lib.format.dtype_to_descr(np.dtype(self.dtype)), "fortran_order": False}
                # numpy leaves room in a header for the first axis to grow
                np.lib.format.write_array_header_1_0(file, head | {"shape": (self.n_ids,)})
                file.flush()
                os.fsync(file.fileno())
            np.save(self.folder / f"{self.part}.offsets.npy", offsets)
            np.save(self.folder / f"{self.part}.first.npy", first)
            if answers is not None:
                np.save(self.folder / f"{self.part}.answers.npy", answers)
        key = f"{self.checksum:08x}-{self.n_ids}"
        return Corpus(self.source.title, ids, offsets, first, self.source.weight, key, answers, self.left_out)


def _build(
    source: Source,
    encoder: Encoder,
    max_tokens: int,
    folder: Path | None,
    records: tuple[int, int | None] = (0, None),
) -> tuple[_Builder, _Builder]:
    dtype = np.uint16 if encoder.vocab_size <= 1 << 16 else np.int32
    builders = tuple(_Builder(source, part, dtype, folder) for part in ("train", "held_out"))
    if source.unit == "dialogue":
        return _build_dialogues(source, encoder, max_tokens - 3, builders)
    word_starts = encoder.word_starts
    for units in _chunks(source.parts(*records)):
        rows = encoder.encode_batch([text for _, _, text in units])
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        ids = np.fromiter(itertools.chain.from_iterable(rows), dtype, int(lengths.sum()))
        held = np.array([unit[0] for unit in units])
        first = ~np.array([unit[1] for unit in units])
        for part in (0, 1):
            mine = (held == bool(part)) & (lengths >= 2)
            some = ids[np.repeat(mine, lengths)]
            builders[part].add(some, *_cut_long(some, lengths[mine], first[mine], word_starts, max_tokens - 2))
    return builders[0], builders[1]


def _build_dialogues(
    source: Source, encoder: Encoder, limit: int, builders: tuple[_Builder, ...]
) -> tuple[_Builder, _Builder]:
    """A unit a dialogue, with its answers; a row of one has room for two signs and the end of the answer."""
    n_all = 0
    for units in _chunks(source.parts()):
        for (held, _, _), (ids, spans) in zip(units, encode((t for _, _, t in units), encoder, limit), strict=True):
            n_all, builders[held].left_out = n_all + 1, builders[held].left_out + (not spans)
            if spans:
                one = np.array(ids, builders[held].dtype)
                builders[held].add(one, np.array([len(ids)]), np.ones(1, bool), np.array(spans, np.int64))
    n_long = sum(builder.left_out for builder in builders)
    if n_long * 2 > n_all:
        raise ValueError(too_long(source.path, n_long, n_all, limit + 3))
    return builders[0], builders[1]


def _chunks(units: Iterator[tuple[bool, bool, str]]) -> Iterator[list[tuple[bool, bool, str]]]:
    while chunk := list(itertools.islice(units, CHUNK)):
        yield chunk


def _cut_long(
    ids: NDArray[Any], lengths: Ints, first: NDArray[np.bool_], word_starts: NDArray[np.bool_], limit: int
) -> tuple[Ints, NDArray[np.bool_]]:
    """Lengths and beginnings after cutting units of more than `limit` tokens at word starts into like pieces."""
    if not (lengths > limit).any():
        return lengths, first
    new_lengths: list[int] = []
    new_first: list[bool] = []
    ends = lengths.cumsum()
    for begin, length, opens in zip(ends - lengths, lengths, first, strict=True):
        pieces = [int(length)] if length <= limit else _pieces(word_starts[ids[begin : begin + length]], limit)
        new_lengths += pieces
        new_first += [bool(opens), *([False] * (len(pieces) - 1))]
    return np.array(new_lengths, np.int64), np.array(new_first)


def _pieces(word_starts: NDArray[np.bool_], limit: int) -> list[int]:
    n = len(word_starts)
    aim = -(-n // -(-n // limit))
    places = np.flatnonzero(word_starts)
    pieces, begin = [], 0
    while n - begin > limit:
        near = begin + aim
        at = int(np.searchsorted(places, near, side="right")) - 1
        end = int(places[at]) if at >= 0 and places[at] > begin + 1 else near  # a word longer than a row is cut inside
        pieces.append(end - begin)
        begin = end
    return [*pieces, n - begin]


class Stream:
    """A source too large to hold: epoch `e` is its records `e * shard_records` up to the next shard, tokenised then."""

    def __init__(self, source: Source, encoder: Encoder, max_tokens: int) -> None:
        self.source, self.encoder, self.max_tokens = source, encoder, max_tokens
        self.name, self.weight = source.title, source.weight
        self.key = cache_key(source, source.files(), encoder.fingerprint, max_tokens, times=False)[:12]
        self.n_records: int | None = None  # known once its end was seen
        self._last: tuple[int, tuple[Corpus, Corpus]] | None = None

    def shard(self, epoch: int) -> Corpus:
        """The part to train on of one epoch; behind the last record the stream begins anew.

        Raises:
            ValueError: when the stream holds nothing to train on.
        """
        return self._shard(epoch)[0]

    def held_out(self) -> Corpus:
        """The held-out part of the first shard."""
        return self._shard(0)[1]

    def _shard(self, epoch: int) -> tuple[Corpus, Corpus]:
        size = self.source.shard_records
        if self.n_records is not None:
            epoch %= -(-self.n_records // size)
        if self._last is None or self._last[0] != epoch:
            records = epoch * size, (epoch + 1) * size
            train, held = _build(self.source, self.encoder, self.max_tokens, None, records)
            self._last = epoch, (train.corpus(), held.corpus())
        if self._last[1][0].n_units:
            return self._last[1]
        if epoch == 0 or self.n_records is not None:
            raise ValueError(
                f"{self.source.path} leaves nothing to train on · in records {epoch * size} to {(epoch + 1) * size} "
                "all is held out or shorter than two tokens · ease hold_out or raise shard_records"
            )
        self.n_records = self.source.n_records()
        return self._shard(epoch)


def open_corpora(
    sources: Iterable[Source], encoder: Encoder, max_tokens: int, cache: Path | None = None
) -> tuple[list[Corpus | Stream], list[Corpus]]:
    """Tokenise all sources, or open them: what to train on, and what is held out, source by source."""
    train: list[Corpus | Stream] = []
    held: list[Corpus] = []
    for source in sources:
        if source.streaming:
            stream = Stream(source, encoder, max_tokens)
            train.append(stream)
            held.append(stream.held_out())
        else:
            corpus, held_corpus = tokenise(source, encoder, max_tokens, cache)
            train.append(corpus)
            held.append(held_corpus)
    return train, held
