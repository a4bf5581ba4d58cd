"""A causal model chunk by chunk: what it must remember of the past comes in and goes out.

`to_streaming` walks the graph of a model once. For each kind of layer there is one rule, a function
that puts the layer's step into a new graph: most layers treat each frame alone, a causal
convolution joins the last frames of the past to the chunk, a global pooling keeps its result so
far. `RULES` is the table of them.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import keras
import numpy as np

from sepconv_layers.blocks.base import Block, ShortcutBlock
from sepconv_layers.layers.base import positive_int
from sepconv_layers.layers.by_name import by_class
from sepconv_layers.ops.geometry import Geometry
from sepconv_layers.surgery import remade

Rule = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Streaming:
    """A model that takes one chunk of its input at a time, and the states between chunks.

    The model is a functional one, to save and to export like any other. Its inputs are the list
    `[chunk, state_0, state_1, ...]`, its outputs the list `[*outputs, new_state_0, new_state_1,
    ...]`: those of the original model for the frames of the chunk, and what to pass as the states
    together with the next chunk.

    Attributes:
        model: The model of one step.
        stride: Input frames for each frame where time is coarsest. The length of each chunk but
            the last must be a multiple of it; `stream` takes any.
        time_axis: The axis of the input that is time.
        output_axes: For each output the axis that is time, or `None` where time is pooled.
        output_strides: For each output the number of input frames for each of its frames.
    """

    model: keras.Model
    stride: int
    time_axis: int
    output_axes: tuple[int | None, ...]
    output_strides: tuple[int, ...]

    def initial_states(self, batch_size: int = 1) -> list[np.ndarray]:
        """The states before the first chunk: all of them zeros.

        Args:
            batch_size: Number of inputs that run side by side.

        Returns:
            An array for each input of the model but the first.

        Raises:
            ValueError: If `batch_size` is not a positive integer.
        """
        batch_size = positive_int(batch_size, "batch_size")
        return [
            np.zeros((batch_size, *state.shape[1:]), keras.backend.standardize_dtype(state.dtype))
            for state in self.model.inputs[1:]
        ]

    def stream(self, batch_size: int = 1) -> "Stream":
        """Begins a stream that takes chunks of any length.

        Args:
            batch_size: Number of inputs that run side by side.

        Returns:
            A `Stream`.

        Raises:
            ValueError: If `batch_size` is not a positive integer, or the model takes chunks of one
                length only.
        """
        return Stream(self, batch_size)


class Stream:
    """Feeds chunks of any length to a streaming model, and keeps the states.

    After each call, the outputs of all calls together are what the original model gives for all
    frames so far. Where time has strides, an output is due with the first of its frames; the frames
    after the last multiple of the stride are kept, and run again with the next chunk. This is the
    convenient form, and runs layer by layer: a device loops over the exported model instead.

    Args:
        streaming: What `to_streaming` returns for `chunk_size=None`.
        batch_size: Number of inputs that run side by side.

    Raises:
        ValueError: If `batch_size` is not a positive integer, the model takes chunks of one length
            only, or a chunk does not fit.

    Example:
        >>> import keras, numpy as np
        >>> from sepconv_layers import SeparableConvBlock1D, streaming
        >>> model = keras.Sequential(
        ...     [keras.Input((None, 3)), SeparableConvBlock1D(4, strides=2, padding="causal")]
        ... )
        >>> stream = streaming.to_streaming(model).stream()
        >>> [stream(np.ones((1, frames, 3))).shape[1] for frames in (1, 1, 5)]
        [1, 0, 3]
    """

    def __init__(self, streaming: Streaming, batch_size: int = 1) -> None:
        frames = streaming.model.inputs[0]
        length = frames.shape[streaming.time_axis]
        if length is not None:
            raise ValueError(
                "A stream of chunks of any length needs a model that takes them. Received: a model "
                f"for chunks of {length} frames. Use `to_streaming(model, chunk_size=None)`."
            )
        self.streaming = streaming
        self._states = streaming.initial_states(batch_size)
        self._shape = (batch_size, *frames.shape[1:])
        self._dtype = keras.backend.standardize_dtype(frames.dtype)
        self._rest: list[np.ndarray] = []  # what came after the last multiple of the stride

    def __call__(self, chunk: Any) -> Any:
        """Returns the outputs that are new, as a NumPy array, or as a list of several.

        Along time an output may be empty. An output that is pooled over time is the one for all
        frames so far.
        """
        axis, stride = self.streaming.time_axis, self.streaming.stride
        known = sum(part.shape[axis] for part in self._rest)
        frames = np.concatenate([*self._rest, self._check(chunk)], axis)
        whole = frames.shape[axis] - frames.shape[axis] % stride
        now, rest = np.split(frames, [whole], axis)
        self._rest = [rest] if rest.shape[axis] else []
        steps = []
        if now.shape[axis]:
            outputs, self._states = self._step(now)
            steps.append(outputs)
        for rest in self._rest:  # without its states, as it will come again
            outputs, _ = self._step(rest)
            steps.append(outputs)
        made = zip(*steps, strict=True)
        kinds = zip(self.streaming.output_axes, self.streaming.output_strides, strict=True)
        new = [
            parts[-1] if time is None else _without(-(-known // each), parts, time)
            for parts, (time, each) in zip(made, kinds, strict=True)
        ]
        return new[0] if len(new) == 1 else new

    def _step(self, frames: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        # Keras takes a list of one array for the array.
        inputs = [keras.ops.convert_to_tensor(array) for array in (frames, *self._states)]
        results = keras.tree.flatten(self.streaming.model(inputs, training=False))
        arrays = [keras.ops.convert_to_numpy(result) for result in results]
        outputs = len(self.streaming.output_axes)
        return arrays[:outputs], arrays[outputs:]

    def _check(self, chunk: Any) -> np.ndarray:
        chunk = np.asarray(chunk, self._dtype)
        sizes = zip(chunk.shape, self._shape, strict=False)
        fits = chunk.ndim == len(self._shape) and all(b in (None, a) for a, b in sizes)
        if not fits or 0 in chunk.shape:
            raise ValueError(
                f"A chunk must have the shape {self._shape}, with one frame or more along axis "
                f"{self.streaming.time_axis}. Received: chunk.shape={chunk.shape}"
            )
        return chunk


def to_streaming(
    model: keras.Model, chunk_size: int | None = None, time_axis: int | None = None
) -> Streaming:
    """Makes the streaming form of a causal model, with the same outputs for any chunks.

    Build the model with `padding="causal"`, and use its streaming form where the input has no end
    or the answer may not wait for it: no frame is computed twice. Layers may be convolutions and
    blocks of this library and of Keras, batch and layer normalisation, activations, dense layers,
    merging layers, and global pooling, which becomes the pooling of all frames so far: at the end
    of the input that is the original output. A layer that needs later frames is refused. The new
    model has copies of the weights, and is for inference.

    Args:
        model: Functional or sequential model with one input, which stays as it is.
        chunk_size: Number of frames of each chunk, to export a model of fixed shapes; by default
            any.
        time_axis: The axis of the input that is time; by default the first one that is neither the
            batch nor, with channels first in the Keras configuration, the channels.

    Returns:
        A `Streaming`, whose `model` takes and returns the states.

    Raises:
        ValueError: If a layer cannot run in chunks, an argument is not of the kind described, or
            `chunk_size` is no multiple of the model's stride in time.

    Example:
        >>> import keras, numpy as np
        >>> from sepconv_layers import ResidualSeparableConvBlock1D, streaming
        >>> model = keras.Sequential(
        ...     [keras.Input((None, 8)), ResidualSeparableConvBlock1D(16, 5, padding="causal")]
        ... )
        >>> frame_by_frame = streaming.to_streaming(model, chunk_size=1)
        >>> x, outputs = np.ones((1, 20, 8), "float32"), []
        >>> states = frame_by_frame.initial_states()
        >>> for frame in np.split(x, 20, axis=1):
        ...     output, *states = frame_by_frame.model.predict_on_batch([frame, *states])
        ...     outputs.append(output)
        >>> np.allclose(np.concatenate(outputs, axis=1), model(x), atol=1e-5)
        True

    Reference:
        [Rybakov et al., "Streaming keyword spotting on mobile devices", 2020](
        https://arxiv.org/abs/2005.06720).
    """
    if not _is_graph(model) or not getattr(model, "inputs", None) or len(model.inputs) != 1:
        raise ValueError(
            "The `model` argument must be a built functional or sequential model with one input. "
            f"Received: model={model!r}"
        )
    declared = model.inputs[0]
    if time_axis is None:
        time_axis = 1 if keras.config.image_data_format() == "channels_last" else 2
    shape = list(declared.shape)
    if time_axis not in range(1, len(shape)):
        raise ValueError(
            "The `time_axis` argument must be an axis of the input after that of the batch. "
            f"Received: time_axis={time_axis!r} for an input of the shape {tuple(shape)}."
        )
    shape[time_axis] = None if chunk_size is None else positive_int(chunk_size, "chunk_size")
    chunk = keras.Input(batch_shape=shape, dtype=declared.dtype, name="chunk")
    builder = _Builder()
    outputs = keras.tree.flatten(builder.run(model, [_Signal(chunk, time_axis)]))
    if chunk_size is not None and chunk_size % builder.stride:
        raise ValueError(
            f"The `chunk_size` argument must be a multiple of {builder.stride}, the stride of the "
            f"model in time. Received: chunk_size={chunk_size}"
        )
    new_states = [
        keras.layers.Identity(name=f"new_{state.name}", dtype=state.dtype)(new)
        for state, new in zip(builder.states, builder.new_states, strict=True)
    ]
    return Streaming(
        model=keras.Model(
            [chunk, *builder.states],
            [*(signal.tensor for signal in outputs), *new_states],
            name=f"{model.name}_streaming",
        ),
        stride=builder.stride,
        time_axis=time_axis,
        output_axes=tuple(signal.axis for signal in outputs),
        output_strides=tuple(signal.stride for signal in outputs),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Signal:
    """A symbolic tensor of the new graph."""

    tensor: Any
    axis: Any  # which one is time; `None` where time is pooled
    stride: int = 1  # input frames for each frame


class _Builder:
    """The graph of a step while it grows."""

    def __init__(self) -> None:
        self.states: list[Any] = []
        self.new_states: list[Any] = []
        self.stride = 1
        self._path: list[str] = []
        self._names: set[str] = set()
        self._copies: dict[tuple, Any] = {}

    def run(self, model: keras.Model, signals: Sequence[_Signal]) -> Any:
        """Walks a model."""
        if isinstance(model, keras.Sequential):
            return self.fold(model.layers, *signals)
        return model._run_through_graph(
            signals, operation_fn=lambda layer: functools.partial(self, layer)
        )

    def fold(self, chain: Sequence[keras.layers.Layer], signal: _Signal) -> Any:
        """Walks one layer after the other."""
        for layer in chain:
            signal = self(layer, signal)
        return signal

    def __call__(self, layer: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        """Adds what stands for a call of the layer."""
        self._path.append(layer.name)
        signals = [leaf for leaf in keras.tree.flatten((args, kwargs)) if _is_signal(leaf)]
        if _is_graph(layer):
            result = self.run(layer, signals)
        elif all(signal.axis is None for signal in signals):
            tensors = self.call(layer, _tensors(args), _tensors(kwargs))
            result = keras.tree.map_structure(lambda tensor: _Signal(tensor, None), tensors)
        else:
            result = self._rule(layer, signals, kwargs)(self, layer, *args)
            self.stride = math.lcm(self.stride, result.stride)
        self._path.pop()
        return result

    def _rule(self, layer: Any, signals: Sequence[_Signal], kwargs: dict) -> Rule:
        given = [name for name, value in kwargs.items() if value is not None and value is not False]
        if given:
            self.refuse(layer, f"it is called with the arguments {given}.")
        is_last = any(signal.axis == len(signal.tensor.shape) - 1 for signal in signals)
        if is_last and getattr(layer, "activation", None) in _ALONG_THE_LAST_AXIS:
            self.refuse(layer, "its activation runs along the last axis, which is time.")
        cls: Any = type(layer)
        if cls.__module__.startswith("keras.src.ops.") and cls.__name__ in _OPERATIONS:
            return _each_frame
        for base in cls.__mro__:
            if base in _RULES_BY_CLASS and cls.call is base.call:
                return _RULES_BY_CLASS[base]
        return _refusal(
            "there is no rule for it. Use layers for which `streaming.RULES` has one, or put it "
            "behind a global pooling."
        )

    def call(self, layer: Any, args: Sequence[Any], kwargs: Any = None, **changes: Any) -> Any:
        """Calls a copy of the layer, with another argument or two; a shared layer has one copy."""
        key = (id(layer), *changes.items())
        is_new = key not in self._copies
        if is_new:
            # No name that Keras gives bears the prefix, so none comes twice.
            name = wanted = "_".join(["stream", *self._path])
            while name in self._names:
                name = f"{wanted}_{len(self._names)}"
            self._names.add(name)
            self._copies[key] = remade(layer, name=name, **changes)
        outputs = self._copies[key](*args, **(kwargs or {}))
        if is_new and isinstance(layer, keras.layers.Layer):
            self._copies[key].set_weights(layer.get_weights())
            if isinstance(layer, keras.layers.Normalization):
                self._copies[key].finalize_state()  # it computes with what is made of its weights
        return outputs

    def add_state(self, layer: keras.Operation, shape: Sequence[int | None], dtype: str) -> Any:
        """A new state; its next value must then be appended to `new_states`."""
        if None in shape[1:]:
            self.refuse(
                layer,
                f"its state has the shape {tuple(shape)}, with sizes that are not known. Give the "
                "input of the model all sizes but those of batch and time.",
            )
        name = f"state_{len(self.states)}"
        self.states.append(keras.Input(batch_shape=shape, dtype=dtype, name=name))
        return self.states[-1]

    def refuse(self, layer: keras.Operation, why: str) -> NoReturn:
        raise ValueError(
            "A layer must need no later frames to run in chunks. Received: the layer "
            f"{'/'.join(self._path)!r} ({type(layer).__name__}): {why}"
        )


def _is_graph(layer: Any) -> bool:
    """Whether it is a model whose graph is all that it does."""
    is_graph = isinstance(layer, keras.Function | keras.Sequential)
    return is_graph and type(layer).call.__module__.startswith("keras.")


def _is_signal(leaf: Any) -> bool:
    return isinstance(leaf, _Signal)


def _tensors(structure: Any) -> Any:
    return keras.tree.map_structure(
        lambda leaf: leaf.tensor if _is_signal(leaf) else leaf, structure
    )


def _without(number: int, parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """All but the first frames of several arrays in a row."""
    return np.split(np.concatenate(parts, axis), [number], axis)[1]


# Rules: what stands for one call of a layer, whose input is a signal with time.


def _refusal(why: str) -> Rule:
    return lambda builder, layer, *args: builder.refuse(layer, why)


def _nothing(builder: _Builder, layer: Any, signal: _Signal) -> _Signal:
    return signal


def _each_frame(builder: _Builder, layer: Any, *args: Any) -> _Signal:
    """For what does the same at all times, to one signal or to several that run in step."""
    leaves = keras.tree.flatten(args)
    first, *others = (leaf for leaf in leaves if _is_signal(leaf))
    rank = len(first.tensor.shape)
    for other in others:
        found = (len(other.tensor.shape), other.axis, other.stride)
        if found != (rank, first.axis, first.stride):
            builder.refuse(
                layer,
                "its inputs must have the same rank, time in the same axis and the same stride in "
                f"time. They have {(rank, first.axis, first.stride)} and {found}, where None says "
                "that time is pooled.",
            )
    if any(not _is_signal(leaf) and np.ndim(leaf) > 0 for leaf in leaves):
        builder.refuse(layer, "an array among its inputs may differ from time to time.")
    if first.axis in _axes(layer, rank):
        builder.refuse(layer, f"it runs along axis {first.axis}, which is time.")
    return dataclasses.replace(first, tensor=builder.call(layer, _tensors(args)))


def _axes(layer: Any, rank: int) -> set[int]:
    """The axes along which a layer does not do the same everywhere."""
    axes: Any = -1 if isinstance(layer, keras.layers.Dense) else getattr(layer, "axis", None)
    if isinstance(layer, keras.layers.PReLU):
        axes = set(range(1, rank)).difference(layer.shared_axes or ())
    return {axis % rank for axis in ([axes] if isinstance(axes, int) else axes or ())}


def _embedding(builder: _Builder, layer: Any, signal: _Signal) -> _Signal:
    if layer.mask_zero:
        builder.refuse(layer, "it makes a mask, which is not kept. Use mask_zero=False.")
    return _each_frame(builder, layer, signal)


def _window(builder: _Builder, layer: Any, signal: _Signal) -> _Signal:
    """For what moves a kernel or pool over time: a state of what it needs of the past."""
    size = getattr(layer, "kernel_size", None) or layer.pool_size
    dilation_rate = getattr(layer, "dilation_rate", (1,) * len(size))
    index = _spatial_index(builder, layer, signal, len(size))
    extent = (size[index] - 1) * dilation_rate[index]
    if extent == 0:
        outputs = builder.call(layer, [signal.tensor])
    elif layer.padding != "causal" or index > 0:
        builder.refuse(
            layer,
            f"it needs later frames. It must have padding='causal', with time as the first spatial "
            f"axis, or a size of 1 in time. It has padding={layer.padding!r} and the size {size}, "
            f"with time as axis {index} of it.",
        )
    else:
        frames = _with_past(builder, layer, signal, extent)
        how = (layer.strides, "causal", layer.data_format, dilation_rate)
        widths = Geometry.of(size, len(size), *how).pad_widths(frames.shape)
        if any(map(any, widths[1:])):
            first = signal.axis
            pad_width: list[tuple[int, int]] = [(0, 0)] * len(frames.shape)
            pad_width[first + 1 : first + len(size)] = widths[1:]
            frames = keras.ops.pad(frames, pad_width)
        outputs = builder.call(layer, [frames], padding="valid")
    return _Signal(outputs, signal.axis, signal.stride * layer.strides[index])


def _with_past(builder: _Builder, layer: Any, signal: _Signal, length: int) -> Any:
    """The frames of a chunk behind so many of the past, which are zeros at first."""
    frames, axis = signal.tensor, signal.axis
    shape = [length if n == axis else size for n, size in enumerate(frames.shape)]
    state = builder.add_state(layer, shape, frames.dtype)
    frames = keras.ops.concatenate([state, frames], axis)
    builder.new_states.append(frames[(slice(None),) * axis + (slice(-length, None),)])
    return frames


def _spatial_index(builder: _Builder, layer: Any, signal: _Signal, rank: int) -> int:
    """Which of the spatial axes of a layer is time."""
    first = 2 if layer.data_format == "channels_first" else 1
    if signal.axis not in range(first, first + rank):
        builder.refuse(
            layer,
            f"time, axis {signal.axis} of its input, is no spatial axis with data_format="
            f"{layer.data_format!r}. Check the `time_axis` argument.",
        )
    return signal.axis - first


def _block(builder: _Builder, block: Block, signal: _Signal) -> _Signal:
    outputs = builder.fold(block.stages, signal)
    if outputs.tensor.dtype == block.compute_dtype:
        return outputs
    return dataclasses.replace(outputs, tensor=keras.ops.cast(outputs.tensor, block.compute_dtype))


def _shortcut_block(builder: _Builder, block: ShortcutBlock, signal: _Signal) -> _Signal:
    outputs = _block(builder, block, signal)
    if block.shortcut is not None:
        beside = block._shortcut_input(signal.tensor)  # a chunk begins where a stride does
        beside = builder.fold(block.shortcut, dataclasses.replace(outputs, tensor=beside))
        outputs = dataclasses.replace(outputs, tensor=outputs.tensor + beside.tensor)
    return builder.fold(block.tail, outputs)


def _pooled(builder: _Builder, layer: Any, signal: _Signal, pool: Rule, join: Rule) -> _Signal:
    """For global pooling: states are the result so far, and of how many positions it is."""
    rank = len(signal.tensor.shape) - 2
    _spatial_index(builder, layer, signal, rank)
    first, channels = (2, 1) if layer.data_format == "channels_first" else (1, -1)
    over = {"axis": tuple(range(first, first + rank)), "keepdims": layer.keepdims}
    # Half precision cannot count to 2049.
    dtype = keras.backend.result_type(signal.tensor.dtype, "float32")
    x = keras.ops.cast(signal.tensor, dtype)
    now = pool(x, **over)
    now_number = keras.ops.sum(keras.ops.ones_like(keras.ops.max(x, channels, True)), **over)
    before = builder.add_state(layer, now.shape, dtype)
    number = builder.add_state(layer, now_number.shape, dtype)
    result, total = join(before, number, now, now_number), number + now_number
    builder.new_states += [result, total]
    return _Signal(keras.ops.cast(result, layer.compute_dtype), None)


def _average(before: Any, number: Any, now: Any, more: Any) -> Any:
    # An average stays exact where a sum would outgrow its type.
    return before + (now - before * more) / (number + more)


def _largest(before: Any, number: Any, now: Any, more: Any) -> Any:
    return keras.ops.where(number > 0, keras.ops.maximum(before, now), now)


def _permute(builder: _Builder, layer: Any, signal: _Signal) -> _Signal:
    outputs = builder.call(layer, [signal.tensor])
    return _Signal(outputs, 1 + layer.dims.index(signal.axis), signal.stride)


def _reshape(builder: _Builder, layer: Any, signal: _Signal) -> _Signal:
    """For a reshaping that leaves time as one axis, with the same axes before and after it."""
    source, target = signal.tensor.shape[1:], layer.target_shape
    before, after = source[: signal.axis - 1], source[signal.axis :]
    for index in range(len(target)):
        parts = (target[:index], before), (target[index + 1 :], after)
        if all(_are_as_many(new, old) for new, old in parts):
            shape = (*target[:index], -1, *target[index + 1 :])
            outputs = builder.call(layer, [signal.tensor], target_shape=shape)
            return _Signal(outputs, 1 + index, signal.stride)
    builder.refuse(
        layer,
        f"it mixes time with other axes, or leaves another size than that of time open. It makes "
        f"{tuple(target)} of {tuple(source)}, where axis {signal.axis - 1} is time.",
    )


def _are_as_many(new: Sequence[int], old: Sequence[Any]) -> bool:
    return -1 not in new and None not in old and math.prod(new) == math.prod(old)


RULES: dict[str, Rule] = {
    "Conv?D DepthwiseConv?D SeparableConv?D": _window,
    "AveragePooling?D MaxPooling?D": _window,
    "GlobalAveragePooling?D": functools.partial(_pooled, pool=keras.ops.sum, join=_average),
    "GlobalMaxPooling?D": functools.partial(_pooled, pool=keras.ops.max, join=_largest),
    "Activation ELU LeakyReLU PReLU ReLU Softmax": _each_frame,
    "BatchNormalization LayerNormalization RMSNormalization UnitNormalization": _each_frame,
    "Add Average Concatenate Maximum Minimum Multiply Subtract": _each_frame,
    "Dense Normalization Rescaling": _each_frame,
    "Embedding": _embedding,
    "Permute": _permute,
    "Reshape": _reshape,
    "ActivityRegularization *Dropout SpatialDropout?D DropPath GaussianNoise Identity": _nothing,
    "SqueezeExcite?D": _refusal(
        "its gates come from an average over all time. Use se_ratio=0, or leave it out."
    ),
    "GroupNormalization": _refusal(
        "it normalises over all time. Use normalization='batch' or 'layer'."
    ),
    "Flatten": _refusal("it mixes time with the channels. Use a global pooling."),
    "*Conv?DTranspose": _refusal("it has several outputs for a frame, which it adds up over time."),
    "Bidirectional ConvLSTM?D GRU LSTM RNN SimpleRNN": _refusal(
        "it is recurrent, and its states are its own. Use causal convolutions."
    ),
    "*Attention": _refusal("it looks at all frames at once. Use causal convolutions."),
}
"""Rule by names, or patterns of names, of `keras.layers` and of this library's layers.

A subclass has the rule of its nearest base class, unless it has a `call` of its own. Behind a
global pooling, where no time is left, any layer may stand.
"""

_RULES_BY_CLASS: dict[type, Rule] = {
    Block: _block,
    ShortcutBlock: _shortcut_block,
    **by_class(RULES),
}

# The nodes that `keras.ops` and operators make in a functional model: classes without a public
# name. These treat all positions alike, or have an `axis`.
_OPERATIONS = set(
    "Abs Absolute Add Cast Concatenate Divide Elu Exp Gelu HardSigmoid HardSilu LeakyRelu Log1p "
    "Maximum Minimum Multiply Negative Relu Relu6 Sigmoid Silu Softplus Sqrt Square Subtract Tanh "
    "TrueDivide".split()
)
_ALONG_THE_LAST_AXIS = (
    keras.activations.glu,
    keras.activations.log_softmax,
    keras.activations.softmax,
    keras.activations.sparsemax,
)
