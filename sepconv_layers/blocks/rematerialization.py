"""The stages of a block that training computes again: see `ops.rematerialization`."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras

from sepconv_layers.layers import BatchNormalization
from sepconv_layers.layers.base import BaseConv
from sepconv_layers.layers.conv import Conv
from sepconv_layers.layers.depthwise_conv import DepthwiseConv
from sepconv_layers.layers.separable_conv import SeparableConv
from sepconv_layers.ops import operations
from sepconv_layers.ops.rematerialization import Part, is_supported, run

Stages = Sequence[keras.layers.Layer]


def cheap_stages(stages: Stages, inputs: Any) -> Stages:
    """The first stages, up to a pointwise convolution, if they can be computed again, or none."""
    if isinstance(stages[0], keras.layers.Activation) or not is_supported(inputs):
        return ()
    for number, stage in enumerate(stages, 1):
        if not _is_plain(stage, inputs):
            break
        if isinstance(stage, SeparableConv) or (isinstance(stage, Conv) and number > 1):
            return stages[:number]
        if not isinstance(stage, DepthwiseConv | BatchNormalization | keras.layers.Activation):
            break
    return ()


def _is_plain(stage: keras.layers.Layer, inputs: Any) -> bool:
    """Whether a stage does nothing that its `_parts` leave out."""
    if isinstance(stage, BatchNormalization) and not stage.sums_up(inputs):
        return False
    if isinstance(stage, BaseConv) and not _is_plain_convolution(stage):
        return False
    is_checked = stage.compute_dtype == keras.backend.standardize_dtype(inputs.dtype)
    is_checked = is_checked and stage._remat_mode is None
    return is_checked and getattr(stage, "activity_regularizer", None) is None


def _is_plain_convolution(stage: Any) -> bool:
    if stage.use_bias or stage.activation not in (None, keras.activations.linear):
        return False
    if stage.data_format != "channels_last":
        return False
    if isinstance(stage, Conv):
        return max(*stage.kernel_size, *stage.strides, stage.groups) == 1
    # With several kernels for each channel, there are other forms of a separable convolution.
    return not isinstance(stage, SeparableConv) or stage.depth_multiplier == 1


def in_training(stages: Stages, inputs: Any) -> Any:
    """Runs `cheap_stages` in training."""
    parts = [part for stage in stages for part in _parts(stage, inputs.dtype)]
    outputs, moments = run(parts, inputs)
    left = iter(moments)
    for stage in stages:
        if isinstance(stage, BatchNormalization):
            stage.follow((next(left), next(left)), outputs)
    return outputs


def _parts(stage: Any, dtype: Any) -> Iterator[Part]:
    if isinstance(stage, BatchNormalization):
        affine = [keras.ops.cast(weight, "float32") for weight in stage.gamma_and_beta()]
        yield Part(affine, epsilon=stage.epsilon)
        return
    if isinstance(stage, keras.layers.Activation):
        yield Part(function=stage.activation)
        return
    kernels = [keras.ops.cast(weight, dtype) for weight in stage.weights]
    if not isinstance(stage, Conv):
        yield Part(
            kernels[:1],
            lambda x, kernel: stage._run(operations.DepthwiseConv, (x, kernel), None),
        )
    if not isinstance(stage, DepthwiseConv):
        arguments = (1, "valid", stage.data_format, 1)
        yield Part(
            kernels[-1:],
            lambda x, kernel: operations.run(operations.Conv, arguments, (x, kernel)),
        )
