"""The recipe of a training: optimizer, schedule, regularization, augmentation, averaging."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from sepconv_layers.comparison.devices import Devices
from sepconv_layers.comparison.own import Own
from sepconv_layers.comparison.task import Task
from sepconv_layers.sources import count_of, take

WARM_UP = 0.1  # share of all steps
STEPS_WORTH_XLA = 2000  # on TensorFlow, where XLA takes tens of seconds to compile each net
INPUTS, LABELS = "images", "labels"  # what Keras calls them in layers that mix both


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of the training, the same for all nets.

    Attributes:
        task: What the nets learn. It is known by its own hash, not by this object's text.
        devices: Where they are trained; known by its own `key`, too.
        own: What users bring, which is known by its own `key`, too.

    The others are arguments of `compare`.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    augmentation: keras.layers.Layer | None = None
    mixing: keras.layers.Layer | None = None
    ema_momentum: float | None = None
    classes: int
    progress: bool = False
    task: Task = dataclasses.field(repr=False)
    devices: Devices = dataclasses.field(default_factory=Devices, repr=False)
    own: Own = dataclasses.field(default_factory=Own, repr=False)

    def say(self, text: str) -> None:
        """Prints a line of progress."""
        if self.progress:
            print(text, flush=True)

    def say_waiting(self) -> None:
        """Says that another process has what this one needs."""
        self.say("  another process trains this at the moment; waiting for it")

    def steps(self, x: Any) -> int:
        """Number of training steps with these inputs."""
        return self.epochs * math.ceil(count_of(x) / self.batch_size)

    def jit_compile(self, mode: str, x: Any) -> bool | str:
        """Value of `jit_compile` to train a net with, if `mode` is its fastest mode."""
        if keras.backend.backend() != "tensorflow":
            return "auto"
        if self.devices.count > 1:  # Keras cannot compile a step of several replicas
            return False
        is_worth_it = mode == "xla" and self.steps(x) >= STEPS_WORTH_XLA
        return is_worth_it and self._xla_compiles(take(x, slice(self.batch_size)))

    def trainer(self, model: keras.Model, x: Any, jit_compile: Any) -> "Trainer":
        """A compiled model around `model`, which itself gets no optimizer."""
        steps = self.steps(x)
        warm_up = math.ceil(WARM_UP * steps)
        schedule = keras.optimizers.schedules.CosineDecay(
            self.learning_rate / warm_up,
            decay_steps=max(1, steps - warm_up),
            warmup_target=self.learning_rate,
            warmup_steps=warm_up,
        )
        averaging = self.ema_momentum is not None
        averages = {"use_ema": True, "ema_momentum": self.ema_momentum} if averaging else {}
        optimizer = self.own.new_optimizer(
            learning_rate=schedule, weight_decay=self.weight_decay, **averages
        )
        # Keras puts averages in place of the weights at the end of `fit`, which is one epoch here.
        optimizer.finalize_variable_values = lambda variables: None
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        sample = take(x, slice(1))
        if not model.built:  # the optimizer needs all its weights
            model(sample)
        trainer = Trainer(model, self.task, self.devices, averaging, *self.layers(sample))
        # A metric given by name creates its variables during tracing: TensorFlow then traces again.
        metrics = self.task.new_metrics()
        trainer.compile(
            optimizer, self.task.loss, weighted_metrics=metrics, jit_compile=jit_compile
        )
        trainer.optimizer.build(trainer.trainable_variables)  # with losses scaled, another one
        return trainer

    def layers(self, x: Any) -> list[keras.layers.Layer | None]:
        """New layers for augmentation and mixing, with all their variables."""
        labels = np.zeros((count_of(x), *self.task.target_shape), "float32")
        augmentation, x = _started(self.augmentation, x)
        mixing, _ = _started(self.mixing, {INPUTS: x, LABELS: labels})
        return [augmentation, mixing]

    def _xla_compiles(self, x: Any) -> bool:
        """Whether XLA can compile augmentation and mixing."""
        if self.augmentation is None and self.mixing is None:
            return True
        import tensorflow as tf

        augmentation, mixing = self.layers(x)
        labels = tf.zeros((count_of(x), *self.task.target_shape))

        def changed(x: Any) -> Any:
            x = x if augmentation is None else augmentation(x, training=True)
            return x if mixing is None else mixing({INPUTS: x, LABELS: labels}, training=True)

        try:
            tf.function(changed, jit_compile=True)(
                keras.tree.map_structure(tf.convert_to_tensor, x)
            )
        except Exception:  # any type: XLA cannot compile some operations
            return False
        return True


class Trainer(keras.Model):
    """A model with its augmentation in front, trained on inputs and labels mixed with others.

    With `mixing`, `fit` gets the labels among the inputs, too: `inputs_for(x, y)`.
    """

    def __init__(
        self,
        model: keras.Model,
        task: Task,
        devices: Devices,
        is_averaging: bool,
        augmentation: keras.layers.Layer | None,
        mixing: keras.layers.Layer | None,
    ) -> None:
        super().__init__(name="trainer")
        self.model = model
        self.task = task
        self.devices = devices
        self.is_averaging = is_averaging
        self.augmentation = augmentation
        self.mixing = mixing
        self.keeps_metrics = False

    @contextlib.contextmanager
    def keeping_metrics(self) -> Iterator[None]:
        """Within it, a batch is counted in the metrics with those before it."""
        self.keeps_metrics = True
        try:
            yield
        finally:
            self.keeps_metrics = False

    def reset_metrics(self) -> None:
        if not self.keeps_metrics:
            super().reset_metrics()

    def inputs_for(self, x: Any, y: np.ndarray) -> Any:
        """What `fit` gets as inputs, for inputs and labels in the form that the loss takes."""
        return x if self.mixing is None else {INPUTS: x, LABELS: y}

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training:
            return self.model(inputs, training=False)
        if self.mixing is None:
            return self.model(self._augmented(inputs), training=True)
        mixed = self.mixing({**inputs, INPUTS: self._augmented(inputs[INPUTS])}, training=True)
        return {"logits": self.model(mixed[INPUTS], training=True), LABELS: mixed[LABELS]}

    def _augmented(self, inputs: Any) -> Any:
        return inputs if self.augmentation is None else self.augmentation(inputs, training=True)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        y, y_pred = _targets(y, y_pred)
        if training and self.task.class_weight is not None:
            weight = self.task.weights_by_class(y)
            sample_weight = (
                weight if sample_weight is None else keras.ops.multiply(weight, sample_weight)
            )
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return self.devices.weighed(loss, y) if training else loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, *args: Any, **kwargs: Any) -> Any:
        y, y_pred = _targets(y, y_pred)
        return super().compute_metrics(x, y, y_pred, *args, **kwargs)

    @property
    def state(self) -> list[keras.Variable]:
        """All variables that the next step depends on."""
        return [*self.variables, *self.optimizer.variables]

    def averaging(self) -> list[keras.callbacks.Callback]:
        """What puts averaged weights in place of the weights for as long as a test takes."""
        return [keras.callbacks.SwapEMAWeights()] if self.is_averaging else []

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it, the model has the averaged weights, where weights are averaged."""
        callbacks = keras.callbacks.CallbackList(self.averaging(), model=self)
        callbacks.on_test_begin()
        try:
            yield
        finally:
            callbacks.on_test_end()


def _targets(y: Any, y_pred: Any) -> tuple[Any, Any]:
    """Labels and logits: `Trainer` outputs the labels that it mixed."""
    return (y_pred[LABELS], y_pred["logits"]) if isinstance(y_pred, Mapping) else (y, y_pred)


def copy_of(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A new layer with the same configuration and its own random state."""
    return type(layer).from_config(layer.get_config())


def _started(layer: keras.layers.Layer | None, x: Any) -> tuple[keras.layers.Layer | None, Any]:
    """A copy with all its variables, and its outputs."""
    if layer is None:
        return None, x
    layer = copy_of(layer)
    outputs = layer(x, training=True)  # creates all its variables
    for variable in layer.variables:
        if variable.name == "seed_generator_state":  # the run sets the seed
            variable.assign([np.random.randint(2**31), 0])
    return layer, outputs
