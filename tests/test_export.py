"""What is exported to LiteRT and ONNX: it runs without this package, and gives what it should."""

import os
import subprocess
import sys
import warnings
import zipfile
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import export
from sepconv_layers.export import flatbuffer, litert
from tests.backends import BACKEND
from tests.test_convert import arrays_of, as_trained

pytestmark = [
    pytest.mark.skipif(BACKEND != "tensorflow", reason="the exports are made of TensorFlow graphs"),
    # Whether it is said depends on what else the machine does; one test asks for it.
    pytest.mark.filterwarnings("ignore:.*quantize='dynamic' saves size:UserWarning"),
]

LABELS = ["yes", "no", "größer als", "*"]


def sequence():
    x = inputs = keras.Input((20, 4), name="frames")
    x = sl.SeparableConvBlock1D(8, 5, strides=2, padding="causal")(x)
    x = sl.ResidualSeparableConvBlock1D(8, dilation_rate=2, drop_path=0.5)(x)
    x = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, keras.layers.Dense(4, name="logits")(x))


def image():
    x = inputs = keras.Input((16, 12, 3), name="images")
    x = sl.ConvBlock2D(16, strides=2, activation="relu6")(x)
    x = sl.InvertedBottleneckBlock2D(16, expansion=4, se_ratio=0.25, activation="hard_silu")(x)
    for strides in (1, 2, 1):
        x = sl.SeparableConvBlock2D(64, strides=strides)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(4, name="logits")(x))


def volume():
    x = inputs = keras.Input((6, 7, 5, 2), name="volumes")
    x = sl.SeparableConvBlock3D(6, strides=(2, 1, 2), normalization="layer")(x)
    x = sl.ResidualSeparableConvBlock3D(6, repeats=1)(x)
    x = keras.layers.GlobalAveragePooling3D()(x)
    return keras.Sequential([keras.Model(inputs, x), keras.layers.Dense(4)])


def several():
    """Two inputs in a dictionary, two outputs, unknown sizes, tokens and mixed precision."""
    dtype = "mixed_float16"
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    image = keras.Input((None, None, 1), name="a_image")
    x = keras.layers.Embedding(10, 6, dtype=dtype)(tokens)
    x = keras.layers.GlobalAveragePooling1D()(sl.SeparableConvBlock1D(4, dtype=dtype)(x))
    y = keras.layers.GlobalMaxPooling2D()(sl.SeparableConvBlock2D(4, dtype=dtype)(image))
    return keras.Model({"tokens": tokens, "a_image": image}, {"sum": x + y, "image": y})


def sample_of(model, count=4, seed=2):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(count, *x.shape[1:])).astype("float32") for x in model.inputs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def exported(folder):
    """Artifacts of all ranks, and what the models give, in files."""
    keras.utils.set_random_seed(0)  # integers may disagree where logits of a net are close
    found = {}
    for build in (sequence, image, volume, several):
        model, name = as_trained(build()), build.__name__
        labels = None if build is several else LABELS
        if build is several:
            rng = np.random.default_rng(0)
            inputs = sample = {
                "tokens": rng.integers(0, 10, (4, 9)).astype("int32"),
                "a_image": rng.normal(size=(4, 7, 6, 1)).astype("float32"),
            }
        else:
            (sample,) = sample_of(model)
            names = ["inputs"] if build is volume else [model.inputs[0].name]
            inputs = {names[0]: sample}
        outputs = arrays_of(model(sample, training=False))
        artifacts = [
            export.to_litert(model, folder / f"{name}.tflite", sample=sample, labels=labels),
            export.to_onnx(model, folder / f"{name}.onnx", sample=sample, labels=labels),
        ]
        expected = {f"output_{i}": output for i, output in enumerate(outputs)}
        np.savez(folder / f"{name}.npz", **inputs, **expected)
        found[name] = SimpleNamespace(model=model, artifacts=artifacts)
    return found


ELSEWHERE = """
import sys
import numpy as np
import onnxruntime
from ai_edge_litert.interpreter import Interpreter

for name in sys.argv[1:]:
    data = dict(np.load(f"{name}.npz"))
    outputs = [data.pop(key) for key in sorted(data) if key.startswith("output_")]
    tolerance = 1e-2 if name == "several" else 1e-3  # half-precision
    # Outputs of both come in the order of their names, or there is one.
    interpreter = Interpreter(f"{name}.tflite", num_threads=2)
    run = interpreter.get_signature_runner("serving_default")
    session = onnxruntime.InferenceSession(f"{name}.onnx", providers=["CPUExecutionProvider"])
    names = sorted(output.name for output in session.get_outputs())
    litert = [run(**{key: array[i : i + 1] for key, array in data.items()}) for i in range(4)]
    litert = [np.concatenate([sample[key] for sample in litert]) for key in names]
    for count in (4, 1):  # the batch is open
        onnx = session.run(names, {key: array[:count] for key, array in data.items()})
        for found, expected in zip(onnx, outputs, strict=True):
            np.testing.assert_allclose(found, expected[:count], rtol=tolerance, atol=tolerance)
    for found, expected in zip(litert, outputs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    print(name, session.get_modelmeta().custom_metadata_map.get("labels", "").split())
assert not {"sepconv_layers", "keras", "tensorflow"} & set(sys.modules)
"""


def test_artifacts_of_all_ranks_run_where_there_is_no_keras(exported, folder):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *exported],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**environment, "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr
    printed = " ".join(LABELS).split()
    assert done.stdout.splitlines() == [
        f"{name} {[] if name == 'several' else printed}" for name in exported
    ]


def test_the_record_says_what_was_written(exported):
    for entry in exported.values():
        for kind, artifact in zip(("litert", "onnx"), entry.artifacts, strict=True):
            assert artifact.kind == kind
            assert artifact.bytes == artifact.path.stat().st_size
            assert artifact.max_difference < 1e-4
            assert artifact.agreement == 1
            assert artifact.latency_ms > 0


def interpreter_of(path, delegates=True):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    kind = OpResolverType.AUTO if delegates else plain
    interpreter = Interpreter(str(path), experimental_op_resolver_type=kind)
    interpreter.allocate_tensors()
    return interpreter


def test_litert_files_have_built_in_operators_for_one_sample(exported):
    for name, entry in exported.items():
        interpreter = interpreter_of(entry.artifacts[0].path)
        used = {operator["op_name"] for operator in interpreter._get_ops_details()}
        assert not {op for op in used if op.startswith("Flex") or op == "CUSTOM"}
        assert "CONV_2D" in used or name == "volume"
        assert "DEPTHWISE_CONV_2D" in used
        assert all(details["shape"][0] == 1 for details in interpreter.get_input_details())


def test_labels_stand_where_readers_of_litert_metadata_look(exported):
    from ai_edge_litert import schema_py_generated as schema

    path = exported["image"].artifacts[0].path
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode() == "".join(f"{name}\n" for name in LABELS)
    content = np.frombuffer(path.read_bytes(), "uint8")
    model = schema.Model.GetRootAs(content)
    for data in (model.Buffers(i).DataAsNumpy() for i in range(model.BuffersLength())):
        if isinstance(data, np.ndarray):  # kernels in it can be used where they are
            assert (data.ctypes.data - content.ctypes.data) % 16 == 0
    entries = [model.Metadata(i) for i in range(model.MetadataLength())]
    names = [entry.Name() for entry in entries]
    assert b"min_runtime_version" in names and b"CONVERSION_METADATA" not in names
    (entry,) = [entry for entry in entries if entry.Name() == b"TFLITE_METADATA"]
    metadata = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    root = Table.root(metadata)
    assert metadata[4:8] == b"M001"
    subgraph = root.vector(3)[0]
    assert [tensor.string(0) for tensor in subgraph.vector(2)] == ["images"]
    (output,) = subgraph.vector(3)
    assert output.string(0) == "logits"
    (file,) = output.vector(6)
    assert file.string(0) == "labels.txt"
    assert file.int8(2) == 2  # TENSOR_AXIS_LABELS


class Table:
    """A table of a flatbuffer, read by the numbers of its fields."""

    def __init__(self, content, position):
        from flatbuffers.table import Table as Reader

        self.reader = Reader(content, position)

    @classmethod
    def root(cls, content):
        return cls(content, int.from_bytes(content[:4], "little"))

    def at(self, field):
        offset = self.reader.Offset(4 + 2 * field)
        assert offset
        return self.reader.Pos + offset

    def string(self, field):
        return self.reader.String(self.at(field)).decode()

    def int8(self, field):
        return self.reader.Bytes[self.at(field)]

    def vector(self, field):
        offset = self.at(field) - self.reader.Pos
        start = self.reader.Vector(offset)
        tables = range(self.reader.VectorLen(offset))
        return [Table(self.reader.Bytes, self.reader.Indirect(start + 4 * i)) for i in tables]


def test_quantized_files_are_smaller_and_agree(exported, folder):
    model, plain = exported["image"].model, exported["image"].artifacts[0]
    (calibration,) = sample_of(model, 30)
    sizes = {}
    for quantize in ("float16", "dynamic", "int8"):
        inputs = calibration if quantize == "int8" else None
        path = folder / f"{quantize}.tflite"
        artifact = export.to_litert(model, path, quantize, inputs, sample=calibration)
        sizes[quantize] = artifact.bytes / plain.bytes
        assert artifact.agreement > 0.8
        assert 0 < artifact.max_difference < 0.3
    assert sizes["float16"] < 0.65
    assert sizes["dynamic"] < 0.55
    assert sizes["int8"] < 0.6
    assert sizes["int8"] < sizes["float16"]


def test_int8_files_have_a_scale_for_each_channel_and_integers_at_both_ends(exported, folder):
    model = exported["image"].model
    batches = (sample_of(model, 5, seed) for seed in range(4))  # an iterable of lists of arrays
    (sample,) = sample_of(model, 20)
    path = folder / "integers.tflite"
    artifact = export.to_litert(
        model, path, "int8", batches, sample=sample, quantize_io=True, labels=LABELS
    )
    assert artifact.agreement > 0.8
    interpreter = interpreter_of(path)
    ends = (*interpreter.get_input_details(), *interpreter.get_output_details())
    assert {details["dtype"] for details in ends} == {np.int8}
    kernels = kernels_of(interpreter, "DEPTHWISE_CONV_2D")
    assert kernels
    for details in kernels:
        assert details["dtype"] == np.int8
        assert len(details["quantization_parameters"]["scales"]) == details["shape"][-1]


def test_int8_files_hold_the_scales_of_kernel_and_bias_once(exported, tmp_path, monkeypatch):
    shortcut = keras.Sequential([
        keras.Input((16, 12, 3)),
        sl.InvertedBottleneckBlock2D(16, activation="relu6"),
        sl.ResidualSeparableConvBlock2D(16, repeats=2),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(4),
    ])  # fmt: skip
    small = sl.models.ds_cnn((49, 10, 1), classes=12)
    for model in (exported["image"].model, as_trained(shortcut), as_trained(small)):
        (sample,) = sample_of(model, 50)
        paths = [tmp_path / f"{name}.tflite" for name in ("unit", "as_converted")]
        for path in paths:
            export.to_litert(model, path, "int8", sample, quantize_io=True)
            monkeypatch.setattr(flatbuffer, "unit_scales", lambda _: None)
        monkeypatch.undo()
        unit, as_converted = (path.stat().st_size for path in paths)
        assert unit < as_converted
        # The same integers, but where what a channel is multiplied with was rounded elsewhere.
        for delegates in (True, False):
            ours, theirs = (integers_of(interpreter_of(path, delegates), sample) for path in paths)
            assert np.ptp(theirs) > 50
            assert np.abs(ours - theirs).max() <= 1
            assert np.mean(ours != theirs) < 0.05
        # Bounds of six are those of the integers, which have another value now.
        shared = 0
        interpreter = interpreter_of(paths[0])
        tensors = {details["index"]: details for details in interpreter.get_tensor_details()}
        for operation in interpreter._get_ops_details():
            if operation["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
                scales = [
                    tensors[index]["quantization_parameters"]["scales"]
                    for index in operation["inputs"]
                    if index >= 0  # there may be no bias
                ]
                if len(scales) == 3:
                    source, kernel, bias = scales
                    np.testing.assert_allclose(bias, source * kernel, rtol=1e-6)
                    shared += np.array_equal(bias, kernel)
        assert shared >= 3
    assert unit < 32_000  # the file of MLPerf Tiny has 53,936 bytes


def integers_of(interpreter, sample):
    """What a quantized model gives for inputs that it would round to integers."""
    (into,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero_point = into["quantization"]
    outputs = []
    for one in np.clip(np.round(sample / scale) + zero_point, -128, 127).astype("int8"):
        interpreter.set_tensor(into["index"], one[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(out["index"])[0].astype(int))
    return np.array(outputs)


def kernels_of(interpreter, operator):
    """The details of what operators of that name have as their second input."""
    tensors = {details["index"]: details for details in interpreter.get_tensor_details()}
    used = interpreter._get_ops_details()
    return [tensors[op["inputs"][1]] for op in used if op["op_name"] == operator]


# With a depth of 1, two of three planes of a kernel meet only padding.
@pytest.mark.parametrize("depth", [6, 1])
@pytest.mark.parametrize("quantize", ["float16", "dynamic", "int8"])
def test_volumes_can_be_quantized(folder, depth, quantize):
    x = inputs = keras.Input((depth, 5, 4, 2))
    for strides in (1, 2):
        x = sl.SeparableConvBlock3D(40, strides=strides)(x)
    x = keras.layers.GlobalAveragePooling3D()(x)
    model = as_trained(keras.Model(inputs, keras.layers.Dense(4)(x)))
    (calibration,) = sample_of(model, 10)
    path = folder / f"volume_{quantize}_{depth}.tflite"
    batches = calibration if quantize == "int8" else None
    artifact = export.to_litert(model, path, quantize, batches, sample=calibration)
    assert artifact.max_difference < 0.1
    interpreter = interpreter_of(path)
    matrices = kernels_of(interpreter, "FULLY_CONNECTED")
    assert len(matrices) == 3  # the pointwise steps too
    assert "CONV_3D" not in {op["op_name"] for op in interpreter._get_ops_details()}
    if quantize != "float16":
        (matrix,) = (details for details in matrices if list(details["shape"]) == [40, 40])
        assert matrix["dtype"] == np.int8
        assert len(matrix["quantization_parameters"]["scales"]) == 40


def bounded():
    """Where ReLU6 follows what has no kernel: additions and average pooling, also of each rank."""
    inputs, outputs = [], []
    for rank, sizes in enumerate(((20,), (12, 10), (6, 5, 4)), start=1):
        x = keras.Input((*sizes, 4))
        block = getattr(sl, f"ResidualSeparableConvBlock{rank}D")(4, activation="relu6")
        inputs.append(x)
        outputs.append(block(x))
    relu6 = keras.layers.ReLU(6)
    images = inputs[1]
    x = keras.layers.Conv2D(4, 3, padding="same")(images)
    outputs.append(relu6(keras.layers.Add()([x, images])))
    outputs.append(relu6(keras.layers.AveragePooling2D(2)(keras.layers.Conv2D(4, 3)(4 * images))))
    outputs.append(keras.activations.hard_sigmoid(images))
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("quantize", [None, "float16", "dynamic", "int8"])
def test_a_bound_of_six_needs_no_scale(quantize, tmp_path):
    keras.utils.set_random_seed(0)
    model = as_trained(bounded())
    sample = sample_of(model, 8)
    calibration = sample if quantize == "int8" else None
    artifact = export.to_litert(model, tmp_path / "net.tflite", quantize, calibration, sample)
    assert artifact.max_difference < {None: 1e-4, "float16": 0.02}.get(quantize, 0.3)


def test_loops_are_refused_for_integers(tmp_path):
    inputs = keras.Input((9, 3))
    model = keras.Model(inputs, keras.layers.GRU(3, name="memory")(inputs))
    (sample,) = sample_of(model)
    with pytest.raises(ValueError, match=r"loop in 'memory' \(GRU\).*unroll=True"):
        export.to_litert(model, tmp_path / "net.tflite", "int8", sample)
    unrolled = keras.Model(inputs, keras.layers.GRU(3, unroll=True)(inputs))
    artifact = export.to_litert(unrolled, tmp_path / "net.tflite", "int8", sample)
    assert artifact.max_difference < 0.1


def test_slow_dynamic_files_are_said(exported, tmp_path, monkeypatch):
    said = {}
    for slower in (1e6, 0.0):
        monkeypatch.setattr(litert, "SLOWER", slower)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always", UserWarning)
            export.to_litert(exported["sequence"].model, tmp_path / "net.tflite", "dynamic")
        said[slower] = [str(one.message) for one in found if one.category is UserWarning]
    assert not said[1e6]
    (message,) = said[0.0]
    assert "with float32 weights" in message and "quantize='dynamic' saves size" in message
    assert [file.name for file in tmp_path.iterdir()] == ["net.tflite"]


def test_dynamic_files_have_int8_weights_in_large_kernels_only(tmp_path):
    def model(units):
        return keras.Sequential([keras.Input((32,)), keras.layers.Dense(units)])

    for units, saves in ((31, False), (32, True)):  # from 1,024 values on
        plain, dynamic = (
            export.to_litert(model(units), tmp_path / "net.tflite", quantize).bytes
            for quantize in (None, "dynamic")
        )
        assert (dynamic < 0.6 * plain) == saves


def test_the_converter_to_onnx_is_quiet_about_what_it_leaves_out(tmp_path, capfd, caplog):
    model = keras.Sequential([
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(4, 3),
        keras.layers.Activation("hard_sigmoid"),
        keras.layers.Conv2D(4, 3),
    ])  # fmt: skip
    export.to_onnx(model, tmp_path / "net.onnx")
    assert "Traceback" not in capfd.readouterr().err
    assert not [record for record in caplog.records if record.name.startswith("tf2onnx")]


@pytest.mark.parametrize("function", [export.to_litert, export.to_onnx])
def test_the_layer_is_named_wherever_it_is(function, tmp_path):
    class Inverse(keras.layers.Layer):
        def call(self, inputs):
            return keras.ops.erfinv(inputs)

    x = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), Inverse(name="inverse")])
    model = keras.Model(x, keras.layers.Dense(2)(inner(x)))
    with pytest.raises(ValueError, match=r"whose layer 'inverse' \(Inverse\) needs Erfinv, which"):
        function(model, tmp_path / "net")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("function", [export.to_litert, export.to_onnx])
def test_what_a_layer_holds_is_no_input_of_the_file(tmp_path, function):
    inputs = keras.Input((5, 4), name="frames")
    x = keras.layers.Normalization(mean=np.arange(4.0), variance=np.full(4, 2.0))(inputs)
    model = keras.Model(inputs, [keras.layers.Dense(3, name="b")(x), keras.layers.Dense(2)(x)])
    path = tmp_path / ("net.onnx" if function is export.to_onnx else "net.tflite")
    assert function(model, path).max_difference < 1e-5
    assert [tensor.name for tensor in export.load(path).inputs] == ["frames"]


@pytest.mark.parametrize("function", [export.to_litert, export.to_onnx])
def test_the_batch_is_open_or_one_sample(function, tmp_path):
    def model(batch_size):
        inputs = keras.Input((9, 4), batch_size=batch_size)
        return keras.Model(inputs, sl.SeparableConvBlock1D(5)(inputs))

    artifact = function(model(1), tmp_path / "net")
    assert artifact.max_difference < 1e-5
    with pytest.raises(ValueError, match=r"of any size, or of one sample.*\(4, 9, 4\).*Build it"):
        function(model(4), tmp_path / "net")


def test_names_in_litert_files_are_those_of_both_ends(exported):
    interpreter = interpreter_of(exported["image"].artifacts[0].path)
    ends = (*interpreter.get_input_details(), *interpreter.get_output_details())
    long = {details["name"] for details in interpreter.get_tensor_details() if details["name"]}
    named = {name for name in long if not name.isdigit()}
    assert named == {details["name"] for details in ends}


def test_a_failed_export_leaves_the_old_file(exported, tmp_path):
    model = exported["sequence"].model
    (calibration,) = sample_of(model)
    for function, arguments in (
        (export.to_litert, {"quantize": "int8", "calibration": calibration, "tolerance": 1e-9}),
        (export.to_onnx, {"tolerance": 0}),
    ):
        path = tmp_path / function.__name__
        path.write_text("old")
        with pytest.raises(ValueError, match="artifact must agree with the model"):
            function(model, path, **arguments)
        assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("function", [export.to_litert, export.to_onnx])
def test_what_has_no_operator_is_refused(function, tmp_path):
    x = keras.Input((4,))
    model = keras.Model(x, keras.ops.erfinv(x))
    with pytest.raises(ValueError, match="argument must be a model of operations"):
        function(model, tmp_path / "net")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (export.to_litert, {"quantize": "int2"}, "`quantize` argument must be one of"),
        (export.to_litert, {"quantize": "int8"}, "`calibration` argument must be inputs to"),
        (export.to_litert, {"calibration": np.ones((2, 20, 4))}, "with quantize=None"),
        (
            export.to_litert,
            {"quantize": "int8", "calibration": np.ones((2, 20, 5))},
            "`calibration` argument must be a batch of inputs of the shapes",
        ),
        (export.to_litert, {"quantize": "int8", "calibration": []}, "must hold inputs"),
        (export.to_litert, {"quantize": "int8", "calibration": 3}, "an iterable of batches"),
        (export.to_litert, {"quantize_io": True}, "`quantize_io` argument is for"),
        (export.to_onnx, {"opset": 3}, "`opset` argument must be an integer from 13"),
        *(
            (function, arguments, message)
            for function in (export.to_litert, export.to_onnx)
            for arguments, message in (
                ({"model": sl.Conv1D(4, 3)}, "`model` argument must be a Keras model"),
                ({"labels": ["one"]}, "`labels` argument must be 4 strings"),
                ({"sample": np.ones((2, 3))}, "`sample` argument must be a batch"),
                ({"path": "no/such/folder/net"}, "folder of the `path` argument must exist"),
            )
        ),
    ],
)
def test_bad_arguments_are_named(exported, tmp_path, function, arguments, message):
    defaults = {"model": exported["sequence"].model, "path": tmp_path / "net"}
    with pytest.raises(ValueError, match=message):
        function(**{**defaults, **arguments})


@pytest.mark.parametrize(
    ("function", "module"),
    [
        (export.to_litert, "ai_edge_litert.interpreter"),
        (export.to_onnx, "onnx"),
        (export.to_onnx, "tf2onnx"),
    ],
)
def test_a_missing_package_is_named(exported, tmp_path, monkeypatch, function, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'sepconv-layers\[export\]'"):
        function(exported["sequence"].model, tmp_path / "net")
