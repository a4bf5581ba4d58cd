"""Exports models to files that run without this package; each file is run and compared."""

from sepconv_layers.export.artifact import Artifact
from sepconv_layers.export.hub import to_hub
from sepconv_layers.export.hub_layer import HubLayer
from sepconv_layers.export.litert import to_litert
from sepconv_layers.export.loading import LoadedArtifact, load
from sepconv_layers.export.onnx import to_onnx

__all__ = ["Artifact", "HubLayer", "LoadedArtifact", "load", "to_hub", "to_litert", "to_onnx"]
