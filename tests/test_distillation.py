"""Distillation: what it minimizes, what data it takes, and how it resumes."""

import functools
import re
import warnings
from unittest import mock

import keras
import numpy as np
import pytest

from sepconv_layers import ConvBlock1D, convert, profile
from tests.backends import BACKEND, output_of

layers = keras.layers
QUIET = {"verbose": 0, "jit_compile": False}
FROZEN = {**QUIET, "epochs": 1, "learning_rate": 1e-12, "warmup": 0}
CLASSES = 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 12, 4)).astype("float32")
Y = RNG.integers(0, CLASSES, 48)
ALL_AT_ONCE = {"batch_size": len(X)}


def make_net(seed=0, dropout=0.0, width=8):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(X.shape[1:]),
            layers.Conv1D(width, 5, padding="same", activation="relu", name="first"),
            layers.BatchNormalization(),
            layers.Dropout(dropout),
            layers.Conv1D(width, 5, padding="same", activation="relu", name="second"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(CLASSES),
        ]
    )


def decisive(net, x):
    """Makes the classes that a net predicts confident, and about as many of each."""
    kernel, bias = net.layers[-1].get_weights()
    net.layers[-1].set_weights([20 * kernel, bias])
    net.layers[-1].bias.assign(-output_of(net, x).mean(0))
    return net


def agreement_of(student, teacher, x):
    return np.mean(output_of(student, x).argmax(-1) == output_of(teacher, x).argmax(-1))


def test_distillation_brings_back_what_the_rank_lost():
    x = np.random.default_rng(0).normal(size=(512, *X.shape[1:])).astype("float32")
    teacher = make_net(width=16)
    teacher.layers[-1].set_weights([10 * w for w in teacher.layers[-1].get_weights()])
    student, _ = convert.to_separable(teacher)
    before, weights = agreement_of(student, teacher, x), teacher.get_weights()
    history = convert.distill(student, teacher, x, epochs=10, learning_rate=1e-2, **QUIET)
    assert set(history) == {"loss", "agreement"}
    assert history["loss"][-1] < history["loss"][0] and len(history["agreement"]) == 10
    assert agreement_of(student, teacher, x) > before
    for ours, theirs in zip(weights, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# The loss


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def expected_loss(student, teacher, temperature=2.0, label_weight=0.0, features=None, weights=1):
    """The loss of one batch, in NumPy."""
    ours, theirs = output_of(student, X), output_of(teacher, X)
    targets = np.exp(log_softmax(theirs / temperature))
    loss = -(temperature**2) * (targets * log_softmax(ours / temperature)).sum(-1)
    labels = -log_softmax(ours)[np.arange(len(X)), Y]
    loss = (1 - label_weight) * loss + label_weight * labels
    for names, weight in (features or {}).items():
        ours, theirs = (
            output_of(keras.Model(model.inputs[0], model.get_layer(name).output), X)
            for model, name in zip((student, teacher), names, strict=True)
        )
        loss += weight * np.square(ours - theirs).mean((1, 2)) / theirs.var()
    return np.mean(weights * loss)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"temperature": 4.0},
        {"label_weight": 0.3},
        {"features": {("second", "second"): 0.5, ("first", "second"): 2.0}},
    ],
    ids=lambda arguments: " ".join(arguments) or "by default",
)
def test_the_loss_is_what_the_paper_says(arguments):
    student, teacher = make_net(1), make_net(2)
    weights = RNG.uniform(size=len(X)).astype("float32")
    expected = expected_loss(student, teacher, weights=weights, **arguments)
    held_out = X, Y, weights
    history = convert.distill(
        student, teacher, (X, Y), validation_data=held_out, **arguments, **ALL_AT_ONCE, **FROZEN
    )
    np.testing.assert_allclose(history["val_loss"], [expected], rtol=1e-3)


@pytest.mark.parametrize("labels", [Y[:, None], keras.utils.to_categorical(Y, CLASSES)])
def test_labels_may_be_a_column_or_probabilities(labels):
    student, teacher = make_net(1), make_net(2)
    expected = expected_loss(student, teacher, label_weight=1.0)
    history = convert.distill(
        student, teacher, (X, labels), validation_data=(X, labels), label_weight=1.0,
        **ALL_AT_ONCE, **FROZEN,
    )  # fmt: skip
    np.testing.assert_allclose(history["val_loss"], [expected], rtol=1e-3)


def test_both_models_get_the_same_augmented_inputs():
    teacher = make_net()
    calls = []

    def negative(inputs):
        calls.append(inputs)
        return -inputs

    for augmentation in (layers.GaussianNoise(0.5, seed=0), negative):
        student = keras.models.clone_model(teacher)
        student.set_weights(teacher.get_weights())
        for norm in (student.layers[1], teacher.layers[1]):
            norm.trainable = False  # else the student's uses the statistics of the batch
        history = convert.distill(
            student, teacher, X, augmentation=augmentation, features=["second"], **FROZEN
        )
        entropy = convert.distill(student, teacher, X, augmentation=augmentation, **FROZEN)
        assert history["agreement"] == [1.0] and calls or augmentation is not negative
        if augmentation is negative:  # of which both have the same, without any feature error
            np.testing.assert_allclose(history["loss"], entropy["loss"], rtol=1e-5)


def test_distillation_gives_both_models_the_same_inputs():
    inputs = {"b": keras.Input((4,), name="a"), "a": keras.Input((4,), name="b")}
    logits = layers.Dense(3)(layers.Subtract()([inputs["a"], inputs["b"]]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict, all keys")
        teacher = keras.Model(inputs, logits)
        student = keras.models.clone_model(teacher)
        student.set_weights(teacher.get_weights())
        data = {key: RNG.normal(size=(64, 4)).astype("float32") for key in "ab"}
        assert convert.distill(student, teacher, data, **FROZEN)["agreement"] == [1.0]
        labeled = data, np.arange(64) % 3
        history = convert.distill(student, teacher, labeled, label_weight=1.0, **FROZEN)
        assert history["agreement"] == [1.0] and history["loss"][0] > 0.5


def test_features_of_nested_models_and_blocks():
    def net(seed):
        keras.utils.set_random_seed(seed)
        inner = keras.Sequential([keras.Input((12, 4)), ConvBlock1D(8, name="block")], name="body")
        inputs = keras.Input((12, 4))
        x = layers.GlobalAveragePooling1D()(inner(inputs))
        return keras.Model(inputs, layers.Dense(CLASSES)(x))

    teacher = net(0)
    student, _ = convert.to_separable(teacher, data=X)
    history = convert.distill(
        student, teacher, X, epochs=4, learning_rate=1e-2, features={"block": 10.0}, **QUIET
    )
    assert history["loss"][-1] < history["loss"][0]
    with pytest.raises(ValueError, match="`features` argument must hold names.*'absent'.*block"):
        convert.distill(student, teacher, X, features=["absent"], **QUIET)


# The data


class Indexed:
    """A map-style data set, whose indices must rise as those of HDF5."""

    def __init__(self, labels=None):
        self.labels = labels

    def __len__(self):
        return len(X)

    def __getitem__(self, indices):
        assert (np.diff(indices) > 0).all()
        return X[indices] if self.labels is None else (X[indices], self.labels[indices])


class Batch(keras.utils.PyDataset):
    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.parts


def tensorflow_dataset(*parts):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0]).batch(len(X))


def torch_loader(*parts):
    torch = pytest.importorskip("torch")
    dataset = torch.utils.data.TensorDataset(*map(torch.from_numpy, parts))
    return torch.utils.data.DataLoader(dataset, batch_size=len(X))


FORMS = {
    "arrays": lambda *parts: parts if len(parts) > 1 else parts[0],
    "tensors": lambda *parts: tuple(map(keras.ops.convert_to_tensor, parts)),
    "indexed": lambda *parts: Indexed(*parts[1:]),
    "PyDataset": Batch,
    "tf.data": tensorflow_dataset,
    "DataLoader": torch_loader,
}


@functools.cache
def losses_of(form):
    """Those of an epoch in which nothing changes, with labels and without them."""
    make = FORMS[form]
    history = convert.distill(
        make_net(1), make_net(2), make(X, Y), validation_data=make(X), label_weight=0.5,
        **ALL_AT_ONCE, **FROZEN,
    )  # fmt: skip
    return history["loss"] + history["val_loss"]


@pytest.mark.parametrize("form", [form for form in FORMS if form != "arrays"])
def test_data_of_any_form_are_the_same(form):
    np.testing.assert_allclose(losses_of(form), losses_of("arrays"), rtol=1e-4)


def test_the_order_is_another_one_in_each_epoch_and_that_of_the_seed():
    seen = []

    class Watched(Indexed):
        def __getitem__(self, indices):
            seen.append(tuple(indices))
            return super().__getitem__(indices)

    def orders(seed):
        seen.clear()
        arguments = {**QUIET, "epochs": 2, "batch_size": 24, "seed": seed}
        convert.distill(make_net(1), make_net(2), Watched(), **arguments)
        return list(seen)[-4:]

    first = orders(0)
    assert first == orders(0) != orders(1) and first[:2] != first[2:]
    for epoch in (first[:2], first[2:]):
        assert sorted(sum(epoch, ())) == list(range(len(X)))


# The training


def test_the_learning_rate_rises_and_falls():
    fitted = []
    fit = keras.Model.fit

    def watched(self, *args, **kwargs):
        fitted.append(self.optimizer)
        return fit(self, *args, **kwargs)

    with mock.patch.object(keras.Model, "fit", watched):
        arguments = {**QUIET, "epochs": 5, "batch_size": 12, "learning_rate": 0.1, "warmup": 0.25}
        convert.distill(make_net(1), make_net(2), X, **arguments)
    (optimizer,) = fitted
    rates = [float(optimizer._learning_rate(step)) for step in range(21)]
    assert np.argmax(rates) == 5 and np.isclose(max(rates), 0.1)
    assert (np.diff(rates[:6]) > 0).all() and (np.diff(rates[5:]) < 0).all() and rates[20] < 1e-8


@pytest.mark.parametrize("ema_momentum", [None, 0.5])
def test_the_best_epoch_on_held_out_data_counts(ema_momentum):
    teacher, student = decisive(make_net(1), X), make_net(2)
    held_out = np.random.default_rng(5).normal(size=(64, *X.shape[1:])).astype("float32")
    start = agreement_of(student, teacher, held_out)
    history = convert.distill(
        student, teacher, X, epochs=6, learning_rate=0.3, batch_size=16, warmup=0.0,
        validation_data=held_out, ema_momentum=ema_momentum, **QUIET,
    )  # fmt: skip
    assert len(set(history["val_agreement"])) > 1
    found = agreement_of(student, teacher, held_out)
    np.testing.assert_allclose(found, max(start, *history["val_agreement"]), atol=1e-6)


def test_a_loss_that_is_not_finite_ends_it():
    with pytest.raises(FloatingPointError, match="Lower `learning_rate`"):
        convert.distill(make_net(1), make_net(2), X * np.nan, **FROZEN)


class Killed(BaseException):
    """Ends the process, as it were."""


def killed_in_epoch(number):
    fit = keras.Model.fit

    def fit_and_die(self, *args, callbacks=(), **kwargs):
        def die(epoch, logs):
            if epoch == number - 1:
                raise Killed

        # After an epoch, but before its state is saved.
        killer = keras.callbacks.LambdaCallback(on_epoch_end=die)
        return fit(self, *args, callbacks=[killer, *callbacks], **kwargs)

    return mock.patch.object(keras.Model, "fit", fit_and_die)


def resumable(folder, **changes):
    """The history and the weights of a student, of a training with all that is random in it."""
    student, teacher = make_net(1, dropout=0.3), make_net(2)
    settings = {"epochs": 4, "batch_size": 16, "ema_momentum": 0.8, "features": ["second"]}
    settings |= {"validation_data": (X[:16], Y[:16]), "label_weight": 0.1, **QUIET, **changes}
    noise = layers.GaussianNoise(0.1, seed=0)
    history = convert.distill(
        student, teacher, (X, Y), augmentation=noise, folder=folder, **settings
    )
    return history, student.get_weights()


def test_a_killed_distillation_goes_on_as_if_nothing_had_happened(tmp_path, capsys):
    expected, weights = resumable(None)
    for number in (1, 3):
        with killed_in_epoch(number), pytest.raises(Killed):
            resumable(tmp_path)
    ran = mock.Mock()
    begin = keras.callbacks.LambdaCallback(on_epoch_begin=ran)
    fit = keras.Model.fit
    with mock.patch.object(
        keras.Model,
        "fit",
        lambda self, *args, callbacks, **kwargs: fit(
            self, *args, callbacks=[*callbacks, begin], **kwargs
        ),
    ):
        history, found = resumable(tmp_path)
    assert ran.call_count == 2
    assert history == expected
    for value, other in zip(found, weights, strict=True):
        np.testing.assert_array_equal(value, other)
    with mock.patch.object(keras.Model, "fit", side_effect=AssertionError):
        history, found = resumable(tmp_path)  # it is complete
        assert history == expected
        for value, other in zip(found, weights, strict=True):
            np.testing.assert_array_equal(value, other)
        with pytest.raises(ValueError, match="`folder`.*'epochs': 4.*'epochs': 5.*of its own"):
            resumable(tmp_path, epochs=5)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    history, _ = resumable(tmp_path)
    assert history == expected
    assert "distillation.npz.damaged" in capsys.readouterr().err


def test_layers_can_be_converted_and_adapted_in_turn():
    teacher = make_net()
    macs = 0.6 * profile(teacher).macs
    student, _ = convert.to_separable(teacher, rank=2, keep=["second"], data=X)
    assert isinstance(student.get_layer("second"), layers.Conv1D)
    convert.distill(student, teacher, X, epochs=1, features=["first"], **QUIET)
    adapted = output_of(student, X)
    student, (report,) = convert.to_separable(student, macs=macs, data=X)
    assert report.name.endswith("second") and not np.allclose(output_of(student, X), adapted)
    assert profile(student).macs <= macs
    history = convert.distill(student, teacher, X, epochs=2, features=["first", "second"], **QUIET)
    assert history["loss"][-1] < history["loss"][0]


# Mistakes


def test_distillation_says_what_is_wrong():
    def net(classes):
        return keras.Sequential([keras.Input((6, 2)), layers.Flatten(), layers.Dense(classes)])

    x = np.ones((4, 6, 2), "float32")
    for student, arguments, message in (
        (net(2), {}, r"`student` argument must be.*\(None, 3\).*\(None, 2\)"),
        (net(3), {"temperature": 0}, "argument `temperature`. Expected a positive number"),
        (net(3), {"epochs": 0}, "argument `epochs`. Expected a strictly positive value"),
        (net(3), {"warmup": 1}, r"argument `warmup`. Expected a number in \[0, 1\)"),
        (net(3), {"ema_momentum": 1}, r"argument `ema_momentum`. Expected a number in \[0, 1\)"),
        (net(3), {"label_weight": 2}, r"argument `label_weight`. Expected a number in \[0, 1\]"),
        (net(3), {"label_weight": 1}, "With `label_weight`, the `data` .*Received: no labels"),
        (net(3), {"features": "dense"}, "`features` argument must hold names of layers, or pairs"),
        (net(3), {"features": [("a",)]}, "`features` argument must hold names of layers, or pairs"),
        (net(3), {"augmentation": "flip"}, "`augmentation` argument must be a Keras layer or"),
        (net(3), {"augmentation": lambda x: x[:, 1:]}, "`data` argument must be inputs of the"),
        (net(3), {"validation_data": x[:, 1:]}, "`validation_data` argument must be inputs of"),
        (net(3), {"seed": -1}, "`seed` argument must be an integer from 0"),
    ):
        with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
            convert.distill(student, net(3), x, **QUIET, **arguments)
    inputs = keras.Input((6, 2))
    two = keras.Model(inputs, [inputs, layers.Dense(3)(inputs)])
    same = net(3)
    for student, data, message in (
        (two, x, "`student` argument must be a functional model.*one output"),
        (keras.Sequential([layers.Dense(3)]), np.ones((4, 2)), "`student` argument must be"),
        (
            net(3),
            [1, 2],
            "`data` argument, unless it comes in batches, must be NumPy.*: int, which",
        ),
        (net(3), [x, x[:3]], "with the same number of samples"),
        (net(3), x[:0], "`data` argument must be inputs of the models"),
        (same, x, "`student` argument must be a model without weights of the teacher"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.distill(student, same, data)
    with pytest.raises(ValueError, match="`features`.*same shape in both models.*'first', 'first'"):
        convert.distill(make_net(), make_net(width=16), X, features=["first"], **QUIET)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the same everywhere")
def test_data_without_an_end_are_refused():
    endless = tensorflow_dataset(X).repeat()
    with pytest.raises(ValueError, match="`data`.*known number of batches.*an unknown number"):
        convert.distill(make_net(1), make_net(2), endless)
    with pytest.raises(ValueError, match="`validation_data`.*known number of batches.*no batches"):
        convert.distill(make_net(1), make_net(2), X, validation_data=tensorflow_dataset(X).take(0))
