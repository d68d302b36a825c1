"""Write docs/help.md: every verb's --help, as the live command prints it. `make docs` runs this; a test compares."""

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("help.md")
OPENING = """# What `--help` says

Written by `make docs` from the live command; a test fails when the two differ.
"""


def show(*arguments: str) -> str:
    """What `unmask ARGUMENTS --help` prints, 100 columns wide, without colour."""
    plain = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "TERM": "dumb", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    loud = {"FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "CI", "LINES"}  # each makes rich or typer print otherwise
    environment = {name: value for name, value in os.environ.items() if name not in loud} | plain
    command = [sys.executable, "-m", "unmask.cli", *arguments, "--help"]
    run = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {run.returncode}:\n{run.stderr}")
    return "\n".join(line.rstrip() for line in run.stdout.strip("\n").splitlines()) + "\n"


def verbs(page: str) -> list[str]:
    """The verbs that the first help page lists under "Commands", boxed or plain, in its order."""
    lines = page.splitlines()
    start = next((i for i, line in enumerate(lines) if re.match(r"\W*Commands\b", line)), None)
    if start is None:
        raise RuntimeError(f"no list of commands in the help page:\n{page}")
    found = []
    for line in lines[start + 1 :]:
        if line.startswith("╰") or (found and not line.strip()):
            break
        if verb := re.match(r"(?:[│|] {1,2}| {2})([a-z][\w-]*)(?: {2,}| *[│|]?$)", line):
            found.append(verb.group(1))
    return found


def whole() -> str:
    """The page, made anew."""
    first = show()
    parts = [OPENING, section("unmask --help", first)]
    parts += [section(f"unmask {verb} --help", show(verb)) for verb in verbs(first)]
    return "\n".join(parts)


def section(command: str, printed: str) -> str:
    """One command and what it prints."""
    return f"## {command.removesuffix(' --help')}\n\n```text\n$ {command}\n{printed}```\n"


if __name__ == "__main__":
    PAGE.write_text(whole(), encoding="utf-8")
    print(f"wrote {PAGE.name}: {PAGE.read_text(encoding='utf-8').count('$ unmask')} commands")
