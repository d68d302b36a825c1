"""Lengths of blanks: texts that ask together find what each finds alone, in fewer passes."""

from __future__ import annotations

import pytest

from test_masks import Sure, ending
from toys import toy
from unmask.decoding import lengths
from unmask.decoding.lengths import Blanks, choose_lengths
from unmask.decoding.masks import Masks
from unmask.language_model import LanguageModel

TEXTS = ["the cat ___ on the mat", "a big ___ dog ___{1,4} on", "the old man ___", "the ___{3,9} sat and ___", "___"]


def blanks_of(lm: LanguageModel, text: str, most: int = 40) -> Blanks:
    reading = lm.tokenizer.read(text)
    least = {hole.index: max(1, hole.sign.words[0]) for hole in reading.holes}
    return Blanks(reading.canvas, reading.holes, least, {hole: most for hole in least})


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows went through in each pass."""
    seen: list[int] = []
    for lm in (ending(), toy("masked_diffusion")):
        forward = lm.model.backbone.forward

        def counted(view: object, forward: object = forward, **more: object) -> object:
            seen.append(view.offsets.numel() - 1)  # type: ignore[attr-defined]
            return forward(view, **more)  # type: ignore[operator]

        monkeypatch.setattr(lm.model.backbone, "forward", counted)
    return seen


@pytest.mark.parametrize("masks", [Masks(), Masks(length="probe"), Masks(length="grow"), Masks(length=4)])
def test_texts_ask_together_what_each_asks_alone(masks: Masks, passes: list[int]) -> None:
    lm = ending()
    family = lm.model.objective
    asked = [blanks_of(lm, text) for text in TEXTS]
    alone, n_alone = [], []
    for one in asked:
        passes.clear()
        alone += choose_lengths(lm.model, family, [one], masks, None)  # type: ignore[arg-type]
        n_alone.append(len(passes))
    passes.clear()
    together = choose_lengths(lm.model, family, asked, masks, None)  # type: ignore[arg-type]
    assert together == alone
    assert len(passes) == max(n_alone) and (masks.length == 4) == (not passes)


def test_passes_are_cut_by_what_they_hold(passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    lm = toy("masked_diffusion")
    asked = [blanks_of(lm, text) for text in TEXTS[:3]]
    wanted = choose_lengths(lm.model, lm.model.objective, asked, Masks(length="probe"), None)  # type: ignore[arg-type]
    few = len(passes)
    monkeypatch.setattr(lengths, "LOGITS", 60 * lm.model.config.backbone.vocab_size)
    passes.clear()
    assert choose_lengths(lm.model, lm.model.objective, asked, Masks(length="probe"), None) == wanted  # type: ignore[arg-type]
    assert len(passes) > few and max(passes) < 12


@pytest.mark.parametrize(("end", "most", "wanted"), [(0, 80, 1), (5, 80, 6), (5, 4, 4), (50, 60, 51), (99, 60, 60)])
def test_what_stands_behind_a_sure_end_is_left_out(end: int, most: int, wanted: int) -> None:
    lm = ending()
    family = Sure(lm.model.objective, end=end)
    (found,) = choose_lengths(lm.model, family, [blanks_of(lm, "the cat ___", most)], Masks(), None)  # type: ignore[arg-type]
    assert found.lengths == {0: wanted} and found.room == {0: most}
    (found,) = choose_lengths(lm.model, family, [blanks_of(lm, "the cat ___", most)], Masks(ending="never"), 3)  # type: ignore[arg-type]
    assert found.lengths[0] <= 3 and not found.room  # without ends nothing grows on


def test_growth_wants_ends_and_a_look_ahead() -> None:
    lm = toy("masked_diffusion")
    with pytest.raises(ValueError, match="this one writes no ends"):
        lm.fill("the ___", masks=Masks(length="grow"))
    family = Sure(ending().model.objective)
    family.block = 4  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="block by block without a look there"):
        choose_lengths(lm.model, family, [blanks_of(lm, "the ___")], Masks(length="grow"), None)  # type: ignore[arg-type]
