"""What a comparison resumes from, damaged in every way, and an output that takes nothing."""

import contextlib
import json
import os
import shutil
import signal
import tempfile
from unittest import mock

import keras
import numpy as np
import pytest

from sepconv_layers.checkpoint import values
from sepconv_layers.comparison import Comparison, resume
from sepconv_layers.comparison.recipe import Training
from sepconv_layers.comparison.setup import summary_of
from sepconv_layers.comparison.task_choice import classification
from tests.backends import BACKEND, the_same_everywhere
from tests.test_comparison import (
    EPOCHS,
    Trains,
    _without_timing,  # noqa: F401
    compare_toy,
    contents,
    count_epochs,
    no_training,
    runs_in,
    within_epoch,
    without_timing,
)

no_epoch = mock.patch.object(keras.Model, "fit", side_effect=Trains)
ONE = {"convs": "separable", "seeds": 1}  # run


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """One run that is interrupted in its last epoch, and the same at its end."""
    finished = tmp_path_factory.mktemp("stages") / "finished"
    interrupt = within_epoch(EPOCHS, lambda: signal.raise_signal(signal.SIGINT))
    with contextlib.ExitStack() as stack:
        for context in (without_timing(), interrupt, pytest.raises(KeyboardInterrupt)):
            stack.enter_context(context)
        compare_toy(output=finished, **ONE)
    interrupted = shutil.copytree(finished, finished.with_name("interrupted"))
    with without_timing():
        compare_toy(output=finished, **ONE)
    return {"interrupted": interrupted, "finished": finished}


def only(directory, pattern):
    (path,) = directory.glob(f"runs/*/{pattern}")
    return path


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def replace_by_text(path):
    path.write_text("something else")


def replace_by_folder(path):
    path.unlink()
    path.mkdir()
    (path / "notes").write_text("mine")


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


def replace_by_another_net(path):
    if path.suffix == ".keras":
        model = keras.models.load_model(path)
        model.set_weights([2 * weight for weight in model.get_weights()])
        model.save(path)
    elif path.suffix == ".npz":
        np.savez(path, np.zeros(3), history="[]")
    else:
        path.write_text('{"accuracy": 1.0}')


def remove(path):
    path.unlink()


DAMAGES = [truncate, empty, flip, replace_by_text, replace_by_folder, replace_by_another_net]
DAMAGES += [replace_by_pipe] if hasattr(os, "mkfifo") else []
KEPT = [("interrupted", "seed-0.state.npz"), ("finished", "seed-0.json")]
KEPT += [("finished", "seed-0.keras")]


@pytest.mark.parametrize("damage", [*DAMAGES, remove])
@pytest.mark.parametrize(("stage", "name"), KEPT)
def test_what_is_damaged_is_set_aside_and_what_it_held_trained_again(
    stage, name, damage, stages, tmp_path, capsys
):
    output = shutil.copytree(stages[stage], tmp_path / "copy")
    path = only(output, name)
    damage(path)
    there = path.read_bytes() if path.is_file() else None
    # A state is read once the net has been evaluated.
    with no_epoch if stage == "interrupted" else no_training(), pytest.raises(Trains):
        compare_toy(output=output, **ONE)
    if damage is remove and name != "seed-0.keras":  # then there is nothing to be surprised at
        return
    said = capsys.readouterr().err
    if damage is not remove:
        aside = path.with_name(f"{name}.damaged")
        assert f"{path} cannot be used: " in said and aside.name in said
        assert (aside.read_bytes() if aside.is_file() else None) == there
        assert damage is not replace_by_folder or (aside / "notes").read_text() == "mine"
    if name == "seed-0.keras":
        assert only(output, "seed-0.json.damaged").is_file()
    assert not path.exists() and "trained again" in said


@pytest.mark.parametrize(("stage", "name"), KEPT)
def test_what_is_trained_again_is_as_it_was(stage, name, stages, tmp_path, capsys):
    output = shutil.copytree(stages[stage], tmp_path / "copy")
    flip(only(output, name))
    with count_epochs() as epochs:
        result = compare_toy(output=output, **ONE)
    assert epochs.call_count == EPOCHS and "trained again" in capsys.readouterr().err
    assert runs_in(output) == runs_in(stages["finished"])
    with no_training():
        assert compare_toy(output=output, **ONE).rows[0].accuracy == result.rows[0].accuracy
    assert capsys.readouterr().err == ""


def test_a_second_damaged_file_does_not_replace_the_first(stages, tmp_path):
    output = shutil.copytree(stages["finished"], tmp_path / "copy")
    record = only(output, "seed-0.json")
    for text in ("first", "second", "third"):
        record.write_text(text)
        with no_training(), pytest.raises(Trains):
            compare_toy(output=output, **ONE)
    aside = sorted(record.parent.glob("*.damaged*"))
    assert [path.read_text() for path in aside] == ["first", "second", "third"]


def test_a_file_in_the_place_of_the_folder_of_a_run_is_set_aside(stages, tmp_path, capsys):
    output = shutil.copytree(stages["finished"], tmp_path / "copy")
    (folder,) = output.glob("runs/*")
    shutil.rmtree(folder)
    folder.write_text("mine")
    with no_training(), pytest.raises(Trains):
        compare_toy(output=output, **ONE)
    assert folder.with_name(f"{folder.name}.damaged").read_text() == "mine"
    assert "cannot be used: it is not a folder" in capsys.readouterr().err


def test_what_an_older_version_finished_counts(stages, tmp_path):
    """It had no digests."""
    output = shutil.copytree(stages["finished"], tmp_path / "copy")
    record = only(output, "seed-0.json")
    result = json.loads(record.read_text())
    del result["digest"]
    record.write_text(json.dumps(result))
    with no_training():
        compare_toy(output=output, **ONE)
    flip(only(output, "seed-0.keras"))
    with no_training(), pytest.raises(Trains):
        compare_toy(output=output, **ONE)


def test_a_kill_before_the_state_is_removed_leaves_nothing_for_good(stages, tmp_path):
    output = shutil.copytree(stages["finished"], tmp_path / "copy")
    state = only(output, "seed-0.json").with_name("seed-0.state.npz")
    shutil.copyfile(only(stages["interrupted"], "seed-0.state.npz"), state)
    with no_training():
        compare_toy(output=output, **ONE)
    assert not state.exists()


class Waits(Exception):
    """Instead of waiting."""


def test_two_processes_of_one_comparison_wait_for_each_other(stages, tmp_path):
    tried = []

    def run_all():  # at once, where another process would wait
        if not tried:
            tried.append(True)
            with pytest.raises(Waits):
                compare_toy(output=tmp_path, **ONE)

    waits = mock.patch.object(Training, "say_waiting", side_effect=Waits)
    with waits, within_epoch(2, run_all):
        result = compare_toy(output=tmp_path, **ONE)
    assert tried
    if BACKEND != "torch":  # whose random numbers both have in common here, in one process
        assert runs_in(tmp_path) == runs_in(stages["finished"])
    with no_training():
        assert compare_toy(output=tmp_path, **ONE).rows[0].accuracy == result.rows[0].accuracy


# All flips of a bit in small files.


def variables():
    rng = np.random.default_rng(0)
    shapes = [(2, 3), (4,), ()]
    return [keras.Variable(rng.normal(size=shape).astype("float32")) for shape in shapes]


TASK = classification(3)
EPOCH = dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy", "seconds"), 0.5)


@the_same_everywhere
def test_no_flip_of_a_bit_in_a_state_goes_unseen(tmp_path, capsys):
    path, (*state, weight) = tmp_path / "state.npz", variables()
    resume.save_state(path, state, [EPOCH], values([weight]))
    content, before = path.read_bytes(), values([*state, weight])
    seen = 0
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        history, best = resume.load_state(path, state, [weight], epochs=3, task=TASK)
        assert history in ([], [EPOCH]) and len(best) == len(history)
        for value, expected in zip([*values(state), *best], before, strict=False):
            np.testing.assert_array_equal(value, expected)
        seen += not history
        for aside in tmp_path.glob("*.damaged*"):
            aside.unlink()
    assert seen > 0.5 * len(content)  # in the rest are dates and such


@the_same_everywhere
def test_no_flip_of_a_bit_in_what_became_of_a_run_goes_unseen(tmp_path, capsys):
    record, artifact = tmp_path / "seed-0.json", tmp_path / "seed-0.keras"
    result = {"accuracy": 0.75, "seconds": 1.5, "best": EPOCH, "history": [EPOCH]}
    result["artifact"] = {"bytes": 7, "max_difference": 0.0, "agreement": 1.0}
    artifact.write_bytes(b"a model")
    resume.save_result(record, artifact, result)
    contents = record.read_bytes(), artifact.read_bytes()
    assert resume.load_result(record, artifact, TASK) == result
    for number, path in enumerate((record, artifact)):
        for place in range(len(contents[number])):
            for file, content in zip((record, artifact), contents, strict=True):
                file.write_bytes(content)
            flipped = bytearray(contents[number])
            flipped[place] ^= 1 << place % 8
            path.write_bytes(flipped)
            assert resume.load_result(record, artifact, TASK) in (None, result)
            assert number == 0 or not artifact.exists()
            for aside in tmp_path.glob("*.damaged*"):
                aside.unlink()


FOREIGN = {
    "another shape": lambda arrays, history: ([arrays[0].T, *arrays[1:]], history),
    "another type": lambda arrays, history: ([arrays[0].astype(int), *arrays[1:]], history),
    "a weight more": lambda arrays, history: ([*arrays, arrays[0]], history),
    "a weight less": lambda arrays, history: (arrays[:-1], history),
    "no number": lambda arrays, history: ([arrays[0] * np.nan, *arrays[1:]], history),
    "no epoch": lambda arrays, history: (arrays, []),
    "epochs of a longer one": lambda arrays, history: (arrays, history * 4),
    "no history": lambda arrays, history: (arrays, 5),
    "an empty epoch": lambda arrays, history: (arrays, [{}]),
    "a loss that is no number": lambda arrays, history: (arrays, [{**EPOCH, "loss": np.nan}]),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_state_of_another_training_is_set_aside(kind, tmp_path, capsys):
    path, (*state, weight) = tmp_path / "state.npz", variables()
    before = values(state)
    arrays, history = FOREIGN[kind](values([*state, weight]), [EPOCH])
    np.savez(path, *arrays, history=json.dumps(history))
    assert resume.load_state(path, state, [weight], epochs=3, task=TASK) == ([], [])
    for value, expected in zip(values(state), before, strict=True):
        np.testing.assert_array_equal(value, expected)
    assert "state.npz.damaged" in capsys.readouterr().err


def test_a_state_in_half_precision_is_read_again(tmp_path):
    path, half = tmp_path / "state.npz", keras.Variable(np.ones(3), dtype="bfloat16")
    resume.save_state(path, [half], [EPOCH], [])
    half.assign(np.zeros(3))
    assert resume.load_state(path, [half], [], epochs=1, task=TASK) == ([EPOCH], [])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(half).astype("float32"), np.ones(3))


# Outputs that take nothing


@pytest.mark.parametrize("name", ["results.json", "report.md", "comparison.png", "separable.keras"])
def test_a_folder_in_the_place_of_a_result_is_named_before_the_training(name, tmp_path):
    (tmp_path / name / "mine").mkdir(parents=True)
    with no_training(), pytest.raises(ValueError, match=f"`output`.*folder.*the file {name}"):
        compare_toy(output=tmp_path)
    assert (tmp_path / name / "mine").is_dir()


def test_a_file_in_the_place_of_the_runs_is_named_before_the_training(tmp_path):
    (tmp_path / "runs").write_text("mine")
    with no_training(), pytest.raises(ValueError, match="`output`.*a file.*the folder runs"):
        compare_toy(output=tmp_path)
    assert (tmp_path / "runs").read_text() == "mine"


def test_an_output_that_is_read_only_is_named_before_the_training(tmp_path):
    refuse = mock.Mock(side_effect=OSError(30, "Read-only file system"))
    with (
        no_training(),
        mock.patch.object(tempfile, "TemporaryFile", refuse),
        pytest.raises(ValueError, match="`output`.*cannot be written to: Read-only file system"),
    ):
        compare_toy(output=tmp_path)
    assert not contents(tmp_path)


# The test part


def test_the_record_tells_what_always_the_same_answer_is_worth(stages):
    result = Comparison.load(stages["finished"])
    assert result.test_part == {"samples": 48, "largest_class": pytest.approx(1 / 3, abs=1e-6)}
    report = (stages["finished"] / "report.md").read_text()
    for text in (str(result), result.to_markdown(), report):
        assert "The test part has 48 samples." in text and "an accuracy of 0.3333." in text


def test_the_largest_class_of_a_test_part_may_be_most_of_it():
    part = np.zeros((4, 1)), np.array([0, 2, 2, 2])
    assert summary_of(part, classification(3)) == {"samples": 4, "largest_class": 0.75}


def test_records_from_before_there_was_a_test_part_are_read(stages, tmp_path):
    record = json.loads((stages["finished"] / "results.json").read_text())
    del record["test_part"]
    (tmp_path / "results.json").write_text(json.dumps(record))
    result = Comparison.load(tmp_path)
    assert result.test_part == {} and "test part has" not in str(result) + result.to_markdown()
    result.save(tmp_path)
    assert Comparison.load(tmp_path) == result
