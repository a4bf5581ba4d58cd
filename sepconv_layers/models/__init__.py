"""Reference nets, each with its twin of standard convolutions: `conv="separable"|"standard"`."""

from sepconv_layers.models.applications import load_keras_application
from sepconv_layers.models.audio import bc_resnet, ds_cnn, keyword_resnet, matchboxnet
from sepconv_layers.models.residual import separable_resnet
from sepconv_layers.models.text import region_cnn, sep_cnn
from sepconv_layers.models.vision import mobilenet, mobilenet_v2, mobilenet_v3
from sepconv_layers.models.volumes import mobilenet_3d

__all__ = [
    "bc_resnet",
    "ds_cnn",
    "keyword_resnet",
    "load_keras_application",
    "matchboxnet",
    "mobilenet",
    "mobilenet_3d",
    "mobilenet_v2",
    "mobilenet_v3",
    "region_cnn",
    "sep_cnn",
    "separable_resnet",
]
