"""How likely an empty fill is, in a family whose signs always stand for something.

Let the hole's neighbour token be missing too, so that one larger blank covers hole and neighbour. Writing the neighbour
there costs the same whether or not more is missing beside it, up to the split: closed on the hole's side means that
the hole was empty, open that it was not. Their shares are the estimate: one forward pass, no training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from unmask.canvas import Canvas, Edits, Role
from unmask.decoding.replay import Move, found, proposed
from unmask.model import Model


def log_empty(model: Model, canvas: Canvas, holes: Sequence[int]) -> Tensor:
    """log p(hole `holes[b]` of row b is empty | its row), `[B]` float64; one half where no text stands beside it."""
    device = canvas.ids.device
    wanted = torch.tensor(list(holes), device=device)
    sign = ((canvas.role == Role.SIGN) & (canvas.hole == wanted[canvas.rows])).nonzero().squeeze(1)  # [B]
    right, left = (sign + 1).clamp(max=canvas.n_elements - 1), (sign - 1).clamp(min=0)
    has_right, has_left = (_is_text(canvas, sign, place) for place in (right, left))
    neighbour = torch.where(has_right, right, left)
    some = has_right | has_left
    out = torch.full((canvas.n_rows,), 0.5, dtype=torch.float64, device=device).log()
    if not bool(some.any()):
        return out
    token = canvas.ids[neighbour].tolist()
    site = neighbour[some].sort().values
    larger = _without(replace(canvas, fixed=canvas.fixed.index_fill(0, site, False)), site)
    sites = model.objective.sites(larger)
    number = {row: i for i, row in enumerate(sites.row.tolist()) if int(sites.hole[i]) == holes[row]}
    rows = [row for row, has in enumerate(some.tolist()) if has]
    moves = []
    for row in rows:
        from_right = bool(has_right[row])
        for more in (False, True):
            moves.append(Move(number[row], token[row], more and from_right, more and not from_right, 0))
    proposal = proposed(model, larger, sites, moves)
    cost = found(proposal, moves, torch.tensor([move.site for move in moves], device=device))[1].view(-1, 2)
    if bool(cost[:, 1].isneginf().any()):
        raise ValueError(
            "how likely an empty fill is cannot be told · blanks of this model do not stay open on the side of the text"
            " beside them · ask for at least one word, ___{1,3}"
        )
    out[torch.tensor(rows, device=device)] = cost.log_softmax(1)[:, 0]
    return out


def without_holes(canvas: Canvas, holes: Sequence[frozenset[int]]) -> Canvas:
    """Rows without the signs of the holes that are to be empty."""
    sign = (canvas.role == Role.SIGN).nonzero().squeeze(1)
    facts = zip(canvas.rows[sign].tolist(), canvas.hole[sign].tolist(), strict=True)
    gone = [hole in holes[row] for row, hole in facts]
    return _without(canvas, sign[torch.tensor(gone, dtype=torch.bool, device=sign.device)])


def _is_text(canvas: Canvas, sign: Tensor, place: Tensor) -> Tensor:
    same_row = canvas.rows[place] == canvas.rows[sign]
    return same_row & (canvas.role[place] == Role.TEXT) & canvas.fixed[place]


def _without(canvas: Canvas, site: Tensor) -> Canvas:
    return canvas.apply(Edits.emit(site, torch.zeros_like(site), site.new_zeros(0), Role.TEXT))
