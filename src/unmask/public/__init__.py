"""Models of other houses on disk, read as ours and written back; `backbone/convert.py` has their names for weights."""

from unmask.public.checkpoint import Checkpoint as Checkpoint
from unmask.public.checkpoint import card_of as card_of
from unmask.public.checkpoint import is_public as is_public
from unmask.public.checkpoint import opened as opened
from unmask.public.writing import write_public as write_public
