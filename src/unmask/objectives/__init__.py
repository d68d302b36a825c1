"""The families: one file each, and this table."""

from typing import Any

from unmask.objectives.blank_lm import BlankLM
from unmask.objectives.fractional import Fractional
from unmask.objectives.insertion import Insertion
from unmask.objectives.left_to_right import LeftToRight
from unmask.objectives.masked_diffusion import MaskedDiffusion
from unmask.objectives.objective import Likelihood as Likelihood
from unmask.objectives.objective import Loss as Loss
from unmask.objectives.objective import Objective as Objective
from unmask.objectives.objective import Proposal as Proposal
from unmask.objectives.objective import Settling as Settling
from unmask.objectives.objective import Shape as Shape
from unmask.objectives.objective import Sites as Sites
from unmask.objectives.objective import Told as Told
from unmask.objectives.objective import Vocabulary as Vocabulary
from unmask.objectives.objective import called as called
from unmask.objectives.objective import settling as settling
from unmask.objectives.objective import told as told

OBJECTIVES: dict[str, Any] = {
    "blank_lm": BlankLM,
    "masked_diffusion": MaskedDiffusion,
    "left_to_right": LeftToRight,
    "insertion": Insertion,
    "fractional": Fractional,
}
