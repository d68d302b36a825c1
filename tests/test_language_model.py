"""The verbs: what comes back is what the contract says, alone, in a batch, and after a trip to disk."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch
from huggingface_hub import HfApi

import unmask
from toys import FAMILIES, WRITERS, toy, with_options
from unmask import Blank, Canvas, Fill, Mask, Score
from unmask.backbone.cache import Cache
from unmask.language_model import LanguageModel, load
from unmask.tokenizer import Tokenizer
from unmask.view import View
from vocabularies import bert

TEXTS = [
    "the ___ sat on the ___.",
    "a [MASK] dog",
    "the ___{cat|old man} sat",
    "she saw ___{0,2} him",
    "___{1,2}",
    "dog",
]
MASKS = ["the [MASK] sat", "a [MASK] [MASK] dog", "the ___{cat|old man} sat [MASK]", "dog"]


def texts_of(family: str) -> list[str]:
    return TEXTS if family in WRITERS else MASKS


def close(a: list[Fill], b: list[Fill]) -> None:
    assert [fill.text for fill in a] == [fill.text for fill in b]
    assert [fill.status for fill in a] == [fill.status for fill in b]
    assert [fill.log_prob for fill in a] == pytest.approx([fill.log_prob for fill in b], abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", [{}, {"temperature": 1.0, "seed": 4}, {"policy": "random"}], ids=str)
def test_the_same_answer_alone_and_in_any_company(family: str, how: dict[str, object]) -> None:
    lm, texts = toy(family), texts_of(family)
    alone = [lm.fill(text, n=2, max_words=2, **how) for text in texts]
    together = lm.fill(texts, n=2, max_words=2, **how)
    reverse = lm.fill([*texts[::-1], texts[0]], n=2, max_words=2, **how)
    for i, fills in enumerate(alone):
        close(fills, together[i])
        close(fills, reverse[len(texts) - 1 - i])
    close(reverse[-1], alone[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_crowd_waits_its_turn(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, texts = toy(family), texts_of(family)
    want = lm.fill(texts, n=2, max_words=2)
    monkeypatch.setattr("unmask.decoding.infill.CROWD", 1)
    monkeypatch.setattr("unmask.decoding.infill.CHUNK", 20)
    monkeypatch.setattr("unmask.decoding.replay.CHUNK", 20)
    for a, b in zip(want, lm.fill(texts, n=2, max_words=2), strict=True):
        close(a, b)


@pytest.mark.parametrize("family", FAMILIES)
def test_fills_are_distinct_and_ranked(family: str) -> None:
    text = "the [MASK] sat on the [MASK]."
    for how in ({}, {"temperature": 1.0}, {"policy": "location"}):
        fills = toy(family).fill(text, n=6, **how)
        assert len({fill.text for fill in fills}) == len(fills) == 6
        assert [fill.log_prob for fill in fills] == sorted((fill.log_prob for fill in fills), reverse=True)
        for fill in fills:
            assert fill.text == text.replace("[MASK]", "{}").format(*(hole.text for hole in fill.holes))
            for hole in fill.holes:
                assert fill.text[hole.start : hole.end] == hole.text


@pytest.mark.parametrize("family", FAMILIES)
def test_holes_share_the_cost_where_there_is_one_path(family: str) -> None:
    (fill,) = toy(family).fill("the [MASK] sat on the [MASK].")
    assert sum(hole.log_prob for hole in fill.holes) == pytest.approx(fill.log_prob, abs=1e-4)
    assert fill.given == (None if family in WRITERS else "length")
    (one,) = toy(family).fill("the [MASK] sat")
    assert one.holes[0].log_prob == one.log_prob
    (summed,) = toy("blank_lm").fill("the [MASK] sat on the [MASK].", policy="location", beam=20)
    assert [hole.log_prob for hole in summed.holes] == [None, None]


def test_a_text_without_holes_comes_back() -> None:
    (fill,) = toy("blank_lm").fill("no holes \\___ here")
    assert (fill.text, fill.log_prob, fill.holes, fill.status) == ("no holes ___ here", 0.0, (), "finished")
    assert toy("blank_lm").fill([]) == []


def test_pieces_and_lists() -> None:
    lm = toy("blank_lm")
    pieces = ["the ", Blank(words=(1, 1)), " sat on ", Mask(), " ___"]
    (fill,) = lm.fill(pieces)
    assert fill.text.endswith(" ___")
    assert [fills[0].text for fills in lm.fill([pieces, pieces])] == [fill.text] * 2
    assert [len(fills) for fills in lm.fill(["a ___{1}", pieces], n=2)] == [2, 2]
    assert "<fill>" not in lm.fill("the <fill> sat", blank="<fill>", max_words=1)[0].text


def test_by_length_gives_a_list_for_each() -> None:
    lists = toy("left_to_right").fill("the ___ sat", n=2, by_length=True)
    assert [len(fills) for fills in lists] == [2] * 4
    assert [{len(fill.holes[0].text.split()) for fill in fills} for fills in lists] == [{1}, {2}, {3}, {4}]
    assert len(toy("left_to_right").fill(["the ___ sat", "a ___"], by_length=True)) == 2
    lengths = [len(fills) for fills in toy("left_to_right").fill("un___able", by_length=True)]
    assert lengths == [1, 0, 0, 0]  # no white space comes between letters
    with pytest.raises(ValueError, match="no free blank"):
        toy("left_to_right").fill("the ___{2} sat", by_length=True)


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("how", [{}, {"n": 2, "temperature": 1.0}, {"n": 2}], ids=str)
def test_generate_keeps_its_prompt(family: str, how: dict[str, object]) -> None:
    for prompt in ("the [MASK] cat", "she saw\n", ""):
        fills = toy(family).generate(prompt, max_words=3, **how)
        assert len(fills) == how.get("n", 1)
        for fill in fills:
            assert fill.text.startswith(prompt)
            assert 1 <= len(fill.holes[0].text.split()) <= 3
    assert len(toy(family).generate(["a", "b"], max_words=2)) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_watch_tells_every_step(family: str) -> None:
    lm = toy(family)
    text = "the [MASK] sat on [MASK]"
    steps = list(lm.watch(text))
    assert (steps[0].text.count("___") + steps[0].text.count("[MASK]"), steps[0].passes) == (2, 0)
    live = list(lm.watch(text, beam=1))
    assert steps[-1].text == lm.fill(text)[0].text
    assert live[-1].text == lm.fill(text, beam=1)[0].text
    for seen in (steps, live):
        assert [step.passes for step in seen] == sorted({step.passes for step in seen})
        assert sum(len(step.written) for step in seen) == 2
        assert all(step.taken_back == () for step in seen)
    assert isinstance(lm.watch(text), Iterator)
    drawn = list(lm.watch("the [MASK] ___{cat|dog} sat", temperature=1.0, seed=2))
    assert drawn[-1].text == lm.fill("the [MASK] ___{cat|dog} sat", temperature=1.0, seed=2)[0].text


@pytest.mark.parametrize("family", FAMILIES)
def test_watch_shows_holes_as_they_were_typed(family: str) -> None:
    for beam in (1, None):
        steps = list(toy(family).watch("the [MASK] sat on [MASK]", beam=beam))
        assert all("___" not in step.text for step in steps)
        left = [step.text.count("[MASK]") for step in steps]
        assert left == sorted(left, reverse=True) and set(left) == {2, 1, 0}


@pytest.mark.parametrize("family", WRITERS)
def test_watch_shows_words_in_their_place(family: str) -> None:
    steps = [step.text for step in toy(family).watch("the ___{3} sat on ___{2}", beam=1)]
    assert steps[0] == "the ___ sat on ___" and "___" not in steps[-1]
    if family == "left_to_right":  # one word after the other, each hole to its end; the sign stands behind the words
        holes = [step.removeprefix("the ").split(" sat on ") for step in steps]
        assert all(last == "___" for first, last in holes if first.endswith("___"))
        assert all(one.index("___") == len(one) - 3 for pair in holes for one in pair if "___" in one)
        grown = [first.removesuffix("___") for first, _ in holes]
        assert all(after.startswith(before) for before, after in pairwise(grown)) and len(set(grown)) > 3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_drawn_twice_counts_its_likelier_way_throughout(family: str) -> None:
    for seed in range(4):
        for fill in toy(family).fill("[MASK] sat [MASK] [MASK]", n=3, policy="random", temperature=0.3, seed=seed):
            assert sum(hole.log_prob for hole in fill.holes) == pytest.approx(fill.log_prob, abs=1e-4)


@pytest.mark.parametrize("family", WRITERS)
def test_watch_ends_with_the_answer_even_an_empty_one(family: str) -> None:
    lm, text = toy(family), "the ___{0,1} cat"
    best = lm.fill(text)[0]
    assert best.holes[0].text == ""
    assert list(lm.watch(text))[-1].text == best.text
    with pytest.raises(ValueError, match="max_words"):
        list(lm.watch("the ___ cat", max_words=0))


@pytest.mark.parametrize("family", FAMILIES)
def test_candidates_come_back_as_typed(family: str) -> None:
    """A vocabulary that straightens quotes writes both alike: each is an answer, and neither is counted twice."""
    tok = Tokenizer.train(["the cat sat. it's \u2019 was"] * 9, vocab_size=320, normalise_quotes=True)
    lm = LanguageModel(toy(family).model, tok)  # as many words as the toy's own, or fewer
    text = "the ___{it\u2019s|it's|was} sat [MASK]"
    fills = lm.fill(text, n=9)
    assert {fill.holes[0].text for fill in fills} == {"it\u2019s", "it's", "was"}
    curly, straight = (next(f for f in fills if f.holes[0].text == which) for which in ("it\u2019s", "it's"))
    assert curly.holes[0].prob == pytest.approx(straight.holes[0].prob)
    assert curly.log_prob == pytest.approx(straight.log_prob, abs=1e-9)
    alone = next(f for f in lm.fill(text.replace("it\u2019s|", ""), n=9) if f.text == straight.text)
    assert alone.log_prob == pytest.approx(straight.log_prob, abs=1e-9)
    assert list(lm.watch(text))[-1].text == fills[0].text


@pytest.mark.parametrize("family", FAMILIES)
def test_candidates_that_cannot_be_written_are_refused(family: str) -> None:
    with pytest.raises(ValueError, match="the candidate ''"):
        toy(family).fill(["the (", Blank(candidates=("", "cat")), ") sat"])
    foreign = Tokenizer(json.loads(bert().to_str()))
    lm = LanguageModel(toy(family).model, foreign)
    with pytest.raises(ValueError, match="the candidate '\u2603'"):
        lm.fill("the ___{\u2603|cat} sat")


def test_a_text_costs_what_its_beginning_costs_and_the_rest_behind_it() -> None:
    lm = toy("left_to_right")
    lm = with_options(lm, plain=True, begin=lm.tokenizer.signs["start"], stop=lm.tokenizer.signs["sep"])
    whole, first = lm.score("the cat sat on the mat"), lm.score("the cat")
    rest = lm.score(["sat on the mat", "ran to the man"], "the cat")
    assert whole.log_prob == pytest.approx(first.log_prob + rest[0].log_prob, abs=1e-9)
    assert whole.tokens == first.tokens + rest[0].tokens
    assert rest[0].words == 4
    with pytest.raises(ValueError, match="the text is empty"):
        lm.score(["sat", ""], "the cat")


@pytest.mark.parametrize("family", FAMILIES)
def test_score_is_the_same_in_any_company(family: str) -> None:
    lm = toy(family)
    texts = ["the cat", "the cat sat on the mat and the old man saw a dog", "[MASK] ___", "a dog"]
    together = lm.score(texts, orders=4, seed=1)
    for text, score in zip(texts, together, strict=True):
        alone = lm.score(text, orders=4, seed=1)
        assert isinstance(alone, Score)
        assert (alone.kind, alone.given, alone.tokens, alone.words) == (
            score.kind, score.given, score.tokens, score.words,
        )  # fmt: skip
        assert alone.log_prob == pytest.approx(score.log_prob, abs=1e-6)
        assert alone.std_error == pytest.approx(score.std_error, abs=1e-6, nan_ok=True)
        assert alone.words == len(text.split())
    with pytest.raises(ValueError, match="empty"):
        lm.score("")
    with pytest.raises(ValueError, match="reads 128"):
        lm.score("the cat " * 100)
    with pytest.raises(ValueError, match="method"):
        lm.score("the cat", method="guess")
    with pytest.raises(ValueError, match="orders is 0"):
        lm.score("the cat", orders=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_order_too_has_its_error(family: str) -> None:
    lm = toy(family)
    for orders in (1, 2, 3):
        score = lm.score("the cat sat on the mat and the old man", orders=orders)
        assert math.isfinite(score.log_prob) and math.isfinite(score.std_error)
        assert (score.std_error > 0) == (score.kind == "bound")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_scored_stays_within_the_context(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = toy(family, max_length=24)
    longest: list[int] = []
    forward = lm.model.forward

    def measured(view: View, canvas: Canvas, cache: Cache | None = None) -> object:
        longest.append(int(canvas.lengths.max()))
        return forward(view, canvas, cache)

    monkeypatch.setattr(lm.model, "forward", measured)
    refused = []
    for n_words in range(16, 26):
        try:
            lm.score("the " * (n_words - 1) + "the", orders=2)
        except ValueError as error:
            refused.append(n_words)
            assert "reads 24 at a time" in str(error)
    assert max(longest) == 24
    assert refused == list(range(refused[0], 26))


@pytest.mark.parametrize("seed", [-1, 2**63, 2**80, 0.5])
def test_what_is_no_seed_is_said_so(seed: int) -> None:
    lm = toy("blank_lm")
    for ask in (lm.fill, lm.generate, lm.score, lambda text, seed: list(lm.watch(text, seed=seed))):
        with pytest.raises(ValueError, match=r"^seed is .* · .* · [^\n]*$"):
            ask("the ___ sat", seed=seed)
    lm.fill("the ___{1} sat", temperature=1.0, seed=2**63 - 1)


def test_the_bound_is_below_the_truth_on_average() -> None:
    lm = toy("blank_lm", scale=0.15)
    exact = lm.score("the cat sat on it", method="exact")
    bounds = [lm.score("the cat sat on it", method="bound", orders=2, seed=seed).log_prob for seed in range(60)]
    mean = sum(bounds) / len(bounds)
    error = torch.tensor(bounds).std().item() / len(bounds) ** 0.5
    assert mean < exact.log_prob + 4 * error
    assert (exact.kind, exact.std_error) == ("exact", 0.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_to_disk_and_back(family: str, tmp_path: Path) -> None:
    lm = toy(family)
    lm.save_pretrained(tmp_path / "model")
    again = unmask.load(tmp_path / "model", device="cpu")
    assert isinstance(again, LanguageModel)
    text = texts_of(family)[0]
    close(lm.fill(text, n=2, max_words=2), again.fill(text, n=2, max_words=2))
    assert {path.name for path in (tmp_path / "model").iterdir()} >= {
        "config.json", "model.safetensors", "tokenizer.json", "README.md",
    }  # fmt: skip


def test_a_model_goes_to_the_hub_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, sent = toy("blank_lm"), []

    def upload(api: HfApi, *, repo_id: str, folder_path: Path) -> None:
        again = load(folder_path, device="cpu")
        sent.append((api.token, repo_id))
        close(lm.fill("the ___{1} sat", n=2), again.fill("the ___{1} sat", n=2))

    def create(api: HfApi, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        sent.append((api.token, repo_id, private, exist_ok))
        return f"https://hub/{repo_id}"

    for name, stand_in in (("upload_folder", upload), ("create_repo", create)):  # called as the real ones may be
        monkeypatch.setattr(HfApi, name, create_autospec(getattr(HfApi, name), side_effect=stand_in))
    assert lm.push_to_hub("house/model", private=True, token="secret") == "https://hub/house/model"
    assert sent == [("secret", "house/model", True, True), ("secret", "house/model")]


def test_models_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="Hub"):
        load("no-such-house/no-such-model")
    monkeypatch.setattr("unmask.language_model.WEIGHTS", tmp_path)
    with pytest.raises(ValueError, match="not installed"):
        load()
    with pytest.raises(ValueError, match="dtype"):
        load(tmp_path, dtype="half")


def test_nothing_learns_while_it_fills() -> None:
    lm = toy("blank_lm")
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())
    before = torch.random.get_rng_state()
    lm.fill("the ___{1} sat", temperature=1.0)
    lm.score("the cat")
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("odd", [None, 5, b"the ___", {"text": 1}])
def test_what_is_no_text_is_said(odd: object) -> None:
    lm = toy("blank_lm")
    for ask in (lm.fill, lm.score, lm.generate, lambda text: next(lm.watch(text))):
        with pytest.raises(ValueError, match="is no text · "):
            ask(odd)
    with pytest.raises(ValueError, match="is no text · "):
        lm.score(["the cat ", Blank()])  # the pieces of one text are not scored as their names
    for listed in (lm.fill, lm.score):
        with pytest.raises(ValueError, match="is no text · "):
            listed(["the cat ___", odd])
