"""Models as artefacts that run without this package: each is run again, and must agree."""

from sepconv_layers.export.artefact import Artefact
from sepconv_layers.export.hub import HubLayer, to_hub

__all__ = ["Artefact", "HubLayer", "to_hub"]
