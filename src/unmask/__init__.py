"""Write in the gaps of a text: any number of holes, of any length, in any order.

The public names. They are looked up when first used, so that `import unmask` alone never imports torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask.canvas import Canvas as Canvas
    from unmask.decoding.masks import Masks as Masks
    from unmask.holes import Blank as Blank
    from unmask.holes import Mask as Mask
    from unmask.language_model import Fill as Fill
    from unmask.language_model import HoleFill as HoleFill
    from unmask.language_model import LanguageModel as LanguageModel
    from unmask.language_model import Score as Score
    from unmask.language_model import Step as Step
    from unmask.language_model import load as load
    from unmask.tokenizer import Tokenizer as Tokenizer

__version__ = "0.1.0.dev0"

_HOME = {
    "load": "unmask.language_model",
    "LanguageModel": "unmask.language_model",
    "Fill": "unmask.language_model",
    "HoleFill": "unmask.language_model",
    "Score": "unmask.language_model",
    "Step": "unmask.language_model",
    "Blank": "unmask.holes",
    "Mask": "unmask.holes",
    "Masks": "unmask.decoding.masks",
    "Canvas": "unmask.canvas",
    "Tokenizer": "unmask.tokenizer",
}

__all__ = [
    "Blank",
    "Canvas",
    "Fill",
    "HoleFill",
    "LanguageModel",
    "Mask",
    "Masks",
    "Score",
    "Step",
    "Tokenizer",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    """A public name, from the module it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module 'unmask' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, without importing what stands behind them."""
    return sorted(__all__)
