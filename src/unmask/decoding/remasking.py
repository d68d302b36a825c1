"""Taking written tokens back: ReMDM (Wang et al. 2025), over any policy and any family that can write a mask again.

Time runs from 0, all masked, to 1, all written; alpha is the share that is written then. A step from alpha to its next
value takes each written token back with probability sigma, at most (1 - alpha') / alpha, and writes as many more masks
as keep the share at alpha' (section 4.1).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unmask.canvas import Canvas, Role
from unmask.decoding.beam import Hypotheses
from unmask.decoding.masks import remask_of
from unmask.model import Model
from unmask.noise import Noise, scattered
from unmask.objectives import told
from unmask.objectives.words import segment_logsumexp

LOOP = (0.45, 0.95, 0.9)  # `loop` holds alpha at the third between these shares of the steps (section 4.2)


def alpha(age: Tensor, steps: int, kind: str) -> tuple[Tensor, Tensor]:
    """The share that is written before and after the step that follows `age [B]` others, `[B]` float64 each."""
    return _level(age.double() / steps, kind), _level((age.double() + 1) / steps, kind)


def _level(time: Tensor, kind: str) -> Tensor:
    time = time.clamp(0, 1)
    if kind != "loop":
        return time
    on, off, held = LOOP
    falling = held + (1 - held) * (time - off) / (1 - off)
    return torch.where(time < on, time / on * held, torch.where(time < off, torch.full_like(time, held), falling))


def taken_back(canvas: Canvas, age: Tensor, steps: int, remask: str, noise: Noise) -> Tensor:
    """The elements that give way to a mask in this step, `[T]` int64, ascending.

    Args:
        canvas: As it is read.
        age: Steps that each row took, `[B]`.
        steps: Of the whole row.
        remask: `cap`: sigma is at most the level; `rescale`: the level times the most it may be; `confidence`: as
            `cap`, each token by its share of a softmax of -p, as when it was written, times how many there are;
            `loop`: as `cap`, while alpha is held.
        noise: Of the rows.
    """
    kind, level = remask_of(remask)
    now, then = alpha(age, steps, kind)
    most = ((1 - then) / now.clamp(min=1e-9)).clamp(max=1)
    sigma = most * level if kind == "rescale" else most.clamp(max=level)
    if kind == "loop":
        sigma = torch.where(now == then, sigma, 0.0)
    mine = (canvas.in_holes & (canvas.role == Role.TEXT)).nonzero().squeeze(1)
    row = canvas.rows[mine]
    chance = sigma[row]
    if kind == "confidence":
        doubt = -canvas.log_prob[mine].double().exp()
        share = (doubt - segment_logsumexp(doubt, row, canvas.n_rows)[row]).exp()
        chance = (chance * share * torch.bincount(row, minlength=canvas.n_rows)[row]).clamp(max=1)
    return mine[noise.elements(canvas, "take back")[mine] < chance]


def remasking_quota(canvas: Canvas, back: Tensor, age: Tensor, steps: int, remask: str) -> Tensor:
    """How many masks each row writes, `[B]`, so that after taking `back [T]` the right share is written."""
    kind, _ = remask_of(remask)
    _, then = alpha(age, steps, kind)
    masked = canvas.sum_rows((canvas.in_holes & (canvas.role == Role.SIGN)).long())
    stays = ((1 - then) * canvas.sum_rows(canvas.in_holes.long())).round().long()
    return (masked + torch.bincount(canvas.rows[back], minlength=canvas.n_rows) - stays).clamp(min=0)


def masked_again(model: Model, rows: Hypotheses, written: Hypotheses, back: Tensor, step: int) -> Hypotheses:
    """The rows after writing, with elements that were text before it made masks again, at no cost any more.

    Args:
        model: Of a family that is told lengths.
        rows: Before writing; each of a group of its own.
        written: After it: those that wrote something. What stood behind an end may be gone.
        back: `[T]`, elements of `rows`.
        step: The birth of the masks.
    """
    family = told(model.objective)
    assert family is not None
    canvas = written.canvas
    again = torch.isin(names(written), names(rows)[back]) & (canvas.role == Role.TEXT)
    cost = canvas.row_log_prob
    canvas = canvas.apply(family.take_back(canvas, again.nonzero().squeeze(1), step))
    return replace(written, canvas=canvas, score=written.score + canvas.row_log_prob - cost)


def names(rows: Hypotheses) -> Tensor:
    """A number for each element that is its own among all rows, `[N]`."""
    return scattered(scattered(rows.group)[rows.canvas.rows] + rows.canvas.key)
