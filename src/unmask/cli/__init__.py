"""The command line: one file a verb. Nothing heavy is imported until a verb needs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

LONG = {"train", "distill", "evaluate"}  # verbs of many steps alike, for which memory is best kept


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code: 0 done, 1 something failed, 2 used wrongly."""
    if argv is None and LONG & set(sys.argv[1:2]):
        from unmask.memory import settle_memory

        settle_memory()
    from unmask.cli.app import run

    return run(list(sys.argv[1:] if argv is None else argv))
