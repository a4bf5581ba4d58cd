"""Trained models in another form: batch normalization folded, standard convolutions separable."""

import dataclasses
import itertools
import math
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers import layers
from sepconv_layers.blocks.base import Block, ShortcutBlock
from sepconv_layers.cost import separable_ratio
from sepconv_layers.layers.base import BaseConv, number_that, positive_int
from sepconv_layers.layers.depthwise_conv import DepthwiseConv
from sepconv_layers.layers.separable_conv import SeparableConv
from sepconv_layers.surgery import Surgery, calls_as_defined, input_structure, is_graph, remade
from sepconv_layers.twins import TRANSPOSE, is_spatial, is_standard, separable_like, unseen

Pair = tuple[keras.layers.Layer, keras.layers.Layer]

NORMALIZATIONS = (keras.layers.BatchNormalization, layers.BatchNormalization)
TRANSPOSED = tuple(TRANSPOSE.values())
# Axes of the last kernel that are the output channels, by class; the first that fits counts.
CHANNEL_AXES: tuple[tuple[tuple[type, ...], tuple[int, ...]], ...] = (
    (
        (DepthwiseConv, keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D),
        (-2, -1),
    ),
    (TRANSPOSED, (-2,)),
    (
        (
            BaseConv,
            keras.layers.Conv1D,
            keras.layers.Conv2D,
            keras.layers.Conv3D,
            keras.layers.SeparableConv1D,
            keras.layers.SeparableConv2D,
            keras.layers.Dense,
        ),
        (-1,),
    ),
)


def fold_batch_norm(model: keras.Model, dtype: str | None = None) -> keras.Model:
    """Makes a model for inference that has no batch normalization after a convolution.

    In inference a batch normalization multiplies and shifts each channel by numbers that are
    fixed, and the kernel and bias of the convolution or dense layer before it can do that for
    nothing. The blocks of this package, which then have `normalization=None`, are folded, and so
    are layers of this package and of `keras.layers`, also in models inside the model. A layer whose
    output has another use, or that has an activation or another call, is left as it is, and so is a
    block with another normalization.

    Args:
        model: A functional or a built sequential model. It is not changed.
        dtype: What the new layers compute in, such as `"float32"` for a model that was trained in
            mixed precision; by default what the old ones do.

    Returns:
        A functional model of new layers with the names, inputs and outputs of the old ones.

    Raises:
        ValueError: If the model is of another kind, or `dtype` is not the name of a dtype policy.

    Example:
        >>> import keras, numpy as np
        >>> from sepconv_layers import SeparableConvBlock2D, convert
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), SeparableConvBlock2D(4)])
        >>> folded = convert.fold_batch_norm(model)
        >>> model.count_params(), folded.count_params()
        (67, 46)
        >>> x = np.ones((1, 8, 8, 3), "float32")
        >>> np.allclose(model(x), folded(x), atol=1e-6)
        True

    Reference:
        [Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", 2017](https://arxiv.org/abs/1712.05877).
    """
    return fold(model, dtype, remade)


def fold(model: keras.Model, dtype: str | None, remake: Callable[..., Any]) -> keras.Model:
    """As `fold_batch_norm`, with a function that makes the new layers, called as `remade` is."""
    surgery = Surgery(model)
    _check_policy(dtype)
    norms = _norms_to_fold(surgery)  # by the identity of the convolution before

    def make(old: Any) -> Any:
        changes: dict[str, Any] = {}
        if id(old) in norms:
            changes["use_bias"] = True
        elif isinstance(old, Block) and pairs_of(old):
            changes["normalization"] = None
        if dtype and "float" in getattr(old, "compute_dtype", ""):
            changes["dtype"] = dtype
        return remake(old, **changes)

    folded, pairs = surgery.result(make, skipped=norms.values())
    for old, new in pairs:
        if id(old) in norms:
            new.set_weights(folded_weights(old, norms[id(old)]))
        elif isinstance(old, Block) and new.normalization is not old.normalization:
            _fill_block(old, new)
        else:
            _copy_state(old, new)
    return folded


def _check_policy(dtype: Any) -> None:
    try:
        keras.dtype_policies.get(dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "The `dtype` argument must be None or the name of a dtype policy, such as 'float32'. "
            f"Received: dtype={dtype!r}"
        ) from error


@dataclasses.dataclass(frozen=True)
class Factorized:
    """What became of a standard convolution.

    Attributes:
        name: Path of the layer in the model.
        rank: Number of depthwise outputs for each input channel.
        error: Norm of what the kernel lost, over its norm: 0 is exact, 1 is all.
        macs_ratio: Multiply-accumulates of the new layer, over those of the old one.
    """

    name: str
    rank: int
    error: float
    macs_ratio: float


def to_separable(
    model: keras.Model, rank: int = 1, keep: Sequence[str] = ()
) -> tuple[keras.Model, list[Factorized]]:
    """Makes the standard convolutions of a trained model separable, as close as a rank allows.

    For each input channel a kernel is a matrix of its positions by the filters. Its largest
    singular values, `rank` of them, make the depthwise and the pointwise kernel: no separable
    convolution of that rank is closer. A rank of the number of positions, 9 for a 3×3 kernel, is
    exact, and saves nothing; a low one loses accuracy, which `distill` brings back in part. Layers
    of this package and of `keras.layers` are converted, and blocks of this package, which become
    models of their layers.

    Args:
        model: Functional model, or a sequential one that is built. It is not changed.
        rank: Number of depthwise outputs for each input channel; for a kernel of fewer positions,
            that number.
        keep: Names of layers, blocks and models inside the model to leave as they are, such as a
            stem with few channels.

    Returns:
        A functional model with the inputs, output shapes and names of the old one, and a
        `Factorized` for each convolution.

    Raises:
        ValueError: If the model is of another kind or has no standard convolution, `rank` is no
            positive integer, or `keep` names what is not there.

    Example:
        >>> import keras, numpy as np
        >>> from sepconv_layers import convert
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(32, 3)])
        >>> exact, (layer,) = convert.to_separable(model, rank=9)
        >>> layer.error < 1e-6
        True
        >>> x = np.random.normal(size=(1, 8, 8, 4)).astype("float32")
        >>> np.allclose(model(x), exact(x), atol=1e-5)
        True
        >>> _, (layer,) = convert.to_separable(model)
        >>> layer.macs_ratio
        0.142...

    Reference:
        [Guo et al., "Network Decoupling: From Regular to Depthwise Separable Convolutions", 2018](
        https://arxiv.org/abs/1808.05517).
    """
    surgery, rank = Surgery(model), positive_int(rank, "rank")
    names = {getattr(node.operation, "name", "") for node in surgery.nodes}
    unknown = sorted(set(keep) - names)
    if unknown:
        raise ValueError(
            "The `keep` argument must hold names of layers of the model. Received: "
            f"{unknown}, which are none."
        )
    report: list[Factorized] = []
    unrolled: dict[int, list[Pair]] = {}
    kept = {
        id(layer)
        for node in surgery.nodes
        if getattr(node.operation, "name", "") in keep
        for layer in _with_inner(node.operation)
    }

    def make(old: Any) -> Any:
        if id(old) in kept:
            return remade(old)
        if is_spatial(old):
            return _factorizing(old, rank)
        if isinstance(old, Block) and any(map(is_spatial, _stages_of(old))):
            new, unrolled[id(old)] = _unrolled(old, rank)
            return new
        return remade(old)

    converted, pairs = surgery.result(make)
    for old, new in pairs:
        for stage, now in unrolled.get(id(old), [(old, new)]):
            if is_spatial(stage) and isinstance(now, SeparableConv):
                report.append(_factorize(stage, now))
            else:
                _copy_state(stage, now)
    if not report:
        raise ValueError(
            "The `model` argument must be a model with a standard convolution that is not in "
            f"`keep`. Received: model={model!r} without one.{unseen(surgery, is_standard)}"
        )
    return converted, report


def _with_inner(operation: Any) -> Sequence[Any]:
    is_layer = isinstance(operation, keras.layers.Layer)
    return operation._flatten_layers() if is_layer else [operation]


def _factorizing(conv: Any, rank: int) -> Any:
    return separable_like(conv, depth_multiplier=min(rank, math.prod(conv.kernel_size)))


def _factorize(conv: Any, separable: Any) -> Factorized:
    """Gives a separable convolution the kernels that are closest to that of a standard one."""
    kernel = keras.ops.convert_to_numpy(conv.kernel)  # with what LoRA adds to it
    bias = [keras.ops.convert_to_numpy(conv.bias)] if conv.use_bias else []
    is_transposed = isinstance(conv, TRANSPOSED)
    if is_transposed:
        kernel = np.swapaxes(kernel, -1, -2)  # to (*kernel_size, channels, filters)
    *size, channels, filters = kernel.shape
    rank = separable.depth_multiplier
    matrices = kernel.reshape(-1, channels, filters).swapaxes(0, 1).astype("float64")
    left, values, right = np.linalg.svd(matrices, full_matrices=False)
    used = min(rank, values.shape[1])
    root = np.sqrt(values[:, :used])
    depthwise = np.zeros((channels, math.prod(size), rank))
    pointwise = np.zeros((channels, rank, filters))
    depthwise[..., :used] = left[..., :used] * root[:, None]
    pointwise[:, :used] = root[..., None] * right[:, :used]
    norm = np.linalg.norm(values)
    new = (
        depthwise.swapaxes(0, 1).reshape(*size, channels, rank),
        pointwise.reshape(*(1,) * len(size), channels * rank, filters),
    )
    separable.set_weights([*(array.astype(kernel.dtype) for array in new), *bias])
    return Factorized(
        name=conv.path,
        rank=rank,
        error=float(np.linalg.norm(values[:, used:]) / norm) if norm else 0.0,
        macs_ratio=separable_ratio(filters, size, rank),
    )


def _stages_of(block: Block) -> list[keras.layers.Layer]:
    return list(itertools.chain(*_chains(block)))


def _unrolled(block: Block, rank: int) -> tuple[keras.Model, list[Pair]]:
    """A block as a model of its layers, and the pairs of old and new ones."""
    pairs = []

    def fold(chain: Sequence[keras.layers.Layer], x: Any) -> Any:
        for stage in chain:
            new = _factorizing(stage, rank) if is_spatial(stage) else remade(stage)
            pairs.append((stage, new))
            x = new(x)
        return x

    inputs = keras.Input(batch_shape=block.input.shape, dtype=block.compute_dtype)
    x = fold(block.stages, inputs)
    if isinstance(block, ShortcutBlock):
        if block.shortcut is not None:
            x = fold([block.drop], x) + fold(block.shortcut, block._shortcut_input(inputs))
        x = fold(block.tail, x)
    return keras.Model(inputs, x, name=block.name), pairs


def distill(
    student: keras.Model,
    teacher: keras.Model,
    data: Any,
    *,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    temperature: float = 2.0,
    verbose: Any = "auto",
) -> dict[str, list[float]]:
    """Trains a model to give the class probabilities that another one gives.

    Use it after `to_separable`, with the inputs that the model was trained with: labels are not
    needed.

    Args:
        student: Functional model, or a sequential one that is built, whose only output are logits.
            Its weights are trained in place.
        teacher: Another one, for the same inputs. It is not changed.
        data: The inputs: an array, or a structure of arrays as `teacher` takes it.
        epochs: Number of passes over the inputs.
        batch_size: Inputs per step.
        learning_rate: Of Adam, at the start; it falls to 0 by a cosine.
        temperature: What logits are divided by before they become probabilities; above 1, also
            unlikely classes count.
        verbose: As for `keras.Model.fit`.

    Returns:
        The loss and the agreement, the share of inputs for which both models find the same class
        likeliest, in each epoch: `{"loss": [...], "agreement": [...]}`.

    Raises:
        ValueError: If an argument is not of the kind described, or the outputs of the models are of
            different shapes.

    Example:
        >>> import keras, numpy as np
        >>> from sepconv_layers import convert
        >>> teacher = keras.Sequential(
        ...     [
        ...         keras.Input((16, 4)),
        ...         keras.layers.Conv1D(8, 5, activation="relu"),
        ...         keras.layers.GlobalAveragePooling1D(),
        ...         keras.layers.Dense(3),
        ...     ]
        ... )
        >>> student, _ = convert.to_separable(teacher)
        >>> x = np.random.normal(size=(64, 16, 4))
        >>> history = convert.distill(student, teacher, x, epochs=2, verbose=0)
        >>> len(history["loss"])
        2

    Reference:
        [Hinton et al., "Distilling the Knowledge in a Neural Network", 2015](
        https://arxiv.org/abs/1503.02531).
    """
    epochs, batch_size = positive_int(epochs, "epochs"), positive_int(batch_size, "batch_size")
    above_0 = "a positive number"
    learning_rate = number_that(lambda x: 0 < x < math.inf, learning_rate, "learning_rate", above_0)
    temperature = number_that(lambda x: 0 < x < math.inf, temperature, "temperature", above_0)
    _check_models_and_data(student, teacher, data)
    (logits,) = keras.tree.flatten(teacher.predict(data, batch_size=batch_size, verbose=0))

    def loss(theirs: Any, ours: Any) -> Any:
        targets = keras.ops.softmax(theirs / temperature)
        crossed = keras.losses.categorical_crossentropy(
            targets, ours / temperature, from_logits=True
        )
        return temperature**2 * crossed

    def agreement(theirs: Any, ours: Any) -> Any:
        return keras.ops.equal(keras.ops.argmax(theirs, -1), keras.ops.argmax(ours, -1))

    steps = epochs * math.ceil(len(logits) / batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    # Another model, so that the student stays as it is compiled.
    trainer = keras.Model(input_structure(student), student.outputs[0])
    trainer.compile(keras.optimizers.Adam(schedule), loss, metrics=[agreement])
    fitted = trainer.fit(data, logits, batch_size=batch_size, epochs=epochs, verbose=verbose)
    return {name: fitted.history[name] for name in ("loss", "agreement")}


def _check_models_and_data(student: Any, teacher: Any, data: Any) -> None:
    for name, model in (("student", student), ("teacher", teacher)):
        if not is_graph(model) or len(model.outputs) != 1:
            raise ValueError(
                f"The `{name}` argument must be a functional model, or a sequential one that is "
                f"built, with one output. Received: {name}={model!r}"
            )
    ours, theirs = (tuple(model.outputs[0].shape) for model in (student, teacher))
    if ours != theirs:
        raise ValueError(
            "The `student` argument must be a model with the output of the teacher, of the shape "
            f"{theirs}. Received: one of the shape {ours}."
        )
    arrays = keras.tree.flatten(data)
    sizes = {array.shape[0] if getattr(array, "shape", ()) else 0 for array in arrays}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            "The `data` argument must be inputs of the models: an array, or a structure of arrays "
            "of the same number of samples. Received: "
            f"{', '.join(type(array).__name__ for array in arrays)}."
        )


def _norms_to_fold(surgery: Surgery) -> dict[int, keras.layers.Layer]:
    found = {}
    for node in surgery.nodes:
        norm, tensors, arguments = node.operation, node.input_tensors, node.arguments
        if not isinstance(norm, NORMALIZATIONS) or len(tensors) != 1:
            continue
        conv = tensors[0]._keras_history.operation
        is_training = any(arguments.args[1:]) or arguments.kwargs.get("training")
        once = surgery.is_called_once(norm) and surgery.is_called_once(conv)
        is_all = surgery.only_user(tensors[0]) is node
        foldable = can_fold(conv, norm, len(tensors[0].shape))
        if once and is_all and not is_training and foldable and _takes_bias(conv, tensors[0].shape):
            found[id(conv)] = norm
    return found


def _takes_bias(conv: keras.layers.Layer, shape: Sequence[int | None]) -> bool:
    """Whether a layer adds a bias to its channels.

    With channels first on TensorFlow, those of Keras 3.15 add it along the last axis of an output
    where that is as long as the channels.
    """
    is_first = getattr(conv, "data_format", None) == "channels_first"
    is_of_keras = not isinstance(conv, BaseConv) and keras.backend.backend() == "tensorflow"
    return not (is_first and is_of_keras and shape[-1] == shape[1])


# The arithmetic.


def scale_and_shift(norm: keras.layers.Layer) -> tuple[np.ndarray, np.ndarray]:
    """What a batch normalization multiplies each channel with in inference, and then adds."""
    mean, variance, gamma, beta = (
        None if weight is None else keras.ops.convert_to_numpy(weight).astype("float64")
        for weight in (norm.moving_mean, norm.moving_variance, norm.gamma, norm.beta)
    )
    scale = (1.0 if gamma is None else gamma) / np.sqrt(variance + norm.epsilon)
    return scale, (0.0 if beta is None else beta) - mean * scale


def folded_weights(conv: keras.layers.Layer, norm: keras.layers.Layer) -> list[np.ndarray]:
    """The kernels and the bias with which a convolution does the work of its normalization."""
    kernels: list[np.ndarray] = conv.get_weights()
    bias = kernels.pop() if conv.use_bias else 0.0
    scale, shift = scale_and_shift(norm)
    last = kernels.pop()
    axes = channel_axes(conv)
    shape = [size if axis - last.ndim in axes else 1 for axis, size in enumerate(last.shape)]
    scaled = last * scale.reshape(shape)
    return [*kernels, scaled.astype(last.dtype), (bias * scale + shift).astype(last.dtype)]


def channel_axes(conv: keras.layers.Layer) -> tuple[int, ...]:
    """Axes of the last kernel that are the output channels; none of what is no convolution."""
    return next((axes for classes, axes in CHANNEL_AXES if isinstance(conv, classes)), ())


def can_fold(conv: Any, norm: Any, rank: int) -> bool:
    """Whether a layer with outputs of that rank can do the work of the layer that follows."""
    is_pair = bool(channel_axes(conv)) and isinstance(norm, NORMALIZATIONS)
    if not is_pair or not all(calls_as_defined(layer) for layer in (conv, norm)):
        return False
    is_first = getattr(conv, "data_format", None) == "channels_first"
    return (
        conv.activation in (None, keras.activations.linear)
        and norm.axis % rank == (1 if is_first else rank - 1)
        and conv.compute_dtype == norm.compute_dtype
        # What Keras has put in place of the kernel.
        and not getattr(conv, "lora_enabled", False)
        and getattr(conv, "quantization_mode", None) is None
    )


def pairs_of(block: Block) -> list[Pair]:
    """Each convolution of a block with its normalization; none if not all can be folded."""
    pairs = []
    for chain in _chains(block):
        for conv, norm in itertools.zip_longest(chain, chain[1:]):
            if isinstance(conv, BaseConv):
                if not can_fold(conv, norm, block.rank + 2):
                    return []
                pairs.append((conv, norm))
    return pairs


def _chains(block: Block) -> list[list[keras.layers.Layer]]:
    if isinstance(block, ShortcutBlock):
        return [block.stages, block.shortcut or [], block.tail]
    return [block.stages]


def _fill_block(old: Block, new: Block) -> None:
    """Gives a block without normalization the weights of one that has it."""
    norms = {id(conv): norm for conv, norm in pairs_of(old)}
    skipped = {id(norm) for norm in norms.values()}
    stages = [stage for chain in _chains(old) for stage in chain if id(stage) not in skipped]
    for stage, now in zip(stages, itertools.chain(*_chains(new)), strict=True):
        if id(stage) in norms:
            now.set_weights(folded_weights(stage, norms[id(stage)]))
        else:
            _copy_state(stage, now)


def _copy_state(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Copies weights and vocabularies, by what Keras saves and loads."""
    for one, other in zip(old._flatten_layers(), new._flatten_layers(), strict=True):
        store: dict[str, Any] = {}
        one.save_own_variables(store)
        # Copies: training on JAX gives back the memory of the old values, which none may share.
        arrays = {key: keras.ops.convert_to_numpy(value).copy() for key, value in store.items()}
        other.load_own_variables(arrays)
        if hasattr(one, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                one.save_assets(folder)
                other.load_assets(folder)
