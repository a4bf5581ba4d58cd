"""The command `sepconv`: what it prints, what it writes, and what a mistake gets."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from unittest import mock

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import cli, export
from tests.backends import BACKEND
from tests.hostile import little_disk

EXPORTS = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the exports are made of TensorFlow graphs"
)
BLOCKS = {"separable": sl.SeparableConvBlock2D, "standard": sl.ConvBlock2D}


class Odd(keras.layers.Layer):
    def call(self, inputs):
        return inputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twins, a net of open sizes, one of an unknown layer, and what else the commands read."""
    folder = tmp_path_factory.mktemp("cli")
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).normal(size=(20, 10, 8, 3)).astype("float32")
    for name, block in BLOCKS.items():
        x = inputs = keras.Input((10, 8, 3), name="images")
        x = keras.layers.GlobalAveragePooling2D()(block(16)(x))
        model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x), name=name)
        model.compile("sgd", "mse")
        model.save(folder / f"{name}.keras")
    keras.Sequential([keras.Input((None, 4)), sl.SeparableConvBlock1D(3)]).save(
        folder / "open.keras"
    )
    odd = keras.Sequential([keras.Input((4,)), Odd(), keras.layers.Dense(2)])
    odd.save(folder / "odd.keras")
    keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x)]).save(
        folder / "lambda.keras"
    )
    content = (folder / "separable.keras").read_bytes()
    (folder / "truncated.keras").write_bytes(content[: len(content) // 2])
    (folder / "text.keras").write_text("no model")
    (folder / "net.h5").write_text("no model")
    with zipfile.ZipFile(folder / "foreign.keras", "w") as archive:
        archive.writestr("config.json", "[]")
    with zipfile.ZipFile(folder / "separable.keras") as source:
        with zipfile.ZipFile(folder / "weightless.keras", "w") as archive:
            for name in ("config.json", "metadata.json"):
                archive.writestr(name, source.read(name))
    np.save(folder / "images.npy", images)
    np.save(folder / "classes.npy", np.zeros(len(images), int))
    np.savez(folder / "images.npz", images=images, labels=np.zeros(20))
    np.save(folder / "wrong.npy", images[..., :2])
    np.savez(folder / "others.npz", x=images, y=images)
    (folder / "text.npy").write_text("no array")
    os.mkfifo(folder / "pipe")
    with open(folder / "huge.npy", "wb") as file:  # a header that promises 58 TiB
        header = {"descr": "<f8", "fortran_order": False, "shape": (2**43,)}
        np.lib.format.write_array_header_1_0(file, header)
    (folder / "labels.txt").write_text("yes\nno\ngrößer als\n", "utf-8")
    (folder / "few.txt").write_text("yes\n", "utf-8")
    with zipfile.ZipFile(folder / "null.keras", "w") as archive:
        archive.writestr("config.json", '{"config": null}')
    with zipfile.ZipFile(folder / "garbled.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "x" * 99)
    content = bytearray((folder / "garbled.keras").read_bytes())
    start = len("PK..") + 26 + len("config.json")
    content[start : start + 3] = b"\xff" * 3
    (folder / "garbled.keras").write_bytes(content)
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs a command in the folder, and returns its exit code, output and errors."""
    monkeypatch.chdir(folder)

    def run(command):
        capsys.readouterr()
        try:
            code = cli.main(command.split())
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def test_help_has_examples_that_are_commands(run):
    commands = []
    for command in ("", "profile", "export", "bench"):
        code, out, _ = run(f"{command} --help")
        assert code == 0
        commands += re.findall(r"^  (?:\w+=\w+ )?sepconv ([^>\n]*)", out, re.MULTILINE)
    assert len(commands) == 14
    for command in commands:
        cli.make_parser().parse_args(command.split())


def test_it_runs_as_a_module(folder):
    done = subprocess.run(
        [sys.executable, "-m", "sepconv_layers.cli", "--help"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "sepconv bench separable.keras standard.keras" in done.stdout


def test_version(run):
    assert run("--version") == (0, f"sepconv-layers {sl.__version__}\n", "")


def test_profile_prints_the_table_or_json(run, folder):
    model = keras.saving.load_model(folder / "separable.keras")
    expected = sl.profile(model)
    assert run("profile separable.keras") == (0, f"{expected}\n", "")
    code, out, _ = run("profile separable.keras --json --plot net.png")
    assert code == 0
    assert json.loads(out)["macs"] == expected.macs
    assert (folder / "net.png").read_bytes().startswith(b"\x89PNG")


def test_profile_takes_open_sizes(run):
    code, _, err = run("profile open.keras")
    assert code == 1 and "input_shape" in err
    code, out, _ = run("profile open.keras --input-shape 7,4 --json")
    assert code == 0
    assert json.loads(out)["macs"] == 7 * (3 * 4 + 4 * 3)


@EXPORTS
def test_export_to_each_kind(run, folder):
    model = keras.saving.load_model(folder / "separable.keras")
    images = np.load(folder / "images.npy")
    expected = keras.ops.convert_to_numpy(model(images, training=False))
    for arguments, name in (
        ("--to hub --labels labels.txt", "separable-hub"),
        ("--to litert --sample images.npz --tolerance 0.01", "separable.tflite"),
        ("--to litert --quantize int8 --calibration images.npy", "separable-int8.tflite"),
        (
            "--to litert --quantize auto --calibration images.npy --validation images.npy "
            "--validation-labels classes.npy --max-loss 100 --report noise",
            "separable-auto.tflite",
        ),
        ("--to onnx --output other.onnx --tolerance any", "other.onnx"),
    ):
        code, out, err = run(f"export separable.keras {arguments}")
        assert code == 0, err
        assert out.startswith(f"{name}\n")
        assert all(word in out for word in ("size ", "difference ", "agreement ", "latency "))
        assert ("random numbers" in out) == ("images" not in arguments)
        assert sl.timing.device() in out and f"keras {keras.__version__}" in out
        (found,) = export.load(folder / name)(images)
        np.testing.assert_allclose(found, expected, atol=0.1 if "quantize" in arguments else 1e-5)
        assert ("Noisiest tensors" in out) == ("quantize" in arguments)
    assert (folder / "noise" / "report.md").is_file()
    assert (folder / "separable-hub" / "assets" / "labels.txt").is_file()
    _, out, _ = run("export separable.keras --to onnx --output other.onnx")
    assert "(replaced an older one)" in out


@EXPORTS
def test_bench_takes_models_and_artifacts(run, folder):
    assert run("export separable.keras --to onnx --output bench.onnx")[0] == 0
    code, out, _ = run("bench separable.keras standard.keras bench.onnx --seconds 0.01")
    assert code == 0
    rows = [line.split() for line in out.splitlines() if re.match(r"\w+\.(keras|onnx)  ", line)]
    modes = ["graph", "xla"]
    assert [row[:2] for row in rows] == [
        *(["separable.keras", mode] for mode in modes),
        *(["standard.keras", mode] for mode in modes),
        ["bench.onnx", "onnx"],
    ]
    assert all(float(row[2]) > 0 for row in rows)
    assert min(float(row[3]) for row in rows[:2]) == 1
    assert sl.timing.device() in out and f"keras {keras.__version__}" in out
    macs = {
        name: sl.profile(keras.saving.load_model(folder / f"{name}.keras")).macs for name in BLOCKS
    }
    ratio = f"{macs['standard'] / macs['separable']:.2f}"
    sentence = (
        rf"separable.keras has {ratio} times fewer MACs than standard.keras and is [\d.]+ times"
    )
    assert re.search(sentence, out)


def test_bench_draws_the_sizes_that_are_asked_for(run):
    code, _, err = run("bench open.keras --seconds 0.01")
    assert code == 1 and "--input-shape" in err
    code, out, err = run("bench open.keras --seconds 0.01 --input-shape 7,4 --batch-size 2")
    assert code == 0, err
    assert "batch 2" in out and "fewer MACs" not in out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("profile missing.keras", "missing.keras, which does not exist"),
        ("profile net.h5", r"keras.saving.load_model\('net.h5', compile=False\).save\('net.keras'"),
        ("twin net.HDF5 --to standard", r"load_model\('net.HDF5'.*save\('net.keras'"),
        ("bench net.hdf5", r"older format. .*load_model\('net.hdf5'"),
        ("convert net.weights.h5", r"only weights. .*load_weights\('net.weights.h5'.*'net.keras'"),
        ("profile net.tflite", "an artifact that no longer has the layers.*`sepconv bench` takes"),
        ("export saved_model.pb --to onnx", "an artifact that no longer has the layers"),
        ("profile .", "an artifact that no longer has the layers"),
        ("profile text.keras", "text.keras, which is truncated or of another kind"),
        ("profile truncated.keras", "truncated.keras, which is truncated or of another kind"),
        ("profile foreign.keras", "foreign.keras, which is truncated or of another kind"),
        ("profile null.keras", "null.keras, which is truncated or of another kind"),
        ("profile garbled.keras", "garbled.keras, which is truncated or of another kind"),
        ("profile weightless.keras", "weightless.keras cannot be loaded"),
        ("profile odd.keras", "odd.keras needs custom objects: Odd. Only those of Keras and of"),
        ("profile lambda.keras", "lambda.keras cannot be loaded: .*Lambda.*safe_mode"),
        ("profile separable.keras --input-shape 4,4", "input_shape"),
        ("profile separable.keras --plot no/such/net.png", "no/such/net.png cannot be written"),
        ("bench separable.keras odd.keras", "odd.keras needs custom objects: Odd"),
        ("bench labels.txt", "must be the folder of a SavedModel, a .tflite"),
    ],
)
def test_mistakes_are_named(run, command, message):
    code, out, err = run(command)
    assert (code, out) == (1, "")
    assert re.search(message, err)
    assert err.startswith(f"sepconv {command.split()[0]}: error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        *(pytest.param(f"export separable.keras --to {kind} --output full-{kind}", marks=EXPORTS)
          for kind in ("hub", "litert", "onnx")),
        "twin separable.keras --to standard --output full.keras",
        "convert standard.keras --output full.keras",
        "profile separable.keras --plot full.png",
    ],
)  # fmt: skip
def test_a_full_disk_is_a_sentence(run, folder, command):
    before = sorted(folder.iterdir())
    with little_disk():
        code, out, err = run(command)
    assert (code, out) == (1, "")
    assert re.search(
        r"full\S* cannot be written: File too large. Anything already there is unchanged", err
    )
    assert err.startswith(f"sepconv {command.split()[0]}: error: ") and err.count("\n") == 1
    assert sorted(folder.iterdir()) == before


@EXPORTS
def test_a_savedmodel_survives_an_export_to_a_full_disk(run, folder):
    assert run("export separable.keras --to hub --output kept-hub")[0] == 0
    images = np.load(folder / "images.npy")
    (expected,) = export.load(folder / "kept-hub")(images)
    with little_disk():
        code, _, err = run("export separable.keras --to hub --output kept-hub")
    assert code == 1 and "kept-hub cannot be written" in err
    np.testing.assert_array_equal(*export.load(folder / "kept-hub")(images), expected)


@EXPORTS
def test_what_tensorflow_says_of_a_full_disk_is_an_error_of_the_system(folder):
    import tensorflow as tf

    model = keras.saving.load_model(folder / "separable.keras")

    def save(root, path, *arguments):
        message = f"{{{{node}}}} {path}/variables/part-0; No space left on device [Op:SaveV2]"
        raise tf.errors.ResourceExhaustedError(None, None, message)

    with mock.patch.object(tf.saved_model, "save", save), pytest.raises(OSError) as raised:
        export.to_hub(model, folder / "full-hub")
    assert raised.value.errno == errno.ENOSPC
    assert "full-hub cannot be written: No space left on device. " in str(raised.value)


@pytest.mark.parametrize(
    "command", ["profile separable.keras", "twin separable.keras --to standard --output new.keras"]
)
def test_an_interrupted_command_ends_with_a_sentence(run, folder, command, monkeypatch):
    def interrupt(*arguments, **options):
        signal.raise_signal(signal.SIGINT)

    before = sorted(folder.iterdir())
    monkeypatch.setattr(keras.saving, "load_model", interrupt)
    code, out, err = run(command)
    assert (code, out) == (130, "") and "To resume, run the same command again" in err
    assert sorted(folder.iterdir()) == before


@EXPORTS
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--to hub --output .", "must not be the path of the model"),
        ("--to onnx --output separable.keras", "must not be the path of the model"),
        ("--to hub --output labels.txt", "a new folder, or the folder of an older SavedModel"),
        ("--to onnx --output no/such/net.onnx", "folder of the `path` argument must exist"),
        ("--to onnx --labels few.txt", "`labels` argument must be 3 strings"),
        ("--to onnx --labels missing.txt", "missing.txt, which cannot be read"),
        ("--to onnx --labels images.npy", "images.npy, which cannot be read"),
        ("--to onnx --labels pipe", "pipe, which cannot be read: it is not a file"),
        ("--to onnx --sample pipe", "pipe must be a .npy or .npz file.*it is not a file"),
        ("--to onnx --sample huge.npy", "huge.npy must be a .npy or .npz file of numbers"),
        ("--to onnx --sample missing.npy", "missing.npy must be a .npy or .npz file"),
        ("--to onnx --sample text.npy", "text.npy must be a .npy or .npz file of numbers"),
        ("--to onnx --sample others.npz", r"for each input of the model, \['images'\]"),
        ("--to onnx --sample wrong.npy", "`sample` argument must be a batch of inputs"),
        (
            "--to litert --quantize int8 --calibration wrong.npy",
            "`calibration` argument must be a batch of inputs",
        ),
        ("--to onnx --tolerance 0", "artifact must agree with the model"),
    ],
)
def test_mistakes_of_an_export_are_named(run, folder, arguments, message):
    before = sorted(folder.iterdir())
    code, out, err = run(f"export separable.keras {arguments}")
    assert (code, out) == (1, "")
    assert re.search(message, err)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "required: command"),
        ("profile", "required: model"),
        ("export separable.keras", "required: --to"),
        ("export separable.keras --to onnx --quantize int8", "--quantize is for --to litert only"),
        ("export separable.keras --to litert --quantize int8", "--calibration must be given"),
        ("export separable.keras --to litert --calibration images.npy", "and only with them"),
        ("export separable.keras --to micro", "--calibration must be given"),
        ("export separable.keras --to onnx --max-loss 1", "--max-loss is for --quantize auto"),
        ("export separable.keras --to onnx --max-loss 101", "a number from 0 to 100"),
        ("export separable.keras --to onnx --validation-labels y.npy", "with --validation"),
        ("export separable.keras --to litert --report noise", "--report is for --quantize"),
        ("export separable.keras --to onnx --tolerance -1", "a non-negative number, or `any`"),
        ("export separable.keras --to onnx --tolerance small", "'small' must be a number"),
        ("bench separable.keras --batch-size 0", "'0' must be a positive integer"),
        ("bench separable.keras --seconds 0", "'0' must be a positive number"),
        ("profile separable.keras --input-shape 4,", "'' must be a positive integer"),
    ],
)
def test_wrong_usage_is_named(run, command, message):
    code, out, err = run(command)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.skipif(BACKEND == "tensorflow", reason="is about the other backends")
def test_export_names_the_backend_that_it_needs(run):
    code, _, err = run("export separable.keras --to onnx")
    assert code == 1 and "KERAS_BACKEND=tensorflow" in err


def test_a_twin_is_saved_beside_its_model(run, folder):
    code, out, err = run("twin separable.keras --to standard")
    assert (code, err) == (0, "")
    twin, standard = (keras.saving.load_model(folder / name) for name in
                      ("separable-standard.keras", "standard.keras"))  # fmt: skip
    assert [w.shape for w in twin.weights] == [w.shape for w in standard.weights]
    _, _, ours, theirs = (line.split() for line in out.splitlines())
    assert ours[0] == "separable.keras" and theirs[0] == "separable-standard.keras"
    assert theirs[-1] == f"{sl.profile(standard).macs:,}"
    code, out, err = run("twin separable.keras --to standard")  # it may be trained by now
    assert (code, out) == (1, "") and "must be a new .keras file" in err and "already" in err
    code, out, err = run("twin open.keras --to standard --output twin.keras")
    assert (code, err) == (0, "") and (folder / "twin.keras").is_file()


def test_a_converted_model_is_saved_beside_its_model(run, folder):
    code, out, err = run("convert standard.keras --rank 9")
    assert (code, err) == (0, "") and re.search(r"conv +9 +0.0% .* \d\.\d{3}\n", out)
    ours, theirs = (keras.saving.load_model(folder / name) for name in
                    ("standard-rank-9.keras", "standard.keras"))  # fmt: skip
    x = np.load(folder / "images.npy")
    np.testing.assert_allclose(ours.predict(x, verbose=0), theirs.predict(x, verbose=0), atol=1e-4)


def test_a_model_is_converted_to_a_budget_on_data(run, folder):
    pytest.importorskip("matplotlib")
    command = "convert standard.keras --macs 0.7 --calibration images.npy --report conversion"
    code, out, err = run(command)
    assert (code, err) == (0, "") and "whole model" in out
    total, ours = (
        sl.profile(keras.saving.load_model(folder / name)).macs
        for name in ("standard.keras", "standard-macs-0.7.keras")
    )
    saved = json.loads((folder / "conversion" / "report.json").read_text())
    assert saved["macs_after"] == ours <= 0.7 * total
    assert all(row["output_error"] is not None for row in saved["layers"] if row["rank"])
    code, _, err = run("convert standard.keras --macs 0.5 --rank 2")
    assert code == 2 and "not allowed with argument" in err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("twin standard.keras --to standard", "must be a model with a separable part"),
        (
            "twin separable.keras --to standard --output separable.keras",
            "must be a new .keras file",
        ),
        ("twin separable.keras --to standard --output absent/net.keras", "a folder that exists"),
        ("convert standard.keras --keep absent", "`keep` argument must hold names of layers"),
        ("convert separable.keras", "with a standard convolution"),
    ],
)
def test_what_has_no_other_form_is_a_clear_error(run, command, message):
    code, out, err = run(command)
    assert (code, out) == (1, "") and message in err and "Traceback" not in err
