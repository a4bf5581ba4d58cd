"""The model that `fit` trains: a student with its teacher beside it, and what it minimizes."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras

from sepconv_layers.cost.trace import replaced
from sepconv_layers.graph_edit import ModelGraph

Pair = tuple[str, str]  # name of a layer of the student, and of one of the teacher
EPSILON = 1e-6  # below it, a feature counts as constant


class Distiller(keras.Model):
    """A student and its teacher, which get the same inputs. Only the student is trained.

    Args:
        student: The student.
        teacher: The teacher.
        temperature: Divisor of the logits.
        features: The weight of each pair of layers in the loss.
        label_weight: Share of the labels in the loss of the classes.
        augmentation: A layer or function for the inputs in training, or `None`.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        *,
        temperature: float,
        features: Mapping[Pair, float],
        label_weight: float,
        augmentation: Callable[[Any], Any] | None,
    ) -> None:
        super().__init__(name="distiller")
        self.student, self.teacher, self.augmentation = student, teacher, augmentation
        self.temperature, self.label_weight = temperature, label_weight
        self.feature_weights = list(features.values())
        ours, theirs = zip(*features, strict=True) if features else ((), ())
        self.layers_compared = _layers(student, ours), _layers(teacher, theirs)
        self.agreement = keras.metrics.Mean(name="agreement")

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """Those of the student: those of the teacher stay as they are."""
        return self.student.trainable_variables

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        """Those of the student."""
        return self.student.trainable_weights

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        """All others."""
        trained = {id(variable) for variable in self.trainable_variables}
        return [variable for variable in self.variables if id(variable) not in trained]

    @property
    def state(self) -> list[keras.Variable]:
        """All variables that the next step depends on and changes."""
        layer = self.augmentation
        changed = layer.variables if isinstance(layer, keras.layers.Layer) else []
        return [*self.student.variables, *changed, *self.optimizer.variables]

    def call(self, inputs: Any, training: bool = False) -> dict[str, Any]:
        if training:
            inputs = self._augmented(inputs)
        ours, theirs = self.layers_compared
        with _recorded(ours) as features:
            logits = self.student(inputs, training=training)
        with _recorded(theirs) as targets:
            expected = self.teacher(inputs, training=False)
        fixed = keras.tree.map_structure(keras.ops.stop_gradient, (expected, targets))
        expected, targets = keras.tree.map_structure(_as_float, fixed)
        logits, features = keras.tree.map_structure(_as_float, (logits, features))
        return {
            "student": keras.tree.flatten(logits)[0],
            "teacher": keras.tree.flatten(expected)[0],
            "student_features": features,
            "teacher_features": targets,
        }

    def _augmented(self, inputs: Any) -> Any:
        if isinstance(self.augmentation, keras.layers.Layer):
            return self.augmentation(inputs, training=True)
        return inputs if self.augmentation is None else self.augmentation(inputs)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        logits, expected = y_pred["student"], y_pred["teacher"]
        loss = self.temperature**2 * _cross_entropy(
            keras.ops.softmax(expected / self.temperature), logits / self.temperature
        )
        if self.label_weight and y is not None:
            loss = (1 - self.label_weight) * loss + self.label_weight * _label_loss(y, logits)
        pairs = zip(
            self.feature_weights,
            y_pred["student_features"],
            y_pred["teacher_features"],
            strict=True,
        )
        for weight, ours, theirs in pairs:
            errors = [relative_error(*pair) for pair in zip(ours, theirs, strict=True)]
            loss = loss + weight * sum(errors) / len(errors)
        if sample_weight is not None:
            loss = loss * keras.ops.reshape(keras.ops.cast(sample_weight, loss.dtype), (-1,))
        return keras.ops.mean(loss) + sum(self.student.losses)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        chosen = [keras.ops.argmax(y_pred[name], -1) for name in ("student", "teacher")]
        self.agreement.update_state(keras.ops.equal(*chosen))
        return self.get_metrics_result()


def relative_error(ours: Any, theirs: Any) -> Any:
    """The mean squared difference for each sample, as a multiple of the variance of the teacher's.

    It is 1 for a student whose features are the mean of the teacher's features in the batch.

    Args:
        ours: Features of the student, `(batch, ...)`.
        theirs: Features of the teacher, of the same shape.

    Returns:
        An array of shape `(batch,)`.
    """
    scale = keras.ops.maximum(keras.ops.var(theirs), EPSILON)
    return _mean_by_sample(keras.ops.square(ours - theirs)) / scale


def _cross_entropy(targets: Any, logits: Any) -> Any:
    return _mean_by_sample(keras.losses.categorical_crossentropy(targets, logits, from_logits=True))


def _label_loss(labels: Any, logits: Any) -> Any:
    """The cross-entropy of labels, which are classes or their probabilities, for each sample."""
    if tuple(labels.shape)[1:] == tuple(logits.shape)[1:]:
        return _cross_entropy(keras.ops.cast(labels, logits.dtype), logits)
    return _mean_by_sample(
        keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    )


def _mean_by_sample(values: Any) -> Any:
    axes = tuple(range(1, len(values.shape)))
    return keras.ops.mean(values, axis=axes) if axes else values


def _as_float(tensor: Any) -> Any:
    return keras.ops.cast(tensor, "float32")  # of the outputs of a model in half precision


def _layers(model: keras.Model, names: Sequence[str]) -> list[Any]:
    """The layers of those names in a model and in the models inside it.

    Raises:
        ValueError: If a name is unknown, or is that of several layers.
    """
    found: dict[str, dict[int, Any]] = {}
    for node in ModelGraph(model).nodes:
        if isinstance(node.operation, keras.layers.Layer):
            found.setdefault(node.operation.name, {})[id(node.operation)] = node.operation
    for name in names:
        if len(found.get(name, ())) != 1:
            unique = [known for known, layers in found.items() if len(layers) == 1]
            raise ValueError(
                "The `features` argument must hold names of layers that occur once in the model. "
                f"Received: {name!r} for {model.name!r}, whose layers are {unique}."
            )
    return [next(iter(found[name].values())) for name in names]


@contextlib.contextmanager
def _recorded(layers: Sequence[Any]) -> Iterator[list[list[Any]]]:
    """Context with the outputs of all calls in it of each layer, also inside nested models.

    A layer of an inner model has no symbolic output in the outer one, so the calls are observed.
    """
    outputs: list[list[Any]] = [[] for _ in layers]

    def recording(call: Callable, found: list[Any]) -> Callable:
        def recording_call(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            found.extend(keras.tree.flatten(result))
            return result

        return recording_call

    with contextlib.ExitStack() as stack:
        for layer, found in zip(layers, outputs, strict=True):
            stack.enter_context(replaced(layer, "call", recording(layer.call, found)))
        yield outputs
