"""Models as artifacts that run without this package: each is run again, and must agree."""

from sepconv_layers.export.artifact import Artifact, check_model
from sepconv_layers.export.hub import HubLayer, to_hub
from sepconv_layers.export.inputs import random_inputs
from sepconv_layers.export.litert import QUANTIZE, to_litert
from sepconv_layers.export.loading import THREADS as LITERT_THREADS
from sepconv_layers.export.loading import Loaded, load
from sepconv_layers.export.onnx import to_onnx

__all__ = [
    "LITERT_THREADS",
    "QUANTIZE",
    "Artifact",
    "HubLayer",
    "Loaded",
    "check_model",
    "load",
    "random_inputs",
    "to_hub",
    "to_litert",
    "to_onnx",
]
