"""Fifteen everyday sentences with holes, chosen before any model was trained, and a model's fills for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.evaluation.report import Report

if TYPE_CHECKING:
    from unmask.evaluation import Tell
    from unmask.evaluation.asking import Filler

PROMPTS = Path(__file__).with_name("prompts.txt")
SHOWN = 5  # fills a prompt


def prompts() -> list[str]:
    """The sentences, one a line of `prompts.txt`."""
    return PROMPTS.read_text(encoding="utf-8").splitlines()


def evaluate(lm: Filler, text: Sequence[Path], counts: Sequence[Path], n: int, seed: int, tell: Tell) -> Report:
    """The five best fills of every prompt; whether they are sensible is for a person to say."""
    sentences = prompts()
    tell(0, len(sentences), "filling")
    rows = []
    for sentence, fills in zip(sentences, lm.fill(sentences, n=SHOWN, seed=seed), strict=True):
        shown = [" … ".join(hole.text for hole in fill.holes) for fill in fills]
        rows.append({"prompt": sentence, "fills": " | ".join(shown)})
    return Report(rows)
