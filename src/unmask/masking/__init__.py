"""What to hide, and how much: laws over the units of a text."""

from unmask.masking.hidden import Hidden as Hidden
from unmask.masking.laws import LAWS as LAWS
from unmask.masking.mixture import Mixture as Mixture
