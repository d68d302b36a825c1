"""What may come where: every fill keeps the promises of its hole, in every family that can fill it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toys import FAMILIES, WRITERS, tokenizer, toy
from unmask.canvas import Canvas
from unmask.decoding.emptiness import log_empty
from unmask.decoding.rules import Rules, TokenClasses
from unmask.holes import Blank, Hole, Mask, ends_in_word, in_word, merge
from unmask.noise import Noise
from unmask.results import Fill
from unmask.view import View

SIGNS = [Blank(), Blank((1, 1)), Blank((2, 2)), Blank((1, 2)), Blank((0, 2)), Blank((3, 4)), Blank((0, 1)), Mask()]
BETWEEN = ["the ", " sat", "un", "able ", " ", ", ", "\n", "(", "é", "\t", "12", " 😀 "]
PIECES = st.lists(st.sampled_from([*SIGNS, *BETWEEN]), min_size=1, max_size=6)


def keeps(pieces: tuple[object, ...], fill: Fill, max_words: int) -> None:
    """Whether a fill keeps what its holes ask for, by its characters alone."""
    holes = iter(fill.holes)
    said = ""
    for number, piece in enumerate(pieces):
        if isinstance(piece, str):
            said += piece
            continue
        hole = next(holes)
        text = hole.text
        assert (hole.start, hole.end) == (len(said), len(said) + len(text))
        assert fill.text[hole.start : hole.end] == text
        said += text
        assert "\ufffd" not in text
        assert text == text.strip() and "  " not in text
        assert not any(c.isspace() and c != " " for c in text)
        low, high = (1, 1) if isinstance(piece, Mask) else piece.words
        assert low <= len(text.split()) <= (high or max(low, max_words)), (piece, text)
        if not text:
            continue
        before = pieces[number - 1] if number else ""
        after = pieces[number + 1] if number + 1 < len(pieces) else ""
        joins_left = isinstance(before, str) and ends_in_word(before)
        joins_right = isinstance(after, str) and after != "" and in_word(after[0])
        assert not joins_left or in_word(text[0]) or isinstance(piece, Mask)
        assert not joins_right or in_word(text[-1]) or isinstance(piece, Mask)
        assert not (joins_left and joins_right) or " " not in text
    assert fill.text == said


@pytest.mark.parametrize("family", WRITERS)
@given(pieces=PIECES, seed=st.integers(0, 99), drawn=st.booleans())
@settings(max_examples=25)
def test_fills_keep_their_promises(family: str, pieces: list[object], seed: int, drawn: bool) -> None:
    merged = merge(pieces)
    how = {"temperature": 1.5, "seed": seed} if drawn else {"beam": 2}
    if not any(isinstance(piece, Blank | Mask) for piece in merged):
        return
    try:
        fills = toy(family).fill(list(pieces), n=2, max_words=3, **how)
    except ValueError as error:
        assert "barred" in str(error)
        assert any(_impossible(merged, i) for i in range(len(merged)))
        return
    assert fills
    for fill in fills:
        keeps(merged, fill, 3)


def _impossible(pieces: tuple[object, ...], i: int) -> bool:
    """Two words or more with no white space allowed."""
    piece = pieces[i]
    if not isinstance(piece, Blank) or piece.words[0] < 2 or not 0 < i < len(pieces) - 1:
        return False
    before, after = pieces[i - 1], pieces[i + 1]
    return isinstance(before, str) and isinstance(after, str) and in_word(before[-1]) and in_word(after[0])


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("sign", ["___{1}", "___{2}", "___{3}", "___{2,4}"])
def test_word_limits_hold(family: str, sign: str) -> None:
    low, high = {"___{1}": (1, 1), "___{2}": (2, 2), "___{3}": (3, 3), "___{2,4}": (2, 4)}[sign]
    fills = toy(family).fill(f"the {sign} sat on {sign}.", n=8) + toy(family).fill(
        f"the {sign} sat on {sign}.", n=8, temperature=1.0
    )
    assert len(fills) >= 10
    for fill in fills:
        assert all(low <= len(hole.text.split()) <= high for hole in fill.holes)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_is_one_token(family: str) -> None:
    lm = toy(family)
    fills = lm.fill("the [MASK] sat", n=20)
    hole = Hole(0, Mask(), True, False, False)
    assert len({fill.text for fill in fills}) == 20
    assert all(len(lm.tokenizer.candidate_ids(hole, fill.holes[0].text)) == 1 for fill in fills)


@pytest.mark.parametrize("family", WRITERS)
def test_a_blank_that_touches_letters_continues_the_word(family: str) -> None:
    for fill in toy(family).fill("un___able", n=5):
        assert " " not in fill.text and in_word(fill.holes[0].text[0]) and in_word(fill.holes[0].text[-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_that_touches_letters_may_be_punctuation(family: str) -> None:
    for text in ("cat[MASK]", "([MASK]cat", "un[MASK]able"):
        written = [fill.holes[0].text for fill in toy(family).fill(text, n=250, beam=250)]
        assert {".", ",", "-"} & set(written) and {"e", "s"} & set(written)
        assert all(one and " " not in one for one in written)


def test_touching_holes_stay_apart() -> None:
    for family in WRITERS:
        for fill in toy(family).fill("a ___{1}___{1} b", n=3):
            first, second = fill.holes
            assert first.text and second.text and first.end == second.start


@pytest.mark.parametrize("family", WRITERS)
def test_an_empty_fill_leaves_the_text_as_typed(family: str) -> None:
    fills = toy(family).fill("the ___{0,2} cat", n=6)
    empty = [fill for fill in fills if not fill.holes[0].text]
    assert [fill.text for fill in empty] == ["the  cat"]
    assert {fill.kind for fill in fills} == ({"exact"} if family == "left_to_right" else {"estimate"})


def test_every_empty_fill_is_asked_about_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        "unmask.decoding.emptiness.log_empty",
        lambda model, canvas, holes: asked.extend(holes) or log_empty(model, canvas, holes),
    )
    lm, texts = toy("blank_lm"), ["the ___{0,1} cat ___{0,1} sat ___{0,1}", "no hole", "a ___{0,1} dog"]
    together = lm.fill(texts, n=2)
    assert sorted(asked) == [0, 0, 1, 2]
    for text, fills in zip(texts, together, strict=True):
        assert [fill.log_prob for fill in lm.fill(text, n=2)] == pytest.approx([fill.log_prob for fill in fills])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "holes", ["[MASK] [MASK] [MASK]", "___{cat|old man} [MASK]", "___ ___", "___{0,2} ___{4}", "___{1}"]
)
def test_what_is_read_stays_within_the_context(family: str, holes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if family not in WRITERS and "{0,2}" in holes:
        return  # it does not know how likely nothing is
    lm = toy(family, max_length=24)
    longest: list[int] = []
    forward = lm.model.backbone.forward

    def measured(view: View, **more: object) -> object:
        longest.append(int(view.offsets.diff().max()))
        return forward(view, **more)

    monkeypatch.setattr(lm.model.backbone, "forward", measured)
    refused = []
    for n_words in range(10, 24):
        try:
            lm.fill("the " * n_words + holes)
        except ValueError as error:
            refused.append(n_words)
            assert "reads 24 at a time" in str(error)
    assert 20 <= max(longest) <= 24
    assert refused == list(range(refused[0], 24))


def test_how_likely_an_empty_fill_is() -> None:
    """The neighbour's split, read off the larger blank by hand."""
    lm = toy("blank_lm")
    model = lm.model
    reading = lm.tokenizer.read("the ___{0,2} cat sat")
    canvas = model.objective.open(reading.canvas, reading.holes)
    with torch.inference_mode():
        got = log_empty(model, canvas, [0]).exp().item()
        larger = model.objective.open(lm.tokenizer.read("the ___ sat").canvas, reading.holes)
        (cat,) = lm.tokenizer.candidate_ids(reading.holes[0], "cat")
        splits = model.predict(larger).splits(torch.tensor([0]), torch.tensor([cat]))[0].exp().tolist()
    assert got == pytest.approx(splits[0] / (splits[0] + splits[2]))
    alone = lm.tokenizer.read("___{0,2}")
    with torch.inference_mode():
        assert log_empty(model, model.objective.open(alone.canvas, alone.holes), [0]).exp().item() == 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_candidates_are_ranked_with_probabilities(family: str) -> None:
    lm = toy(family)
    words = ["cat", "dog", "old man", "she saw a mat"]
    fills = lm.fill(f"the ___{{{'|'.join(words)}}} sat", n=9)
    assert {fill.holes[0].text for fill in fills} == set(words)
    assert sum(fill.holes[0].prob for fill in fills) == pytest.approx(1.0)
    best = max(fill.log_prob for fill in fills)
    total = sum(math.exp(fill.log_prob - best) for fill in fills)
    for fill in fills:
        assert fill.holes[0].prob == pytest.approx(math.exp(fill.log_prob - best) / total)
        assert fill.kind == "exact" and fill.given == ("length" if family == "masked_diffusion" else None)


@pytest.mark.parametrize("family", WRITERS)
def test_candidates_cost_what_the_exact_likelihood_says(family: str) -> None:
    lm = toy(family)
    tok, model = lm.tokenizer, lm.model
    for fill in lm.fill("the ___{cat|old man|a big dog} sat", n=3):
        reading = tok.read("the ___ sat")
        ids = reading.canvas.ids.tolist()
        tokens = tok.candidate_ids(reading.holes[0], fill.holes[0].text)
        row = [*ids[:2], *tokens, *ids[3:]]
        role = torch.tensor([2, *([0] * (len(row) - 2)), 2])
        hidden = torch.tensor([2 <= i < 2 + len(tokens) for i in range(len(row))])
        clean = Canvas.from_rows([row], role=role)
        with torch.inference_mode():
            noise = Noise(0, torch.zeros(1, dtype=torch.int64))
            exact = model.objective.likelihood(model.predict, clean, hidden, "exact", 0, noise)
        assert fill.log_prob == pytest.approx(exact.log_prob.item(), abs=1e-6)


@pytest.mark.parametrize("family", WRITERS)
def test_candidates_beside_free_holes(family: str) -> None:
    fills = toy(family).fill("a ___{1} saw ___{cat|dog} on ___{mat|the old man}", n=12)
    assert {fill.holes[1].text for fill in fills} <= {"cat", "dog"}
    assert {fill.holes[2].text for fill in fills} <= {"mat", "the old man"}
    by_choice = {(fill.holes[1].text, fill.holes[1].prob) for fill in fills}
    assert len(by_choice) <= 2
    if len(by_choice) == 2:
        assert sum(prob for _, prob in by_choice) == pytest.approx(1.0)


def test_too_many_combinations_are_refused() -> None:
    text = " ".join(["___{a|b|c|d|e|f|g|h}"] * 5)
    with pytest.raises(ValueError, match="32768 combinations"):
        toy("blank_lm").fill(text)


def test_what_a_model_cannot_fill_names_one_that_can() -> None:
    with pytest.raises(ValueError, match="may be empty .* blank_lm or left_to_right"):
        toy("masked_diffusion").fill("the ___{0,2} sat")
    with pytest.raises(ValueError, match="lost letters"):
        toy("blank_lm").fill("the [...] sat", marks="leiden")


def test_a_lost_stretch_is_filled_as_a_blank() -> None:
    lm = toy("blank_lm")
    lost, blank = lm.fill("the [---] sat", n=3, marks="leiden"), lm.fill("the ___ sat", n=3)
    assert lost == blank and "[" not in lost[0].text
    assert [step.text for step in lm.watch("the [---] sat", marks="leiden", beam=1)][0] == "the ___ sat"


def test_a_text_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="reads 128 at a time"):
        toy("blank_lm").fill("the cat " * 80 + "___")
    with pytest.raises(ValueError, match="reads 128 at a time"):
        toy("left_to_right").fill("the ___{500} sat")


@pytest.mark.parametrize("family", WRITERS)
def test_rows_stay_within_the_context(family: str) -> None:
    lm = toy(family)
    text = "the cat sat on " * 26 + "___ ___"
    (fill,) = lm.fill(text)
    assert fill.status in ("finished", "capped")
    (fill,) = lm.fill("___{30} x", beam=1)
    assert len(fill.holes[0].text.split()) == 30


def test_a_limit_that_was_reached_is_told() -> None:
    lm = toy("left_to_right")
    for fill in lm.fill("the ___ sat", n=5, max_words=2, temperature=1.0):
        words = len(fill.holes[0].text.split())
        assert words <= 2
        if words == 2:
            assert fill.status == "capped"


def test_classes_are_few_and_told_tokens_stand_alone() -> None:
    table = tokenizer().table
    classes = TokenClasses.build(table, [7, 9])
    assert classes.usable.numel() <= 2 + 16
    assert classes.token[classes.of[7]] == 7
    assert int((classes.of == classes.of[9]).sum()) == 1
    assert not classes.usable[classes.of[tokenizer().signs["blank"]]]


def test_rules_know_whose_limit_it_is() -> None:
    holes = [Hole(0, Blank(), True, False, False), Hole(1, Blank((1, 4)), True, False, False)]
    rules = Rules.build([holes], 5, [{}], [[100] * len(holes)])
    assert rules.max_words.tolist() == [[5, 4]]
    assert rules.free.tolist() == [[True, False]]
