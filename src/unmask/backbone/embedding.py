"""An embedding that is frozen but for some rows: what training changes of a vocabulary that others made."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RowEmbedding(nn.Embedding):
    """A frozen embedding; some of its rows are a parameter of their own, and alone are trained.

    `weight [V, D]` is zero at `ids [S]`: whoever multiplies by it adds the product with `rows [S, D]` there.
    """

    ids: Tensor
    place: Tensor

    def __init__(self, embedding: nn.Embedding, ids: Tensor) -> None:
        """Take over `embedding`, whose weight is changed; train its rows `ids [S]`, each named once."""
        matrix = embedding.weight.detach()
        super().__init__(matrix.shape[0], matrix.shape[1], _weight=matrix, _freeze=True)
        ids = ids.to(matrix.device)
        self.rows = nn.Parameter(matrix[ids].clone())
        matrix[ids] = 0
        place = torch.full((matrix.shape[0],), -1, device=matrix.device)
        place[ids] = torch.arange(ids.numel(), device=matrix.device)
        self.register_buffer("ids", ids, persistent=False)
        self.register_buffer("place", place, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """`input [...]` int64 to `[..., D]`."""
        place = self.place[input.flatten()]
        at = (place >= 0).nonzero().squeeze(1)
        x = super().forward(input.flatten()).to(self.rows.dtype).index_add_(0, at, self.rows[place[at]])
        return x.view(*input.shape, -1)
