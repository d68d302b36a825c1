"""A run on disk: its config, log and checkpoints. Whatever is cut short is written beside and never read."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from unmask.adapter import AdapterConfig
from unmask.folder import Saves, read_tensors, write_tensors
from unmask.model import Model
from unmask.training.lora import load_trained, write_trained

FORMAT = 1
STATE, OPTIMISER, AVERAGE = "state.json", "optimiser.safetensors", "average.safetensors"
WHOLE = 10**18  # bytes; the state of an optimiser is one file


@dataclass
class State:
    """Where a run stands, beside its weights."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    data: dict[str, Any] = field(default_factory=dict)


class RunFolder:
    """A run's folder: `config.yaml`, `log.jsonl`, `checkpoints/step_N/`, `model/`, `samples.txt`.

    Beside these what a resumed run reads again: `tokenizer.json`, `data/`, `budget.json`.
    """

    def __init__(self, path: str | Path, keep: int = 2) -> None:
        """Name the folder; nothing is written yet."""
        self.path, self.keep = Path(path), keep
        self.unread: set[Path] = set()  # checkpoints that `latest` could not read; later than the one it took
        self.adapter: AdapterConfig | None = None  # where one is trained, it alone is kept

    @property
    def config(self) -> Path:
        """The recipe as resolved."""
        return self.path / "config.yaml"

    @property
    def model(self) -> Path:
        """The finished model."""
        return self.path / "model"

    def require_free(self) -> None:
        """See that no other run lives here.

        Raises:
            ValueError: when one does.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file · a run is a folder · choose another --out")
        if any((self.path / name).exists() for name in ("log.jsonl", "checkpoints", "model")):
            raise ValueError(
                f"{self.path} holds another run · nothing of it is overwritten · "
                "go on with --resume, or choose another --out"
            )

    def write(self, name: str, text: str) -> None:
        """Write a file of the run, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        beside = self.path / f".{name}.partial"
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, self.path / name)

    def append(self, name: str, text: str) -> None:
        """Add to a file of the run."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(text)

    def log(self, entry: Mapping[str, Any]) -> None:
        """One line of `log.jsonl`."""
        self.append("log.jsonl", json.dumps(entry) + "\n")

    def rewind_log(self, step: int) -> None:
        """Drop the lines after `step`, and a line cut short; those steps come again."""
        path = self.path / "log.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(json.JSONDecodeError):
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
        self.write("log.jsonl", "".join(kept))

    def last_entry(self) -> dict[str, Any]:
        """The last line of the log; empty before there is one."""
        path = self.path / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return json.loads(lines[-1]) if lines else {}

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, the oldest first."""
        found = []
        for path in (self.path / "checkpoints").glob("step_*"):
            named = re.fullmatch(r"step_(\d+)", path.name)
            if named and (path / STATE).is_file():  # written last, before the folder got its name
                found.append((int(named[1]), path))
        return [path for _, path in sorted(found)]

    def save(
        self,
        state: State,
        model: Model,
        tokenizer: Saves,
        optimiser: dict[str, Tensor],
        average: dict[str, Tensor] | None,
    ) -> Path:
        """Write a checkpoint beside and rename it; older ones than the last `keep` that are good go.

        Raises:
            ValueError: when the disk is full; checkpoints written before stay.
        """
        final = self.path / "checkpoints" / f"step_{state.step}"
        beside = final.with_name(f".step_{state.step}.partial")
        with room_for(f"the checkpoint of step {state.step}"):
            try:
                shutil.rmtree(beside, ignore_errors=True)
                beside.mkdir(parents=True)
                card = f"Step {state.step} of a run that was not finished then.\n"
                write_trained(beside, model, tokenizer, card, self.adapter)
                write_tensors(beside, optimiser, WHOLE, OPTIMISER)
                if average is not None:
                    write_tensors(beside, average, WHOLE, AVERAGE)
                (beside / STATE).write_text(json.dumps({"format": FORMAT, **vars(state)}), encoding="utf-8")
                for file in beside.iterdir():
                    _sync(file)
                if final.exists():
                    shutil.rmtree(final)
                os.replace(beside, final)
                _sync(final.parent)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
        self.unread.discard(final)
        good = [path for path in self.checkpoints() if path not in self.unread]
        for old in good[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return final

    def latest(self, model: Model) -> tuple[State, dict[str, Tensor], dict[str, Tensor] | None] | None:
        """Load the last checkpoint that reads whole into `model`: its state, the optimiser's, the averaged weights.

        Raises:
            ValueError: when there are checkpoints, but none reads.
        """
        fault: Exception | None = None
        for path in reversed(self.checkpoints()):
            try:
                given = json.loads((path / STATE).read_text(encoding="utf-8"))
                if given.pop("format") != FORMAT:
                    raise ValueError(
                        f"{path} was written by another version of unmask · this one reads format {FORMAT}"
                        " · use that version"
                    )
                optimiser = read_tensors(path, OPTIMISER)
                average = read_tensors(path, AVERAGE) if (path / AVERAGE).exists() else None
                load_trained(path, model, self.adapter)
            except (ValueError, KeyError, OSError) as broken:
                fault = fault or broken
                self.unread.add(path)
                continue
            return State(**given), optimiser, average
        if fault is not None:
            raise ValueError(
                f"no checkpoint in {self.path} can be read · {fault} · copy one back, or begin anew"
            ) from fault
        return None


@contextmanager
def room_for(what: str) -> Iterator[None]:
    """Tell a full disk in one line.

    Raises:
        ValueError: when the disk is full.
    """
    try:
        yield
    except OSError as fault:
        if fault.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(
            f"{what} could not be written · the disk is full · make room and start it again, or, where it had begun, "
            "go on with --resume: the checkpoints before it are whole"
        ) from fault


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
