"""What a text that a model wrote is like: how much it repeats itself, and what another model makes of it."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from held_out import Passage


def repeated(ids: Sequence[int], n: int = 4) -> float:
    """The share of a text's runs of `n` tokens that stood in it before."""
    runs = list(zip(*(ids[i:] for i in range(n)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def entropy(ids: Sequence[int]) -> float:
    """Of the tokens of a text by how often each comes, nats; a text that says one thing only has 0."""
    return -sum(k / len(ids) * math.log(k / len(ids)) for k in Counter(ids).values())


def chances(lm: Any, pairs: Sequence[Passage], **how: Any) -> list[Any]:
    """How likely each text is behind its prompt: the scores of `LanguageModel.score`, of what follows alone."""
    from unmask.decoding.ranking import rank
    from unmask.holes import Blank

    questions = [[prompt, Blank(candidates=(text,))] for prompt, text in pairs]
    return [one for (one,) in rank(lm.model, lm.tokenizer, questions, **how)]


def described(judge: Any, pairs: Sequence[Passage]) -> dict[str, float]:
    """Means over texts of what they are like, and their perplexity behind their prompts under the judge."""
    texts = [judge.tokenizer.encode(f" {text}", inside=True) for _, text in pairs]
    scores = [score for pair in pairs for score in chances(judge, [pair])]
    return {
        "repeated": sum(map(repeated, texts)) / len(texts),
        "entropy": sum(map(entropy, texts)) / len(texts),
        "perplexity": math.exp(-sum(score.log_prob for score in scores) / sum(score.tokens for score in scores)),
        "written": sum(map(len, texts)) / len(texts),
    }
