"""Samplers with a perfect model: the exact posterior of a known chain in the place of the network.

What is wrong then is the sampler's own doing (2602.19619, section 3): writing several places at once draws from a
product of marginals. Where a policy has one path to each text, its whole law is read off by DUEL, without a draw.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from families import clean_canvas, tiny_model
from test_decoding import answer, letters
from unmask.canvas import Canvas, Edits, Role
from unmask.decoding.duel import duel
from unmask.decoding.infill import run
from unmask.decoding.policies import POLICIES
from unmask.decoding.requests import Request
from unmask.decoding.rules import Rules
from unmask.decoding.search import Search
from unmask.holes import Hole, Mask
from unmask.model import Model
from unmask.view import View

N_WORDS, LENGTH = 3, 6  # 729 texts
CHAIN = [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.05, 0.7]]
EMITS = {
    "chain": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "hidden chain": [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.05, 0.25, 0.7]],
}
ONE_PATH = [name for name, policy in POLICIES.items() if policy.deterministic and not policy.all]
ONE_A_STEP = [name for name in ONE_PATH if not POLICIES[name].several]
STRICT = {"threshold": 1, "factor": 0, "entropy_bound": 0}  # the level at which a policy takes one place a step
TEXTS = torch.tensor(list(itertools.product(range(N_WORDS), repeat=LENGTH)))


class Posterior(nn.Module):
    """A backbone whose hidden states are the log-posteriors of a hidden Markov model, by forward and backward sums.

    It reads rows of one length: a start, words or masks, an end.
    """

    def __init__(self, like: nn.Module, emits: list[list[float]], mask: int) -> None:
        super().__init__()
        self.config, self.embedding, self.output = like.config, like.embedding, like.output
        self.moves, self.emits = (torch.tensor(table, dtype=torch.float64) for table in (CHAIN, emits))
        self.mask = mask
        # Where the chain has been since long ago.
        self.first = torch.linalg.matrix_power(self.moves, 200)[0]

    def likelihoods(self, words: Tensor) -> Tensor:
        """p(word | state) of every place `[B, L]`, 1 where it is masked: `[B, L, H]`."""
        seen = self.emits.t()[words.clamp(max=N_WORDS - 1)]
        return torch.where((words == self.mask)[:, :, None], 1.0, seen)

    def prior(self, words: Tensor) -> Tensor:
        """The probability of each text `[B]`."""
        state = self.first.expand(words.shape[0], -1)
        total = torch.ones(words.shape[0], dtype=torch.float64)
        for here in self.likelihoods(words).unbind(1):
            total = total * (state * here).sum(1)
            state = (state * here) / (state * here).sum(1, keepdim=True) @ self.moves
        return total

    def forward(self, view: View, *_: Any, **__: Any) -> Tensor:
        words = view.ids.view(view.n_rows, -1)[:, 1:-1]
        here = self.likelihoods(words)
        before, after = [self.first.expand(view.n_rows, -1)], [torch.ones(view.n_rows, 3, dtype=torch.float64)]
        for i in range(words.shape[1] - 1):
            before.append(_one(before[-1] * here[:, i]) @ self.moves)
            after.append(_one((after[-1] * here[:, -1 - i]) @ self.moves.t()))
        state = torch.stack(before, 1) * torch.stack(after[::-1], 1)
        log = _one(state @ self.emits).log()
        hidden = torch.zeros(*view.ids.view(view.n_rows, -1).shape, self.config.width, dtype=torch.float64)
        hidden[:, 1:-1, :N_WORDS] = log
        return hidden.flatten(0, 1)[view.read]


def _one(mass: Tensor) -> Tensor:
    return mass / mass.sum(-1, keepdim=True)


def oracle(kind: str = "chain") -> Model:
    """A model of three words that is never wrong."""
    size = N_WORDS + 7  # an even width
    model = tiny_model("masked_diffusion", n_words=N_WORDS, more_signs=("more",), width=size, n_heads=1)
    with torch.no_grad():
        model.backbone.output.weight.copy_(torch.eye(size))
        for part in model.head.parameters():
            if part.dim() == 1:
                part.zero_()
    model.backbone = Posterior(model.backbone, EMITS[kind], model.config.signs["mask"])
    return model


def law(model: Model, search: Search, texts: Tensor = TEXTS) -> Tensor:
    """The probability with which a search writes each text, at temperature 1."""
    clean = clean_canvas(texts.tolist(), N_WORDS)
    with torch.inference_mode():
        return duel(model, clean, clean.role == Role.TEXT, search).exp()


def pairs(mass: Tensor, texts: Tensor = TEXTS) -> Tensor:
    """How often each word follows each other, under texts of these probabilities, `[9]`."""
    kinds = texts[:, :-1] * N_WORDS + texts[:, 1:]
    counts = torch.zeros(len(texts), N_WORDS**2, dtype=torch.float64)
    counts.scatter_add_(1, kinds, torch.ones_like(kinds, dtype=torch.float64))
    return mass @ counts / kinds.shape[1]


def error(found: Tensor, true: Tensor) -> float:
    """Total variation between two laws of pairs."""
    return 0.5 * (found - true).abs().sum().item()


def drawn(model: Model, policy: str, steps: int, n: int, length: int = LENGTH) -> Tensor:
    """Texts as the decoding loop draws them at temperature 1, `[n, length]`."""
    signs = model.config.signs
    ids = [signs["start"], *[signs["mask"]] * length, signs["end"]]
    role = torch.tensor([Role.SCAFFOLD, *[Role.SIGN] * length, Role.SCAFFOLD])
    holes = [Hole(i, Mask(), True, False, False) for i in range(length)]
    hole = torch.tensor([-1, *range(length), -1])
    row = Canvas.from_rows([ids], role=role, hole=hole, fixed=role != Role.SIGN)
    start = replace(model.objective.open(row, holes), request=torch.zeros(1, dtype=torch.int64))
    zero = torch.zeros(1, dtype=torch.float64)
    rules = Rules.build([holes], 100, [{}], [[1] * length])
    requests = [Request(start, zero, zero < 0, key, answer) for key in range(n)]
    usable = replace(letters(N_WORDS), of=(torch.arange(model.config.backbone.vocab_size) < N_WORDS).long())
    found = run(model, requests, rules, usable, Search(policy, temperature=1.0, steps=steps))
    return torch.stack([one.canvas.ids[1:-1] for (one, *_) in found])


@pytest.mark.parametrize("kind", EMITS)
def test_the_oracle_is_the_posterior(kind: str) -> None:
    model = oracle(kind)
    true = model.backbone.prior(TEXTS)
    assert true.sum() == pytest.approx(1)
    given = torch.tensor([-1, 2, -1, -1, 0, 1])
    agree = ((given < 0) | (given == TEXTS)).all(1)
    clean = clean_canvas([given.clamp(min=0).tolist()], N_WORDS)
    site = (given < 0).nonzero().squeeze(1) + 1
    canvas = clean.apply(Edits.put(site, torch.full_like(site, model.config.signs["mask"]), Role.SIGN))
    words = model.predict(canvas).words()[:, :N_WORDS].exp()
    wanted = [[true[agree & (TEXTS[:, i - 1] == word)].sum() / true[agree].sum() for word in range(3)] for i in site]
    torch.testing.assert_close(words, torch.tensor(wanted).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", EMITS)
@pytest.mark.parametrize("policy", ONE_A_STEP)
def test_one_token_a_step_is_exact_in_any_order(policy: str, kind: str) -> None:
    model = oracle(kind)
    torch.testing.assert_close(law(model, Search(policy, steps=LENGTH)), model.backbone.prior(TEXTS), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", EMITS)
@pytest.mark.parametrize("policy", ONE_A_STEP)
def test_fewer_steps_are_wrong_by_a_measure_that_falls_with_the_budget(policy: str, kind: str) -> None:
    model = oracle(kind)
    true = pairs(model.backbone.prior(TEXTS))
    errors = [error(pairs(law(model, Search(policy, steps=steps))), true) for steps in (1, 2, 3, LENGTH)]
    assert errors == sorted(errors, reverse=True), errors
    assert errors[0] > 5 * errors[-1] + (0.2 if kind == "chain" else 0.05)
    assert errors[2] > 0.01
    assert errors[-1] < 1e-9
    singles = torch.stack([law(model, Search(policy, steps=1))[TEXTS[:, 0] == word].sum() for word in range(3)])
    torch.testing.assert_close(singles, model.backbone.first @ model.backbone.emits, rtol=0, atol=1e-9)


def test_the_page_has_these_figures() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs/scores.md").read_text()
    found = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    model = oracle()
    true = pairs(model.backbone.prior(TEXTS))
    assert {policy for policy, *_ in found} == set(ONE_A_STEP)
    for policy, *figures in found:
        errors = [error(pairs(law(model, Search(policy, steps=steps))), true) for steps in (1, 2, 3, LENGTH)]
        assert [f"{one:.3f}" for one in errors] == figures


@pytest.mark.parametrize("policy", [name for name in STRICT if name in POLICIES])
def test_at_its_strictest_level_a_policy_takes_one_token_a_step(policy: str) -> None:
    model = oracle()
    true = pairs(model.backbone.prior(TEXTS))
    strictest = law(model, Search(f"{policy}:{STRICT[policy]}"))
    torch.testing.assert_close(strictest, model.backbone.prior(TEXTS), rtol=0, atol=1e-9)
    levels = (0.3, 0.45, 0.6, 0.9, STRICT[policy]) if STRICT[policy] else (4, 2, 1, 0.3, STRICT[policy])
    errors = [round(error(pairs(law(model, Search(f"{policy}:{level}"))), true), 9) for level in levels]
    assert errors == sorted(errors, reverse=True), errors
    assert errors[0] > 0.05


def test_in_random_order_one_token_a_step_draws_the_chain_itself() -> None:
    model = oracle()
    texts = drawn(model, "random", LENGTH, 1500)
    true = pairs(model.backbone.prior(TEXTS))
    counts = torch.stack([pairs(torch.ones(1).double(), text[None]) for text in texts])
    strays = (counts.mean(0) - true) / (counts.std(0) / len(texts) ** 0.5)
    assert strays.abs().max() < 4, strays


def test_in_random_order_fewer_steps_do_not() -> None:
    model = oracle()
    true = pairs(model.backbone.prior(TEXTS))
    found = [pairs(torch.full((600,), 1 / 600).double(), drawn(model, "random", steps, 600)) for steps in (1, 2, 3)]
    errors = [error(one, true) for one in found]
    noise = 0.5 * (true * (1 - true) / 600 / (LENGTH - 1)).sqrt().sum().item()
    assert errors == sorted(errors, reverse=True), errors
    assert errors[0] > errors[2] + 4 * noise
    assert errors[2] > 2 * noise


@pytest.mark.parametrize("policy", [name for name in ONE_PATH if name != "low_confidence"])
def test_the_loop_draws_by_the_law_that_duel_reads_off(policy: str) -> None:
    """All but `low_confidence`, which above temperature 0 goes by what was drawn; DUEL goes by the best word."""
    model, texts = oracle(), torch.tensor(list(itertools.product(range(N_WORDS), repeat=3)))
    wanted = 900 * law(model, Search(policy, steps=2), texts)
    seen = (drawn(model, policy, 2, 900, length=3) * torch.tensor([9, 3, 1])).sum(1).bincount(minlength=27)
    assert ((seen - wanted).square() / wanted).sum() < 62  # chi-square of 26 degrees: one in 10,000
