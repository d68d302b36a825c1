"""Batches of packed rows in an order that (seed, epoch, window) fixes, so that a place in it is three numbers.

An epoch is planned, its rows shuffled and laid out in windows of some dozens of batches. Within a window rows are
sorted by length and cut into batches by tokens (rows of a batch are alike, so attention wastes nothing), and the
batches are shuffled. A window of one batch is as many of the shuffled rows as fit, of all lengths. A step's batch is
drawn whole, then split among ranks and micro-batches: how many there are changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from unmask.canvas import Canvas
from unmask.data.corpus import Corpus, Encoder, Ints, Stream, open_corpora
from unmask.data.dialogues import too_long
from unmask.data.draws import order
from unmask.data.rows import SIGNS_A_ROW, Rows
from unmask.data.sources import DataConfig
from unmask.noise import Company

EPOCH_BITS = 40  # a row's number within its epoch takes the lower bits of its id
ROWS, SHUFFLE, BATCHES, PASS, HELD_OUT = range(5)  # purposes of a draw


@dataclass(frozen=True)
class Batch:
    """Rows to train on: text between a start and an end sign, nothing hidden yet."""

    canvas: Canvas
    row_ids: Tensor  # [B] int64, a number no other draw of any epoch has; the same under any split
    source: Tensor  # [B] int64, which source each row is from
    company: Company  # where each row stands in the batch of the step; the same under any split


@dataclass(frozen=True)
class _Epoch:
    """One epoch's rows, shuffled, and the windows they lie in."""

    number: int
    corpora: list[Corpus]
    rows: Rows
    bounds: Ints  # [W + 1], rows at which windows begin

    @property
    def n_windows(self) -> int:
        return len(self.bounds) - 1


class Batches(Iterator[Batch]):
    """All batches, epoch after epoch without end; where it stands is a small dict."""

    def __init__(
        self,
        train: Sequence[Corpus | Stream],
        held_out: Sequence[Corpus] = (),
        *,
        start: int,
        end: int,
        batch_tokens: int,
        max_tokens: int,
        seed: int = 0,
        lengths: Mapping[str, float] | None = None,
        window: int = 64,
        pads: Sequence[int] = (),
        ask: bool = False,
        separator: int | None = None,
        ended: bool = True,
    ) -> None:
        """Set up the order; nothing is read yet.

        Args:
            train: Sources to draw from. A corpus's weight says how often each of its rows comes up in an epoch.
            held_out: The held-out part of each source, for `held_out`.
            start: Id of the sign before each row.
            end: Id of the sign after it.
            batch_tokens: Most elements in the batch of one step, over all ranks and micro-batches.
            max_tokens: Most elements a row.
            seed: Fixes the order.
            lengths: Shares of `single`, `uniform`, `full` and `cropped` rows (see `Corpus.rows`).
            window: Batches among which rows are sorted by length; 1: as they come.
            pads: Ids that fill up the dialogues of a step to the longest of them, in turn; none: they stay as they are.
            ask: What is given in a dialogue may be asked for, too.
            separator: Id of the sign between what is given in a dialogue and the answer, a segment of its own; None:
                the answer goes on from what is given.
            ended: An answer ends with a sign that is a part of its text; else the sign after the row says so.

        Raises:
            ValueError: when there is nothing to draw from, or a row would not fit into a batch.
        """
        if not train:
            raise ValueError("no data to train on · no source is given · name one in data.sources")
        if batch_tokens < max_tokens:
            raise ValueError(
                f"batch_tokens {batch_tokens} is less than a row of max_tokens {max_tokens} · "
                "raise batch_tokens or lower data.max_tokens"
            )
        self.train, self.held, self.seed, self.window = list(train), list(held_out), seed, window
        self.start, self.end, self.batch_tokens, self.max_tokens = start, end, batch_tokens, max_tokens
        self.lengths, self.pads, self.ask = dict(lengths or {"single": 1.0}), tuple(pads), ask
        self.separator, self.ended = separator, ended
        self._place = [0, 0, 0]  # epoch, window, batch
        self._step = 0
        self._epoch: _Epoch | None = None
        self._window: tuple[tuple[int, int], list[Rows]] | None = None

    @classmethod
    def open(
        cls,
        config: DataConfig,
        encoder: Encoder,
        *,
        batch_tokens: int,
        seed: int = 0,
        cache: Path | None = None,
        apart: bool = False,
    ) -> Batches:
        """Tokenise what a recipe's `data:` names, or open it where that was done before.

        Args:
            config: The `data:` section.
            encoder: The tokenizer.
            batch_tokens: Most elements a step.
            seed: Fixes the order.
            cache: Where tokenised sources are kept, unless the config says.
            apart: Answers are segments of their own.

        Raises:
            ValueError: when data are missing or broken.
        """
        cache = Path(config.cache) if config.cache is not None else cache
        train, held = open_corpora(config.placed(), encoder, config.max_tokens - apart, cache)
        return cls(
            train,
            held,
            start=encoder.signs["start"],
            end=encoder.signs["end"],
            batch_tokens=batch_tokens,
            max_tokens=config.max_tokens,
            seed=seed,
            lengths={str(kind): share for kind, share in config.lengths.items()},
            window=config.window,
            pads=config.pads(encoder.signs),
            ask=config.mask_prompt,
            separator=encoder.signs["sep"] if apart else None,
        )

    @property
    def left_out(self) -> list[str]:
        """What is not learned from, a sentence for each source of which something is not."""
        return [
            too_long(part.name, n_long, n_long + part.n_units + held.n_units, self.max_tokens)
            for part, held in zip(self.train, self.held, strict=True)
            if isinstance(part, Corpus) and (n_long := part.left_out + held.left_out)
        ]

    @property
    def epoch(self) -> int:
        """The epoch the next batch is of."""
        return self._settled()[0]

    @property
    def step(self) -> int:
        """Batches drawn so far."""
        return self._step

    @property
    def sources(self) -> list[str]:
        """Names of the sources, as `Batch.source` counts them."""
        return [part.name for part in self.train]

    def __next__(self) -> Batch:
        """The next step's whole batch."""
        return self.micro_batches()[0]

    def micro_batches(self, rank: int = 0, world: int = 1, n_micro: int = 1) -> list[Batch]:
        """The share of one rank in the next step's batch, in `n_micro` parts of about as many tokens.

        Every rank calls this once a step. All parts of all ranks together are the batch one process would draw. A part
        is without rows only when the batch has fewer rows than there are parts.
        """
        epoch, window, batch = self._settled()
        rows = self._batches(epoch, window)[batch]
        rows = rows.padded() if self.pads else rows
        bounds = _even(rows.size, world * n_micro)[rank * n_micro : (rank + 1) * n_micro + 1]
        corpora, number = self._planned(epoch).corpora, self._step
        self._place[2] += 1
        self._step += 1
        return [self._read(corpora, rows, number, a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]

    def n_steps(self, epochs: int = 1) -> int:
        """Batches in the first `epochs` epochs. Plans each of them, which takes a moment.

        Raises:
            ValueError: when a source is streaming: its length is not known.
        """
        if streams := [part.name for part in self.train if isinstance(part, Stream)]:
            raise ValueError(
                f"epochs of {streams[0]!r} cannot be counted · it is streaming · give the budget in steps or tokens"
            )
        plans = (self._plan(number) for number in range(epochs))
        return sum(len(self._cut_window(plan, w)[1]) - 1 for plan in plans for w in range(plan.n_windows))

    def n_tokens(self) -> int:
        """Text tokens in an epoch, about (streams left out)."""
        return int(sum(part.n_tokens * part.weight for part in self.train if isinstance(part, Corpus)))

    def state_dict(self) -> dict[str, int | str]:
        """Where it stands; a few numbers."""
        epoch, window, batch = self._place
        return {"epoch": epoch, "window": window, "batch": batch, "step": self._step, **self._made_of()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stood.

        Raises:
            ValueError: when that one drew other batches: other data, seed, batch_tokens or lengths.
        """
        for name, value in self._made_of().items():
            if state.get(name) != value:
                raise ValueError(
                    f"the data cannot go on where they stood · {name} was {state.get(name)}, now {value} · "
                    "use the run's own config, or begin a new run"
                )
        self._place = [int(state["epoch"]), int(state["window"]), int(state["batch"])]
        self._step = int(state["step"])

    def held_out(
        self, batch_tokens: int | None = None, *, source: str | None = None, limit: int | None = None
    ) -> Iterator[Batch]:
        """The held-out part once, always in the same order and the same rows, whatever the seed.

        Args:
            batch_tokens: Most elements a batch.
            source: Only this source's part.
            limit: Stop near so many elements; the rows are a fixed draw from all sources.

        Raises:
            ValueError: when nothing is held out (there).
        """
        there = [k for k, corpus in enumerate(self.held) if corpus.n_units]
        chosen = [k for k in there if source is None or self.held[k].name == source]
        if not chosen:
            names = ", ".join(self.held[k].name for k in there) or "none"
            raise ValueError(
                f"nothing is held out of {source or 'the data'} · parts: {names} · give hold_out in data.sources"
            )
        rows = Rows.join([self._share(k, self.held[k], 0, 0.0, 1.0, HELD_OUT) for k in chosen])
        rows = rows.take(order(rows.n, HELD_OUT)).numbered(0)
        if limit is not None:
            within = np.searchsorted(rows.size.cumsum(), limit, side="right")
            rows = rows.take(slice(0, max(int(within), 1)))
        rows = rows.take(np.argsort(rows.length, kind="stable"))
        bounds = _cut(rows.size, max(batch_tokens or self.batch_tokens, self.max_tokens))
        for number, (a, b) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            some = rows.take(slice(a, b))
            yield self._read(self.held, some.padded() if self.pads else some, number, 0, some.n)

    def _made_of(self) -> dict[str, int | str]:
        shares = ",".join(f"{kind}:{share:g}" for kind, share in sorted(self.lengths.items()))
        keys = "+".join(f"{part.key}*{part.weight:g}" for part in self.train)
        numbers = {"seed": self.seed, "batch_tokens": self.batch_tokens, "max_tokens": self.max_tokens}
        if self.pads:
            numbers |= {"pads": crc32(repr(self.pads).encode())}
        if self.separator is not None:
            numbers |= {"separator": self.separator, "ended": int(self.ended)}
        if self.window == 1:
            numbers |= {"filled": 1}  # one batch was cut in two before, by length
        return {**numbers, "window_batches": self.window, "lengths": shares, "data": keys}

    def _settled(self) -> list[int]:
        """Its place, moved on over ends of windows and epochs."""
        epoch, window, batch = self._place
        if batch and batch >= len(self._batches(epoch, window)):
            window, batch = window + 1, 0
        while window >= self._planned(epoch).n_windows:  # small weights can leave an epoch without rows
            epoch, window = epoch + 1, 0
        self._place = [epoch, window, batch]
        return self._place

    def _planned(self, number: int) -> _Epoch:
        if self._epoch is None or self._epoch.number != number:
            self._epoch = self._plan(number)
        return self._epoch

    def _plan(self, number: int) -> _Epoch:
        parts, corpora = [], []
        for k, part in enumerate(self.train):
            if isinstance(part, Stream):
                corpus = part.shard(number)
                parts.append(self._share(k, corpus, number, 0.0, 1.0, ROWS))
            else:
                corpus = part
                begin, stop = number * part.weight, (number + 1) * part.weight  # in passes over the corpus
                for which in range(int(begin), ceil(stop)):
                    parts.append(self._share(k, corpus, which, max(begin - which, 0.0), min(stop - which, 1.0), ROWS))
            corpora.append(corpus)
        rows = Rows.join(parts)
        rows = rows.take(order(rows.n, self.seed, SHUFFLE, number)).numbered(number << EPOCH_BITS)
        if self.window == 1:
            return _Epoch(number, corpora, rows, _filled(rows.size, self.batch_tokens))
        n_windows = max(1, round(int(rows.size.sum()) / (self.window * self.batch_tokens))) if rows.n else 0
        return _Epoch(number, corpora, rows, _even(rows.size, n_windows))

    def _share(self, k: int, corpus: Corpus, which: int, begin: float, stop: float, purpose: int) -> Rows:
        """A share of the rows of one pass over a corpus: from `begin` to `stop` of them in a random order."""
        seed = 0 if purpose == HELD_OUT else self.seed
        if corpus.answers is not None:
            drawn = corpus.visits((seed, purpose, k, which))
            rows = Rows.of(k, *drawn, apart=self.separator is not None, ended=self.ended)
        else:
            limit = self.max_tokens - SIGNS_A_ROW
            rows = Rows.of(k, *corpus.rows(self.lengths, limit, (seed, purpose, k, which)))
        if (begin, stop) == (0.0, 1.0):
            return rows
        return rows.take(order(rows.n, seed, PASS, k, which)[round(begin * rows.n) : round(stop * rows.n)])

    def _cut_window(self, plan: _Epoch, window: int) -> tuple[Rows, Ints]:
        rows = plan.rows.take(slice(int(plan.bounds[window]), int(plan.bounds[window + 1])))
        rows = rows.take(np.argsort(rows.length, kind="stable"))
        return rows, _cut(rows.size, self.batch_tokens)

    def _batches(self, epoch: int, window: int) -> list[Rows]:
        if self._window is None or self._window[0] != (epoch, window):
            rows, bounds = self._cut_window(self._planned(epoch), window)
            shuffled = order(len(bounds) - 1, self.seed, BATCHES, epoch, window)
            batches = [rows.take(slice(int(bounds[i]), int(bounds[i + 1]))) for i in shuffled]
            self._window = (epoch, window), batches
        return self._window[1]

    def _read(self, corpora: Sequence[Corpus], rows: Rows, number: int, begin: int, stop: int) -> Batch:
        """The rows from `begin` to `stop` of the batch of a step."""
        company = Company(torch.arange(int(begin), int(stop)), rows.n, number)
        rows = rows.take(slice(begin, stop))
        separator = -1 if self.separator is None else self.separator
        canvas = rows.read(corpora, self.start, self.end, self.pads, self.ask, separator)
        return Batch(canvas, torch.from_numpy(rows.ids.copy()), torch.from_numpy(rows.source.astype(np.int64)), company)


def _even(sizes: Ints, n_parts: int) -> Ints:
    """Where to cut rows into runs of like size, `[n_parts + 1]`; no run is empty unless there are too few rows."""
    n = len(sizes)
    if n_parts == 0:
        return np.zeros(1, np.int64)
    ends = sizes.cumsum()
    aims = np.arange(1, n_parts) * (ends[-1] if n else 0) / n_parts
    cuts = np.searchsorted(ends - sizes / 2, aims)
    if n >= n_parts:
        steps = np.arange(1, n_parts)
        cuts = np.maximum.accumulate(np.maximum(cuts, steps) - steps) + steps
        cuts = np.minimum(cuts, n - n_parts + steps)
    return np.concatenate([[0], cuts, [n]]).astype(np.int64)


def _filled(sizes: Ints, budget: int) -> Ints:
    """Where to cut rows into batches of as many as fit, one at least, `[batches + 1]`."""
    ends = np.concatenate([np.zeros(1, np.int64), sizes.cumsum()])
    bounds = [0]
    while (at := bounds[-1]) < len(sizes):
        bounds.append(max(at + 1, int(np.searchsorted(ends, ends[at] + budget, side="right")) - 1))
    return np.array(bounds, np.int64)


def _cut(sizes: Ints, budget: int) -> Ints:
    """Where to cut rows into batches of like size, none above the budget unless it is one row, `[batches + 1]`."""
    n_batches = max(1, ceil(int(sizes.sum()) / budget)) if len(sizes) else 0
    ends = np.concatenate([np.zeros(1, np.int64), sizes.cumsum()])
    while True:
        bounds = _even(sizes, min(n_batches, len(sizes)))
        over = np.diff(ends[bounds]) > budget
        if not (over & (np.diff(bounds) > 1)).any():
            return bounds
        n_batches = max(n_batches + 1, int(n_batches * 1.02))
