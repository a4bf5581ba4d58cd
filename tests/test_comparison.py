"""`compare` on a toy problem: what it records, what it survives and what it refuses."""

import contextlib
import functools
import itertools
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import keras
import numpy as np
import pytest
from keras import layers
from matplotlib.figure import Figure

from examples import summary
from sepconv_layers import Conv2D, SeparableConv2D, files, timing
from sepconv_layers.comparison import Comparison, compare, recipe, speed
from sepconv_layers.comparison.recipe import Training
from sepconv_layers.comparison.speed import measure
from sepconv_layers.comparison.task_choice import classification
from sepconv_layers.cost import profile
from tests.backends import BACKEND

CONVS = ("separable", "standard")
EPOCHS = 3
CLASSES = 3
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])


def make_part(samples, seed):
    """Noisy images with a cross somewhere. The label is the channel that it is in."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(0, 0.3, (samples, 6, 6, CLASSES)), np.arange(samples) % CLASSES
    for image, label in zip(x, y, strict=True):
        row, column = rng.integers(0, 4, 2)
        image[row : row + 3, column : column + 3, label] += CROSS
    return x.astype("float32"), y


DATA = {"train": make_part(192, 1), "val": make_part(48, 2), "test": make_part(48, 3)}


def changed(part, x=np.copy, y=np.copy):
    """The data with changed inputs or labels in one part."""
    return {**DATA, part: (x(DATA[part][0]), y(DATA[part][1]))}


def build(conv, filters=8, name=None, rate=0.1, seed=None, end=()):
    """A net with all kinds of state: weights, moving averages and random numbers."""
    convolution = {"separable": SeparableConv2D, "standard": Conv2D}[conv]
    stages = [
        convolution(filters, 3),
        layers.BatchNormalization(momentum=0.8),
        layers.Activation("relu", name=name),
        layers.Dropout(rate, seed=seed),
        layers.GlobalAveragePooling2D(),
        layers.Dense(CLASSES),
    ]
    return keras.Sequential([keras.Input((6, 6, CLASSES)), *stages, *end], name=f"{conv}_net")


def build_with(**changes):
    return functools.partial(build, **changes)


def add_noise(stddev=0.1, seed=None):
    return keras.Sequential([layers.GaussianNoise(stddev, seed=seed)])


def compare_toy(**changes):
    arguments = {
        "build": build,
        "data": DATA,
        "epochs": EPOCHS,
        "batch_size": 16,
        "seeds": 2,
        "learning_rate": 0.03,
        "augmentation": add_noise(),
        "progress": False,
    }
    return compare(**arguments | changes)


def without_timing():
    """Replaces the measurement by some numbers."""

    def numbers(build, convs, part, training, sizes, jit_compile):
        times = {"infer_ms": dict.fromkeys(sizes, 1.0), "infer_mode": dict.fromkeys(sizes, "graph")}
        return {conv: {**times, "train_step_ms": 2.0, "train_mode": "graph"} for conv in convs}

    return mock.patch.object(speed, "measure", numbers)


@contextlib.contextmanager
def with_brief_timing():
    brief = {"SECONDS_PER_CALL": 0.01, "SECONDS_PER_TURN": 0.001, "FEWEST_TURNS": 3}
    with mock.patch.multiple(timing, **brief), mock.patch.object(speed, "measure", measure):
        yield


@pytest.fixture(autouse=True)
def _without_timing():
    with without_timing():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A comparison of both nets with two seeds, with all its files and real times."""
    directory = tmp_path_factory.mktemp("finished") / "results"
    words = {"task": "Toy", "dataset": "crosses", "command": "make toy"}
    with with_brief_timing():
        result = compare_toy(output=directory, **words, jit_compile=False)  # XLA takes long
    return SimpleNamespace(directory=directory, result=result)


@pytest.fixture
def copy(finished, tmp_path):
    """The files of `finished`, to work on."""
    return Path(shutil.copytree(finished.directory, tmp_path / "copy"))


class Trains(Exception):
    """Raised in place of training."""


def no_training():
    refuse = mock.Mock(side_effect=Trains)
    return mock.patch.multiple(keras.Model, fit=refuse, evaluate=refuse)


def count_epochs():
    return mock.patch.object(keras.Model, "fit", autospec=True, side_effect=keras.Model.fit)


def within_epoch(number, action):
    """Calls `action` after the first step of the so-manyth epoch from now on."""
    fit, numbers = keras.Model.fit, itertools.count(1)

    def fit_with_action(self, *args, callbacks=(), **kwargs):
        act = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: action())
        callbacks = [*callbacks, *[act] * (next(numbers) == number)]
        return fit(self, *args, callbacks=callbacks, **kwargs)

    return mock.patch.object(keras.Model, "fit", fit_with_action)


def accuracy_of(model, part):
    x, y = part
    return np.mean(model.predict(x, verbose=0).argmax(-1) == y)


def accuracies(result):
    return {row.conv: row.accuracy for row in result.rows}


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def runs_in(directory):
    """What became of each run: accuracy, history without durations, and weights."""
    runs = {}
    for path in sorted(directory.glob("runs/*/seed-*.json")):
        record = json.loads(path.read_text())
        history = [{**epoch, "seconds": None} for epoch in record["history"]]
        weights = keras.models.load_model(path.with_suffix(".keras")).get_weights()
        run = record["accuracy"], history, [weight.tolist() for weight in weights]
        runs[str(path.relative_to(directory))] = run
    return runs


# The record


def test_the_record_has_these_fields_and_no_others(finished):
    record = json.loads((finished.directory / "results.json").read_text())
    assert set(record) == {
        "task", "dataset", "command", "device", "backend", "versions", "wall_seconds", "budget",
        "mac_ratio", "speedup", "realized_fraction", "rows", "notes", "test_part",
    }  # fmt: skip
    assert (record["task"], record["dataset"], record["command"]) == ("Toy", "crosses", "make toy")
    assert record["backend"] == BACKEND and record["device"] and record["wall_seconds"] > 0
    assert record["versions"]["keras"] == keras.__version__ and BACKEND in record["versions"]
    assert record["budget"] == {
        "epochs": EPOCHS, "batch_size": 16, "seeds": [0, 1], "training_samples": 192,
    }  # fmt: skip
    assert set(record["speedup"]) == set(record["realized_fraction"]) == {"infer", "train"}
    for row, conv in zip(record["rows"], CONVS, strict=True):
        assert set(row) == {
            "conv", "model", "params", "macs", "accuracy", "infer_ms", "infer_mode",
            "train_step_ms", "train_mode", "artifacts", "embedding_params",
        }  # fmt: skip
        assert (row["conv"], row["model"]) == (conv, f"{conv}_net")
        assert set(row["accuracy"]) == {"mean", "std", "per_seed"}
        assert set(row["infer_ms"]) == set(row["infer_mode"]) == {"1", "16"}
        assert set(row["artifacts"]) == {"keras"}
        assert set(row["artifacts"]["keras"]) == {"seed", "bytes", "max_difference", "agreement"}


def test_the_numbers_agree(finished):
    result = finished.result
    for row in result.rows:
        model = build(row.conv)
        assert row.params == model.count_params() and row.macs == profile(model).macs
        per_seed = row.accuracy["per_seed"]
        assert len(per_seed) == 2 and row.accuracy["mean"] == pytest.approx(np.mean(per_seed))
        assert row.accuracy["std"] == pytest.approx(statistics.stdev(per_seed), abs=1e-6)
        assert min(row.train_step_ms, *row.infer_ms.values()) > 0
        assert {row.train_mode, *row.infer_mode.values()} <= set(timing.MODES[BACKEND])
    separable, standard = result.rows
    assert result.mac_ratio == pytest.approx(standard.macs / separable.macs, rel=1e-4)
    speedup = {
        "infer": standard.infer_ms[16] / separable.infer_ms[16],
        "train": standard.train_step_ms / separable.train_step_ms,
    }
    assert result.speedup == pytest.approx(speedup, abs=1e-4)
    realized = {key: value / result.mac_ratio for key, value in speedup.items()}
    assert result.realized_fraction == pytest.approx(realized, abs=1e-4)


def test_what_is_loaded_equals_what_was_saved(finished, tmp_path):
    for path in (finished.directory, str(finished.directory / "results.json")):
        assert Comparison.load(path) == finished.result
    Comparison.load(finished.directory).save(tmp_path)
    for name in ("results.json", "report.md"):
        assert (tmp_path / name).read_bytes() == (finished.directory / name).read_bytes()


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{}", b'{"rows": [{}]}', b'{"rows": [], "more": 1}', b"\xff{}", b"[" * 100_000],
)
def test_what_is_no_record_is_refused(text, tmp_path):
    (tmp_path / "results.json").write_bytes(text)
    with pytest.raises(ValueError, match="must be a results.json as `compare` writes it"):
        Comparison.load(tmp_path)


def test_the_texts_hold_the_numbers(finished):
    result = finished.result
    report = (finished.directory / "report.md").read_text()
    for text in (str(result), result.to_markdown(), report):
        for row in result.rows:
            line = next(line for line in text.splitlines() if row.conv in line)
            mean, std = row.accuracy["mean"], row.accuracy["std"]
            cells = [f"{mean:.4f} ± {std:.4f}", f"{row.params:,}", f"{row.macs / 1e6:,.2f} M"]
            cells += [f"{ms:.2f}" for ms in (*row.infer_ms.values(), row.train_step_ms)]
            assert re.search(".*".join(map(re.escape, cells)), line)
        assert f"{result.mac_ratio:.2f} times fewer MACs" in text
        for key in ("infer", "train"):
            gain = f"{result.speedup[key]:.2f} times as fast ({result.realized_fraction[key]:.0%}"
            assert gain in text
    assert report.startswith("# Toy: crosses") and "make toy" in report
    for fact in (*result.versions.values(), result.device, "192 training samples"):
        assert fact in report


def test_the_files_are_what_the_record_says(finished):
    png = (finished.directory / "comparison.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and png.endswith(b"IEND\xaeB`\x82")
    for row in finished.result.rows:
        path, artifact = finished.directory / f"{row.conv}.keras", row.artifacts["keras"]
        assert path.stat().st_size == artifact["bytes"]
        assert artifact["max_difference"] == pytest.approx(0, abs=1e-5)
        assert artifact["agreement"] == 1
        accuracy = row.accuracy["per_seed"][artifact["seed"]]
        for model in (keras.models.load_model(path), finished.result.models[row.conv]):
            assert accuracy_of(model, DATA["test"]) == pytest.approx(accuracy, abs=1e-6)


def test_one_net_and_one_seed_have_no_ratios_and_no_spread(tmp_path):
    result = compare_toy(
        data=SimpleNamespace(**DATA, classes=["red", "green", "blue"]),
        convs="separable",
        seeds=[np.int64(7)],  # NumPy's integers do for all counts
        epochs=np.int64(1),
        batch_size=np.int32(32),
        infer_batch_sizes=[np.uint8(4)],
        output=tmp_path,
    )
    assert (result.mac_ratio, result.speedup, result.realized_fraction) == (None, {}, {})
    assert result == Comparison.load(tmp_path) and "±" not in str(result)
    assert result.budget["seeds"] == [7] and list(result.rows[0].infer_ms) == [4]
    assert len(result.plot().axes) == 1


# The training


def test_both_nets_learn(finished):
    for accuracy in accuracies(finished.result).values():
        assert min(accuracy["per_seed"]) > 0.8  # 0.33 by chance


def test_the_seed_of_a_run_decides_and_nothing_around_it(finished, tmp_path):
    noise = add_noise(seed=5)
    result = compare_toy(convs=CONVS[::-1], seeds=[1], augmentation=noise, output=tmp_path)
    assert [row.conv for row in result.rows] == ["standard", "separable"]
    assert result.mac_ratio == finished.result.mac_ratio
    for conv, accuracy in accuracies(result).items():
        assert accuracy["per_seed"] == accuracies(finished.result)[conv]["per_seed"][1:]
    assert runs_in(tmp_path).items() <= runs_in(finished.directory).items()


def test_the_weights_of_the_best_validation_epoch_count():
    epochs, fit = [], keras.Model.fit

    def recording_fit(self, *args, **kwargs):
        fitted = fit(self, *args, **kwargs)
        score = fitted.history["val_accuracy"][0], -fitted.history["val_loss"][0]
        epochs.append((score, self.get_weights()))
        return fitted

    wrong = changed("val", y=lambda y: (y + 1) % CLASSES)  # the more is learned, the worse it gets
    with mock.patch.object(keras.Model, "fit", recording_fit):
        result = compare_toy(data=wrong, convs="separable", seeds=1)
    best_score, best_weights = max(epochs, key=lambda epoch: epoch[0])
    assert len(epochs) == EPOCHS and best_score > epochs[-1][0]
    model = result.models["separable"]
    for weight, expected in zip(model.get_weights(), best_weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
    accuracy = result.rows[0].accuracy["mean"]
    assert accuracy == pytest.approx(accuracy_of(model, DATA["test"]), abs=1e-6)


def test_models_may_be_built_by_their_first_inputs():
    def build(conv):
        return keras.Sequential([layers.Flatten(), layers.Dense(CLASSES)])

    with with_brief_timing():
        result = compare_toy(build=build, seeds=1, augmentation=None, jit_compile=False)
    assert [row.macs for row in result.rows] == [6 * 6 * 3 * CLASSES] * 2


def test_a_test_part_that_is_not_finite():
    def spoil(x):
        return np.where(np.arange(len(x)).reshape(-1, 1, 1, 1) == 5, np.nan, x)

    with pytest.raises(FloatingPointError, match="separable.*seed 3.*not finite on the test part"):
        compare_toy(data=changed("test", x=spoil), convs="separable", seeds=[3])


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_loss_that_is_not_finite(part):
    def spoil(x):
        return np.where(np.arange(len(x)).reshape(-1, 1, 1, 1) == 5, np.nan, x)

    with pytest.raises(FloatingPointError, match="separable.*seed 3.*nan.*Lower `learning_rate`"):
        compare_toy(data=changed(part, x=spoil), convs="separable", seeds=[3])


@pytest.mark.parametrize(("kind", "timed"), [(tuple, without_timing), (dict, with_brief_timing)])
def test_inputs_may_be_a_structure(kind, timed, capsys):
    def structure(a, b):
        return {"a": a, "b": b} if kind is dict else (a, b)

    def build(conv):
        a, b = keras.Input((4,), name="a"), keras.Input((5,), name="b")
        return keras.Model(structure(a, b), layers.Dense(2)(layers.Concatenate()([a, b])))

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(60, 4)), rng.normal(size=(60, 5))
    data = dict.fromkeys(DATA, (structure(a, b), (a[:, 0] + b[:, 0] > 0).astype(int)))
    arguments = {"convs": "standard", "seeds": 1, "augmentation": None, "learning_rate": 0.3}
    with timed():
        (row,) = compare_toy(build=build, data=data, **arguments).rows
    assert row.macs == (4 + 5) * 2 and row.accuracy["mean"] > 0.8
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has strings")
def test_inputs_may_be_strings(tmp_path):
    def build(conv):
        text = keras.Input((), dtype="string")
        indices = layers.TextVectorization(vocabulary=["bad", "good"], output_sequence_length=3)
        logits = layers.Dense(2)(layers.Flatten()(layers.Embedding(4, 2)(indices(text))))
        return keras.Model(text, logits)

    part = np.array(["a bad film", "a good film"] * 30), np.arange(60) % 2
    arguments = {"seeds": 1, "augmentation": None, "output": tmp_path}
    result = compare_toy(build=build, data=dict.fromkeys(DATA, part), **arguments)
    assert [row.accuracy["mean"] for row in result.rows] == [1, 1]
    assert [row.embedding_params for row in result.rows] == [8, 8]
    assert "| 8 + 14 |" in result.to_markdown()


def test_artifacts_and_notes_may_be_added(finished, tmp_path):
    result = Comparison.load(finished.directory)
    for row in result.rows:
        row.artifacts["int8"] = {"bytes": 12_345}
    result.notes.append("Hears 7 words a second.")
    result.save(tmp_path)
    assert Comparison.load(tmp_path) == result
    for text in (str(result), (tmp_path / "report.md").read_text()):
        assert "int8 kB" in text and "Hears 7 words a second." in text
        lines = [line.strip("| ") for line in text.splitlines()]
        rows = [line for line in lines if line.startswith(CONVS)]
        assert len(rows) == 2 and all(row.split()[-1] == "12" for row in rows)


def test_a_summary_has_the_columns_that_hold_something(finished):
    result = Comparison.load(finished.directory)
    assert "int8" not in summary.table([result]) and "arena" not in summary.table([result])
    for row, size in zip(result.rows, (30_000, 60_000), strict=True):
        row.artifacts["int8"] = {"bytes": size, "accuracy": 0.5}
        row.artifacts["micro"] = {"flash_bytes": size, "arena_bytes": 2048}
    header, _, row = summary.table([result]).splitlines()
    assert "int8 accuracy | flash kB | arena KiB" in header
    assert "| 30 / 60 | 0.5000 / 0.5000 | 30 / 60 | 2 / 2 |" in row
    assert "arena" not in summary.table([result], summary.SHORT)


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    folder, file = tmp_path / "net-hub", tmp_path / "net.json"

    def make(text, beside):
        beside.mkdir()
        (beside / text).write_text(text)

    for text in ("old", "new"):
        files.write(folder, functools.partial(make, text))
        files.write_text(file, text)

    def fail(beside):
        beside.mkdir()
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        files.write(folder, fail)
    assert sorted(tmp_path.iterdir()) == [folder, file] and file.read_text() == "new"
    assert [path.read_text() for path in folder.iterdir()] == ["new"]


# Interruptions


def kill(output):
    """Kills a process in the middle of the second epoch."""
    script = """if True:
        import os, pathlib, signal, sys
        from tests.test_comparison import compare_toy, within_epoch, without_timing

        with without_timing(), within_epoch(2, lambda: os.kill(os.getpid(), signal.SIGKILL)):
            compare_toy(convs="separable", seeds=1, output=pathlib.Path(sys.argv[1]))
    """
    root = Path(__file__).parents[1]
    process = subprocess.run([sys.executable, "-c", script, output], cwd=root, check=False)
    assert process.returncode == -signal.SIGKILL


def fill_the_disk(output):
    """Fails to write the state after the second epoch."""
    savez, numbers = np.savez, itertools.count(1)

    def savez_or_half(path, *args, **kwargs):
        savez(path, *args, **kwargs)
        if next(numbers) == 2:
            os.truncate(path, path.stat().st_size // 2)
            raise OSError("No space left on device")

    with mock.patch.object(np, "savez", savez_or_half), pytest.raises(OSError, match="No space"):
        compare_toy(convs="separable", seeds=1, output=output)


@pytest.mark.parametrize("interrupt", [kill, fill_the_disk])
def test_an_interrupted_run_ends_as_if_it_had_not_been(interrupt, finished, tmp_path):
    interrupt(tmp_path)
    assert not runs_in(tmp_path)
    with count_epochs() as epochs:
        result = compare_toy(convs="separable", seeds=1, output=tmp_path)
    assert epochs.call_count == EPOCHS - 1
    ((name, run),) = runs_in(tmp_path).items()
    assert run == runs_in(finished.directory)[name]
    assert result.rows[0].accuracy["per_seed"] == [run[0]]
    assert not list(tmp_path.rglob("*.npz"))


def test_more_seeds_train_only_the_new_ones(finished, copy):
    for path in copy.glob("runs/*/seed-1.*"):
        path.unlink()
    before = contents(copy / "runs")
    with count_epochs() as epochs:
        result = compare_toy(output=copy, convs="separable")
    assert epochs.call_count == EPOCHS
    assert result.rows[0].accuracy == finished.result.rows[0].accuracy
    assert before.items() <= contents(copy / "runs").items()


COSMETICS = {
    "words": {"task": "Another", "dataset": "of another name", "command": "another"},
    "batch sizes to time": {"infer_batch_sizes": [3]},
    "name of a layer": {"build": build_with(name="relu")},
    "seed of the augmentation": {"augmentation": add_noise(seed=5)},
    "progress": {"progress": True},
    "how to time": {"jit_compile": False},
}


@pytest.mark.parametrize("changes", COSMETICS.values(), ids=COSMETICS)
def test_what_was_trained_is_not_trained_again(changes, finished, copy, capsys):
    with no_training():
        result = compare_toy(output=copy, **changes)
    assert accuracies(result) == accuracies(finished.result)
    runs = [json.loads(path.read_text()) for path in copy.glob("runs/*/*.json")]
    assert result.wall_seconds >= round(sum(run["seconds"] for run in runs), 1)
    assert capsys.readouterr().out.count("trained before") == ("progress" in changes) * len(runs)


def first_label_moved(y):
    return np.where(np.arange(len(y)) == 0, 1, y)


CHANGES = {
    "filters": {"build": build_with(filters=9)},
    "dropout": {"build": build_with(rate=0.2)},
    "seed of the net": {"build": build_with(seed=1)},
    "one training input": {"data": changed("train", x=lambda x: np.where(x == x.max(), 9.0, x))},
    "one validation label": {"data": changed("val", y=first_label_moved)},
    "one test label": {"data": changed("test", y=first_label_moved)},
    "no augmentation": {"augmentation": None},
    "augmentation": {"augmentation": add_noise(0.2)},
    "epochs": {"epochs": EPOCHS + 1},
    "batch size": {"batch_size": 17},
    "learning rate": {"learning_rate": 0.01},
    "weight decay": {"weight_decay": 0.0},
    "label smoothing": {"label_smoothing": 0.1},
    "mixing": {"mixing": layers.MixUp(0.2)},
    "averaging": {"ema_momentum": 0.9},
    "seed": {"seeds": [2]},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_change_begins_new_runs_and_leaves_the_old_ones(changes, copy):
    before = contents(copy)
    with no_training(), pytest.raises(Trains):
        compare_toy(output=copy, convs="standard", **changes)
    assert contents(copy) == before


def test_a_dtype_policy_is_a_change(copy):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        with no_training(), pytest.raises(Trains):
            compare_toy(output=copy)
    finally:
        keras.config.set_dtype_policy("float32")


@keras.saving.register_keras_serializable("tests")
class Scale(layers.Layer):
    size = 1

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(self.size,))

    def call(self, inputs):
        return inputs * self.scale

    def compute_macs(self, input_shape, output_shape):
        return 0


def test_a_net_is_known_by_its_weights_too(tmp_path, monkeypatch):
    for size in (1, CLASSES):
        monkeypatch.setattr(Scale, "size", size)  # no config shows it
        with no_training(), pytest.raises(Trains):
            compare_toy(
                build=lambda conv: build(conv, end=[Scale()]), convs="standard", output=tmp_path
            )
    assert len(list(tmp_path.glob("runs/*"))) == 2


WRITERS = {
    "results.json": (Path, "write_text"),
    "comparison.png": (Figure, "savefig"),
    "separable.keras": (shutil, "copyfile"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_crash_while_writing_leaves_the_old_file(name, copy):
    before = (copy / name).read_bytes()

    def write_half(*args, **kwargs):
        target = [argument for argument in args if isinstance(argument, Path)][-1]
        target.write_bytes(before[: len(before) // 2])
        raise OSError("No space left on device")

    with mock.patch.object(*WRITERS[name], write_half), pytest.raises(OSError, match="No space"):
        compare_toy(output=copy)
    assert (copy / name).read_bytes() == before


# The times


TASK = classification(CLASSES)
TRAINING = Training(epochs=1, batch_size=4, learning_rate=0.01, classes=CLASSES, task=TASK)
BEST_MODES = {"fast": "xla", "slow": "graph", "broken": "graph"}


@pytest.mark.parametrize("xla", BEST_MODES if BACKEND == "tensorflow" else ["fast"])
def test_times_are_medians_of_nets_that_take_turns_in_their_best_modes(xla):
    cost = {"separable_net": 0.001, "standard_net": 0.008}
    now, rng = 0.0, np.random.default_rng(0)

    def work(net, samples, jit_compile):
        nonlocal now
        if jit_compile and BACKEND == "tensorflow":
            if xla == "broken":
                raise RuntimeError("no such kernel")
            samples *= {"fast": 0.5, "slow": 2}[xla]
        hiccup = 6 if net == "standard_net" and rng.random() < 0.1 else 1
        slow_spell = 3 if now % 4 > 3 else 1
        now += cost[net] * samples * hiccup * slow_spell

    def predict(model, x):
        work(model.name, len(x), model.jit_compile)

    def train(trainer, x, y):
        work(trainer.model.name, 3 * len(x), trainer.jit_compile)

    with (
        mock.patch.object(time, "perf_counter", lambda: now),
        mock.patch.multiple(keras.Model, predict_on_batch=predict, train_on_batch=train),
    ):
        times = measure(build, CONVS, DATA["train"], TRAINING, [1, 4])
    separable, standard = (times[conv] for conv in CONVS)
    for size in (1, 4):
        ratio = standard["infer_ms"][size] / separable["infer_ms"][size]
        assert ratio == pytest.approx(8, rel=0.15)
    assert standard["train_step_ms"] / separable["train_step_ms"] == pytest.approx(8, rel=0.15)
    mode = BEST_MODES[xla] if BACKEND == "tensorflow" else next(iter(timing.MODES[BACKEND]))
    for net in times.values():
        assert {net["train_mode"], *net["infer_mode"].values()} == {mode}


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the other backends have one mode")
@pytest.mark.parametrize(("jit_compile", "mode"), [(True, "xla"), (False, "graph")])
def test_nets_are_timed_in_the_mode_that_is_asked_for(jit_compile, mode):
    times = measure(build, ["separable"], DATA["train"], TRAINING, [1], jit_compile)
    assert times["separable"]["train_mode"] == times["separable"]["infer_mode"][1] == mode


AUGMENTATIONS = {
    "none": (None, True),
    "one that XLA takes": (add_noise(), True),
    "one that XLA does not take": (layers.RandomTranslation(0.1, 0.1), False),
}


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the other backends have one mode")
@pytest.mark.parametrize("kind", AUGMENTATIONS)
@pytest.mark.parametrize(("mode", "is_long"), [("xla", True), ("xla", False), ("graph", True)])
def test_long_trainings_are_compiled_where_that_is_faster(kind, mode, is_long):
    augmentation, is_taken = AUGMENTATIONS[kind]
    fit, modes = keras.Model.fit, []

    def spy(trainer, *args, **kwargs):
        modes.append(trainer.jit_compile)
        return fit(trainer, *args, **kwargs)

    def times(*arguments):
        return {conv: {**row, "train_mode": mode} for conv, row in numbers(*arguments).items()}

    numbers, steps = speed.measure, 12
    with (
        mock.patch.object(speed, "measure", times),
        mock.patch.object(recipe, "STEPS_WORTH_XLA", steps if is_long else steps + 1),
        mock.patch.object(keras.Model, "fit", spy),
    ):
        compare_toy(convs="separable", epochs=1, batch_size=16, seeds=1, augmentation=augmentation)
    assert modes == [mode == "xla" and is_long and is_taken]


def test_an_error_in_all_modes_is_not_hidden():
    broken = mock.patch.object(keras.Model, "predict_on_batch", side_effect=Trains)
    with broken, pytest.raises(Trains):
        measure(build, CONVS, DATA["train"], TRAINING, [1])


# Bad input


class Unloadable(layers.Layer):
    def call(self, inputs):
        return inputs


BAD = {
    "an unknown net": ({"convs": ["separable", "dense"]}, "`convs` must be.*'dense'"),
    "a net twice": ({"convs": ["standard"] * 2}, "`convs` must be.*'standard', 'standard'"),
    "no list of nets": ({"convs": None}, "`convs` must be.*None"),
    "a list in a list": ({"convs": [["standard"]]}, "`convs` must be.*'standard'"),
    "classes that are no number": ({"data": {**DATA, "classes": 2.0}}, "'classes'.*=2.0"),
    "no function": ({"build": 5}, "`build` must be a function.*=5"),
    "no net": ({"convs": ()}, r"`convs` must be.*\(\)"),
    "no seed": ({"seeds": 0}, "`seeds` must be.*seeds=0"),
    "a seed twice": ({"seeds": [1, 1]}, r"`seeds` must be.*\[1, 1\]"),
    "a negative seed": ({"seeds": [-1]}, r"`seeds` must be.*\[-1\]"),
    "half a seed": ({"seeds": [0.5]}, r"`seeds` must be.*\[0.5\]"),
    "no epoch": ({"epochs": 0}, "`epochs`. Expected a strictly positive.*epochs=0"),
    "half a sample": ({"batch_size": 1.5}, "`batch_size`. Expected an integer.*=1.5"),
    "an empty batch": ({"infer_batch_sizes": [1, 0]}, "`infer_batch_sizes`. Expected.*=0"),
    "no batch": ({"infer_batch_sizes": []}, r"`infer_batch_sizes` must be.*=\[\]"),
    "an unknown compiler": ({"jit_compile": "xla"}, "`jit_compile` must be.*'auto'.*='xla'"),
    "a bare batch size": ({"infer_batch_sizes": 8}, "`infer_batch_sizes` must be.*=8"),
    "no learning": ({"learning_rate": 0}, "`learning_rate`. Expected a positive number.*=0"),
    "a schedule": ({"learning_rate": "cosine"}, "`learning_rate`. Expected.*='cosine'"),
    "weight growth": ({"weight_decay": -0.1}, r"`weight_decay`. Expected.*\[0, inf\).*=-0.1"),
    "pure smoothing": ({"label_smoothing": 1}, r"`label_smoothing`. Expected.*\[0, 1\).*=1"),
    "a function": ({"augmentation": np.flip}, "`augmentation` must be.*layer.*flip"),
    "an augmentation that fails": (
        {"augmentation": layers.Cropping1D(1)},
        "`augmentation` must take and return the inputs of a batch.*Received.*Cropping1D.*fails",
    ),
    "mixing by a number": ({"mixing": 0.2}, "`mixing` must be.*MixUp.*=0.2"),
    "mixing that keeps no labels": (
        {"mixing": layers.Lambda(lambda batch: batch["images"])},
        "`mixing` must take and return a mapping of 'images'.*'labels'.*Received.*Lambda",
    ),
    "averages that stay": ({"ema_momentum": 1}, r"`ema_momentum`. Expected.*\[0, 1\).*=1"),
    "a file as output": ({"output": __file__}, "`output` must be a directory.*test_comparison.py"),
    "no data": ({"data": None}, "`data` must hold.*'train'.*NoneType"),
    "no test part": ({"data": {**DATA, "test": None}}, "`data` must hold.*'test'.*NoneType"),
    "inputs alone": ({"data": {**DATA, "val": DATA["val"][0]}}, "`data`.*'val'.*ndarray"),
    "one-hot labels": ({"data": changed("val", y=lambda y: np.eye(3)[y])}, "'val'.*argmax"),
    "float labels": ({"data": changed("val", y=np.float64)}, "'val'.*integers.*float64"),
    "too few inputs": ({"data": changed("val", lambda x: x[1:])}, "'val'.*48 labels.*length 47"),
    "an empty part": ({"data": changed("val", y=lambda y: y[:0])}, "'val'.*at least one.* 0 lab"),
    "a list": ({"data": changed("val", x=list)}, "'val'.*NumPy arrays.*of length 6"),
    "an unknown class": ({"data": {**DATA, "classes": 2}}, "from 0 to 1.*Received.*from 0 to 2"),
    "a negative label": ({"data": changed("val", y=lambda y: y - 1)}, "from 0 to 2.*from -1 to"),
    "too few channels": (
        {"data": changed("val", x=lambda x: x[..., 1:])},
        r"`build\('separable'\)` must take the inputs of the 'val' part.*\(6, 6, 2\).*Received",
    ),
    "no model": ({"build": str}, r"`build\('separable'\)` must return a Keras model.*'str'"),
    "too few outputs": (
        {"data": {**DATA, "classes": 4}},
        r"`build.*must output one logit for each of 4 classes.*Received: \(batch, 3\).*Dense\(4\)",
    ),
    "probabilities": (
        {"build": lambda conv: build(conv, end=[layers.Softmax()])},
        "`build.*must output logits.*Received: probabilities.*softmax",
    ),
    "the same model": (
        {"build": functools.cache(build)},
        "`build.*must return a new model.*Received.*'separable_net'",
    ),
    "an unloadable model": (
        {"build": lambda conv: build(conv, end=[Unloadable()])},
        "`build.*must be one that can be saved and loaded.*Received.*Unloadable",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_input(changes, message):
    with no_training(), pytest.raises(ValueError, match=f"(?s){message}"):
        compare_toy(**changes)


def test_a_missing_matplotlib_is_reported_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with no_training(), pytest.raises(ImportError, match=r"pip install 'sepconv-layers\[plot\]'"):
        compare_toy(output=tmp_path)
    assert not contents(tmp_path)
