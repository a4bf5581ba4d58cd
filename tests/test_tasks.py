"""Tasks of `compare` beside one label: what is learned, measured and recorded, and what is refused.

Both nets of these comparisons are the same net. So whatever their budgets do not share shows.
"""

import dataclasses
import json
from functools import partial
from unittest import mock

import keras
import numpy as np
import pytest
from keras import layers

from sepconv_layers import Comparison, Frontier, Search, compare, frontier, search
from sepconv_layers.comparison import deployment, experiment, memory
from sepconv_layers.comparison.data import Epoch
from sepconv_layers.comparison.labels import labels_of
from sepconv_layers.comparison.task_choice import choose_task
from tests.test_comparison import no_training, without_timing

# Metrics of intersection over union ask JAX for 64-bit integers.
pytestmark = pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64")

SAMPLES, FRAMES, CHANNELS, CLASSES = 96, 8, 3, 3
X = np.random.default_rng(0).normal(size=(SAMPLES, FRAMES, CHANNELS)).astype("float32")
SIGNAL = X.mean(1)
FLOATS = SIGNAL[:, 0] * 3 - SIGNAL[:, 1] * 2 + 5
TAGS = (SIGNAL > [0, 0.1, 0.2]).astype(int)
FRAME_CLASSES = X.argmax(-1)
RARE = np.digitize(SIGNAL[:, 0], [0.2, 0.5])  # fewer and fewer
GRADES = np.digitize(SIGNAL[:, 0], [-0.2, 0.2])
WEIGHTS = np.linspace(0.1, 2, SAMPLES).astype("float32")
WITH_LOGITS = {"from_logits": True}


@pytest.fixture(autouse=True)
def _without_timing():
    with without_timing():
        yield


def build(conv, outputs=1, width=4, is_dense=False, end=None):
    """The same net by both names."""
    head = [] if is_dense else [layers.GlobalAveragePooling1D()]
    return keras.Sequential(
        [
            keras.Input((FRAMES, CHANNELS)),
            layers.Conv1D(width, 3, padding="same", activation="tanh"),
            *head,
            layers.Dense(outputs, activation=end),
        ],
        name="net",
    )


def parts_of(labels, *weights, x=X):
    cuts = {"train": slice(64), "val": slice(64, 80), "test": slice(64, None)}
    return {name: tuple(each[cut] for each in (x, labels, *weights)) for name, cut in cuts.items()}


TASKS = {
    "regression": (FLOATS, {}, {"outputs": 1}),
    "several labels": (TAGS, {}, {"outputs": 3}),
    "frames": (FRAME_CLASSES, {}, {"outputs": CLASSES, "is_dense": True}),
    "imbalance": (RARE, {"class_weight": "balanced"}, {"outputs": CLASSES}),
    "grades": (GRADES, {"loss": keras.losses.Huber(), "metrics": "mae"}, {"outputs": 1}),
}


def compare_task(kind, *weights, **changes):
    labels, settings, net = TASKS[kind]
    brief = {"epochs": 2, "batch_size": 16, "seeds": 1, "learning_rate": 0.03, "progress": False}
    arguments = {"data": parts_of(labels, *weights), "build": partial(build, **net)}
    return compare(**arguments | brief | settings | changes)


def auc(labels, scores):
    """The area under the ROC curve: the share of pairs in the right order."""
    gaps = scores[labels == 1][:, None] - scores[labels == 0][None]
    return np.mean((gaps > 0) + 0.5 * (gaps == 0))


def measured(kind, labels, outputs):
    """The metric of a task, and what the report says of each class, by NumPy."""
    if kind in ("regression", "grades"):
        return np.abs(outputs[:, 0] - labels).mean()
    if kind == "several labels":
        return np.mean([auc(labels[:, tag], outputs[:, tag]) for tag in range(3)])
    decided = outputs.argmax(-1)
    if kind == "imbalance":
        return np.mean(decided == labels)
    both = [((decided == k) & (labels == k)).sum() for k in range(CLASSES)]
    either = [((decided == k) | (labels == k)).sum() for k in range(CLASSES)]
    return np.mean(np.divide(both, either))


def constant(kind, labels):
    """Outputs that are best without the inputs."""
    if kind in ("regression", "grades"):
        return np.full((len(labels), 1), labels.mean())
    if kind == "several labels":
        return np.broadcast_to(labels.mean(0), labels.shape)
    return np.eye(CLASSES)[np.full(labels.shape, np.bincount(labels.ravel()).argmax())]


METRICS = {
    "regression": ("mean_absolute_error", "min"),
    "several labels": ("auc", "max"),
    "frames": ("mean_iou", "max"),
    "imbalance": ("accuracy", "max"),
    "grades": ("mean_absolute_error", "min"),
}


def histories(folder):
    """The history and the weights of each run, by net."""
    found = {"separable": [], "standard": []}
    for path in sorted(folder.glob("runs/*/seed-*.json")):
        history = json.loads(path.read_text())["history"]
        history = [{**epoch, "seconds": None} for epoch in history]
        weights = keras.models.load_model(path.with_suffix(".keras")).get_weights()
        found[path.parent.name.split("-")[0]].append((history, [w.tolist() for w in weights]))
    return found


@pytest.mark.parametrize("kind", TASKS)
def test_a_task_is_learned_measured_and_recorded(kind, tmp_path):
    result = compare_task(kind, output=tmp_path)
    name, mode = METRICS[kind]
    assert result.metric == {"name": name, "mode": mode}
    runs = histories(tmp_path)
    assert runs["separable"] == runs["standard"], "the twins had different budgets"
    separable, standard = result.rows
    assert separable.score == standard.score and separable.per_class == standard.per_class

    x, labels = parts_of(TASKS[kind][0])["test"]
    outputs = result.models["separable"].predict(x, verbose=0)
    tolerance = {"abs": 0.02 if kind == "several labels" else 1e-5}  # Keras adds up trapezoids
    expected = measured(kind, labels, outputs)
    assert separable.score["mean"] == pytest.approx(expected, **tolerance)
    baseline = measured(kind, labels, constant(kind, labels))
    assert result.test_part[name] == pytest.approx(baseline, **tolerance)

    assert Comparison.load(tmp_path) == result
    text = (tmp_path / "report.md").read_text()
    assert f"test {name.replace('_', ' ')}" in text and result.test_part["constant"] in text
    assert ("accuracy" in text.lower()) == (kind == "imbalance")
    with no_training():
        assert compare_task(kind, output=tmp_path).rows == result.rows


def other_epochs(training):
    return dataclasses.replace(training, epochs=training.epochs + 1)


def other_task(training, **changes):
    return dataclasses.replace(training, task=dataclasses.replace(training.task, **changes))


def other_part(parts):
    return {**parts, "train": parts["train"][:2]}


BUDGETS = {
    "epochs": ("regression", (), other_epochs, dict),
    "loss": ("regression", (), partial(other_task, loss=keras.losses.Huber()), dict),
    "class weights": ("imbalance", (), partial(other_task, class_weight=None), dict),
    "sample weights": ("several labels", (WEIGHTS,), lambda training: training, other_part),
}


@pytest.mark.parametrize("change", BUDGETS)
def test_another_budget_of_a_twin_would_show(change, tmp_path):
    kind, weights, of_training, of_parts = BUDGETS[change]
    run = experiment.run

    def unequal(build, conv, seed, parts, training, *rest):
        if conv == "standard":
            parts, training = of_parts(parts), of_training(training)
        return run(build, conv, seed, parts, training, *rest)

    with mock.patch.object(experiment, "run", unequal):
        compare_task(kind, *weights, seeds=1, epochs=1, output=tmp_path)
    runs = histories(tmp_path)
    assert runs["separable"] != runs["standard"]


@pytest.mark.parametrize("kind", TASKS)
def test_the_loss_of_a_step_is_weighted_as_it_should_be(kind):
    """By class in the training alone, by sample everywhere."""
    seen = []

    def spy(build, conv, seed, parts, training, folder, *rest):
        keras.utils.set_random_seed(0)
        trainer = training.trainer(build(conv), parts["train"][0], False)
        batch = Epoch(parts["train"], dataclasses.replace(training, batch_size=64))[0]
        outputs = keras.ops.convert_to_numpy(trainer(batch[0], training=False))
        seen.append((training.task, outputs, float(trainer.test_on_batch(*batch)[0])))
        seen.append((training.task, outputs, float(trainer.train_on_batch(*batch)[0])))
        raise Seen

    with mock.patch.object(experiment, "run", spy), pytest.raises(Seen):
        compare_task(kind, WEIGHTS)
    labels, weights = TASKS[kind][0][:64], WEIGHTS[:64]
    for (task, outputs, found), is_training in zip(seen, (False, True), strict=True):
        by_class = np.asarray(task.class_weight)[labels] if task.class_weight else 1.0
        values = losses(kind, labels, outputs)
        weight = np.broadcast_to((weights * (by_class if is_training else 1.0)).T, values.T.shape).T
        assert found == pytest.approx(np.mean(weight * values), rel=1e-4)
    if kind == "imbalance":
        shares = np.bincount(labels, weights) / weights.sum()
        np.testing.assert_allclose(task.class_weight, 1 / (CLASSES * shares), rtol=1e-4)


class Seen(Exception):
    """Raised in place of training."""


def losses(kind, labels, outputs):
    """The loss of each sample, by NumPy."""
    if kind == "regression":
        return (outputs[:, 0] - labels) ** 2
    if kind == "grades":
        errors = np.abs(outputs[:, 0] - labels)
        return np.where(errors < 1, errors**2 / 2, errors - 0.5)
    if kind == "several labels":
        return np.mean(np.log1p(np.exp(outputs)) - labels * outputs, -1)
    logs = outputs - np.log(np.exp(outputs).sum(-1, keepdims=True))
    return -np.take_along_axis(logs, labels[..., None], -1)[..., 0]


def test_metrics_get_probabilities_and_labels_as_they_take_them():
    metrics = [
        keras.metrics.SparseCategoricalAccuracy(),
        keras.metrics.CategoricalAccuracy(),
        keras.metrics.CategoricalCrossentropy(**WITH_LOGITS, name="entropy"),
        keras.metrics.F1Score(average="macro"),
    ]
    rng = np.random.default_rng(0)
    labels, logits = RARE, rng.normal(size=(SAMPLES, CLASSES)).astype("float32")
    facts = labels_of(RARE, "labels")
    for loss in (None, keras.losses.SparseCategoricalCrossentropy(**WITH_LOGITS)):
        settings = {"loss": loss, "metrics": metrics, "monitor": "val_f1_score"}
        task = choose_task(facts, {"train": (X, labels)}, None, **settings)
        assert (task.monitor, task.mode) == ("f1_score", "max")
        found = task.measure(lambda x: x, [(logits[:50], labels[:50]), (logits[50:], labels[50:])])
        right = np.mean(logits.argmax(-1) == labels)
        assert found["sparse_categorical_accuracy"] == pytest.approx(right)
        assert found["categorical_accuracy"] == pytest.approx(right)
        entropy = losses("imbalance", labels, logits).mean()
        assert found["entropy"] == pytest.approx(entropy, rel=1e-4)
        assert found["loss"] == pytest.approx(entropy, rel=1e-4)
        figures = task.figures(task.tally(labels, logits, np.ones(SAMPLES)))
        f1 = np.mean([row["f1"] for row in figures.values()])
        assert found["f1_score"] == pytest.approx(f1, abs=1e-5)


@pytest.mark.parametrize(
    ("monitor", "better"), [("loss", min), (("mean_squared_error", "max"), max)]
)
def test_what_is_monitored_chooses_the_epoch(monitor, better, tmp_path):
    settings = {
        "metrics": ["mae", "MeanSquaredError"],
        "monitor": monitor,
        "epochs": 4,
        "convs": "standard",
    }
    result = compare_task("regression", **settings, output=tmp_path)
    name = result.metric["name"]
    for path in tmp_path.glob("runs/*/*.json"):
        run = json.loads(path.read_text())
        values = [epoch[f"val_{name}"] for epoch in run["history"]]
        assert run["best"][f"val_{name}"] == better(values)
        model = keras.models.load_model(path.with_suffix(".keras"))
        x, labels = parts_of(FLOATS)["val"]
        error = np.mean((model.predict(x, verbose=0)[:, 0] - labels) ** 2)
        assert error == pytest.approx(better(values), rel=1e-4)


def test_binary_masks_and_functions_may_be_given():
    def distance(labels, outputs):
        return keras.ops.abs(labels - outputs)

    mask = (X[..., :1] > 0).astype("uint8")
    arguments = {
        "loss": "binary_crossentropy",
        "metrics": ["accuracy", distance],
    }
    net = partial(build, is_dense=True, end="sigmoid")
    data = parts_of(mask)
    (row,) = compare_task("frames", data=data, build=net, convs="standard", **arguments).rows
    assert set(row.scores) == {"distance"} and row.accuracy["mean"] > 0.5
    assert np.sum(row.confusion) == 32 * FRAMES


def test_labels_and_weights_may_be_files(tmp_path):
    kind = "frames"
    labels = TASKS[kind][0].astype("uint8")
    one = {"epochs": 1, "convs": "standard"}
    expected = compare_task(kind, data=parts_of(labels, WEIGHTS), **one)
    for name, array in (("x", X), ("y", labels), ("w", WEIGHTS)):
        np.save(tmp_path / f"{name}.npy", array)
    x, y, w = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xyw")
    found = compare_task(kind, data=parts_of(y, w, x=x), **one)
    assert found.rows[0].score == expected.rows[0].score
    assert found.test_part == expected.test_part


def test_frontier_and_search_choose_by_the_metric(tmp_path, monkeypatch):
    monkeypatch.setattr(deployment, "unavailable", lambda: "No files here.")
    monkeypatch.setattr(memory, "train_peak_bytes", lambda model, part, training: None)
    data = parts_of(FLOATS)
    brief = {"epochs": 1, "seeds": 1, "batch_size": 16, "learning_rate": 0.03, "progress": False}

    def sized(conv, size):
        return build(conv, width=int(4 * size))

    result = frontier(sized, data, (1, 2), output=tmp_path / "frontier", **brief)
    best = result.best()
    assert best.validated["mean"] == min(row.validated["mean"] for row in result.rows)
    front = result.front("macs")
    assert front[-1].score["mean"] == min(row.score["mean"] for row in result.rows)
    one, other = result.family("separable")
    gap = result.difference(one, other).mean
    assert gap == pytest.approx(other.score["mean"] - one.score["mean"], abs=1e-4)
    assert result.margin("macs").mean == 0  # the nets are the same
    assert Frontier.load(tmp_path / "frontier") == result
    assert "points" not in str(result) and "mean absolute error" in str(result)

    pytest.importorskip("optuna")
    space = {"width": [1, 8]}
    found = search(
        build, data, space, trials=2, convs="standard", output=tmp_path / "search", **brief
    )
    trained = [trial for trial in found.trials if trial.conv == "standard"]
    assert found.best("standard").score == min(trial.score for trial in trained)
    assert all(trial.val_accuracy is None for trial in trained)
    assert Search.load(tmp_path / "search") == found


class OwnStep(keras.Sequential):
    def train_step(self, *args):
        return {}


@keras.saving.register_keras_serializable("tests")
class Count(keras.metrics.Metric):
    """Tells nothing of the outputs."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        pass

    def result(self):
        return keras.ops.ones(())


ONE_HOT = np.eye(CLASSES)[RARE]
CROSSENTROPY = keras.losses.CategoricalCrossentropy(**WITH_LOGITS)
BAD = {
    "one-hot labels": ("frames", {"data": parts_of(ONE_HOT)}, "one-hot.*argmax.*BinaryCross"),
    "another number of classes": (
        "several labels",
        {"data": {**parts_of(TAGS), "classes": 2}},
        "`classes`.*3 names.*Received: 2.*SparseCategoricalCrossentropy",
    ),
    "classes in a column": ("frames", {"data": parts_of(RARE[:, None])}, r"length 1.*y\[:, 0\]"),
    "numbers as classes": ("regression", {"loss": CROSSENTROPY}, "integers.*floats"),
    "numbers as tags": ("grades", {"loss": "binary_crossentropy"}, "0 or 1.*from 0 to 2"),
    "parts that differ": (
        "regression",
        {"data": {**parts_of(FLOATS), "val": (X[:4], RARE[:4])}},
        "'val' part must be floats.*integers",
    ),
    "labels that are not finite": (
        "regression",
        {"data": parts_of(np.where(FLOATS > 5, np.nan, FLOATS))},
        "'train' part must be finite",
    ),
    "texts": ("regression", {"data": parts_of(FLOATS.astype(str))}, "numbers.*Received: dtype"),
    "outputs that do not fit": (
        "regression",
        {"build": partial(build, outputs=3)},
        r"one number for each label.*\(batch, 1\).*\(batch, 3\).*Dense\(1\).*integers are class",
    ),
    "a net for one label": (
        "frames",
        {"build": partial(build, outputs=3)},
        r"one logit for each of 3 classes.*\(batch, 8, 3\)",
    ),
    "logits for probabilities": (
        "several labels",
        {"loss": "binary_crossentropy"},
        "probabilities.*from_logits=False.*sigmoid",
    ),
    "its own step": (
        "regression",
        {"build": lambda conv: OwnStep(build(conv).layers)},
        "must not have its own `train_step`.*OwnStep",
    ),
    "an unknown loss": ("regression", {"loss": "mistake"}, "`loss` must be.*'mistake'"),
    "an unknown metric": ("regression", {"metrics": "mistake"}, "`metrics` must be.*'mistake'"),
    "no metric": ("regression", {"metrics": []}, "`metrics` must be"),
    "a metric twice": ("regression", {"metrics": ["mae", "mae"]}, "`metrics` must be"),
    "an unknown monitor": ("regression", {"monitor": "auc"}, "`monitor` must be.*'loss'.*'auc'"),
    "a metric that tells nothing": ("regression", {"metrics": Count()}, "`monitor`.*'count'"),
    "a metric of each class": ("imbalance", {"metrics": keras.metrics.F1Score()}, "one number"),
    "smoothing of another loss": (
        "imbalance",
        {"loss": CROSSENTROPY, "label_smoothing": 0.1},
        "`label_smoothing` is of the default loss",
    ),
    "smoothing of numbers": ("regression", {"label_smoothing": 0.1}, "`label_smoothing` must be 0"),
    "weights of an unknown class": ("imbalance", {"class_weight": {7: 1}}, "`class_weight` must"),
    "weights of numbers": ("regression", {"class_weight": {0: 1}}, "`class_weight` must.*number"),
    "weights of another length": (
        "regression",
        {"data": parts_of(FLOATS) | {"val": (X[:4], FLOATS[:4], WEIGHTS[:3])}},
        r"sample weights of the 'val' part.*\(4,\).*shape=\(3,\)",
    ),
    "negative weights": ("regression", {"data": parts_of(FLOATS, -WEIGHTS)}, "at least 0"),
    "a class to ignore": (
        "frames",
        {"loss": keras.losses.SparseCategoricalCrossentropy(**WITH_LOGITS, ignore_class=2)},
        "ignore_class=2.*weight of 0",
    ),
    "mixed samples with weights": (
        "imbalance",
        {"data": parts_of(RARE, WEIGHTS), "mixing": layers.MixUp(0.2)},
        "`mixing` must be missing where samples have weights",
    ),
    "mixed integers": (
        "imbalance",
        {"loss": "sparse_categorical_crossentropy", "mixing": layers.MixUp(0.2)},
        "`mixing` must be missing where the loss takes integers",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    kind, changes, message = BAD[name]
    with no_training(), pytest.raises(ValueError, match=f"(?s){message}"):
        compare_task(kind, **changes)
