"""Models as artefacts that run without this package: each is run again, and must agree."""

from sepconv_layers.export.artefact import Artefact

__all__ = ["Artefact"]
