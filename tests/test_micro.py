"""Models on microcontrollers: they run in TensorFlow Lite Micro, in the arena that is stated."""

import importlib.util
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import cli, export
from sepconv_layers.export import c_sources, npu, tflm_worker
from sepconv_layers.export.flatbuffer import operators
from sepconv_layers.export.tflm import ReferenceKernels, TflmError, run_in_tflm
from tests.backends import BACKEND
from tests.test_convert import as_trained

HAS_TFLM = importlib.util.find_spec("tflite_micro") is not None
EXPORTS = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the exports are made of TensorFlow graphs"
)
RUNS = pytest.mark.skipif(not HAS_TFLM, reason="needs tflite-micro")
COMPILES = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
LABELS = ["yes", 'say "no"\\', "größer??/", "tab\there"]


def sequence():
    x = inputs = keras.Input((20, 4), name="frames")
    x = sl.SeparableConvBlock1D(8, 5, strides=2, padding="causal")(x)
    x = sl.ResidualSeparableConvBlock1D(8)(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="classes")(x))


def image():
    return sl.models.ds_cnn((25, 5, 1), classes=4, width=0.25)


def volume():
    x = inputs = keras.Input((5, 8, 6, 2), name="volumes")
    x = sl.ConvBlock3D(4, strides=(2, 1, 2))(x)  # an operator that the runtime lacks
    x = sl.SeparableConvBlock3D(6)(x)
    x = keras.layers.GlobalAveragePooling3D()(x)
    return keras.Model(inputs, keras.layers.Dense(4, name="classes")(x))


def several():
    """Tokens and an image, and two outputs of which one is left out of the argmax."""
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    image = keras.Input((8, 7, 1), name="image")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(10, 5)(tokens))
    y = keras.layers.GlobalAveragePooling2D()(sl.SeparableConvBlock2D(5)(image))
    x = keras.layers.Dense(3, name="first")(keras.layers.Concatenate()([x, y]))
    return keras.Model([tokens, image], [x, keras.layers.Dense(2, name="second")(y)])


def samples_of(model, count=6):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(count, *tensor.shape[1:])) for tensor in model.inputs]
    return [
        rng.integers(0, 10, array.shape) if tensor.dtype == "int32" else array.astype("float32")
        for array, tensor in zip(arrays, model.inputs, strict=True)
    ]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder for each rank, and one with several inputs and outputs."""
    folder, found = tmp_path_factory.mktemp("micro"), {}
    for build in (sequence, image, volume, several):
        keras.utils.set_random_seed(0)
        model = as_trained(build())
        inputs = samples_of(model)
        labels = LABELS if build is image else None
        artifact = export.to_micro(model, folder / build.__name__, inputs, labels=labels)
        report = json.loads((artifact.path / "report.json").read_text("utf-8"))
        found[build.__name__] = SimpleNamespace(
            model=model, inputs=inputs, artifact=artifact, report=report
        )
    return found


@EXPORTS
@RUNS
def test_files_of_all_ranks_agree_with_the_model_and_with_litert(exported):
    for name, entry in exported.items():
        artifact, file = entry.artifact, entry.artifact.path / "model.tflite"
        given = entry.inputs if len(entry.inputs) > 1 else entry.inputs[0]
        outputs = keras.tree.flatten(entry.model(given, training=False))
        largest = max(float(np.abs(output).max()) for output in outputs)
        assert 0 < artifact.max_difference < 0.05 * max(1.0, largest), name
        assert artifact.agreement >= 5 / 6
        assert artifact.litert_steps <= 1
        assert artifact.flash_bytes == artifact.bytes == file.stat().st_size
        assert artifact.macs == sl.profile(entry.model).macs > 0
        kernels = ReferenceKernels(file)
        named = {"tokens": "int32"}
        inputs = kernels.quantized(
            dict(zip([tensor.name for tensor in entry.model.inputs], entry.inputs, strict=True))
        )
        for key, array in zip(kernels.input_names, inputs, strict=True):
            assert array.dtype == named.get(key, "int8")
        run = run_in_tflm(file, inputs)
        for ours, theirs in zip(run.outputs, kernels.run(inputs), strict=True):
            assert ours.dtype == np.int8
            assert np.ptp(theirs.astype(int)) > 20
            assert np.abs(ours.astype(int) - theirs).max() <= 1


@EXPORTS
@RUNS
def test_one_step_less_than_the_stated_arena_fails(exported):
    for entry in exported.values():
        arena = entry.artifact.arena_bytes
        content = (entry.artifact.path / "model.tflite").read_bytes()
        inputs = ReferenceKernels(entry.artifact.path / "model.tflite").quantized(
            dict(zip([tensor.name for tensor in entry.model.inputs], entry.inputs, strict=True))
        )
        assert arena % 64 == 0
        assert tflm_worker.runs(content, arena, inputs)
        assert not tflm_worker.runs(content, arena - 64, inputs)


@EXPORTS
@RUNS
def test_files_have_integer_operators_that_main_registers(exported):
    for entry in exported.values():
        kinds = list(entry.artifact.operators)
        assert not {"CONV_3D", "QUANTIZE", "DEQUANTIZE"} & set(kinds)
        source = (entry.artifact.path / "main.cc").read_text("utf-8")
        assert f"MicroMutableOpResolver<{len(kinds)}> resolver" in source
        assert source.count("resolver.Add") == len(kinds)
        assert all(f"  {line}\n" in source for line in entry.report["resolver"])
        content = (entry.artifact.path / "model.tflite").read_bytes()
        assert sum(entry.artifact.operators.values()) == len(operators(content))


@EXPORTS
@RUNS
@COMPILES
def test_the_compiled_sources_hold_the_file_the_labels_and_the_scales(exported, tmp_path):
    for name, entry in exported.items():
        folder = entry.artifact.path
        shown = ["shown.write((const char*)model::kData, model::kDataBytes);"]
        if name == "image":
            shown.append("for (auto label : model::kLabels) std::cout << label << '|';")
        shown.append("std::cout << model::kArenaBytes << '|' << std::setprecision(9);")
        for ends in ("kInputs", "kOutputs"):
            shown.append(f"for (auto x : model::{ends}) ")
            shown.append("std::cout << x.scale << '|' << x.zero_point << '|';")
        (tmp_path / "show.cc").write_text(
            "#include <fstream>\n#include <iomanip>\n#include <iostream>\n"
            '#include "model.h"\nint main(int, char** arguments) {\n'
            "std::ofstream shown(arguments[1], std::ios::binary);\n" + "\n".join(shown) + "\n}\n"
        )
        program, dump = tmp_path / name, tmp_path / "dump"
        warnings = ["-Wall", "-Wextra", "-Werror", "-std=c++11"]
        sources = [tmp_path / "show.cc", folder / "model.cc"]
        subprocess.run(["g++", *warnings, f"-I{folder}", *sources, "-o", program], check=True)
        done = subprocess.run([program, dump], check=True, capture_output=True)
        assert dump.read_bytes() == (folder / "model.tflite").read_bytes()
        values = done.stdout.decode().split("|")[:-1]
        if name == "image":
            assert values[:4] == LABELS
            values = values[4:]
        assert int(values[0]) == entry.artifact.arena_bytes
        pairs = [(end["scale"], end["zero_point"]) for end in
                 (*entry.report["inputs"], *entry.report["outputs"])]  # fmt: skip
        np.testing.assert_array_equal(
            np.array(values[1:], "float64").astype("float32"), np.float32(pairs).ravel()
        )


@EXPORTS
@RUNS
def test_ds_cnn_fits_into_24_kib(tmp_path):
    model = sl.models.ds_cnn((49, 10, 1), classes=12)
    artifact = export.to_micro(model, tmp_path / "net", samples_of(model))
    assert artifact.flash_bytes <= 29_000
    assert artifact.arena_bytes <= 24 * 1024


@EXPORTS
@RUNS
@pytest.mark.parametrize("conv", ["separable", "standard"])
def test_nets_of_volumes_run(conv, tmp_path):
    model = sl.models.mobilenet_3d((8, 8, 8, 1), 3, conv, width=0.1)
    artifact = export.to_micro(model, tmp_path / "net", samples_of(model))
    assert artifact.arena_bytes > 0


@EXPORTS
@RUNS
def test_a_lacking_operator_is_named_with_its_layer(tmp_path):
    x = inputs = keras.Input((6, 4))
    x = keras.layers.Dense(4, name="before")(x)
    model = keras.Model(inputs, keras.layers.Activation("gelu", name="curve")(x))
    (tmp_path / "net").mkdir()
    with pytest.raises(ValueError, match=r"the layer 'curve' \(Activation\) needs GELU, which it"):
        export.to_micro(model, tmp_path / "net", samples_of(model))
    assert not list((tmp_path / "net").iterdir())


@EXPORTS
@RUNS
def test_an_older_export_is_replaced_and_nothing_else(exported, tmp_path):
    entry = exported["image"]
    arguments = entry.model, tmp_path / "net", entry.inputs
    export.to_micro(*arguments)
    (tmp_path / "net" / "README.md").write_text("mine")
    old = (tmp_path / "net" / "model.h").read_text("utf-8")
    with pytest.raises(ValueError, match="artifact must agree with the model"):
        export.to_micro(*arguments, tolerance=1e-9)
    assert (tmp_path / "net" / "model.h").read_text("utf-8") == old
    export.to_micro(*arguments, labels=LABELS)
    assert "größer" in (tmp_path / "net" / "model.h").read_text("utf-8")
    assert (tmp_path / "net" / "README.md").read_text() == "mine"
    (tmp_path / "net" / "model.tflite").unlink()
    with pytest.raises(ValueError, match="`folder` argument must be a new folder"):
        export.to_micro(*arguments)


@EXPORTS
@RUNS
def test_the_command_prints_the_record(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    entry = exported["image"]
    entry.model.save("net.keras")
    np.save("images.npy", entry.inputs[0])
    assert cli.main("export net.keras --to micro --calibration images.npy".split()) == 0
    printed = capsys.readouterr().out
    assert f"arena               {entry.artifact.arena_bytes:,} bytes" in printed
    assert "operators           CONV_2D x" in printed
    assert (tmp_path / "net-micro" / "main.cc").is_file()


@EXPORTS
@RUNS
@pytest.mark.skipif(importlib.util.find_spec("ethosu") is None, reason="needs ethos-u-vela")
def test_vela_estimates_cycles(exported):
    found = exported["image"].artifact.npu
    assert found["accelerator"] == npu.ACCELERATOR
    assert found["operator_share"] == 1
    assert found["cycles"] > exported["image"].artifact.macs / 128


@EXPORTS
def test_the_estimate_is_left_out_without_vela(tmp_path, monkeypatch):
    monkeypatch.setattr(npu, "find_spec", lambda name: None)
    assert npu.npu_estimate(tmp_path / "net.tflite") is None


@EXPORTS
def test_a_missing_package_is_named(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    with pytest.raises(ImportError, match=r"pip install 'sepconv-layers\[micro\]'"):
        export.to_micro(model, tmp_path / "net", np.ones((2, 4)))


@EXPORTS
@RUNS
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"calibration": None}, "`calibration` argument must be inputs to measure the ranges"),
        ({"calibration": 3}, "`calibration` argument must be a batch of inputs or an iterable"),
        ({"states": "internal"}, "`states` argument must be 'explicit' for a model without"),
        ({"labels": ["one"]}, "`labels` argument must be 2 strings"),
        ({"folder": "no/such/folder"}, "folder of the `folder` argument must exist"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    defaults = {"folder": tmp_path / "net", "calibration": np.ones((2, 4))}
    with pytest.raises(ValueError, match=message):
        export.to_micro(model, **{**defaults, **arguments})


@RUNS
def test_a_file_that_no_runtime_reads_is_an_error(tmp_path):
    (tmp_path / "net.tflite").write_bytes(b"no model" * 9)
    with pytest.raises(TflmError):
        run_in_tflm(tmp_path / "net.tflite", [np.ones((1, 4), "int8")])


def test_operators_are_spelled_as_the_resolver_spells_them():
    names = {
        "CONV_2D": "Conv2D",
        "L2_POOL_2D": "L2Pool2D",
        "BATCH_TO_SPACE_ND": "BatchToSpaceNd",
        "RELU6": "Relu6",
        "PADV2": "PadV2",
        "BATCH_MATMUL": "BatchMatMul",
        "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
        "SELECT_V2": "SelectV2",
    }
    expected = [f"resolver.Add{name}();" for name in names.values()]
    assert c_sources.resolver_lines(names) == expected
