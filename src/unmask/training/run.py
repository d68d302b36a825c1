"""The door of training: from a recipe, or simply text, to a run's folder with a finished model."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator

    from unmask.data.batches import Batches
    from unmask.model import Model
    from unmask.tokenizer import Tokenizer
    from unmask.training.budget import Budget
    from unmask.training.checkpoint import RunFolder
    from unmask.training.config import Recipe

SAMPLE_SECONDS = 20.0  # a sample may take, at most
EXTRA = ("yaml", "numpy", "accelerate", "datasets")


def train(
    recipe: str | Path | Mapping[str, Any] | None,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    *,
    progress: bool | None = None,
) -> Path:
    """Train a model; the finished one lies in `model/` of the folder that comes back.

    SIGTERM saves a checkpoint and returns early, SIGINT saves one and raises KeyboardInterrupt. Start it under
    `accelerate launch` or `torchrun` for several processes.

    Data that cannot be learned from are told by a `LeftOut` warning, and in the model's card.

    Args:
        recipe: A YAML file, the name of a recipe of the package, a mapping, or simply a path to text. None: the recipe
            of the run in `out`.
        overrides: `key=value`, the last word.
        out: The run's folder; None: `runs/` and the name of the recipe or text.
        resume: Go on with the run in that folder.
        progress: Show a bar on standard error; None: when that is a terminal.

    Raises:
        ValueError: when something is missing, broken or contradicts the run; one line that says how to mend it.
    """
    if missing := [name for name in EXTRA if find_spec(name) is None]:
        raise ValueError(f"{missing[0]} is not installed · training needs it · pip install 'unmask[train]'")
    from accelerate import Accelerator
    from torch import cuda, set_num_threads

    from unmask.training.checkpoint import RunFolder, room_for
    from unmask.training.config import resolve

    folder = RunFolder(out if out is not None else Path("runs") / _stem(recipe))
    asked = resolve(recipe if recipe is not None else folder.config, overrides)
    if asked.threads is not None:
        set_num_threads(asked.threads)
    accelerator = Accelerator(
        cpu=not cuda.is_available(),
        mixed_precision="no",
        log_with=list(asked.trackers) or None,
        project_dir=folder.path,
    )
    if not resume:
        folder.require_free()
    going_on = resume and folder.config.exists()
    accelerator.wait_for_everyone()  # all have looked before the first writes
    with room_for("the run"):
        return _run(asked, folder, accelerator, going_on, sys.stderr.isatty() if progress is None else progress)


def _run(asked: Recipe, folder: RunFolder, accelerator: Accelerator, going_on: bool, progress: bool) -> Path:
    from unmask.data.batches import Batches
    from unmask.data.dialogues import LeftOut
    from unmask.memory import give_back
    from unmask.training import setup, trial
    from unmask.training.loop import Trainer
    from unmask.training.progress import Progress, StopSignal

    main = accelerator.is_main_process
    with accelerator.main_process_first():
        recipe, tokenizer = (_old if going_on else _new)(asked, folder, main)
        batches = Batches.open(
            recipe.data,
            tokenizer,
            batch_tokens=recipe.batch_tokens,
            seed=recipe.seed,
            cache=folder.path / "data",
            apart=setup.answers_apart(recipe),
        )
    for sentence in batches.left_out if main else ():
        warnings.warn(sentence, LeftOut, stacklevel=3)
    give_back()
    folder.keep = recipe.keep
    model = setup.make_model(recipe, tokenizer)
    folder.adapter = setup.adapt(model, recipe)
    masking = setup.make_masking(recipe, tokenizer, accelerator.device)
    answers, in_bfloat16 = any(part.unit == "dialogue" for part in recipe.data.sources), recipe.precision == "bfloat16"
    batches.ended = trial.try_out(model, masking, answers, in_bfloat16)
    trial.check_pairs(recipe, model, batches.ended)
    samples = _samples(tokenizer, setup.prompts(recipe), in_bfloat16) if main else None
    trainer = Trainer(recipe, model, masking, batches, tokenizer, folder, accelerator, samples)
    if going_on:
        trainer.resume()
    budget = _budget(recipe, batches, folder, trainer.state.step)
    keep = _keeper(folder, main)
    keep(budget)
    if main:
        folder.rewind_log(trainer.state.step)
        folder.write("config.yaml", recipe.to_yaml())
    if recipe.trackers:
        accelerator.init_trackers("unmask", config=_flat(recipe))
    with StopSignal() as stop, Progress(progress and main, trainer.state.step) as bar:
        done = trainer.run(budget, keep, bar, stop)
    if done and main:
        _finish(recipe, folder, trainer, tokenizer, batches.left_out)
    accelerator.wait_for_everyone()
    if recipe.trackers:
        accelerator.end_training()
    if not done and stop.interrupted:
        raise KeyboardInterrupt
    return folder.path


def _new(asked: Recipe, folder: RunFolder, main: bool) -> tuple[Recipe, Tokenizer]:
    """Choose what the recipe left open and make the tokenizer; other processes find both in the folder."""
    from unmask.tokenizer import Tokenizer
    from unmask.training import setup
    from unmask.training.config import checked, load

    if not main:
        return checked(load(folder.config)), Tokenizer.load(folder.path)
    recipe = setup.filled(asked)
    setup.make_tokenizer(recipe).save(folder.path)
    folder.write("config.yaml", recipe.to_yaml())
    return recipe, Tokenizer.load(folder.path)


def _old(asked: Recipe, folder: RunFolder, _: bool) -> tuple[Recipe, Tokenizer]:
    """The recipe and tokenizer of the run that goes on.

    Raises:
        ValueError: when what is asked for is not that run.
    """
    from unmask.tokenizer import Tokenizer
    from unmask.training.config import checked, difference, load

    recipe, barred = difference(checked(load(folder.config), str(folder.config)), asked)
    if barred:
        raise ValueError(
            f"{folder.path} is a run of another config · {'; '.join(barred)} · "
            "leave that as it was, or choose another --out"
        )
    return recipe, Tokenizer.load(folder.path)


def _budget(recipe: Recipe, batches: Batches, folder: RunFolder, step: int) -> Budget:
    """The run's budget: the least of those the recipe names."""
    from unmask.training.budget import Budget, extended

    limits = []
    if recipe.steps is not None:
        limits.append(recipe.steps)
    if recipe.tokens is not None:
        limits.append(max(1, round(recipe.tokens / recipe.batch_tokens)))
    if recipe.epochs is not None:
        whole = int(recipe.epochs)
        part = recipe.epochs - whole
        before = batches.n_steps(whole) if whole else 0
        limits.append(max(1, before + round(part * (batches.n_steps(whole + 1) - before)) if part else before))
    new = Budget(min(limits) if limits else None, recipe.minutes)
    path = folder.path / "budget.json"
    if not path.exists():
        return new
    return extended(Budget(**json.loads(path.read_text(encoding="utf-8"))), new, step, recipe.schedule)


def _keeper(folder: RunFolder, main: bool) -> Callable[[Budget], None]:
    """Writes down what minutes became, so that a resumed run takes as many steps."""

    def keep(budget: Budget) -> None:
        if main:
            folder.write("budget.json", json.dumps(vars(budget)))

    return keep


def _samples(tokenizer: Tokenizer, texts: Sequence[str], in_bfloat16: bool) -> Callable[[Model], str] | None:
    """Fills the texts with the model as it is, multiplying as in training."""
    if not texts or find_spec("unmask.language_model") is None:
        return None
    from torch import autocast, bfloat16

    from unmask.language_model import LanguageModel

    def fill(model: Model) -> str:
        lines = []
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        lm = LanguageModel(model, tokenizer)  # which makes it ready for use, not for more training
        try:
            for text in texts:
                try:
                    with autocast(model.device.type, bfloat16, enabled=in_bfloat16):
                        lines.append(lm.fill(text, n=1, timeout=SAMPLE_SECONDS)[0].text)
                except Exception as fault:  # hours of training are worth more than a sample
                    lines.append(f"{text} ({fault})")
        finally:
            for parameter in learned:
                parameter.requires_grad_(True)
        return "".join(f"  {' '.join(line.split())}\n" for line in lines)

    return fill


def _finish(recipe: Recipe, folder: RunFolder, trainer: Any, tokenizer: Tokenizer, left_out: Sequence[str]) -> None:
    """Write the finished model with its card."""
    from unmask.training.card import card
    from unmask.training.lora import write_trained

    text = card(recipe, trainer.model, trainer.state, folder.last_entry(), left_out)
    with trainer.averaged():
        write_trained(folder.model, trainer.model, tokenizer, text, folder.adapter)


def _flat(recipe: Recipe) -> dict[str, Any]:
    """The recipe as trackers take it: one level, plain values."""
    from unmask.training.config import leaves

    plain = (bool, int, float, str)
    return {key: value for key, value in leaves(recipe.model_dump(mode="json")).items() if isinstance(value, plain)}


def _stem(recipe: str | Path | Mapping[str, Any] | None) -> str:
    if recipe is None:
        raise ValueError("no recipe and no run · one of them says what to train · name a recipe, or a run with --out")
    return Path(recipe).stem if isinstance(recipe, (str, Path)) else "run"
