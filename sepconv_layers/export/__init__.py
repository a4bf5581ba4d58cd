"""Models as artifacts that run without this package: each is run again, and must agree."""

from sepconv_layers.export.artifact import Artifact
from sepconv_layers.export.hub import HubLayer, to_hub
from sepconv_layers.export.litert import to_litert
from sepconv_layers.export.loading import Loaded, load
from sepconv_layers.export.onnx import to_onnx

__all__ = ["Artifact", "HubLayer", "Loaded", "load", "to_hub", "to_litert", "to_onnx"]
