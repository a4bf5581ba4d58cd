"""What users bring to `compare`: an optimizer, callbacks, weights to start from, a precision."""

from functools import partial

import keras
import numpy as np
import pytest
from keras import layers

from sepconv_layers import SeparableConvBlock1D, compare
from tests.test_comparison import Trains, no_training

SHAPE, CLASSES, EPOCHS = (9, 4), 3, 6
ALWAYS_THE_SAME = keras.optimizers.SGD()
MOMENTUM = partial(keras.optimizers.SGD, momentum=0.9)


def part(count, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(CLASSES, size=count)
    inputs = random.normal(size=(count, *SHAPE)) + labels[:, None, None]
    return inputs.astype("float32"), labels


DATA = {"train": part(32, 0), "val": part(16, 1), "test": part(24, 2)}


def build(conv):
    head = [layers.GlobalAveragePooling1D(), layers.Dense(CLASSES)]
    return keras.Sequential([keras.Input(SHAPE), SeparableConvBlock1D(6), *head])


def run(output=None, **arguments):
    brief = {"convs": "separable", "seeds": 1, "infer_batch_sizes": [1], "progress": False}
    settings = {"epochs": EPOCHS, "batch_size": 16, "jit_compile": False} | arguments
    return compare(build, DATA, output=output, **brief, **settings)


class Seen(keras.callbacks.Callback):
    """Notes what it is told. It interrupts the process, or ends the training, after an epoch."""

    def __init__(self, calls, last=None, interrupts=()):
        super().__init__()
        self.calls, self.last, self.interrupts = calls, last, interrupts

    def on_train_begin(self, logs=None):
        self.calls.append("begin")

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append(f"batch {batch}")

    def on_epoch_end(self, epoch, logs=None):
        assert {"loss", "val_loss", "val_accuracy"} <= set(logs)
        self.calls.append(f"epoch {epoch}")
        if epoch in self.interrupts:
            self.interrupts.remove(epoch)
            raise KeyboardInterrupt
        if epoch == self.last:
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self.calls.append("end")


def test_callbacks_see_one_training_and_may_end_it():
    calls = []
    last = {("separable", 0): 1}  # no other net or seed is asked for
    found = run(callbacks=lambda conv, seed: [Seen(calls, last=last[conv, seed])])
    batches = ["batch 0", "batch 1"]
    assert calls == ["begin", *batches, "epoch 0", *batches, "epoch 1", "end"]
    assert found.notes == ["Callbacks ended the trainings of separable after 2 of 6 epochs."]
    assert found.budget["callbacks"] == ["Seen"]


def test_patience_goes_on_after_an_interruption(tmp_path):
    interrupts = [2]

    def callbacks(conv, seed):
        stopping = keras.callbacks.EarlyStopping("val_loss", patience=4, min_delta=100.0)
        return [stopping, Seen([], interrupts=interrupts)]

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=callbacks)
    resumed, undisturbed = run(tmp_path, callbacks=callbacks), run(callbacks=callbacks)
    assert "5 of 6" in resumed.notes[0]
    assert resumed.notes == undisturbed.notes
    assert resumed.rows[0].accuracy == undisturbed.rows[0].accuracy


@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
def test_a_training_starts_from_weights(tmp_path, ending):
    keras.utils.set_random_seed(5)
    model, path = build("separable"), tmp_path / f"net{ending}"
    (model.save if ending == ".keras" else model.save_weights)(path)
    still = {"learning_rate": 1e-30, "optimizer": MOMENTUM, "epochs": 1}
    found = run(initial_weights={"separable": path}, **still)
    trained = found.models["separable"]
    for weight, expected in zip(trained.trainable_weights, model.trainable_weights, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-20)
    assert found.budget["optimizer"] == "SGD"


def test_what_is_brought_is_part_of_what_was_trained(tmp_path):
    run(tmp_path, optimizer=MOMENTUM, epochs=1)
    with no_training():
        run(tmp_path, optimizer=MOMENTUM, epochs=1)
    for other in ({}, {"optimizer": keras.optimizers.Adam}):
        with pytest.raises(Trains), no_training():
            run(tmp_path, epochs=1, **other)


def test_mixed_precision():
    before, policy = keras.config.dtype_policy(), "mixed_float16"  # whose losses Keras scales
    keras.config.set_dtype_policy(policy)
    try:
        found = run(epochs=2, ema_momentum=0.5)
    finally:
        keras.config.set_dtype_policy(before)
    assert found.budget["dtype_policy"] == policy
    assert found.models["separable"].layers[0].compute_dtype == "float16"


@pytest.mark.parametrize(
    "argument",
    [
        {"optimizer": "sgd"},
        {"optimizer": lambda learning_rate: keras.optimizers.SGD(learning_rate)},
        {"optimizer": lambda **arguments: ALWAYS_THE_SAME},
        {"callbacks": [keras.callbacks.TerminateOnNaN()]},
        {"callbacks": lambda conv, seed: ["EarlyStopping"]},
        {"initial_weights": "net.keras"},
        {"initial_weights": {"separable": "missing.keras"}},
        {"initial_weights": {"separable": __file__}},
    ],
)
def test_bad_input(argument):
    (name,) = argument
    with pytest.raises(ValueError, match=f"`{name}` must be .* Received"):
        run(**argument)


def test_weights_of_another_net_are_refused_before_any_training(tmp_path):
    path = tmp_path / "net.keras"
    keras.Sequential([keras.Input((2,)), layers.Dense(2)]).save(path)
    with no_training(), pytest.raises(ValueError, match="weights of the separable net"):
        run(initial_weights={"separable": path})
    with no_training(), pytest.raises(ValueError, match="names of nets: separable.*standard"):
        run(initial_weights={"standard": path})
