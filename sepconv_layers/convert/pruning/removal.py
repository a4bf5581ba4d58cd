"""Removes whole channels of a trained model."""

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers import tables
from sepconv_layers.arguments import check_number, positive_int
from sepconv_layers.convert.fitting.calibration import Calibration
from sepconv_layers.convert.pruning.channels import Part, macs_of, remaining
from sepconv_layers.convert.pruning.choice import Choice
from sepconv_layers.convert.pruning.coupling import couple
from sepconv_layers.convert.pruning.importance import importance_of, noise_for
from sepconv_layers.convert.pruning.refit import refit
from sepconv_layers.convert.report import LayerReport
from sepconv_layers.convert.unrolling import unrolled
from sepconv_layers.cost import profile
from sepconv_layers.graph_edit import ModelGraph, clone_layer, copy_state

TOLERANCE = 0.02  # share of the MACs by which they may be below what is asked for


@dataclasses.dataclass(frozen=True)
class PrunedLayer:
    """Report on a layer of a pruned model.

    Attributes:
        name: Names of the models and blocks around the layer and of the layer, as a path.
        channels_before: Number of output channels in the original model.
        channels: Number of output channels that remain.
        macs_before: MACs of the layer in the original model.
        macs: MACs of the layer in the pruned model.
        output_error: Relative root-mean-square error of the remaining outputs on the data, before
            the activation: the root of the share of their variance that is lost. `None` without
            data, and for layers that do not mix channels.
    """

    name: str
    channels_before: int
    channels: int
    macs_before: int
    macs: int
    output_error: float | None = None


@dataclasses.dataclass(frozen=True)
class PruningReport(LayerReport[PrunedLayer]):
    """The report of `prune_channels`, a sequence of `PrunedLayer`; `print` shows it as a table.

    Attributes:
        layers: One `PrunedLayer` for each layer with channels and MACs of its own.
        macs_before: MACs of the original model.
        macs: MACs of the pruned model.
    """

    layers: tuple[PrunedLayer, ...]
    macs_before: int
    macs: int

    def _rows(self) -> list[tables.Cells]:
        header = ["layer", "channels before", "channels", *self._errors("output error")]
        rows = [
            [
                row.name,
                f"{row.channels_before:,}",
                f"{row.channels:,}",
                *self._errors("–" if row.output_error is None else f"{row.output_error:.1%}"),
                *_macs(row.macs_before, row.macs),
            ]
            for row in self
        ]
        return [[*header, "MACs before", "MACs", "ratio"], *rows]

    def _total(self) -> list[tables.Cells]:
        return [["total", "", "", *self._errors(""), *_macs(self.macs_before, self.macs)]]

    def _errors(self, cell: str) -> list[str]:
        """The cell of a column that only a report with data has."""
        return [cell] if any(row.output_error is not None for row in self) else []


def _macs(before: int, now: int) -> list[str]:
    return [f"{before:,}", f"{now:,}", f"{now / before:.2f}" if before else ""]


def prune_channels(
    model: keras.Model,
    macs: float,
    data: Any = None,
    *,
    divisor: int = 1,
    keep: Sequence[str] = (),
    batch_size: int | None = None,
) -> tuple[keras.Model, PruningReport]:
    """Removes the channels of a trained model that matter least, until it has that many MACs.

    The result is an ordinary, smaller model, which runs fast everywhere. Training it, with labels
    or with `distill`, recovers accuracy. Without data, it has copies of the remaining weights: it
    computes what the original model would with the weights of the removed channels set to zero.

    With `data`, the remaining channels take over what the removed ones did: layer after layer, on
    the activations that the layer gets from the part that is already smaller, the kernels and
    biases reproduce the outputs of the original layer in the least-squares sense. The statistics of
    batch normalizations change as those of their inputs on the data have changed. This keeps much
    of the accuracy without any training. Layers before the first removed channel stay as they are.

    Channels that an addition, a product, a depthwise convolution or a reshaping ties together are
    removed together. All channels of the outputs stay, and so do those that reach layers of an
    unknown kind, such as attention, recurrent layers, layer normalization and custom layers. In
    convolutions with groups, the same channels are removed from each group; group normalization
    loses whole groups. Blocks of this package become models of their inner layers.

    A channel matters as much as it contributes to the outputs of the layers that take it: the mean
    square of its values times the squared norm of its weights there, scaled as the batch
    normalization after them does, and relative to all channels of the layer. These shares are
    summed over the layers that take it. The channels with the smallest sums for each MAC that they
    cost are removed.

    Args:
        model: A functional model or a built sequential model. It is not changed.
        macs: MACs of the pruned model: a share of those of the model, up to 1, or their number.
            They are never exceeded, and met within 2 % where the channels permit it; otherwise, a
            warning says so.
        data: Inputs of the model to measure the mean squares on and to fit the kernels to, such as
            a few hundred training samples: an array, a structure of arrays as the model takes it,
            a data set that is read by index, or batches that can be iterated repeatedly. Without
            data, the inputs are noise, and each batch normalization normalizes its activations to
            the mean and variance that it has learned.
        divisor: The number of output channels of each layer is a multiple of it, or remains as it
            is. Many devices are fastest with multiples of 8.
        keep: Names of layers, blocks and nested models whose output channels all stay.
        batch_size: Number of samples in a batch of arrays; by default, what fits in memory.

    Returns:
        A functional model with the same inputs, output shapes and names, and a `PruningReport`.

    Raises:
        ValueError: If the model is of another kind, an argument is invalid, `data` does not fit the
            model or is missing where sizes or indices are unknown, or fewer channels than possible
            would remain.

    Example:
        >>> import keras
        >>> from sepconv_layers import ConvBlock2D, ResidualConvBlock2D, convert, profile
        >>> model = keras.Sequential(
        ...     [
        ...         keras.Input((32, 32, 3)),
        ...         ConvBlock2D(16),
        ...         ResidualConvBlock2D(32, strides=2),
        ...         keras.layers.GlobalAveragePooling2D(),
        ...         keras.layers.Dense(10),
        ...     ]
        ... )
        >>> pruned, report = convert.prune_channels(model, macs=0.5)
        >>> 0.49 < profile(pruned).macs / profile(model).macs <= 0.5
        True
        >>> report[0].name, report[0].channels_before, pruned.output_shape
        ('conv_block2d/conv', 16, (None, 10))

    Reference:
        [Fang et al., "DepGraph: Towards Any Structural Pruning", 2023](
        https://arxiv.org/abs/2301.12900) for the coupled channels;
        [Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2023](
        https://arxiv.org/abs/2306.11695) for the product of activations and weights;
        [He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", 2017](
        https://arxiv.org/abs/1707.06168) for the fit to data.
    """
    divisor = positive_int(divisor, "divisor")
    if batch_size is not None:
        batch_size = positive_int(batch_size, "batch_size")
    check_number(
        macs, "macs", "a share in (0, 1] or a number of MACs", lambda number: 0 < number < math.inf
    )
    ModelGraph(model).layers_named(keep, "keep")
    copy = unrolled(model)
    calibration = None if data is None else Calibration(data, copy, batch_size)
    inputs = _inputs(copy, calibration)
    shapes = [tensor.shape[1:] for tensor in keras.tree.flatten(inputs)]
    before = profile(copy, shapes[0] if len(shapes) == 1 else shapes).macs
    channels = couple(copy, inputs, keep)
    batches = noise_for(copy, inputs) if calibration is None else calibration
    shares = importance_of(copy, batches, channels.parts, data is None)
    budget = math.floor(macs * before) if macs <= 1 else macs
    kept, now = Choice(channels, shares, before, divisor).within(budget)
    if now < (1 - TOLERANCE) * min(budget, before):
        warnings.warn(
            f"The pruned model has {now:,} of the {budget:,} MACs that `macs` permits: with more "
            "channels in any layer, it would exceed them.",
            stacklevel=2,
        )
    pruned, pairs = ModelGraph(copy).rebuild(lambda old: _narrowed(old, channels.parts, kept))
    for old, new in pairs:
        _copy_remaining(old, new, channels.parts, kept)
    errors: Mapping[int, float] = {}
    if calibration is not None:
        errors = refit(copy, pruned, pairs, channels.parts, kept, calibration)
    return pruned, PruningReport(_rows(channels.parts.values(), kept, errors), before, now)


def _inputs(model: keras.Model, calibration: Calibration | None) -> Any:
    """Symbolic inputs of the model with the sizes of the data."""
    declared = keras.tree.flatten(model.input)
    shapes = [tuple(tensor.shape[1:]) for tensor in declared]
    if calibration is not None:
        shapes = calibration.input_shapes
    elif any(None in shape for shape in shapes):
        raise ValueError(
            "The `data` argument is required if the model takes any size. Received: data=None, and "
            f"inputs of shapes {shapes}."
        )
    made = [
        keras.Input(shape, dtype=tensor.dtype, name=tensor.name)
        for shape, tensor in zip(shapes, declared, strict=True)
    ]
    return keras.tree.pack_sequence_as(model.input, made)


# The new model.


def _narrowed(old: Any, parts: Mapping[int, Part], kept: np.ndarray) -> Any:
    part = parts.get(id(old))
    if part is None:
        return clone_layer(old)
    arguments = {name: remaining(value, kept) for name, value in part.arguments.items()}
    return clone_layer(old, **arguments)


def _copy_remaining(old: Any, new: Any, parts: Mapping[int, Part], kept: np.ndarray) -> None:
    part = parts.get(id(old))
    if part is None:
        copy_state(old, new)
        return
    cuts = {id(getattr(old, name, None)): axes for name, axes in part.cuts.items()}
    for one, other in zip(old.weights, new.weights, strict=True):
        array = keras.ops.convert_to_numpy(one)
        for axis, labels in cuts.get(id(one), {}).items():
            array = np.compress(kept[labels], array, axis)
        other.assign(array)


def _rows(
    parts: Iterable[Part], kept: np.ndarray, errors: Mapping[int, float]
) -> tuple[PrunedLayer, ...]:
    everything = np.ones(len(kept), bool)
    rows = []
    for part in parts:
        if part.terms or part.outputs.size:
            labels = part.outputs if part.outputs.size else part.cuts["bias"][0]
            rows.append(
                PrunedLayer(
                    name=part.path,
                    channels_before=remaining(labels, everything),
                    channels=remaining(labels, kept),
                    macs_before=macs_of(part.terms, everything),
                    macs=macs_of(part.terms, kept),
                    output_error=errors.get(id(part.layer)),
                )
            )
    return tuple(rows)
