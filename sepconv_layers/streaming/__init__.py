"""Runs a causal model chunk by chunk, with explicit state.

`to_streaming` walks the graph of a model once. Each kind of layer has a rule, a function that adds
the streaming form of the layer to a new graph: most layers treat each frame independently, a
convolution prepends past frames to the chunk, and a global pooling keeps a running result. `RULES`
is the table of these rules.
"""

import keras

from sepconv_layers.arguments import positive_int
from sepconv_layers.graph_edit import is_graph
from sepconv_layers.streaming.frames import Frames, Pace
from sepconv_layers.streaming.rules import RULES, rule_of
from sepconv_layers.streaming.step import Step
from sepconv_layers.streaming.stream import NEW, Stream, Streaming

__all__ = ["RULES", "Frames", "Pace", "Stream", "Streaming", "to_streaming"]


def to_streaming(
    model: keras.Model,
    chunk_size: int | None = None,
    time_axis: int | None = None,
    pool_window: int | None = None,
) -> Streaming:
    """Returns the streaming form of a causal model, whose outputs do not depend on the chunking.

    Build the model with `padding="causal"` or `"valid"`, and stream it if the input is endless or
    the answer must not wait for its end. No frame is computed twice. Supported layers are
    convolutions, pooling and blocks of this package and of Keras, zero padding before the first
    frame, cropping, slices, upsampling, batch and layer normalization, activations, dense layers,
    merging layers, `TimeDistributed`, LSTM and GRU, and global pooling, which becomes the pooling
    of all frames so far and equals the original output at the end of the input. A layer that needs
    later frames is refused. The new model has copies of the weights, and is for inference. That of
    a model of `quantize.aware` rounds as that one does, and exports to int8 at its scales.

    Args:
        model: A functional or sequential model with one input. It is not changed.
        chunk_size: Number of frames per chunk, to export a model with fixed shapes. Defaults to any
            number.
        time_axis: The time axis of the input. Defaults to the first axis that is neither the batch
            nor, with channels first in the Keras configuration, the channels.
        pool_window: Number of input frames that each global pooling is over: the last ones, as an
            endless stream of words needs it. After the first `pool_window` frames, the output is
            that of the original model for these frames. It needs a `chunk_size`. Defaults to all
            frames so far.

    Returns:
        A `Streaming`, whose `model` takes and returns the states.

    Raises:
        ValueError: If a layer cannot run in chunks, an argument is invalid, or `chunk_size` is
            not a multiple of the stride of the model in time.

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
    if not is_graph(model) or len(model.inputs) != 1:
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
            "The `time_axis` argument must be an axis of the input after the batch axis. "
            f"Received: time_axis={time_axis!r} for an input of shape {tuple(shape)}."
        )
    shape[time_axis] = None if chunk_size is None else positive_int(chunk_size, "chunk_size")
    chunk = keras.Input(batch_shape=shape, dtype=declared.dtype, name="chunk")
    if pool_window is not None:
        pool_window = positive_int(pool_window, "pool_window")
        if chunk_size is None:
            raise ValueError(
                "The `pool_window` argument needs a `chunk_size`. Received: pool_window="
                f"{pool_window} with chunk_size=None."
            )
    step = Step(chunk, time_axis, rule_of, pool_window)
    outputs = keras.tree.flatten(step.run(model, [step.chunk]))
    if chunk_size is not None and chunk_size % step.stride:
        raise ValueError(
            f"The `chunk_size` argument must be a multiple of {step.stride}, the stride of the "
            f"model in time. Received: chunk_size={chunk_size}"
        )
    step.finish()
    new_states = [
        keras.layers.Identity(name=f"{NEW}{state.name}", dtype=state.dtype)(new)
        for state, new in zip(step.states, step.new_states, strict=True)
    ]
    return Streaming(
        model=keras.Model(
            [chunk, *step.states],
            [*(signal.tensor for signal in outputs), *new_states],
            name=f"{model.name}_streaming",
        ),
        stride=step.stride,
        time_axis=time_axis,
        outputs=tuple(signal.frames for signal in outputs),
    )
