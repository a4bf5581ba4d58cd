"""`distill`: trains a model to match the outputs and features of another one."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from sepconv_layers.arguments import check_number, is_integer, positive_int, positive_number
from sepconv_layers.convert.distillation.batches import Batches, batches_of
from sepconv_layers.convert.distillation.losses import Distiller, Pair
from sepconv_layers.convert.distillation.progress import Progress
from sepconv_layers.graph_edit import is_graph

CHECKED = 2  # samples that the models run on before the training


def distill(
    student: keras.Model,
    teacher: keras.Model,
    data: Any,
    *,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    warmup: float = 0.1,
    temperature: float = 2.0,
    features: Sequence[str | Pair] | Mapping[str | Pair, float] = (),
    label_weight: float = 0.0,
    augmentation: keras.layers.Layer | Callable[[Any], Any] | None = None,
    ema_momentum: float | None = None,
    validation_data: Any = None,
    jit_compile: bool | str = "auto",
    seed: int = 0,
    folder: str | os.PathLike | None = None,
    verbose: Any = "auto",
) -> dict[str, list[float]]:
    """Trains a student model to match the class probabilities of a teacher model.

    Use it after `to_separable` or `prune_channels`, with the inputs that the model was trained on.
    Labels are not needed. The loss is the cross-entropy of the probabilities of both models,
    softened by a temperature, plus errors of `features`.

    With `folder`, an interrupted distillation resumes after its last complete epoch when it is
    called again. It ends as if it had not been interrupted, unless `data` come in batches that
    depend on what was read before. A complete one is not repeated.

    Args:
        student: A functional model or a built sequential model whose only output is logits,
            `(batch, ..., classes)`. Its weights are trained in place.
        teacher: A model of the same kind, for the same inputs. It is not changed.
        data: The inputs: an array, a structure of arrays as `teacher` takes it, or anything else
            with `len` and `[indices]`, such as a map-style data set of PyTorch. Their samples are
            read by index, in an order that is shuffled for each epoch. A tuple adds labels, and
            perhaps weights of the samples: `(inputs, labels)` or `(inputs, labels, weights)`. Or
            batches of the same, already shuffled: a `tf.data.Dataset`, a `keras.utils.PyDataset`
            or a PyTorch `DataLoader` that yields `inputs`, `(inputs, labels)` or `(inputs, labels,
            weights)`, as for `keras.Model.fit`.
        epochs: Number of passes over the data.
        batch_size: Number of samples per step. Not used if `data` come in batches.
        learning_rate: Largest learning rate of Adam, after the warm-up, with cosine decay to 0.
        warmup: Share of all steps in which the learning rate rises, in `[0, 1)`.
        temperature: Divisor of the logits before the softmax. Above 1, unlikely classes count more.
        features: Names of layers whose outputs are matched, too: a name that both models have, or a
            pair of the names in the student and in the teacher. Layers of nested models count. A
            mapping gives each one its weight, by default 1, which multiplies the mean squared
            difference divided by the variance of the teacher's outputs.
        label_weight: Share of the labels in the loss of the classes, in `[0, 1]`. Labels are
            classes, or probabilities in the shape of the logits. They are not used by default.
        augmentation: Layer or function applied to the inputs of each batch in training. Both models
            get its outputs.
        ema_momentum: If given, the student is validated and ends with an exponential moving average
            of its weights, and this is how much of it stays in each step, in `[0, 1)`. It spans
            about `1 / (1 - ema_momentum)` steps.
        validation_data: Held-out data in any form that `data` may have. The student ends with the
            weights with which it agreed most with the teacher there, after an epoch or before the
            first one; without such data, with those of the last epoch.
        jit_compile: As for `keras.Model.compile`.
        seed: Seed of the order of samples, and of the global random numbers of Python, NumPy, JAX
            and PyTorch, which are set at the start of each epoch.
        folder: Where to save the state after each epoch. Each distillation needs its own.
        verbose: As for `keras.Model.fit`.

    Returns:
        The loss and the agreement of each epoch, `{"loss": [...], "agreement": [...]}`, and with
        `validation_data` also `"val_loss"` and `"val_agreement"`. The agreement is the fraction of
        inputs for which both models predict the same class.

    Raises:
        ValueError: If an argument is invalid, outputs of the models differ in shape, or `folder`
            has the state of a distillation with other settings.
        FloatingPointError: If a loss is not finite.

    Example:
        >>> import keras, numpy as np
        >>> from sepconv_layers import convert
        >>> teacher = keras.Sequential(
        ...     [
        ...         keras.Input((16, 4)),
        ...         keras.layers.Conv1D(8, 5, activation="relu", name="conv"),
        ...         keras.layers.GlobalAveragePooling1D(),
        ...         keras.layers.Dense(3),
        ...     ]
        ... )
        >>> student, _ = convert.to_separable(teacher)
        >>> x = np.random.normal(size=(64, 16, 4))
        >>> history = convert.distill(
        ...     student,
        ...     teacher,
        ...     x[:48],
        ...     epochs=2,
        ...     features=["conv"],
        ...     validation_data=x[48:],
        ...     verbose=0,
        ... )
        >>> sorted(history)
        ['agreement', 'loss', 'val_agreement', 'val_loss']

    Reference:
        [Hinton et al., "Distilling the Knowledge in a Neural Network", 2015](
        https://arxiv.org/abs/1503.02531);
        [Romero et al., "FitNets: Hints for Thin Deep Nets", 2015](https://arxiv.org/abs/1412.6550),
        for features.
    """
    _check_models(student, teacher)
    settings = {
        "epochs": positive_int(epochs, "epochs"),
        "batch_size": positive_int(batch_size, "batch_size"),
        "learning_rate": float(positive_number(learning_rate, "learning_rate")),
        "warmup": float(_share(warmup, "warmup")),
        "temperature": float(positive_number(temperature, "temperature")),
        "label_weight": float(
            check_number(label_weight, "label_weight", "a number in [0, 1]", lambda x: 0 <= x <= 1)
        ),
        "ema_momentum": None if ema_momentum is None else _share(ema_momentum, "ema_momentum"),
        "seed": _seed(seed),
    }
    weights = _feature_weights(features)
    if not (augmentation is None or callable(augmentation)):
        raise ValueError(
            "The `augmentation` argument must be a Keras layer or a function of the inputs of a "
            f"batch. Received: augmentation={augmentation!r}."
        )
    inputs = len(teacher.inputs)
    train = batches_of(data, "data", batch_size, seed, inputs)
    held_out = None
    if validation_data is not None:
        held_out = batches_of(validation_data, "validation_data", batch_size, seed, inputs)
    distiller = Distiller(
        student,
        teacher,
        temperature=temperature,
        features=weights,
        label_weight=label_weight,
        augmentation=augmentation,
    )
    _check_batch(distiller, train, "data", weights)
    if held_out is not None:
        _check_batch(distiller, held_out, "validation_data", weights)
    _compile(distiller, settings, train.count, jit_compile)
    settings |= {
        "batches": train.count,
        "features": [[*pair, weight] for pair, weight in weights.items()],
        "augmentation": type(augmentation).__name__,
        "backend": keras.backend.backend(),
    }
    progress = Progress(distiller, train.dataset, ema_momentum is not None, settings, folder)
    if len(progress.history) < epochs:
        validation = held_out and held_out.for_fit()
        progress.begin(validation)
        distiller.fit(
            train.for_fit(),
            epochs=epochs,
            initial_epoch=len(progress.history),
            shuffle=False,
            validation_data=validation,
            callbacks=progress.callbacks,
            verbose=verbose,
        )
    for variable, value in zip(student.weights, progress.best, strict=True):
        variable.assign(value)
    names = ("loss", "agreement", *(("val_loss", "val_agreement") if held_out else ()))
    return {name: [epoch[name] for epoch in progress.history] for name in names}


def _compile(
    distiller: Distiller, settings: Mapping[str, Any], batches: int, jit_compile: bool | str
) -> None:
    steps = settings["epochs"] * batches
    peak = settings["learning_rate"]
    rising = math.ceil(settings["warmup"] * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        peak / rising if rising else peak,
        decay_steps=max(1, steps - rising),
        warmup_target=peak if rising else None,
        warmup_steps=rising,
    )
    momentum = settings["ema_momentum"]
    optimizer = keras.optimizers.Adam(
        schedule, use_ema=momentum is not None, ema_momentum=momentum or 0.0
    )
    distiller.compile(optimizer, jit_compile=jit_compile)
    distiller.optimizer.build(distiller.trainable_variables)


# Checks.


def _share(value: Any, name: str) -> Any:
    return check_number(value, name, "a number in [0, 1)", lambda number: 0 <= number < 1)


def _seed(seed: Any) -> int:
    if not is_integer(seed) or seed < 0:
        raise ValueError(f"The `seed` argument must be an integer from 0. Received: seed={seed!r}.")
    return int(seed)


def _feature_weights(features: Any) -> dict[Pair, float]:
    """The weight of each pair of layers."""
    is_mapping = isinstance(features, Mapping)
    if isinstance(features, str) or not isinstance(features, Mapping | Sequence):
        raise _invalid_features(features)
    weights: dict[Pair, float] = {}
    for names in features:
        pair = (names, names) if isinstance(names, str) else names
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise _invalid_features(features)
        weight = features[names] if is_mapping else 1.0
        weights[pair] = float(positive_number(weight, "features"))
    return weights


def _invalid_features(features: Any) -> ValueError:
    return ValueError(
        "The `features` argument must hold names of layers, or pairs of names in the student and "
        f"in the teacher. Received: features={features!r}."
    )


def _check_models(student: Any, teacher: Any) -> None:
    for name, model in (("student", student), ("teacher", teacher)):
        if not is_graph(model) or len(model.outputs) != 1:
            raise ValueError(
                f"The `{name}` argument must be a functional model or a built sequential model, "
                f"with one output. Received: {name}={model!r}"
            )
    ours, theirs = (tuple(model.outputs[0].shape) for model in (student, teacher))
    if ours != theirs:
        raise ValueError(
            "The `student` argument must be a model with the output shape of the teacher, "
            f"{theirs}. Received: a model with the output shape {ours}."
        )
    shared = {id(one) for one in student.weights} & {id(one) for one in teacher.weights}
    if shared:
        raise ValueError(
            "The `student` argument must be a model without weights of the teacher, which are not "
            f"to change. Received: a model that shares {len(shared)} weights with it."
        )


def _check_batch(
    distiller: Distiller, batches: Batches, name: str, weights: Mapping[Pair, float]
) -> None:
    """Runs both models on a few samples, which also creates all variables of the augmentation."""
    first = keras.tree.map_structure(
        lambda array: None if array is None else array[:CHECKED], batches.first
    )
    x, y, sample_weight = first
    try:
        outputs = distiller(x, training=name == "data" and distiller.augmentation is not None)
    except Exception as error:  # any type: each backend has its own
        shapes = keras.tree.map_structure(lambda array: array.shape, batches.first[0])
        raise ValueError(
            f"The `{name}` argument must be inputs of the models, and `augmentation` must return "
            f"such. Received: a batch of shapes {shapes}, for which they fail: {error}"
        ) from error
    if name == "data":
        _check_labels(distiller, y)
    compared = zip(weights, outputs["student_features"], outputs["teacher_features"], strict=True)
    for pair, ours, theirs in compared:
        shapes = [[tuple(tensor.shape) for tensor in found] for found in (ours, theirs)]
        if not shapes[0] or shapes[0] != shapes[1]:
            raise ValueError(
                "The `features` argument must hold layers whose outputs have the same shape in "
                f"both models. Received: {pair} with outputs of shapes {shapes[0]} and {shapes[1]}."
            )


def _check_labels(distiller: Distiller, labels: Any) -> None:
    if not distiller.label_weight:
        return
    expected = tuple(distiller.student.outputs[0].shape)[1:]
    shape = None if labels is None else getattr(labels, "shape", (0,))[1:]
    if shape not in (expected, expected[:-1], (*expected[:-1], 1)):
        raise ValueError(
            "With `label_weight`, the `data` argument must have labels: one class for each "
            f"prediction, or probabilities of shape (batch, *{expected}). Received: "
            f"{'no labels' if shape is None else f'labels of shape (batch, *{shape})'}."
        )
