"""A causal model chunk by chunk: what it must remember of the past comes in and goes out.

`to_streaming` walks the graph of a model once. For each kind of layer there is one rule, a function
that puts the layer's step into a new graph: most layers treat each frame alone, a convolution joins
the last frames of the past to the chunk, a global pooling keeps its result so far. `RULES` is the
table of them.
"""

import keras

from sepconv_layers.arguments import positive_int
from sepconv_layers.graph_edit import is_graph
from sepconv_layers.streaming.frames import Frames, Pace
from sepconv_layers.streaming.rules import RULES, rule_of
from sepconv_layers.streaming.step import Step
from sepconv_layers.streaming.stream import Stream, Streaming

__all__ = ["RULES", "Frames", "Pace", "Stream", "Streaming", "to_streaming"]


def to_streaming(
    model: keras.Model, chunk_size: int | None = None, time_axis: int | None = None
) -> Streaming:
    """Makes the streaming form of a causal model, with the same outputs for any chunks.

    Build the model with `padding="causal"` or `"valid"`, and use its streaming form where the input
    has no end or the answer may not wait for it: no frame is computed twice. Layers may be
    convolutions, pools and blocks of this library and of Keras, zeros before the first frame,
    croppings, repetitions, batch and layer normalization, activations, dense layers, merging
    layers, `TimeDistributed`, LSTM and GRU, and global pooling, which becomes the pooling of all
    frames so far: at the end of the input that is the original output. A layer that needs later
    frames is refused. The new model has copies of the weights, and is for inference.

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
            "The `time_axis` argument must be an axis of the input after that of the batch. "
            f"Received: time_axis={time_axis!r} for an input of the shape {tuple(shape)}."
        )
    shape[time_axis] = None if chunk_size is None else positive_int(chunk_size, "chunk_size")
    chunk = keras.Input(batch_shape=shape, dtype=declared.dtype, name="chunk")
    step = Step(chunk, time_axis, rule_of)
    outputs = keras.tree.flatten(step.run(model, [step.chunk]))
    if chunk_size is not None and chunk_size % step.stride:
        raise ValueError(
            f"The `chunk_size` argument must be a multiple of {step.stride}, the stride of the "
            f"model in time. Received: chunk_size={chunk_size}"
        )
    step.finish()
    new_states = [
        keras.layers.Identity(name=f"new_{state.name}", dtype=state.dtype)(new)
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
