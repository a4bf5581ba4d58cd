"""Trains a model to match the outputs of another one."""

import math
from typing import Any

import keras

from sepconv_layers.arguments import positive_int, positive_number
from sepconv_layers.graph_edit import input_structure, is_graph


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
    """Trains a student model to match the class probabilities of a teacher model.

    Use it after `to_separable`, with the inputs that the model was trained on. Labels are not
    needed.

    Args:
        student: A functional model or a built sequential model whose only output is logits. Its
            weights are trained in place.
        teacher: A model of the same kind, for the same inputs. It is not changed.
        data: The inputs: an array, or a structure of arrays as `teacher` takes it.
        epochs: Number of passes over the inputs.
        batch_size: Batch size.
        learning_rate: Initial learning rate of Adam, with cosine decay to 0.
        temperature: Divisor of the logits before the softmax. Above 1, unlikely classes count more.
        verbose: As for `keras.Model.fit`.

    Returns:
        The loss and the agreement of each epoch, `{"loss": [...], "agreement": [...]}`. The
        agreement is the fraction of inputs for which both models predict the same class.

    Raises:
        ValueError: If an argument is invalid, or the outputs of the models differ in shape.

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
    learning_rate = positive_number(learning_rate, "learning_rate")
    temperature = positive_number(temperature, "temperature")
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
    # A separate model, so that the student stays compiled as it is.
    trainer = keras.Model(input_structure(student), student.outputs[0])
    trainer.compile(keras.optimizers.Adam(schedule), loss, metrics=[agreement])
    fitted = trainer.fit(data, logits, batch_size=batch_size, epochs=epochs, verbose=verbose)
    return {name: fitted.history[name] for name in ("loss", "agreement")}


def _check_models_and_data(student: Any, teacher: Any, data: Any) -> None:
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
    arrays = keras.tree.flatten(data)
    sizes = {array.shape[0] if getattr(array, "shape", ()) else 0 for array in arrays}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            "The `data` argument must be inputs of the models: an array, or a structure of arrays "
            "with the same number of samples. Received: "
            f"{', '.join(type(array).__name__ for array in arrays)}."
        )
