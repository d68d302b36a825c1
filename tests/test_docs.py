"""The documents are run: what README and docs show is what happens.

A ```python block is executed, block after block of one file in one namespace, in an empty folder. What a page adds to
the package's tables (families, policies, masking laws, checkpoint layouts) is gone when it ends.
- With `>>>` prompts it is a doctest: each answer is compared.
- Without, it is executed; a ```text block right after it is what it prints.
- After a line `<!-- not run: reason -->` a block is left alone.
`...` in an answer stands for anything.
"""

import contextlib
import doctest
import importlib.util
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest

from unmask.backbone.convert import LAYOUTS
from unmask.decoding.policies import POLICIES
from unmask.masking import LAWS
from unmask.objectives import OBJECTIVES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [path for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]]
HELP = ROOT / "docs" / "help.md"
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<kind>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)```[ ]*$", re.MULTILINE | re.DOTALL
)
NOT_RUN = re.compile(r"<!-- not run: \S.*? -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """A block of python, where it stands, and what it is said to print."""

    source: str
    line: int
    printed: str | None


def blocks(page: str) -> Iterator[Block]:
    """The python blocks of a page that are to be run."""
    fences = list(FENCE.finditer(page))
    for number, fence in enumerate(fences):
        if fence["kind"] != "python" or NOT_RUN.search(page[: fence.start()]):
            continue
        after = fences[number + 1] if number + 1 < len(fences) else None
        told = after is not None and after["kind"] == "text" and not page[fence.end() : after.start()].strip()
        line = page.count("\n", 0, fence.start()) + 2
        printed = re.sub(f"^{after['indent']}", "", after["body"], flags=re.MULTILINE) if after and told else None
        yield Block(re.sub(f"^{fence['indent']}", "", fence["body"], flags=re.MULTILINE), line, printed)


class Nearly(doctest.OutputChecker):
    """What is printed is what is shown, but for the rounding of numbers with a point.

    Which arithmetic is fastest, bytes or float32, depends on the processor; the second digit then differs.
    """

    SLACK = 0.15
    NUMBER = re.compile(r"-?\d+\.\d+")

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        """Whether `got` is `want`, numbers by value."""
        wanted, found = self.NUMBER.findall(want), self.NUMBER.findall(got)
        if len(wanted) == len(found):
            near = iter(
                [a if abs(float(a) - float(b)) <= self.SLACK else b for a, b in zip(wanted, found, strict=True)]
            )
            got = self.NUMBER.sub(lambda _: next(near), got)
        return super().check_output(want, got, optionflags)


def test_only_the_rounding_of_numbers_may_differ() -> None:
    same = partial(Nearly().check_output, optionflags=doctest.ELLIPSIS)
    assert same("-5.8  The cat.\n", "-5.9  The cat.\n")
    assert not same("-5.8  The cat.\n", "-6.8  The cat.\n")
    assert not same("-5.8  The cat.\n", "-5.8  The dog.\n")
    assert not same("-5.8  The cat.\n", "-5.8 -5.8  The cat.\n")


def run(block: Block, names: dict[str, Any], where: str) -> None:
    """Run a block in `names`, and compare what it prints."""
    if ">>>" in block.source:
        test = doctest.DocTestParser().get_doctest(block.source, names, where, where, block.line - 1)
        report = io.StringIO()
        runner = doctest.DocTestRunner(Nearly(), optionflags=doctest.ELLIPSIS)
        failed, _ = runner.run(test, out=report.write, clear_globs=False)
        names.update(test.globs)
        assert not failed, report.getvalue()
        return
    out = io.StringIO()
    code = compile("\n" * (block.line - 1) + block.source, where, "exec")
    with contextlib.redirect_stdout(out):
        exec(code, names)
    if block.printed is not None:
        same = Nearly().check_output(block.printed, out.getvalue(), doctest.ELLIPSIS)
        assert same, f"{where}:{block.line} prints\n{out.getvalue()}\nbut the page says\n{block.printed}"


def run_page(path: Path, folder: Path) -> None:
    tables = (OBJECTIVES, POLICIES, LAWS, LAYOUTS)
    with contextlib.chdir(folder), contextlib.ExitStack() as whole_again:
        for table in tables:
            whole_again.enter_context(patch.dict(table))
        names: dict[str, Any] = {"__name__": "__main__"}
        for block in blocks(path.read_text(encoding="utf-8")):
            run(block, names, path.name)


@pytest.mark.parametrize("path", [path for path in PAGES if path.exists()], ids=lambda path: path.name)
def test_what_a_page_shows_is_what_happens(path: Path, tmp_path: Path) -> None:
    run_page(path, tmp_path)


def writer() -> ModuleType:
    """docs/write_help.py, which lies outside the package."""
    spec = importlib.util.spec_from_file_location("write_help", ROOT / "docs" / "write_help.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(
    not HELP.exists() and not (ROOT / "src/unmask/cli/__init__.py").exists(), reason="there is no command line yet"
)
def test_help_page_is_the_live_help() -> None:
    assert HELP.exists(), "docs/help.md is missing · every verb's --help is kept there · run make docs"
    assert HELP.read_text(encoding="utf-8") == writer().whole(), "docs/help.md has drifted · run make docs"


# The rules themselves.

PAGE = """
```python
x = 2
print(x)
```

```text
2
```

```python
>>> x + 1
3
>>> for i in range(x): print(i / 3)
0.0
0.33...
>>> y = 5
```

<!-- not run: it needs the network -->
```python
1 / 0
```

```bash
false
```

- in a list:

  ```python
  print(x + y)
  ```
  ```text
  7
  ```
"""


def test_a_good_page_passes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    run_page(page, tmp_path)
    assert len(list(blocks(PAGE))) == 3


@pytest.mark.parametrize(
    "page",
    [
        PAGE.replace("\n2\n", "\n3\n"),
        PAGE.replace("\n3\n", "\n4\n"),
        PAGE.replace("  7\n", "  8\n"),
        PAGE.replace("<!-- not run: it needs the network -->", ""),
        PAGE.replace("<!-- not run: it needs the network -->", "<!-- not run: -->"),
    ],
)
def test_a_page_that_lies_fails(page: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(page)
    with pytest.raises((AssertionError, ZeroDivisionError)):
        run_page(path, tmp_path)


BOXED = """
 Usage: unmask [OPTIONS] COMMAND [ARGS]...

╭─ Options ──────────────────────╮
│ --help          Show this.     │
╰────────────────────────────────╯
╭─ Commands ─────────────────────╮
│ fill    Fill the holes of a    │
│         text.                  │
│ score   Say how likely.        │
╰────────────────────────────────╯
"""
BARE = """
Usage: unmask [OPTIONS] COMMAND [ARGS]...

Options:
  --help  Show this.

Commands:
  fill   Fill the holes of a
         text.
  score  Say how likely.
"""


@pytest.mark.parametrize("page", [BOXED, BARE])
def test_verbs_are_read_from_the_first_page(page: str) -> None:
    assert writer().verbs(page) == ["fill", "score"]
