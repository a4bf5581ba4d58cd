"""Every example's command on little data, offline."""

import argparse
import importlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from examples import command_line, demo, nets, sources
from examples.audio import detection, listen
from examples.audio import predict as audio_predict
from examples.audio import train as audio
from examples.text import predict as text_predict
from examples.text import train as text
from examples.vision import predict, train
from examples.volumes import data as volume_data
from examples.volumes import train as volumes
from sepconv_layers import Frontier, Search, profile
from sepconv_layers.comparison import deployment, memory
from sepconv_layers.models import volumes as volume_models
from tests.hostile import little_disk
from tests.test_comparison import (
    count_epochs,
    with_brief_timing,
    within_epoch,
    without_timing,
)
from tests.test_image_files import write_deep
from tests.test_search import Trainings, by_formula
from tests.test_vision_data import write_classes, write_npz

TINY = ["--epochs", "1", "--seeds", "1", "--width", "0.25", "--limit", "40", "--no-jit-compile"]


@pytest.fixture(autouse=True)
def _without_timing():
    """How times are measured is not the matter here, except in the first test."""
    with without_timing():
        yield


@pytest.fixture
def shallow(monkeypatch):
    """A net of one stage: what surrounds the net is tested, not its depth."""
    monkeypatch.setattr(train, "STAGES", train.STAGES[:1])


@pytest.mark.usefixtures("shallow")
def test_vision_compares_twins_on_digits(tmp_path, capsys):
    with with_brief_timing():
        comparison = train.main([*TINY, "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert str(comparison) in printed and str(tmp_path) in printed
    record = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert record["command"].startswith("python -m examples.vision.train --epochs 1 ")
    assert record["budget"]["training_samples"] == 40
    assert [row["conv"] for row in record["rows"]] == ["separable", "standard"]
    assert record["mac_ratio"] > 1
    written = {path.name for path in tmp_path.iterdir()}
    assert {"report.md", "comparison.png", "separable.keras", "standard.keras"} <= written
    model = keras.saving.load_model(tmp_path / "separable.keras")
    assert model.input_shape == (None, 8, 8, 1) and model.output_shape == (None, 10)


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_the_narrow_net_is_the_widest_that_is_as_cheap_as_the_separable_one(width):
    def net(conv, width):
        return train.mobilenet(conv, (28, 28, 1), 10, width)

    build = nets.net_builder(net, nets.CHOICES["all"], width)
    macs = {conv: profile(build(conv)).macs for conv in nets.CHOICES["all"]}
    assert 0.4 < macs["standard-narrow"] / macs["separable"] <= 1 < macs["standard"]
    assert build("separable").count_params() == net("separable", width).count_params()


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("conv", ["separable", "standard"])
def test_vision_trains_one_net_on_a_folder_of_images(tmp_path, conv):
    folder = write_classes(tmp_path / "images")
    output = tmp_path / "out"
    train.main([*TINY, "--data", str(folder), "--conv", conv, "--output", str(output)])
    record = json.loads((output / "results.json").read_text("utf-8"))
    assert record["dataset"] == "images" and record["mac_ratio"] is None
    assert [row["conv"] for row in record["rows"]] == [conv]


@pytest.mark.usefixtures("shallow")
def test_vision_trains_the_other_net(tmp_path):
    argv = [*TINY, "--net", "separable_resnet", "--width", "0.2", "--output", str(tmp_path)]
    with with_brief_timing():
        comparison = train.main(argv)
    for row in comparison.rows:
        model = keras.saving.load_model(tmp_path / f"{row.conv}.keras")
        assert any("separable_resnet" in layer.name for layer in model.layers)
        assert profile(model).macs == row.macs


@pytest.mark.usefixtures("shallow")
def test_vision_takes_an_npz_file(tmp_path):
    path = write_npz(tmp_path / "own.npz")
    output = tmp_path / "out"
    kinds = "hub,litert,int8,onnx" if keras.backend.backend() == "tensorflow" else "none"
    size, only = ["--image-size", "8"], ["--conv", "standard", "--export", kinds]
    comparison = train.main([*TINY, "--data", str(path), *size, *only, "--output", str(output)])
    assert comparison.dataset == "own"
    assert keras.saving.load_model(output / "standard.keras").input_shape == (None, 8, 8, 1)
    record = json.loads((output / "results.json").read_text("utf-8"))["rows"][0]["artifacts"]
    for kind in () if kinds == "none" else kinds.split(","):
        assert record[kind]["bytes"] > 1000
        assert kind == "int8" or record[kind]["agreement"] == 1
        assert kind == "hub" or 0 <= record[kind]["accuracy"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "--data must be an existing folder.*nowhere"),
        (["--limit", "3"], "--limit must be at least the number of classes"),
        (["--dataset", "mnist"], "invalid choice: 'mnist'"),
        (["--data", "x", "--dataset", "digits"], "not allowed with"),
        (["--epochs", "0"], "--epochs: must be positive and finite, received 0"),
        (
            ["--depth-multiplier", "0"],
            "--depth-multiplier: must be positive and finite, received 0",
        ),
        (
            ["--depth-multiplier", "2", "--net", "separable_resnet"],
            "--depth-multiplier is for mobilenet, not for separable_resnet",
        ),
        (["--width", "inf"], "--width: must be positive and finite, received inf"),
        (["--width", "0"], "--width: must be positive and finite, received 0"),
    ],
)
def test_vision_says_what_is_wrong_with_an_argument(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        train.main(arguments)
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))


@pytest.mark.parametrize("net", ["mobilenet", "separable_resnet"])
def test_only_sets_whose_mirror_images_have_their_class_are_augmented(net):
    x = np.random.default_rng(0).uniform(0, 255, (4, 28, 28, 1)).astype("float32")
    changed = train.augmentation("fashion_mnist", net)(x, training=True)
    assert changed.shape == x.shape and np.abs(changed - x).max() > 0
    assert train.augmentation("digits", net) is None


@pytest.mark.parametrize("size", [8, 28, 32, 64, 96])
def test_vision_nets_see_the_whole_of_any_image_size(size):
    for conv in nets.TWINS:
        model = train.mobilenet(conv, (size, size, 3), 5, width=0.25)
        feature_map = model.layers[-3].output.shape[1:3]
        assert 2 <= min(feature_map) and max(feature_map) <= 8
        logits = model.predict(np.zeros((2, size, size, 3), "uint8"), verbose=0)
        assert logits.shape == (2, 5)


def test_a_depth_multiplier_is_the_separable_net_s_alone():
    one, two = (
        [profile(train.mobilenet(conv, (8, 8, 1), 5, 0.25, multiplier)).macs for conv in nets.TWINS]
        for multiplier in (1, 2)
    )
    assert 1.7 * one[0] < two[0] < 2 * one[0] and two[1] == one[1]


MAINS = [demo.main, train.main, volumes.main, audio.main, audio_predict.main, text.main]
MAINS += [text_predict.main, listen.main, detection.main]


@pytest.mark.parametrize("main", MAINS, ids=lambda main: main.__module__)
def test_ctrl_c_ends_every_command_with_a_sentence(main, monkeypatch, capsys):
    def interrupt(*arguments):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", interrupt)
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 130
    assert "To continue, run the same command again." in capsys.readouterr().err


@pytest.mark.usefixtures("shallow")
def test_the_same_command_goes_on_after_ctrl_c(tmp_path, capsys):
    command = [*TINY, "--epochs", "2", "--conv", "separable", "--output", str(tmp_path)]
    interrupt = within_epoch(2, lambda: signal.raise_signal(signal.SIGINT))
    with interrupt, pytest.raises(SystemExit, match="130"):
        train.main(command)
    assert "run the same command again" in capsys.readouterr().err
    with count_epochs() as epochs:
        found = train.main(command)
    assert epochs.call_count == 1 and "The test part has 359 samples." in str(found)


@pytest.mark.usefixtures("shallow")
def test_a_full_disk_ends_a_run_with_a_sentence(tmp_path, capsys):
    command = [*TINY, "--conv", "separable", "--output", str(tmp_path)]
    with little_disk(), pytest.raises(SystemExit, match="1"):
        train.main(command)
    error = capsys.readouterr().err
    assert re.search(r"error: \S+ cannot be written: File too large", error)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    (tmp_path / "results.json").mkdir()
    with pytest.raises(SystemExit, match="1"):
        train.main(command)
    assert "in place of the file results.json" in capsys.readouterr().err


def test_an_output_that_cannot_be_is_named_before_all_else(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit):
        train.main(["--data", "missing", "--output", str(tmp_path / "file" / "in_it")])
    assert "argument --output: must be a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_nets_of_the_examples_are_channels_last_whatever_keras_is_told(tmp_path):
    (tmp_path / "keras.json").write_text('{"image_data_format": "channels_first"}')
    code = "import keras, examples; print(keras.config.image_data_format())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "channels_last"


def test_volumes_are_read_from_an_npz_file(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 9, 8, 7), "uint8"), np.arange(40) % 2
    np.savez(tmp_path / "own.npz", train_images=x, train_labels=y, test_images=x, test_labels=y)
    dataset = volume_data.load(file=tmp_path / "own.npz", limit=20)
    assert dataset.name == "own" and dataset.classes == ("0", "1")
    assert dataset.train[0].shape == (20, 9, 8, 7, 1) and dataset.val[0].shape[0] == 4
    np.testing.assert_array_equal(dataset.test[0][..., 0], x)


def test_solids_are_the_same_each_time_and_of_all_kinds():
    dataset, again = volume_data.load(), volume_data.load()
    np.testing.assert_array_equal(dataset.train[0], again.train[0])
    assert set(dataset.train[1]) == set(range(len(dataset.classes)))
    share = (dataset.train[0] > 0).mean(axis=(1, 2, 3, 4))
    assert 0.01 < share.min() and share.max() < 0.5


def test_rare_classes_come_several_times_in_a_balanced_part():
    samples, labels = np.arange(21), np.repeat([0, 1, 2], [16, 4, 1])
    found, theirs = sources.balanced((samples, labels), seed=0)
    assert np.bincount(theirs).tolist() == [16, 8, 4]
    np.testing.assert_array_equal(labels[found], theirs)
    assert np.bincount(found).tolist() == [1] * 16 + [2] * 4 + [4]
    assert (np.diff(theirs) < 0).any()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": np.zeros((4, 8, 8), "uint8")}, "Add y_train"),
        (
            {"x_train": np.zeros((4, 8, 8), "uint8"), "y_train": np.arange(4) % 2},
            r"`x_train` must be of shape \(n, depth, height, width\)",
        ),
    ],
)
def test_volumes_that_are_none_are_a_clear_error(tmp_path, arrays, message):
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        volume_data.load(file=tmp_path / "own.npz")
    with pytest.raises(ValueError, match=r"`file` must be an existing \.npz file"):
        volume_data.load(file=tmp_path / "absent.npz")


@pytest.mark.parametrize("shape", [(1, 9, 8, 7), (1, 8, 8, 8), (1, 28, 28, 28), (1, 1, 8, 8)])
def test_volumes_with_their_channels_first_are_refused(tmp_path, shape):
    x, y = np.zeros((40, *shape), "uint8"), np.arange(40) % 2
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y)
    fix = re.escape("Use np.moveaxis(x_train, 1, -1).")
    with pytest.raises(ValueError, match=f"`x_train` must have its channels last.*{fix}"):
        volume_data.load(file=tmp_path / "own.npz")
    np.savez(tmp_path / "own.npz", x_train=np.moveaxis(x, 1, -1), y_train=y)
    assert volume_data.load(file=tmp_path / "own.npz").train[0].shape[1:] == (*shape[1:], 1)


@pytest.mark.parametrize(
    ("shape", "is_odd"),
    [
        ((1, 9, 8), False),
        ((2, 3, 4), False),
        ((1, 9, 8, 3), False),  # one slice with colors
        ((3, 8, 8, 8), True),
        ((9, 1, 8, 7), False),
        ((9, 8, 7, 1), False),
    ],
)
def test_volumes_of_few_slices_are_taken(tmp_path, capsys, shape, is_odd):
    x, y = np.zeros((40, *shape), "uint8"), np.arange(40) % 2
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y)
    channels = () if len(shape) == 4 else (1,)
    assert volume_data.load(file=tmp_path / "own.npz").train[0].shape[1:] == (*shape, *channels)
    assert ("is read as having depth 3 and 8 channels" in capsys.readouterr().out) == is_odd


@pytest.mark.usefixtures("shallow")
def test_vision_predicts_with_the_range_of_the_training_part(tmp_path, capsys):
    values = [np.repeat(some, 10).astype("uint16") for some in ((300, 320), (400, 420))]
    write_deep(tmp_path / "deep", values)
    output = tmp_path / "out"
    brief = ["--epochs", "12", "--batch-size", "4", "--seeds", "1", "--width", "0.25"]
    brief += ["--conv", "standard", "--no-jit-compile"]
    train.main(["--data", str(tmp_path / "deep"), *brief, "--output", str(output)])
    printed = capsys.readouterr().out
    for said in ("28 training, 4 validation and 8 test images", "values from 300 to 420"):
        assert said in printed
    assert "values from 300 to 420" in (output / "results.json").read_text("utf-8")
    files = [str(tmp_path / "deep" / f"class{label}" / "3.png") for label in (0, 1)]
    for model in (output, output / "standard.keras"):
        predict.main([str(model), *files, "--top", "1"])
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[-2] for line in lines] == ["class0", "class1"]
    with pytest.raises(SystemExit, match="2"):
        predict.main([str(output / "results.json"), files[0]])
    assert "results.json is truncated or not what its name says" in capsys.readouterr().err


def test_modelnet_without_its_folder_says_where_it_is_looked_for(monkeypatch):
    monkeypatch.delenv("SEPCONV_DATA", raising=False)
    with pytest.raises(RuntimeError, match="SEPCONV_DATA.*modelnet10"):
        volume_data.load("modelnet10")


@pytest.mark.usefixtures("shallow")
def test_the_demo_ends_in_one_table_and_a_page_that_needs_no_other_file(
    tmp_path, capsys, monkeypatch
):
    others = {"audio", "text"}  # whose own tests run them
    kept = {name: one for name, one in demo.EXAMPLES.items() if name not in others}
    monkeypatch.setattr(demo, "EXAMPLES", kept)
    monkeypatch.setattr(volume_models, "MOBILENET_3D", volume_models.MOBILENET_3D[:4])
    monkeypatch.setattr(volume_data, "SIZE", 12)
    monkeypatch.setattr(volume_data, "EACH", 30)
    found = demo.main(["--quick", "--output", str(tmp_path)])
    table = capsys.readouterr().out.split("== 2 of 2")[1].split("Open")[0].split("\n\n")[-2]
    page = (tmp_path / "report.html").read_text("utf-8")
    assert len(table.splitlines()) == 2 + len(found)
    for name, comparison in found.items():
        title = f"{comparison.task}: {comparison.dataset}"
        assert title in table and title in page and comparison.rows[0].score_text() in page
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert page.count("data:image/png;base64,") == len(found) == 2
    assert not re.search(r"(src|href)=\"(?!data:)", page)


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_an_interrupt_ends_with_a_message_even_if_a_library_makes_another_error_of_it(
    is_wrapped, capsys
):
    @command_line.without_traceback
    def main():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            if is_wrapped:
                raise RuntimeError("a callback failed") from error
            raise

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == command_line.INTERRUPTED
    assert "run the same command again" in capsys.readouterr().err


def test_an_error_of_the_program_itself_keeps_its_traceback():
    @command_line.without_traceback
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main()


def test_several_sizes_give_accuracy_against_cost(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "train_peak_bytes", lambda *_, **__: 1)
    monkeypatch.setattr(deployment, "unavailable", lambda: "not measured in this test")
    monkeypatch.setattr(train, "STAGES", train.STAGES[:2])
    monkeypatch.setattr(nets, "HALVINGS", 6)
    argv = ["--sizes", "1,0.5", "--epochs", "1", "--seeds", "1", "--limit", "40"]
    argv += ["--no-jit-compile"]
    found = train.main([*argv, "--output", str(tmp_path)])
    assert [row.size for row in found.family("separable")] == [0.5, 1]
    ours, theirs = ([row.macs for row in found.family(c)] for c in ("separable", "standard"))
    assert ours[-1] < theirs[-1] <= nets.REACH * ours[-1]  # costs overlap where times do not yet
    assert theirs[0] <= ours[-1]
    assert found.margin("macs").low < found.margin("macs").high
    assert Frontier.load(tmp_path) == found


@pytest.mark.usefixtures("shallow")
def test_the_best_nets_within_limits_are_searched(tmp_path):
    argv = ["--search", "2", "--limit-macs", "3e6", "--limit-params", "3e5", "--limit", "40"]
    with by_formula(Trainings(formula=lambda **choices: choices["width"] / 4)):
        found = train.main([*argv, "--output", str(tmp_path)])
    for conv in ("separable", "standard"):
        best = found.best(conv)
        assert best.costs["macs"] <= 3e6 and best.costs["params"] <= 3e5
        assert set(best.choices) == set(train.SPACE["mobilenet"])
    assert Search.load(tmp_path) == found


def test_limits_without_a_search_are_a_mistake(capsys, tmp_path):
    with pytest.raises(SystemExit):
        train.main(["--limit-macs", "1e6", "--output", str(tmp_path)])
    assert "--limit-macs are for --sizes and --search" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["audio", "text", "volumes"])
def test_what_is_searched_are_arguments_of_the_net(name):
    module = importlib.import_module(f"examples.{name}.train")
    assert set(module.SPACE) <= set(inspect.signature(module.build).parameters)


@pytest.mark.parametrize("net", list(train.NETS))
def test_what_is_searched_are_arguments_of_the_image_net(net):
    assert set(train.SPACE[net]) <= set(inspect.signature(train.NETS[net]).parameters)


def test_sizes_and_nets_exclude_each_other(capsys):
    for sizes in (["--sizes", "1"], ["--sizes", "1,2", "--conv", "all"], ["--sizes", "1,x"]):
        with pytest.raises(SystemExit):
            train.main(sizes)
        assert "--sizes" in capsys.readouterr().err
