"""A mixture of masking laws: each row takes one of them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unmask.canvas import Canvas
from unmask.masking.hidden import Hidden
from unmask.masking.laws import LAWS, Law
from unmask.noise import Noise


class Mixture:
    """Hides what one law, drawn for each row by its share, says.

    `parts` are mappings with `law` (a name in `LAWS`), `share`, `unit` (`token` or `word`) and the law's own settings.

    Raises:
        ValueError: for a law or setting there is not.
    """

    def __init__(self, parts: Sequence[dict[str, Any]], begins: Tensor, starts: Tensor | None = None) -> None:
        """Bind each law to its settings; `begins [V]` as in `units`, `starts [V]`: which ids begin with white space."""
        self.starts = starts
        self.laws: list[tuple[Law, dict[str, Any]]] = []
        shares = []
        for part in parts:
            settings = dict(part)
            name, unit = settings.pop("law"), settings.pop("unit", "token")
            shares.append(float(settings.pop("share", 1.0)))
            if name not in LAWS:
                raise ValueError(f"no masking law {name!r} · laws: {', '.join(LAWS)} · name one of them")
            law = LAWS[name]
            if unit == "word":
                settings["begins"] = begins
            elif unit != "token":
                raise ValueError(f"masking unit {unit!r} is not known · units: token, word · name one of them")
            known = inspect.signature(law).parameters.keys() - {"clean", "noise"}
            if unknown := settings.keys() - known:
                own = ", ".join(sorted(known))
                raise ValueError(
                    f"masking law {name!r} has no setting {sorted(unknown)[0]!r} · its settings: {own or 'none'}"
                    " · mend the recipe"
                )
            self.laws.append((law, {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}))
        total = sum(shares)
        self.borders = torch.tensor(shares, dtype=torch.float64).cumsum(0) / total

    def __call__(self, clean: Canvas, noise: Noise) -> Hidden:
        """What is hidden of each row of `clean`."""
        hidden = self._hidden(clean, noise)
        return hidden if self.starts is None else replace(hidden, starts=self.starts[clean.ids])

    def _hidden(self, clean: Canvas, noise: Noise) -> Hidden:
        pick = torch.searchsorted(self.borders.to(clean.ids.device), noise.rows("law")).clamp(max=len(self.laws) - 1)
        chosen = [law(clean, noise, **settings) for law, settings in self.laws]
        if len(chosen) == 1:
            return chosen[0]
        at = torch.arange(clean.n_rows, device=pick.device)
        stack = {name: torch.stack([getattr(h, name) for h in chosen]) for name in ("weight", "count", "bound")}
        mask = torch.stack([h.mask for h in chosen])[pick[clean.rows], torch.arange(clean.n_elements)]
        return Hidden(mask, *(stack[name][pick, at] for name in ("weight", "count", "bound")))
