"""Tables that are measured row by row: what is measured is kept, so that a script that was stopped goes on.

A script that is started again while it runs shares the work: each process measures rows that no other has begun.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

Row = dict[str, Any]


class Table:
    """Rows in a file of JSON lines, each with the key it was measured for."""

    def __init__(self, path: Path) -> None:
        """Read what the file has."""
        self.path: Path = path
        self.known: dict[str, Row] = {}
        self._read()

    def rows(self, keys: Sequence[Row], measure: Callable[[Row], Row]) -> list[Row]:
        """A row for each key: the key and what `measure` says of it, once."""
        told = [
            name
            for name in dict.fromkeys(n for key in keys for n in key)
            if len({_name(key.get(name)) for key in keys}) > 1
        ]
        todo, others = list(enumerate(keys, 1)), []
        while todo or others:
            wait = not todo  # for the rows of other processes, when none is left that nobody has begun
            number, key = (others if wait else todo).pop(0)
            if not self._measured(key, measure, f"[{number}/{len(keys)}]", told, wait):
                others.append((number, key))
                random.SystemRandom().shuffle(todo)  # lest all go on to the same model, and wait for it
        return [key | self.known[_name(key)] for key in keys]

    def _measured(self, key: Row, measure: Callable[[Row], Row], place: str, told: Sequence[str], wait: bool) -> bool:
        """Whether there is a row for a key now; not, if another process is at it and there is no `wait`."""
        if _name(key) in self.known:
            return True
        digest = blake2b(_name(key).encode(), digest_size=8).hexdigest()
        try:
            with FileLock(self._lock(f"{self.path.stem}-{digest}"), timeout=-1 if wait else 0):
                self._read()
                if _name(key) in self.known:
                    return True
                begin = time.perf_counter()
                shown = " · ".join(f"{name} {_plain(key.get(name))}" for name in told)
                _tell(f"{place} {self.path.stem}: {shown}")
                self._keep(key, measure(key))
                _tell(f"{place} took {time.perf_counter() - begin:.0f} s")
                return True
        except Timeout:
            return False

    def _read(self) -> None:
        """What the file has; a line that was cut off when the script was killed is none."""
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            try:
                key, found = json.loads(line)
            except ValueError:
                continue
            self.known[_name(key)] = found

    def _keep(self, key: Row, found: Row) -> None:
        """Add a line; under a lock, since a line that another process is at looks like one that was cut off."""
        with FileLock(self._lock(self.path.stem)):
            broken = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
            with self.path.open("a", encoding="utf-8") as file:
                file.write(("\n" if broken else "") + json.dumps([key, found]) + "\n")
        self.known[_name(key)] = found

    def _lock(self, name: str) -> Path:
        locks = self.path.parent / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        return locks / name


def markdown(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """A table in Markdown.

    Args:
        rows: What is not there, or None, shows as a dash.
        columns: Their names, in order, and the format of each.
    """
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = ("–" if row.get(name) is None else format(row[name], form) for name, form in columns.items())
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def over_seeds(rows: Sequence[Row], name: str) -> list[float]:
    """Of each question, its mean over rows that asked the same ones: an error is one over questions, not seeds."""
    return [sum(each) / len(each) for each in zip(*(row[name] for row in rows), strict=True)]


def spread(values: Sequence[float], form: str) -> str:
    """The least and the largest of some values, as a range."""
    return f"{min(values):{form}}-{max(values):{form}}"


def _plain(value: Any) -> Any:
    """A part of a key as a line of progress has it."""
    if isinstance(value, Mapping):
        return " ".join(str(one) for one in value.values() if one is not None)
    return "–" if value is None else value


def _name(key: Any) -> str:
    return json.dumps(key, sort_keys=True)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
