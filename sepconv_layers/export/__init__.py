"""Exports models to files that run without this package; each file is run and compared."""

from sepconv_layers.export.artifact import Artifact
from sepconv_layers.export.checks import check_model
from sepconv_layers.export.fastest import CompiledModel, compiled
from sepconv_layers.export.hub import to_hub
from sepconv_layers.export.hub_layer import HubLayer
from sepconv_layers.export.inputs import random_inputs
from sepconv_layers.export.litert import QUANTIZE, LitertArtifact, to_litert
from sepconv_layers.export.loading import LoadedArtifact, load
from sepconv_layers.export.micro import MicroArtifact, to_micro
from sepconv_layers.export.noise import QuantizationReport, TensorNoise
from sepconv_layers.export.onnx import to_onnx
from sepconv_layers.export.runtimes import LITERT_THREADS

__all__ = [
    "LITERT_THREADS",
    "QUANTIZE",
    "Artifact",
    "CompiledModel",
    "HubLayer",
    "LitertArtifact",
    "LoadedArtifact",
    "MicroArtifact",
    "QuantizationReport",
    "TensorNoise",
    "check_model",
    "compiled",
    "load",
    "random_inputs",
    "to_hub",
    "to_litert",
    "to_micro",
    "to_onnx",
]
