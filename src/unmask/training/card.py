"""The card of a trained model, written from its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unmask.model import Model
from unmask.training.checkpoint import State
from unmask.training.config import Recipe


def card(recipe: Recipe, model: Model, state: State, last: Mapping[str, Any], left_out: Sequence[str] = ()) -> str:
    """The text of the model's `README.md`.

    `last` is the last line of the run's log; `left_out` says what of the data was not learned from.
    """
    shape = model.config.backbone
    sources = "\n".join(f"- {source.title}: `{source.path}`" for source in recipe.data.sources)
    sources += "".join(f"\n\n{sentence.partition(' · ')[0]}." for sentence in left_out)
    held = last.get("held_out")
    figure = f"{held['loss']:.4f} over {held['tokens']:,} tokens" if held else "nothing was held out"
    adapter, made_of, learned = recipe.adapter, "", ""
    if adapter is not None:
        trained = [p for p in model.parameters() if p.requires_grad]
        made_of = f"base_model: {recipe.model}\n"
        learned = (
            f"| adapter of | `{recipe.model}`, which is needed beside it |\n"
            f"| trained | {sum(p.numel() for p in trained):,} numbers: rank {adapter.rank} beside "
            f"{', '.join(adapter.targets)}, and the signs |\n"
        )
    stated = f"license: {recipe.licence}\n" if recipe.licence else ""
    under = (
        f"This model is licensed {recipe.licence}; its data are under their own licences."
        if recipe.licence
        else "The licence of this model follows from that of its data, which the trainer knows."
    )
    return f"""---
library_name: unmask
{stated}{made_of}tags: [unmask, {recipe.objective.name}, infilling]
---

# A model that fills in text

Written in the gaps of a text: `unmask fill "The ___ sat." --model FOLDER`.

| | |
|---|---|
{learned}| objective | `{recipe.objective.name}` |
| parameters | {model.n_parameters():,} |
| shape | {shape.n_layers} layers, width {shape.width}, {shape.n_heads} heads |
| vocabulary | {shape.vocab_size:,} |
| trained for | {state.step:,} steps, {state.tokens:,} tokens, {state.seconds / 60:.1f} minutes |
| training loss | {last.get("loss", float("nan")):.4f} (last step) |
| held-out loss | {figure} |
| precision | {recipe.precision} |
| seed | {recipe.seed} |

## Data

{sources}

{under} It writes what such data make likely: it may be wrong, and it repeats what stands there.

## Recipe

```yaml
{recipe.to_yaml().strip()}
```
"""
