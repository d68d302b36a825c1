"""Tables that are measured row by row: what is measured is kept, so that a script that was stopped goes on."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Table:
    """Rows in a file of JSON lines, each with the key it was measured for."""

    def __init__(self, path: Path) -> None:
        """Read what the file has; a line that was cut off when the script was killed is none."""
        self.path, self.known = path, {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                key, found = json.loads(line)
            except ValueError:
                continue
            self.known[_name(key)] = found

    def rows(self, keys: Sequence[Row], measure: Callable[[Row], Row]) -> list[Row]:
        """A row for each key: the key and what `measure` says of it, once."""
        out = []
        told = [
            name
            for name in dict.fromkeys(n for key in keys for n in key)
            if len({_name(key.get(name)) for key in keys}) > 1
        ]
        for number, key in enumerate(keys, 1):
            if _name(key) not in self.known:
                begin = time.perf_counter()
                shown = " · ".join(f"{name} {_plain(key.get(name))}" for name in told)
                _tell(f"[{number}/{len(keys)}] {self.path.stem}: {shown}")
                self._keep(key, measure(key))
                _tell(f"[{number}/{len(keys)}] took {time.perf_counter() - begin:.0f} s")
            out.append(key | self.known[_name(key)])
        return out

    def _keep(self, key: Row, found: Row) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        broken = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if broken else "") + json.dumps([key, found]) + "\n")
        self.known[_name(key)] = found


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
