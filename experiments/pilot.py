"""Small models for tables, by recipe, settings and budget: each in a folder named after them, and made once.

    python experiments/pilot.py --text my.txt --out runs/pilots --tokens 2e6 --set backbone.n_kv_heads=1 ema=null

What --set says is as `unmask train` takes it. All models of one --out share a vocabulary and the data as
ids. A model that is finished is not trained again, one that was stopped goes on, one that another process trains is
waited for. The other scripts make theirs here.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from filelock import FileLock

from table import markdown

PROBED, WARM = 20, 5  # steps of a probe of speed, and those of them that do not count
Text = Path | Mapping[str, Any]  # a file or folder, or a source as a recipe spells it
QUIET = ("evaluate_every=0", "evaluate_tokens=20000", "checkpoint_every=200", "prompts=[]")


@dataclass(frozen=True)
class Pilot:
    """A trained model, and what it took."""

    folder: Path
    steps: int
    tokens: int
    cpu_seconds: float  # of the steps; making the data is not counted
    parameters: int

    def load(self) -> Any:
        """The model, in float32 on the CPU; asked for again, it is the same."""
        return loaded(self.folder / "model")

    @property
    def cost(self) -> dict[str, float]:
        """Figures for a table."""
        return {"steps": self.steps, "Mtokens": self.tokens / 1e6, "CPU s": self.cpu_seconds}


class Pilots:
    """The models of an experiment.

    `texts` are what its vocabulary is made of and its models read, unless told otherwise; `given` is what `arguments`
    parsed. A budget of processor time becomes steps by a short run of each setting, whose steps are timed; tokens
    become steps by the size of a batch, so that all see the same.
    """

    def __init__(self, given: argparse.Namespace, texts: Sequence[Text], *also: str) -> None:
        """Make the vocabulary, if need be; `also`: settings of all its models."""
        import torch

        torch.set_num_threads(given.threads)
        self.out, self.texts, self.given = given.out, list(texts), given
        shape = [f"backbone.{name}={getattr(given, name)}" for name in ("width", "n_layers", "n_heads")]
        size = [f"batch_tokens={given.batch_tokens}", f"data.max_tokens={given.row_tokens}"]
        self.common = [*QUIET, *size, *also, f"threads={given.threads}"]
        self.fresh = [*shape, *given.settings]  # of models with fresh weights
        self.vocabulary = self._vocabulary()

    @property
    def name(self) -> str:
        """A digest of all that its models share; a table keeps it beside each row."""
        budget = [self.given.cpu, self.given.tokens, self.given.steps]
        laws = _said("llada")  # of the models that name no other recipe
        return digest(self.common, self.fresh, laws, budget, self.vocabulary.name, *map(_identity, self.texts))

    def left_to_right(self, stop: str = "answer") -> list[str]:
        """Settings of the baseline: the same backbone, from left to right; `stop`: the sign with which it ends a text.

        Answers that are learned from dialogues end with `end`; elsewhere a sign that stands in no other place is it.
        """
        from unmask.tokenizer import Tokenizer

        signs = Tokenizer.load(self.vocabulary).signs
        options = {"plain": True, "begin": signs["start"], "stop": signs[stop]}
        return [f"objective={json.dumps({'name': 'left_to_right', **options})}", "masking=all"]

    def make(
        self,
        label: str,
        settings: Sequence[str] = (),
        seed: int = 0,
        *,
        recipe: str = "llada",
        start: Pilot | None = None,
        texts: Sequence[Text] | None = None,
        steps: int | None = None,
    ) -> Pilot:
        """The model of these settings; trained unless it is there.

        Args:
            label: What its folder's name begins with.
            settings: What sets it apart, `key=value`.
            seed: Of weights, data and what is hidden.
            recipe: The name of a recipe or a file.
            start: The model it goes on from; None: fresh weights.
            texts: What it reads in the place of the experiment's texts.
            steps: Its budget, in the place of the experiment's.
        """
        own = [*self.common, *(self.fresh if start is None else ()), *settings]
        place = [f"tokenizer.path={self.vocabulary}"] if start is None else [f"model={start.folder / 'model'}"]
        place += [f"data.cache={self.out / 'data'}", f"data.sources={json.dumps(_sources(texts or self.texts))}"]
        beginning = self.vocabulary.name if start is None else start.folder.name
        same = digest(recipe, _said(recipe), own, beginning, *map(_identity, texts or self.texts))
        steps = steps or self._steps(recipe, own, place, self.out / "probes" / f"{slug(label)}-{same}")
        folder = self.out / "pilots" / f"{slug(label)}-{steps}x{self.given.batch_tokens}-seed{seed}-{same}"
        return _trained(folder, recipe, [*own, *place, f"steps={steps}", f"seed={seed}"])

    def _steps(self, recipe: str, own: Sequence[str], place: Sequence[str], probe: Path) -> int:
        if self.given.steps is not None:
            return int(self.given.steps)
        if self.given.cpu is None:
            return max(1, round(self.given.tokens / self.given.batch_tokens))
        _trained(probe, recipe, [*own, *place, f"steps={PROBED}", "seed=0"])
        times = [entry["cpu_seconds"] for entry in _log(probe)][WARM:]
        return max(1, round(self.given.cpu / statistics.median(times)))

    def _vocabulary(self) -> Path:
        from unmask.training import setup
        from unmask.training.config import resolve

        said = [] if self.given.vocabulary is None else [f"tokenizer.vocab_size={self.given.vocabulary}"]
        folder = self.out / f"vocabulary-{digest(said, *map(_identity, self.texts))}"
        with alone(self.out, folder.name):
            if not folder.exists():
                say("making the vocabulary")
                recipe = resolve("llada", [*said, f"data.sources={json.dumps(_sources(self.texts))}"])
                beside = folder.with_suffix(".part")
                setup.make_tokenizer(recipe).save(beside)
                beside.rename(folder)
        return folder


@lru_cache(maxsize=2)
def loaded(folder: Path) -> Any:
    """A model's folder, in float32 on the CPU; the last two stay in memory."""
    import unmask

    return unmask.load(folder, device="cpu", dtype="float32")


def _trained(folder: Path, recipe: str, settings: Sequence[str]) -> Pilot:
    """The model in a folder, trained there unless it is finished."""
    from unmask.training.run import train

    done = folder / "pilot.json"
    with alone(folder.parent.parent, folder.name):
        if not done.exists():
            say(f"training {folder.name}")
            train(recipe, settings, folder, resume=True)
            if not (folder / "model").exists():
                raise SystemExit(f"{folder} was stopped · the same command goes on")
            log = _log(folder)
            parameters = Pilot(folder, 0, 0, 0.0, 0).load().model.n_parameters()
            spent = sum(entry["cpu_seconds"] for entry in log)
            facts = {"steps": len(log), "tokens": log[-1]["tokens"], "cpu_seconds": spent, "parameters": parameters}
            done.write_text(json.dumps(facts) + "\n", encoding="utf-8")
    return Pilot(folder, **json.loads(done.read_text(encoding="utf-8")))


@contextmanager
def alone(out: Path, name: str) -> Iterator[None]:
    """No other process makes what has this name meanwhile; one that wants it waits."""
    (out / ".locks").mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".locks" / name):
        yield


def _log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def _sources(texts: Sequence[Text]) -> list[dict[str, Any]]:
    """How a recipe says it; of a path alone the last twentieth is held out."""
    from unmask.data.sources import Source

    said = [{"path": text} if isinstance(text, Path) else dict(text) for text in texts]
    paths = [str(Path(one["path"]).absolute()) for one in said]
    plain = [Source.of(path).model_dump(mode="json", exclude_unset=True) for path in paths]
    pairs = zip(texts, said, plain, paths, strict=True)
    return [whole if isinstance(text, Path) else one | {"path": path} for text, one, whole, path in pairs]


def _said(recipe: str) -> dict[str, Any]:
    """All that a recipe says: under the same name it may say something else some day."""
    from unmask.training.config import spelled

    return spelled(recipe)[0]


def _identity(text: Text) -> list[Any]:
    """Name and size of a file, or of all of a folder, and what is said of it: where it lies may change."""
    path = text if isinstance(text, Path) else Path(text["path"])
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    said = {} if isinstance(text, Path) else {key: value for key, value in text.items() if key != "path"}
    return [said, *([file.name, file.stat().st_size] for file in files)]


def digest(*said: Any) -> str:
    """Eight letters that change with what is said."""
    return blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=4).hexdigest()


def slug(label: str) -> str:
    """A label as part of a file's name."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in label).split())


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def arguments(doc: str | None, name: str, text: bool = True, **defaults: Any) -> argparse.ArgumentParser:
    """What all scripts take; `name` of the experiment, and which defaults differ."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("models").add_argument
    if text:
        add("--text", type=Path, nargs="+", required=True, help="files or folders of text to learn from")
        add("--held-out", type=Path, nargs="+", help="text to measure on; else the last 5 %% of each file of --text")
    add("--out", type=Path, default=Path("runs") / name, help="folder of all that is made (%(default)s)")
    add("--seeds", type=int, default=2, help="each model is made so many times (%(default)s)")
    add("--first-seed", type=int, default=0, help="of these (%(default)s): each machine its own, say", metavar="SEED")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--tokens", type=float, default=2e6, help="that each model reads (%(default).0f)")
    budget.add_argument("--cpu", type=float, help="seconds of processor time for each model, in the place of tokens")
    budget.add_argument("--steps", type=int, help="for each model, in the place of tokens")
    sizes = {"width": 128, "n_layers": 4, "n_heads": 2, "batch_tokens": 4096, "row_tokens": 128, "threads": 1}
    for option, value in sizes.items():
        shown = option.removeprefix("n_").replace("_", "-")
        add(f"--{shown}", dest=option, type=int, default=value, help="(%(default)s)", metavar="N")
    add("--vocabulary", type=int, metavar="N", help="its size; else by the size of the text")
    told = {"dest": "settings", "metavar": "KEY=VALUE", "help": "more settings of models with fresh weights"}
    add("--set", nargs="+", action="extend", default=[], **told)
    parser.set_defaults(**defaults)
    return parser


def seeds_of(given: argparse.Namespace) -> range:
    """The seeds of an experiment's models."""
    return range(given.first_seed, given.first_seed + given.seeds)


def run(main: Callable[[], None]) -> None:
    """A script's `main`, with memory kept as `unmask train` keeps it, and faults told in one line."""
    from unmask.memory import settle_memory

    settle_memory()
    try:
        main()
    except ValueError as fault:
        raise SystemExit(f"{Path(sys.argv[0]).name}: {fault}") from None
    except KeyboardInterrupt:
        raise SystemExit("stopped · the same command goes on") from None


def main(argv: Sequence[str] | None = None) -> None:
    """Make the models and print what they are."""
    parser = arguments(__doc__, "pilots")
    parser.add_argument("--recipe", default="llada", help="(%(default)s)")
    parser.add_argument("--label", default="pilot", help="what names of folders begin with (%(default)s)")
    parser.add_argument("--left-to-right", action="store_true", help="the baseline of the same size")
    given = parser.parse_args(argv)
    pilots = Pilots(given, given.text)
    own = pilots.left_to_right() if given.left_to_right else []
    made = [pilots.make(given.label, own, seed, recipe=given.recipe) for seed in seeds_of(given)]
    columns = {"folder": "", "parameters": ",", "steps": ",", "tokens": ",", "cpu_seconds": ".1f"}
    rows: list[Mapping[str, Any]] = [asdict(one) for one in made]
    print(markdown(rows, columns))


if __name__ == "__main__":
    run(main)
