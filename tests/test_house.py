"""The house test: the floors, the names and the sizes of the source, read without importing it."""

import ast
import re
import tokenize
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
FILES = sorted((SRC / "unmask").rglob("*.py"))

# Who may import whom: only downwards. A module of the package that is not in this table has no place in the house.
FLOORS = {
    "canvas": 1,
    "view": 1,
    "schedules": 1,
    "holes": 1,
    "noise": 1,
    "masking": 1.5,  # says what is hidden; the objectives say how that shows
    "objectives": 2,
    "backbone": 2,
    "tokenizer": 2,
    "model": 2.5,  # a backbone and an objective in one module
    "decoding": 3,
    "data": 3,
    "bases": 3,
    "fetch": 3,
    "pull": 3,
    "folder": 3,
    "adapter": 3,
    "public": 3,
    "tensors": 3,
    "memory": 3,
    "language_model": 3,
    "conversation": 3,
    "results": 3,  # what a fill or a score is
    "training": 4,
    "evaluation": 4,
    "cli": 5,
    "recipes": 5,
    "": 5,  # unmask/__init__.py, the public names
    "__main__": 5,
}
STRANGERS = {"objectives", "backbone", "tokenizer"}  # none of these imports another
TORCH_ALONE = {"canvas", "view", "schedules", "noise", "holes"}  # beside the standard library and this floor
NAMELESS = ("training", "decoding")  # know the protocol of an objective, and no family

LINES = 400
RAISED: dict[str, tuple[int, str]] = {}  # "src/unmask/file.py": (cap, "the reason")
FUNCTION_LINES = 60
RAISED_FUNCTIONS: dict[str, tuple[int, str]] = {}  # "src/unmask/file.py:function": (cap, "the reason")
# What belongs to one machine or one sitting; words put together so that this file does not say them either.
OUTSIDE = ["../" + "shared", "/" + "work/", "far" + "m-", "hel" + "per"]
VAGUE = {"utils", "util", "common", "hel" + "pers", "base", "manager", "misc"}
UNFINISHED = ["TO" + "DO", "FIX" + "ME"]
WRITTEN = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".cfg", ".sh", ""}  # suffixes of what people read


def module(path: Path) -> str:
    """`src/unmask/data/files.py` -> `unmask.data.files`."""
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


def room(name: str) -> str:
    """`unmask.data.files` -> `data`."""
    return (name.split(".") + [""])[1]


MODULES = {module(path) for path in FILES}


def imports(source: str, name: str, *, is_package: bool, lazy: bool = True) -> Iterator[tuple[str, int]]:
    """What a module imports, by full name, with the line; without `lazy` only what runs when it is imported."""
    home = name if is_package else name.rpartition(".")[0]
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(home.split(".")[: len(home.split(".")) - node.level + 1]) if node.level else ""
            start = ".".join(part for part in (above, node.module) if part)
            for alias in node.names:
                inner = f"{start}.{alias.name}"
                yield (inner if inner in MODULES else start), node.lineno
        elif not lazy and (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        ):
            continue
        waiting.extend(ast.iter_child_nodes(node))


def imports_of(path: Path, *, lazy: bool = True) -> list[tuple[str, int]]:
    return list(imports(path.read_text(), module(path), is_package=path.stem == "__init__", lazy=lazy))


def climbs(name: str, imported: str) -> str | None:
    """What is wrong with `name` importing `imported`, if anything."""
    if imported.split(".")[0] != "unmask":
        return None
    upper, lower = room(name), room(imported)
    if upper == lower or not {upper, lower} <= FLOORS.keys():
        return None  # a module without a floor has its own test
    if FLOORS[upper] < FLOORS[lower]:
        return f"{upper} (floor {FLOORS[upper]}) imports {lower or 'unmask itself'} (floor {FLOORS[lower]})"
    if {upper, lower} <= STRANGERS:
        return f"{upper} and {lower} are strangers"
    return None


def families(table: Path = SRC / "unmask/objectives/__init__.py") -> set[str]:
    """The names of the objective table: its keys, its classes and the files they come from."""
    tree = ast.parse(table.read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "OBJECTIVES" for target in targets):
            assert isinstance(node.value, ast.Dict), "OBJECTIVES is written out as a dict"
            names |= {ast.literal_eval(key) for key in node.value.keys}
            names |= {value.id for value in node.value.values if isinstance(value, ast.Name)}
    assert names, "the objective table was not found"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and {alias.name for alias in node.names} & names:
            names.add((node.module or "").rpartition(".")[2])
    return names


def named(source: str, names: set[str]) -> list[tuple[int, str]]:
    """Where a source names a family: as an identifier, or as a word of a string, docstring or comment.

    A name that is an English word too ("insertion") counts in strings only when it is the whole string.
    """
    marked = {name for name in names if "_" in name or not name.islower()}
    found = []
    for token in tokenize.generate_tokens(StringIO(source).readline):
        words = set(re.findall(r"\w+", token.string)) & marked
        if words or (token.string if token.type == tokenize.NAME else token.string.strip("rbfRBF\"'")) in names:
            found.append((token.start[0], token.string))
    return found


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    """One circle of a graph, or none."""
    done: set[str] = set()

    def walk(node: str, trail: list[str]) -> list[str] | None:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node in done:
            return None
        for other in sorted(graph.get(node, ())):
            if found := walk(other, [*trail, node]):
                return found
        done.add(node)
        return None

    for node in sorted(graph):
        if found := walk(node, []):
            return found
    return None


def written() -> list[Path]:
    """Every text of the repository that a person wrote."""
    tops = [path for path in ROOT.iterdir() if path.is_file()]
    folders = ["src", "tests", "docs", "benchmarks", "experiments", "examples", ".ci", ".github"]
    inner = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    weights = SRC / "unmask" / "weights"  # a vocabulary may hold any word; its card is written by hand
    return sorted(
        path
        for path in tops + inner
        if path.suffix in WRITTEN and (weights not in path.parents or path.suffix == ".md") and path.name != ".git"
    )


def test_every_module_has_a_floor() -> None:
    homeless = {name for name in MODULES if room(name) not in FLOORS}
    assert not homeless, f"give these a place in FLOORS and in pyproject.toml: {sorted(homeless)}"


def test_the_readme_shows_the_floors() -> None:
    shown = re.findall(
        r"^[├└]─ ([a-z_]+)(?:/|\.py) +(\d)(½?)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    rooms = {room(name): FLOORS[room(name)] for name in MODULES | {"unmask.recipes"}}
    assert {name: int(floor) + bool(half) / 2 for name, floor, half in shown} == {
        name: floor for name, floor in rooms.items() if name not in {"", "__main__"}
    }


def test_imports_go_downwards() -> None:
    bad = [
        f"{path.relative_to(ROOT)}:{line}: {fault}"
        for path in FILES
        for imported, line in imports_of(path)
        if (fault := climbs(module(path), imported))
    ]
    assert not bad, "\n".join(bad)


def test_the_first_floor_imports_torch_alone() -> None:
    from sys import stdlib_module_names

    bad = [
        f"{path.relative_to(ROOT)}:{line}: imports {imported}"
        for path in FILES
        if room(module(path)) in TORCH_ALONE
        for imported, line in imports_of(path)
        if imported.split(".")[0] not in {"torch", "unmask"} | stdlib_module_names
    ]
    assert not bad, "\n".join(bad)


def test_no_circles() -> None:
    graph = {
        module(path): {imported for imported, _ in imports_of(path, lazy=False) if imported in MODULES}
        for path in FILES
    }
    assert circle(graph) is None


def test_training_and_decoding_name_no_family() -> None:
    names = families()
    bad = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in FILES
        if room(module(path)) in NAMELESS
        for line, what in named(path.read_text(), names)
    ]
    assert not bad, "\n".join(bad)


def test_what_is_said_without_torch_is_what_holds() -> None:
    """The names that the command line checks before torch is there, beside the real tables."""
    from toys import toy
    from unmask.decoding import choices
    from unmask.decoding.policies import POLICIES
    from unmask.objectives import OBJECTIVES

    said, real = (
        {name: (policy.deterministic, policy.several, policy.level) for name, policy in table.items()}
        for table in (choices.POLICIES, POLICIES)
    )
    assert said == real
    had: set[str] = set()
    for family in OBJECTIVES:
        for method in choices.METHODS:
            with suppress(ValueError):
                toy(family).score("the cat", method=method)
                had.add(method)
    assert had == set(choices.METHODS)


def test_no_file_is_called_vaguely() -> None:
    bad = [path for path in FILES if {path.stem.strip("_"), path.parent.name} & VAGUE]
    assert not bad, f"name these after the one thing they hold: {bad}"


def test_files_are_short() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    bad = {name: size for name, size in sizes.items() if size > RAISED.get(name, (LINES, ""))[0]}
    assert not bad, f"split these, or raise their cap in RAISED with the reason: {bad}"
    idle = {name for name, (_, reason) in RAISED.items() if sizes.get(name, 0) <= LINES or not reason}
    assert not idle, f"raised for nothing, or for no stated reason: {idle}"


def test_functions_are_short() -> None:
    sizes = {
        f"{path.relative_to(ROOT)}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    bad = {name: size for name, size in sizes.items() if size > RAISED_FUNCTIONS.get(name, (FUNCTION_LINES, ""))[0]}
    assert not bad, f"split these, or raise their cap in RAISED_FUNCTIONS with the reason: {bad}"


def test_nothing_is_left_unfinished_or_points_outside() -> None:
    bad = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in written()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if any(word in line for word in UNFINISHED) or any(word in line.lower() for word in OUTSIDE)
    ]
    assert not bad, "\n".join(bad)


def test_pins_name_no_machine() -> None:
    """A pin is a name and a release: no build of one machine, no address."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    bad = [line for line in lines if line and not line.startswith("#") and not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    assert not bad, bad


# The rules themselves, on small offenders.


@pytest.mark.parametrize(
    ("name", "imported", "fault"),
    [
        ("unmask.canvas", "unmask.view", None),
        ("unmask.canvas", "unmask.masking.hidden", "canvas (floor 1) imports masking (floor 1.5)"),
        ("unmask.backbone.transformer", "unmask.objectives", "backbone and objectives are strangers"),
        ("unmask.objectives.words", "unmask.model", "objectives (floor 2) imports model (floor 2.5)"),
        ("unmask.training.loop", "unmask.decoding", None),
        ("unmask.decoding.infill", "unmask.training", "decoding (floor 3) imports training (floor 4)"),
        ("unmask.data.files", "datasets", None),
        ("unmask.view", "unmask", "view (floor 1) imports unmask itself (floor 5)"),
    ],
)
def test_the_floor_rule(name: str, imported: str, fault: str | None) -> None:
    assert climbs(name, imported) == fault


def test_the_import_reader() -> None:
    source = "import a.b\nfrom . import canvas\nfrom .canvas import Canvas\ndef f():\n    import late\n"
    assert sorted(imports(source, "unmask", is_package=True)) == [
        ("a.b", 1),
        ("late", 5),
        ("unmask.canvas", 2),
        ("unmask.canvas", 3),
    ]
    assert "late" not in dict(imports(source, "unmask", is_package=True, lazy=False))
    assert list(imports("from ..canvas import Canvas", "unmask.data.files", is_package=False)) == [("unmask.canvas", 1)]


@pytest.mark.parametrize(
    "source",
    [
        "from unmask.objectives.blank_lm import BlankLM\n",
        "if name == 'blank_lm':\n    pass\n",
        "isinstance(objective, BlankLM)\n",
        "# as blank_lm does\n",
        "x = objectives.insertion\n",
        "x = 'insertion'\n",
        "kind = f'{a}blank_lm'\n",
    ],
)
def test_the_family_rule_bites(source: str) -> None:
    assert named(source, {"blank_lm", "BlankLM", "insertion"})


def test_the_family_rule_lets_words_be() -> None:
    assert not named("'''The insertion of a blank.'''\nx = 'an insertion'  # insertion\n", {"blank_lm", "insertion"})


def test_the_table_is_read() -> None:
    assert {"blank_lm", "BlankLM", "left_to_right"} <= families()


def test_the_circle_rule() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
