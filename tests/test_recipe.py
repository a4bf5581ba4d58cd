"""The recipe of `compare`: mixed samples and averaged weights."""

import json

import keras
import numpy as np
import pytest

from sepconv_layers.comparison.recipe import Training
from sepconv_layers.comparison.task_choice import classification
from tests.backends import BACKEND
from tests.test_comparison import (
    CLASSES,
    DATA,
    accuracies,
    accuracy_of,
    build,
    compare_toy,
    runs_in,
    within_epoch,
    without_timing,
)

# `keras.layers.MixUp` asks JAX for 64-bit integers.
pytestmark = pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64")

MOMENTUM = 0.7
MODES = [False, True] if BACKEND == "tensorflow" else ["auto"]


@pytest.fixture(autouse=True)
def _without_timing():
    with without_timing():
        yield


@keras.saving.register_keras_serializable("tests")
class Relabel(keras.layers.Layer):
    """Gives all samples one class, and inputs of a constant."""

    def __init__(self, label=2, constant=0.5, **kwargs):
        super().__init__(**kwargs)
        self.label, self.constant = label, constant

    def call(self, batch, training=None):
        assert set(batch) == {"images", "labels"}
        if not training:
            return batch
        return {
            "images": keras.ops.zeros_like(batch["images"]) + self.constant,
            "labels": keras.ops.zeros_like(batch["labels"]) + np.eye(CLASSES)[self.label],
        }

    def get_config(self):
        return {**super().get_config(), "label": self.label, "constant": self.constant}


def trainer_of(jit_compile, **settings):
    keras.utils.set_random_seed(0)
    x, y = DATA["val"]
    brief = {"epochs": 1, "batch_size": 16, "learning_rate": 0.03}
    training = Training(**brief, classes=CLASSES, task=classification(CLASSES), **settings)
    trainer = training.trainer(build("separable"), x, jit_compile)
    trainer.evaluate(x, training.task.targets(y), verbose=0)  # builds the rest, as a run does
    return trainer, training


def fit(trainer, training, samples=96):
    x, y = (array[:samples] for array in DATA["train"])
    labels = training.task.targets(y)
    fitted = trainer.fit(
        trainer.inputs_for(x, labels), labels, batch_size=16, shuffle=False, verbose=0
    )
    return {key: values[0] for key, values in fitted.history.items()}


@pytest.mark.parametrize("jit_compile", MODES)
def test_the_loss_is_of_the_mixed_labels_and_the_net_gets_the_mixed_inputs(jit_compile):
    trainer, training = trainer_of(jit_compile, mixing=Relabel())
    logs = [fit(trainer, training) for _ in range(8)][-1]
    assert logs["accuracy"] == 1  # all labels are the same now
    constant = np.full((4, 6, 6, CLASSES), 0.5, "float32")
    logits = keras.ops.convert_to_numpy(trainer(constant, training=False))
    assert (logits.argmax(-1) == 2).all()
    x, y = DATA["val"]
    accuracy = trainer.evaluate(x, training.task.targets(y), verbose=0, return_dict=True)[
        "accuracy"
    ]
    assert accuracy == pytest.approx(np.mean(trainer.predict(x, verbose=0).argmax(-1) == y))


@pytest.mark.parametrize("layer", [keras.layers.MixUp(0.4), keras.layers.CutMix(1.0)])
@pytest.mark.parametrize("jit_compile", MODES[:1])
def test_the_layers_of_keras_mix(layer, jit_compile):
    trainer, training = trainer_of(jit_compile, mixing=layer)
    before = fit(trainer, training, samples=90)  # the last batch is a smaller one
    for _ in range(6):
        after = fit(trainer, training, samples=90)
    assert after["loss"] < before["loss"]


@pytest.mark.parametrize("jit_compile", MODES)
def test_the_average_is_the_one_of_all_steps(jit_compile):
    trainer, training = trainer_of(jit_compile, ema_momentum=MOMENTUM)
    x, y = DATA["train"]
    labels, expected = training.task.targets(y), None
    for step in range(5):
        part = slice(16 * step, 16 * (step + 1))
        trainer.fit(x[part], labels[part], batch_size=16, verbose=0)
        weights = [np.array(weight.numpy()) for weight in trainer.trainable_variables]
        if expected is None:
            expected = weights
        expected = [
            MOMENTUM * old + (1 - MOMENTUM) * new
            for old, new in zip(expected, weights, strict=True)
        ]
    with trainer.averaged():
        found = [np.array(weight.numpy()) for weight in trainer.trainable_variables]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for variable, value in zip(trainer.trainable_variables, weights, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5, atol=1e-6)


def test_what_is_saved_is_the_average_that_was_validated(tmp_path):
    compare_toy(convs="separable", seeds=1, ema_momentum=0.95, output=tmp_path)
    model = keras.models.load_model(tmp_path / "separable.keras")
    record = json.loads(next(tmp_path.glob("runs/*/seed-0.json")).read_text())
    assert record["accuracy"] == pytest.approx(accuracy_of(model, DATA["test"]), abs=1e-6)
    best = record["best"]["val_accuracy"]
    assert best == pytest.approx(accuracy_of(model, DATA["val"]), abs=1e-6)


def test_an_average_without_memory_is_the_weights():
    plain, averaged = (
        compare_toy(convs="separable", seeds=1, ema_momentum=momentum) for momentum in (None, 0)
    )
    assert accuracies(plain) == accuracies(averaged)


class Stopped(Exception):
    """Raised in the middle of an epoch."""


def stop():
    raise Stopped


def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path):
    settings = {"convs": "separable", "seeds": 1, "ema_momentum": 0.9}
    settings["mixing"] = keras.layers.MixUp(0.2)
    compare_toy(**settings, output=tmp_path / "undisturbed")
    with within_epoch(2, stop), pytest.raises(Stopped):
        compare_toy(**settings, output=tmp_path / "stopped")
    compare_toy(**settings, output=tmp_path / "stopped")
    (undisturbed,), (again,) = (
        runs_in(tmp_path / name).values() for name in ("undisturbed", "stopped")
    )
    assert again == undisturbed
