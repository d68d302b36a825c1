"""The training loop: hide, corrupt, read, compare; then a step down the gradient. One loop for every family."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from unmask.canvas import Canvas
from unmask.data.batches import Batch, Batches
from unmask.folder import Saves
from unmask.masking.hidden import units
from unmask.masking.mixture import Mixture
from unmask.model import Model
from unmask.noise import Noise
from unmask.objectives import Loss
from unmask.training.budget import Budget, Clock, rate
from unmask.training.checkpoint import RunFolder, State, room_for
from unmask.training.config import Recipe
from unmask.training.optimisers import Average, load_optimiser_state, make_optimisers, optimiser_state
from unmask.training.progress import Progress, StopSignal

HELD_OUT_SEED = 0  # what is hidden of held-out text is the same in every run
LEVELS = 10  # parts of the range of shares hidden, by which the loss on held-out text is told

Samples = Callable[[Model], str]  # a few fills of the model as it is now, as text


class Lesson(nn.Module):
    """One look at a batch, from clean text to loss. The whole of it is the forward pass that is distributed."""

    def __init__(self, model: Model, masking: Mixture, in_bfloat16: bool) -> None:
        """Teach `model`; `in_bfloat16`: multiply matrices in bfloat16."""
        super().__init__()
        self.model, self.masking, self.in_bfloat16 = model, masking, in_bfloat16

    def forward(self, clean: Canvas, noise: Noise) -> Loss:
        """The loss of undoing what was done to `clean`."""
        objective = self.model.objective
        clean, hidden, noise = self.masking.hide(clean, noise)
        canvas, targets = objective.corrupt(clean, hidden, noise)
        with torch.autocast(clean.ids.device.type, torch.bfloat16, enabled=self.in_bfloat16):
            prediction = self.model.predict(canvas, targets)
            return objective.loss(prediction, canvas, targets)

    def by_level(self, clean: Canvas, noise: Noise) -> Iterator[tuple[int, Loss, Loss]]:
        """As `forward`, in parts of rows of which a like share is hidden.

        Yields which tenth that share lies in, the loss, and the loss when every hidden token weighs 1.
        """
        objective = self.model.objective
        clean, hidden, noise = self.masking.hide(clean, noise)
        n_text, n_hidden = ((clean.sum_rows(some.double())) for some in (units(clean).of >= 0, hidden.mask))
        tenth = (n_hidden / n_text.clamp(min=1) * LEVELS).ceil().long().clamp(1, LEVELS) - 1
        for level in tenth.unique().tolist():
            rows = (tenth == level).nonzero().squeeze(1)
            part, own = clean.take(rows), Noise(noise.seed, noise.key[rows])
            some = hidden.take(clean, rows)
            one = torch.ones_like(some.weight)
            even = replace(some, weight=one, count=n_hidden[rows], bound=one < 0, within=None, whole=None)
            canvas, targets = objective.corrupt(part, some, own)
            with torch.autocast(clean.ids.device.type, torch.bfloat16, enabled=self.in_bfloat16):
                prediction = self.model.predict(canvas, targets)
                loss = objective.loss(prediction, canvas, targets)
                yield level, loss, objective.loss(prediction, canvas, objective.corrupt(part, even, own)[1])


@dataclass(frozen=True)
class Totals:
    """Losses of many rows, to be divided when all are there."""

    loss: float
    count: float
    parts: dict[str, float]
    tokens: int
    stop: bool = False

    @property
    def mean(self) -> float:
        """Nats a count."""
        return self.loss / self.count

    @property
    def mean_parts(self) -> dict[str, float]:
        """The same of each term."""
        return {name: value / self.count for name, value in self.parts.items()}


class Trainer:
    """A run in progress."""

    def __init__(
        self,
        recipe: Recipe,
        model: Model,
        masking: Mixture,
        batches: Batches,
        tokenizer: Saves,
        folder: RunFolder,
        accelerator: Accelerator,
        samples: Samples | None = None,
    ) -> None:
        """Make the optimisers and give everything its place on device and among processes."""
        self.recipe, self.batches, self.tokenizer, self.folder = recipe, batches, tokenizer, folder
        self.accelerator, self.samples = accelerator, samples
        self.model = model.to(accelerator.device)
        self.optimisers = make_optimisers(self.model, recipe)
        self.rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in self.optimisers]
        self.average = Average(self.model, recipe.ema) if recipe.ema is not None else None
        self.lesson = Lesson(self.model, masking, recipe.precision == "bfloat16")
        self.distributed = accelerator.prepare(self.lesson)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.state = State()
        self.parts: list[str] = []  # names of the loss's terms, known from the first step on

    def resume(self) -> None:
        """Go on at the last checkpoint, if there is one."""
        found = self.folder.latest(self.model)
        if found is None:
            return
        self.state, optimiser, average = found
        load_optimiser_state(self.optimisers, self.model, optimiser)
        if self.average is not None and average is not None:
            self.average.mean = {name: average[name].to(self.accelerator.device) for name in self.average.weights}
        self.batches.load_state_dict(self.state.data)

    def run(self, budget: Budget, settle: Callable[[Budget], None], progress: Progress, stop: StopSignal) -> bool:
        """Take all steps of the budget; False when a signal stopped it early.

        Args:
            budget: How many steps.
            settle: Called with the budget when minutes became steps.
            progress: Told after each step.
            stop: Looked at after each step.

        Raises:
            ValueError: when the loss is no number, or the disk is full; checkpoints written before stay.
        """
        clock, begun, spent = Clock(), time.perf_counter(), self.state.seconds
        while budget.steps is None or self.state.step < budget.steps:
            before, before_cpu = time.perf_counter(), time.process_time()
            share = rate(self.state.step, budget.at(self.state.step), self.recipe.schedule, budget.warmup)
            totals = self.learn(share, stop.asked)
            now, cpu = time.perf_counter(), time.process_time() - before_cpu
            self.state.step += 1
            self.state.tokens += totals.tokens
            self.state.seconds = spent + now - begun
            if budget.timing and (per_step := self.agreed(clock.tick(budget.minutes or 0.0))) is not None:
                budget = budget.settled(self.state.step, self.state.seconds, per_step)
                settle(budget)
            last = self.state.step == budget.steps
            entry = {
                "step": self.state.step,
                "tokens": self.state.tokens,
                "loss": totals.mean,
                "parts": totals.mean_parts,
                "learning_rate": self.recipe.learning_rate * share,
                "tokens_per_second": round(totals.tokens / (now - before), 1),
                "seconds": round(self.state.seconds, 3),
                "cpu_seconds": round(cpu, 4),  # of this step and this process
            }
            if last or self.due(self.recipe.evaluate_every):
                entry |= self.look()
            self.report(entry, progress, budget)
            if last or totals.stop or self.due(self.recipe.checkpoint_every):
                self.save()
            if totals.stop and not last:
                return False
        return True

    def learn(self, share: float, stop: bool = False) -> Totals:
        """One step, at a share of the full learning rate.

        The gradient is that of the sum of all losses over all parts and processes, divided by their count.
        """
        parts = self.batches.micro_batches(
            self.accelerator.process_index, self.accelerator.num_processes, self.recipe.accumulate
        )
        sums: list[tuple[Loss, int]] = []
        for number, part in enumerate(parts, 1):
            with self.gathering(now=number == len(parts)):
                loss = self.distributed(*self.to_device(part, self.recipe.seed))
                self.accelerator.backward(loss.total)
            sums.append((loss, part.canvas.n_elements))
        totals = self.gather(sums, stop)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        torch._foreach_mul_(gradients, self.accelerator.num_processes / totals.count)  # processes were averaged
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.recipe.clip or math.inf)
        if not (math.isfinite(totals.loss) and norm is not None and bool(norm.isfinite())):
            raise ValueError(
                f"the loss is no number at step {self.state.step + 1} (loss {totals.mean}, gradient {float(norm)}, "
                f"learning rate {self.recipe.learning_rate * share:.3g}) · the last good checkpoint is kept · "
                "begin anew with a lower learning_rate, or look at the data"
            )
        for optimiser, rates in zip(self.optimisers, self.rates, strict=True):
            for group, full in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = full * share
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.state.step)
        return totals

    def to_device(self, batch: Batch, seed: int) -> tuple[Canvas, Noise]:
        """A batch on the device, and the noise of its rows."""
        device = self.accelerator.device
        return batch.canvas.to(device), Noise(seed, batch.row_ids.to(device), batch.company.to(device))

    def gathering(self, now: bool) -> AbstractContextManager[Any]:
        """Processes exchange gradients in the last part of a step only."""
        return nullcontext() if now else self.accelerator.no_sync(self.distributed)

    def gather(self, sums: Sequence[tuple[Loss, int]], stop: bool = False) -> Totals:
        """Add up over parts and processes; `stop` when any process was asked to."""
        names = self.parts = sorted(sums[0][0].parts) if sums else self.parts
        head = torch.tensor([0.0] * (2 + len(names)) + [sum(n for _, n in sums), float(stop)], dtype=torch.float64)
        added = head.to(self.accelerator.device)
        for loss, _ in sums:
            numbers = [loss.total.detach(), loss.count, *(loss.parts[name] for name in names)]
            added[: len(numbers)] += torch.stack([number.double() for number in numbers])
        total, count, *parts, n_tokens, n_stops = self.accelerator.reduce(added, "sum").tolist()
        return Totals(total, max(count, 1e-9), dict(zip(names, parts, strict=True)), int(n_tokens), n_stops > 0)

    def agreed(self, per_step: float | None) -> float | None:
        """The first process's clock, for all."""
        return broadcast_object_list([per_step])[0] if self.accelerator.num_processes > 1 else per_step

    def due(self, every: int) -> bool:
        """Whether this step is one of every so many."""
        return every > 0 and self.state.step % every == 0

    def look(self) -> dict[str, Any]:
        """The loss on held-out text, and samples; of the averaged weights where they are kept."""
        entry: dict[str, Any] = {}
        with self.averaged(), torch.no_grad():
            self.model.eval()
            if any(part.n_units for part in self.batches.held):
                totals, levels = self.evaluate()
                entry = {"held_out": {"loss": totals.mean, "parts": totals.mean_parts, "tokens": totals.tokens}}
                entry["held_out"]["by_level"] = levels
            if self.samples is not None and self.accelerator.is_main_process:
                filled = self.samples(self.model)
                with room_for("samples.txt"):
                    self.folder.append("samples.txt", f"step {self.state.step}\n{filled}")
            self.model.train()
        return entry

    def evaluate(self) -> tuple[Totals, list[float | None]]:
        """Losses of the held-out rows, hidden the same way at any time; processes take batches in turn.

        Also the loss a hidden token by the share of its row that is hidden, in ten parts; None: nothing was.
        """
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        sums, levels = [], torch.zeros(2, LEVELS, dtype=torch.float64, device=self.accelerator.device)
        for number, batch in enumerate(self.batches.held_out(limit=self.recipe.evaluate_tokens)):
            if number % world != rank:
                continue
            n_elements = batch.canvas.n_elements
            for level, loss, even in self.lesson.by_level(*self.to_device(batch, HELD_OUT_SEED)):
                sums.append((loss, n_elements))
                n_elements = 0  # counted once
                levels[:, level] += torch.stack([even.total.double(), even.count.double()])
        totals = self.gather(sums)
        total, count = self.accelerator.reduce(levels, "sum").tolist()
        return totals, [round(t / n, 5) if n else None for t, n in zip(total, count, strict=True)]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in the place of the last ones, where they are kept."""
        if self.average is None:
            yield
            return
        self.average.swap()
        try:
            yield
        finally:
            self.average.swap()

    def report(self, entry: dict[str, Any], progress: Progress, budget: Budget) -> None:
        """A line in the log, trackers and the bar."""
        if not self.accelerator.is_main_process:
            return
        with room_for("log.jsonl"):
            self.folder.log(entry)
        numbers = {name: value for name, value in entry.items() if isinstance(value, float)}
        for group in ("parts", "held_out"):
            inner = entry.get(group, {})
            numbers |= {f"{group}/{name}": value for name, value in inner.items() if isinstance(value, float)}
        self.accelerator.log(numbers, step=self.state.step)
        progress.tell(entry, budget.steps)

    def save(self) -> None:
        """Write a checkpoint; all processes wait for it."""
        self.state.data = dict(self.batches.state_dict())
        if self.accelerator.is_main_process:
            optimiser = optimiser_state(self.optimisers, self.model)
            average = self.average.state() if self.average is not None else None
            self.folder.save(self.state, self.model, self.tokenizer, optimiser, average)
        self.accelerator.wait_for_everyone()
