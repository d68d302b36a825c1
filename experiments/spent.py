"""What writing takes: forward passes, elements read, processor time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Spent:
    """So far."""

    passes: int = 0  # of the backbone, on however many texts at once
    read: int = 0  # elements that went through its layers
    seconds: float = 0.0  # of the processor, within `spending`


@contextmanager
def spending(lm: Any) -> Iterator[Spent]:
    """Count what a model does meanwhile."""
    from unmask.backbone.transformer import Layer

    spent, begin = Spent(), time.process_time()

    def passed(*_: Any) -> None:
        spent.passes += 1

    def read(_: Any, given: tuple[Any, ...]) -> None:
        spent.read += given[0].shape[0]

    backbone = lm.model.backbone
    first = next(part for part in backbone.modules() if isinstance(part, Layer))
    handles = [backbone.register_forward_pre_hook(passed), first.register_forward_pre_hook(read)]
    try:
        yield spent
    finally:
        spent.seconds = time.process_time() - begin
        for handle in handles:
            handle.remove()
