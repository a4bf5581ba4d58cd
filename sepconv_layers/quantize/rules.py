"""What LiteRT does with the scales of each kind of layer and operation in an int8 file."""

import enum
from typing import Any

import keras

from sepconv_layers.class_table import by_class
from sepconv_layers.graph_edit import calls_as_defined


class Kind(enum.Enum):
    """Which scale an output has in the file."""

    KERNEL = "its own, and so has each output channel of the kernel"
    PASSING = "that of the input, with the same integers"
    ROUNDING = "that of the input, rounded to its integers"
    JOINING = "its own, to which the inputs are converted"
    ADDING = "its own, after a ReLU that follows"
    RELU = "its own, after the layer before it if there is one that computes a ReLU as well"
    FIXED = "one that LiteRT prescribes"
    OTHER = "its own"


LAYERS = by_class(
    {
        "Conv?D Conv?DTranspose DepthwiseConv?D DepthwiseConv?DTranspose Dense": Kind.KERNEL,
        "Activity* *Dropout* GaussianNoise DropPath Identity InputLayer": Kind.PASSING,
        "Flatten Reshape Permute RepeatVector": Kind.PASSING,
        "ZeroPadding?D Cropping?D UpSampling?D MaxPooling?D GlobalMaxPooling?D": Kind.PASSING,
        "AveragePooling?D": Kind.ROUNDING,
        "Concatenate Maximum Minimum": Kind.JOINING,
        "Add Subtract Multiply": Kind.ADDING,
    }
)
# Operations of `keras.ops` in a functional model, by the names of their classes.
OPERATIONS = {
    name: kind
    for names, kind in {
        "BroadcastTo ExpandDims Flip GetItem Max Moveaxis Ravel Repeat Reshape": Kind.PASSING,
        "Split Squeeze StopGradient Swapaxes Tile Transpose Unstack MaxPool": Kind.PASSING,
        "AveragePool": Kind.ROUNDING,
        "Concatenate Maximum Minimum Stack": Kind.JOINING,
        "Add Subtract Multiply": Kind.ADDING,
        "Relu Relu6": Kind.RELU,
        "Sigmoid Softmax Tanh": Kind.FIXED,
    }.items()
    for name in names.split()
}
RELUS = (keras.activations.relu, keras.activations.relu6)
# Minimum and maximum that LiteRT prescribes: 256 values, of which one is zero.
FIXED_RANGES = {
    "sigmoid": (0.0, 255 / 256),
    "softmax": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}


def kind_of(operation: Any) -> Kind:
    """The kind of a layer or operation."""
    if not isinstance(operation, keras.layers.Layer):
        return OPERATIONS.get(type(operation).__name__, Kind.OTHER)
    if not calls_as_defined(operation) or _is_interpolating(operation):
        return Kind.OTHER
    if is_relu(operation):
        return Kind.RELU
    if fixed_range(operation):
        return Kind.FIXED
    kind = next((LAYERS[cls] for cls in type(operation).__mro__ if cls in LAYERS), Kind.OTHER)
    # Of `Dense` there is a quantized and a low-rank form, whose kernels are not its kernel.
    is_changed = getattr(operation, "quantization_mode", None) or getattr(
        operation, "lora_enabled", False
    )
    return Kind.OTHER if kind is Kind.KERNEL and is_changed else kind


def _is_interpolating(layer: Any) -> bool:
    return getattr(layer, "interpolation", "nearest") != "nearest"


def is_relu(operation: Any) -> bool:
    """Whether an operation is a ReLU or ReLU6, which convolutions and additions compute as well."""
    if isinstance(operation, keras.layers.ReLU):
        has_slope = operation.negative_slope != 0 or operation.threshold != 0
        return not has_slope and operation.max_value in (None, 6)
    if isinstance(operation, keras.layers.Activation):
        return operation.activation in RELUS
    return type(operation).__name__ in ("Relu", "Relu6")


def fixed_range(operation: Any) -> tuple[float, float] | None:
    """The minimum and maximum that LiteRT prescribes for an output, or `None`."""
    if isinstance(operation, keras.layers.Activation):
        return FIXED_RANGES.get(getattr(operation.activation, "__name__", ""))
    return FIXED_RANGES.get(type(operation).__name__.lower())
