"""`--json`: one object a line on standard output."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any


def print_line(line: dict[str, Any]) -> None:
    """Print one object; a number that JSON has no word for (infinite, or not a number) is null."""
    print(json.dumps(_finite(line), ensure_ascii=False), flush=True)


def complaint(as_json: bool) -> Callable[[str, str], None]:
    """How one bad text is reported: an object among the answers, or a line on standard error."""

    def complain(text: str, why: str) -> None:
        if as_json:
            print_line({"input": text, "error": why})
        else:
            print(f"unmask: {why}", file=sys.stderr)

    return complain


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
