"""DUEL: a known text replayed along the path of each deterministic policy."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from families import clean_canvas, tiny_model
from test_decoding import letters, row_with, search_rows
from toys import toy
from unmask.canvas import Canvas, Role
from unmask.cli import main
from unmask.decoding.duel import duel
from unmask.decoding.masks import Masks
from unmask.decoding.policies import POLICIES
from unmask.decoding.search import Search
from unmask.masking import Hidden
from unmask.model import Model
from unmask.noise import Noise

ONE_PATH = [name for name, policy in POLICIES.items() if policy.deterministic and not policy.all]
LEVELS = [f"{name}:{level}" for name in ONE_PATH if POLICIES[name].level is not None for level in (0.3, 0.7)]
TEXT = [7, 1, 2, 0, 1, 2]  # its first is given


@pytest.fixture(autouse=True)
def nothing_is_learned() -> Iterator[None]:
    with torch.no_grad():  # not inference mode: toys that are first made here are kept for other files
        yield


def rows(texts: list[list[int]], n_given: int = 1, n_words: int = 10) -> tuple[Canvas, torch.Tensor]:
    """Clean rows, and which of their tokens are to be written: all but the first."""
    clean = clean_canvas(texts, n_words)
    return clean, (clean.index > n_given) & (clean.index < clean.lengths[clean.rows] - 1)


def costs(model: Model, clean: Canvas, mask: torch.Tensor) -> torch.Tensor:
    """The log-probability of every masked token of a row, in order."""
    one = torch.ones(1, dtype=torch.float64)
    canvas, targets = model.objective.corrupt(clean, Hidden(mask, one, one, one > 0), Noise(0, torch.zeros(1).long()))
    return model.predict(canvas).words()[torch.arange(targets.word.numel()), targets.word]


@pytest.mark.parametrize("steps", [None, 1, 2, 3, 4, 9])
@pytest.mark.parametrize("policy", ONE_PATH + LEVELS)
def test_over_all_texts_it_sums_to_one(policy: str, steps: int | None) -> None:
    model = tiny_model("masked_diffusion", seed=1, n_words=3)
    texts = [[2, *text] for text in itertools.product(range(3), repeat=4)]
    found = duel(model, *rows(texts, n_words=3), Search(policy, steps=steps))
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert found.exp().max() < 0.9, "a model with one answer would prove little"


MANNERS = [
    Masks(block=2),
    Masks(block=3, guidance=0.7),
    Masks(block=2, cache="dual"),
    Masks(block=2, cache="prefix", suffix=1),
    Masks(block=4, cache="delayed", refresh=2),
]


@pytest.mark.parametrize("masks", MANNERS)
@pytest.mark.parametrize("steps", [None, 2, 3])
def test_blocks_guidance_and_caches_sum_to_one_too(masks: Masks, steps: int | None) -> None:
    model = tiny_model("masked_diffusion", seed=1, n_words=3)
    texts = [[2, *text] for text in itertools.product(range(3), repeat=4)]
    found = duel(model, *rows(texts, n_words=3), Search("confident", steps=steps, masks=masks))
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-9)
    plain = duel(model, *rows(texts, n_words=3), Search("confident", steps=steps))
    assert (found - plain).abs().max() > 1e-3


def test_from_left_to_right_it_is_the_chain_rule() -> None:
    model = tiny_model("masked_diffusion", seed=2)
    clean, hidden = rows([TEXT])
    places = hidden.nonzero().squeeze(1)
    chain = 0.0
    for number, place in enumerate(places):
        mask = torch.zeros_like(hidden)
        mask[places[number:]] = True
        chain += costs(model, clean, mask)[0].item()
        assert costs(model, clean, mask).numel() == places.numel() - number
        assert clean.ids[place] == TEXT[1 + number]
    for steps in (None, len(places), 50):
        assert duel(model, clean, hidden, Search("leftmost", steps=steps)).item() == pytest.approx(chain, abs=1e-9)
    at_once = costs(model, clean, hidden).sum().item()
    for policy, steps in (("parallel", None), ("leftmost", 1), ("confident", 1)):
        assert duel(model, clean, hidden, Search(policy, steps=steps)).item() == pytest.approx(at_once, abs=1e-9)
    assert at_once != pytest.approx(chain, abs=1e-3)


@pytest.mark.parametrize("steps", [None, 2, 3])
@pytest.mark.parametrize("policy", ONE_PATH)
def test_it_is_what_the_loop_says_of_its_own_text(policy: str, steps: int | None) -> None:
    model = tiny_model("masked_diffusion", seed=3)
    canvas, holes = row_with(model, 4, "?", "?", 5, "?", "?", "?", "?", 6)
    (one,) = search_rows(model, canvas, holes, Search(policy, steps=steps or 6), room=1, classes=letters(10))
    clean = Canvas.build(one.canvas.ids, one.canvas.offsets, role=one.canvas.role)
    again = duel(model, clean, one.canvas.hole >= 0, Search(policy, steps=steps or 6))
    assert one.score == pytest.approx(again.item(), abs=1e-9)


@pytest.mark.parametrize("steps", [3, 4])
@pytest.mark.parametrize("masks", [one for one in MANNERS if not one.guidance])  # a fill's own number is unguided
def test_it_is_what_the_loop_says_in_blocks_and_with_caches(masks: Masks, steps: int) -> None:
    model = tiny_model("masked_diffusion", seed=3)
    canvas, holes = row_with(model, 4, "?", "?", 5, "?", "?", "?", "?", 6)
    search = Search("confident", steps=steps, masks=masks)
    (one,) = search_rows(model, canvas, holes, search, room=1, classes=letters(10))
    fixed = one.canvas.hole < 0
    clean = Canvas.build(one.canvas.ids, one.canvas.offsets, role=one.canvas.role, fixed=fixed)
    assert one.score == pytest.approx(duel(model, clean, ~fixed, search).item(), abs=1e-9)


@pytest.mark.parametrize("steps", [None, 1, 3])
@pytest.mark.parametrize("policy", ONE_PATH)
def test_company_changes_nothing(policy: str, steps: int | None) -> None:
    model = tiny_model("masked_diffusion", seed=4)
    texts = [[7, 1, 2, 3, 4, 5, 6], [7, 1], [7], [7, 9, 8, 7, 6], [7, 1, 2, 3, 4, 5, 6]]
    search = Search(policy, steps=steps)
    together = duel(model, *rows(texts), search)
    alone = [duel(model, *rows([text]), search).item() for text in texts]
    assert together.tolist() == pytest.approx(alone, abs=1e-9)
    assert together[2] == 0  # nothing was missing there
    assert together[0].item() == pytest.approx(together[4].item(), abs=1e-9)


def test_policies_and_budgets_differ() -> None:
    model = tiny_model("masked_diffusion", seed=5)
    clean, hidden = rows([[7, 1, 2, 3, 4, 5, 6, 7, 8]])
    for steps in (2, 8):
        found = {name: round(duel(model, clean, hidden, Search(name, steps=steps)).item(), 6) for name in ONE_PATH}
        assert len(set(found.values())) >= 4, found
    by_steps = [duel(model, clean, hidden, Search("confident", steps=steps)).item() for steps in (1, 2, 4, 8)]
    assert len(set(by_steps)) == 4


def test_a_policy_never_sees_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("masked_diffusion", seed=3)
    seen = []
    policy = POLICIES["confident"]

    def spy(proposal, progress, noise):  # type: ignore[no-untyped-def]
        seen.append((proposal.word.tolist(), proposal.log_prob.tolist(), proposal.score.tolist()))
        return policy.choose(proposal, progress, noise)

    monkeypatch.setitem(POLICIES, "confident", policy.__class__(**{**vars(policy), "choose": spy}))
    for last in (1, 2):
        duel(model, *rows([[7, 3, last]]), Search("confident", steps=1))
    assert seen[0] == seen[1]


def test_what_cannot_be_written_has_no_probability() -> None:
    model = tiny_model("masked_diffusion")
    clean, hidden = rows([[7, 1, 2], [7, 1, 15]])  # the last is a sign
    good, bad = duel(model, clean, hidden, Search("confident")).tolist()
    assert math.isfinite(good)
    assert bad == -math.inf


@pytest.mark.parametrize("sign", ["end", "turn", "pad2"])
def test_a_text_may_end_with_an_end(sign: str) -> None:
    model = tiny_model("masked_diffusion", seed=2, options={"ends": True}, more_signs=("turn", "pad1", "pad2"))
    end = model.config.signs[sign]
    clean, hidden = rows([[7, 1, end], [7, end], [7, 3, 4]])
    chain = []
    for row in range(clean.n_rows):
        one, mine = clean.take(torch.tensor([row])), hidden[clean.rows == row]
        places = mine.nonzero().squeeze(1)
        cost = 0.0
        for number in range(places.numel()):
            mask = torch.zeros_like(mine)
            mask[places[number:]] = True
            cost += costs(model, one, mask)[0].item()
        chain.append(cost)
    assert duel(model, clean, hidden, Search("leftmost")).tolist() == pytest.approx(chain, abs=1e-9)
    for policy in ONE_PATH:
        assert duel(model, clean, hidden, Search(policy)).isfinite().all()
    for text in ([7, end, 1], [7, 1, end, end]):
        with pytest.raises(ValueError, match=r"behind an end \(row 1\)"):
            duel(model, *rows([[7, 1], text]), Search("confident"))


def test_over_all_texts_of_words_and_a_last_end_it_sums_to_one() -> None:
    model = tiny_model("masked_diffusion", seed=1, n_words=3, options={"ends": True})
    end = model.config.signs["end"]
    texts = [[2, word] for word in (0, 1, 2, end)]
    for policy in ("confident", "margin"):
        assert duel(model, *rows(texts, n_words=3), Search(policy)).exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_without_one_path_there_is_none() -> None:
    masked, clean_hidden = tiny_model("masked_diffusion"), rows([TEXT])
    with pytest.raises(ValueError, match="'location' · it offers every place to a beam"):
        duel(masked, *clean_hidden, Search("location"))
    with pytest.raises(ValueError, match="'random' · it draws its places"):
        duel(masked, *clean_hidden, Search("random"))
    for masks, message in ((Masks(remask="cap"), "DUEL with remask"), (Masks(ending="late"), "DUEL with ending")):
        with pytest.raises(ValueError, match=message):
            duel(masked, *clean_hidden, Search("confident", steps=4, masks=masks))
    with pytest.raises(ValueError, match="2 steps for 3 blocks"):
        duel(masked, *clean_hidden, Search("confident", steps=2, masks=Masks(block=2)))
    for family in ("blank_lm", "left_to_right"):
        with pytest.raises(ValueError, match="not told how many tokens"):
            duel(tiny_model(family), *clean_hidden, Search("leftmost"))


def test_the_door_scores_by_it() -> None:
    lm = toy("masked_diffusion")
    texts = ["the cat sat on the mat", "a dog"]
    canvases = [lm.tokenizer.read([text]).canvas for text in texts]
    wanted = [duel(lm.model, one, one.role == Role.TEXT, Search("margin", steps=2)).item() for one in canvases]
    found = lm.score(texts, method="duel", policy="margin", steps=2)
    assert [one.log_prob for one in found] == pytest.approx(wanted, abs=1e-9)
    assert {(one.kind, one.given, one.std_error) for one in found} == {("exact", "length", 0.0)}
    blocks: dict[str, Any] = {"method": "duel", "steps": 4, "masks": Masks(block=2)}
    wanted = duel(
        lm.model, canvases[1], canvases[1].role == Role.TEXT, Search("confident", steps=4, masks=blocks["masks"])
    )
    assert lm.score("a dog", **blocks).log_prob == pytest.approx(wanted.item(), abs=1e-9)
    default = duel(lm.model, canvases[1], canvases[1].role == Role.TEXT, Search("confident")).item()
    assert lm.score("a dog", method="duel").log_prob == pytest.approx(default, abs=1e-9)


@pytest.mark.parametrize(
    ("family", "how", "message"),
    [
        ("masked_diffusion", {"policy": "margin"}, "without method='duel'"),
        ("masked_diffusion", {"steps": 3, "method": "bound"}, "without method='duel'"),
        ("masked_diffusion", {"steps": 0, "method": "duel"}, "steps is 0"),
        ("masked_diffusion", {"policy": "best", "method": "duel"}, "no policy 'best'"),
        ("masked_diffusion", {"policy": "random", "method": "duel"}, "it draws its places"),
        ("blank_lm", {"method": "duel"}, "not told how many tokens"),
    ],
)
def test_what_the_door_refuses(family: str, how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy(family).score("the cat", **how)


def test_the_command_scores_by_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(toy("masked_diffusion").save_pretrained(tmp_path / "model"))
    how = ["--method", "duel", "--policy", "leftmost", "--steps", "3"]
    assert main(["score", "the cat sat", *how, "--model", folder, "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    wanted = toy("masked_diffusion").score("the cat sat", method="duel", policy="leftmost", steps=3)
    assert line["log_prob"] == pytest.approx(wanted.log_prob, abs=1e-4)
    assert (line["kind"], line["given"]) == ("exact", "length")
    assert main(["score", "the cat sat", "--policy", "leftmost", "--model", folder]) == 2
    assert main(["score", "the cat sat", "--method", "duel", "--policy", "random", "--model", folder]) == 2
    assert "it draws its places" in capsys.readouterr().err
