"""The one transformer and its parts."""

from unmask.backbone.transformer import Backbone as Backbone
from unmask.backbone.transformer import BackboneConfig as BackboneConfig
