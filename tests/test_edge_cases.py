"""What seldom comes: wrong arguments, empty batches, other precisions, sizes that stay open."""

import math

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import ops
from tests.backends import BACKEND, MODES, SHORT, output_of, run_with_gradients
from tests.cases import PLAIN, TWINS

INPUTS, KERNEL, POINTWISE = np.ones((2, 8, 4)), np.ones((3, 4, 1)), np.ones((1, 4, 6))
OPERATIONS = {
    ops.conv: [np.ones((3, 4, 5))],
    ops.depthwise_conv: [KERNEL],
    ops.separable_conv: [KERNEL, POINTWISE],
    ops.depthwise_conv_transpose: [KERNEL],
    ops.separable_conv_transpose: [KERNEL, POINTWISE],
}
every_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.__name__)
NO_INTEGERS = [2**31, 2**70, 1.0, (1.0,), float("nan"), "2", b"\x02", bytearray(b"\x02"), None, {2}]


@every_operation
def test_wrong_numbers_are_named(operation):
    wrong = {"strides": NO_INTEGERS, "dilation_rate": NO_INTEGERS}
    if "transpose" in operation.__name__:
        wrong["strides"] = [*NO_INTEGERS, 2**31 - 1, 2**20]
        wrong["output_padding"] = [value for value in NO_INTEGERS if value is not None]
    for argument, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match=f"(?s){argument}.*[Rr]eceived"):
                operation(INPUTS, *OPERATIONS[operation], **{argument: value})
    # And what is right is found again, after what only equals it.
    operation(INPUTS, *OPERATIONS[operation], strides=1, dilation_rate=(1,))


def test_layers_refuse_what_their_operations_do():
    for argument in ("kernel_size", "strides", "dilation_rate"):
        with pytest.raises(ValueError, match=argument):
            sl.DepthwiseConv2D(**{"kernel_size": 3, argument: 2**31})
    with pytest.raises(ValueError, match="strides"):
        sl.SeparableConv2DTranspose(2, 3, strides=2**31 - 1)(np.ones((1, 5, 5, 2)))
    with pytest.raises(ValueError, match="positions"):
        sl.DepthwiseConv3DTranspose(2, strides=4000)(np.ones((1, 1, 1, 1, 1)))


@pytest.mark.parametrize("size", [2**31 - 1, 2**20])
@pytest.mark.parametrize("operation", [ops.conv, ops.depthwise_conv, ops.separable_conv])
def test_steps_beyond_the_input_give_one_output(operation, size):
    kernels = OPERATIONS[operation]
    once = output_of(lambda x: operation(x, *kernels), INPUTS[:, :3])
    assert np.allclose(output_of(lambda x: operation(x, *kernels, strides=size), INPUTS), once)
    # With such a dilation, only the middle of the kernel meets anything.
    far = {"padding": "same", "dilation_rate": size}
    outputs = output_of(lambda x: operation(x, *kernels, **far), INPUTS)
    assert np.allclose(outputs, np.repeat(once / 3, 8, axis=1))


WRONG_TENSORS = {
    "strings": np.full(INPUTS.shape, "a"),
    "bytes": np.full(INPUTS.shape, b"a"),
    "objects": np.full(INPUTS.shape, None),
    "complex": INPUTS.astype("complex64"),
    "dates": np.zeros(INPUTS.shape, "datetime64[s]"),
    "nothing": None,
    "a boolean": False,
    "a number": float("nan"),
    "a word": "inputs",
    "a ragged list": [[1.0, 2.0], [3.0]],
}


@pytest.mark.parametrize("wrong", WRONG_TENSORS.values(), ids=WRONG_TENSORS)
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_wrong_tensors_are_named(wrong, data_format):
    for operation, kernels in OPERATIONS.items():
        with pytest.raises(ValueError, match=r"(?s)`inputs`.*Received"):
            operation(wrong, *kernels, data_format=data_format)
        first = r"(?s)`kernel`|`depthwise_kernel`.*Received"
        with pytest.raises(ValueError, match=first):
            operation(INPUTS, wrong, *kernels[1:], data_format=data_format)


def test_symbolic_tensors_of_strings_are_named():
    with pytest.raises(ValueError, match="`inputs` must be a tensor of real numbers.*string"):
        ops.depthwise_conv(keras.Input((8, 4), dtype="string"), KERNEL)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32", "float16"])
def test_all_real_numbers_can_be_convolved(dtype):
    for operation, kernels in OPERATIONS.items():
        outputs, expected = (
            output_of(lambda x, run=operation, k=kernels: run(x, *k), INPUTS.astype(kind))
            for kind in (dtype, "float32")
        )
        assert np.allclose(outputs, expected, rtol=1e-3)


@pytest.fixture
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


# JAX has no float64 unless it is configured so, and compiles each layer in each.
DTYPES = ["float16", "bfloat16", *([] if BACKEND == "jax" else ["float64"])][-1 if SHORT else 0 :]


@pytest.mark.parametrize("policy", DTYPES, indirect=True)
def test_every_layer_trains_in_one_precision(policy):
    """A step of each, as one model has them all side by side."""
    inputs, outputs = keras.Input((6, 4)), []
    for case in PLAIN:
        if case.rank == 1 and case.cls not in {twin for _, twin, _ in TWINS}:
            layer = case.make()
            outputs.append(keras.layers.GlobalAveragePooling1D()(layer(inputs)))
            assert layer.compute_dtype == policy
            assert {weight.dtype for weight in layer.trainable_weights} <= {policy}
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(outputs)))
    # A step that half precision can add to the weights. Compiled, it takes longer except on JAX,
    # which compiles in any case.
    eagerly = {"run_eagerly": True} if BACKEND != "jax" else {}
    sgd = keras.optimizers.SGD(2**-4, clipvalue=2.0)
    model.compile(sgd, "mse", jit_compile=BACKEND == "jax", **eagerly)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 6, 4)), rng.normal(size=(4, 1))
    assert np.isfinite(model.train_on_batch(x, y))
    for weight in model.weights:
        values = keras.ops.convert_to_numpy(keras.ops.cast(weight, "float32"))
        assert np.isfinite(values).all(), weight.path
    call = model
    if BACKEND == "jax":
        import jax

        call = jax.jit(model)
    assert keras.backend.standardize_dtype(call(x).dtype) == policy


@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_of_one_precision_are_those_of_float32(dtype):
    x = np.random.default_rng(0).normal(2, 3, (8, 5, 4))
    normalize = {
        name: sl.BatchNormalization(momentum=0.5, dtype=name) for name in ("float32", dtype)
    }
    outputs = {name: layer(x, training=True) for name, layer in normalize.items()}
    tolerance = {"float16": 1e-2, "bfloat16": 6e-2, "float64": 1e-5}[dtype]

    def values(tensor):
        return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))

    assert np.allclose(values(outputs[dtype]), values(outputs["float32"]), atol=tolerance)
    for name in ("moving_mean", "moving_variance"):
        wanted = values(getattr(normalize["float32"], name))
        assert np.allclose(values(getattr(normalize[dtype], name)), wanted, rtol=tolerance)


EMPTY = [
    (ops.conv, (3, 3, 4, 5), {}),
    (ops.conv, (1, 1, 4, 7), {"strides": 2}),
    (ops.conv, (3, 2, 2, 6), {"strides": (2, 1), "padding": "same", "dilation_rate": (1, 2)}),
    (ops.conv, (2, 3, 3, 4, 5), {"padding": "causal"}),
    (ops.conv, (3, 3, 3, 2, 6), {"data_format": "channels_first"}),
    (ops.depthwise_conv, (3, 4, 1), {}),
    (ops.depthwise_conv, (5, 4, 2), {"padding": "causal", "data_format": "channels_first"}),
    (ops.depthwise_conv, (3, 5, 4, 2), {"strides": 2, "padding": "same"}),
    (ops.depthwise_conv, (3, 2, 1, 4, 2), {"strides": (2, 1, 3), "padding": "causal"}),
    (ops.separable_conv, (3, 4, 2), {"padding": "causal", "data_format": "channels_first"}),
    (ops.separable_conv, (3, 3, 3, 4, 1), {"strides": 2, "data_format": "channels_first"}),
    (ops.depthwise_conv_transpose, (3, 3, 4, 2), {"strides": 2, "padding": "same"}),
    (ops.separable_conv_transpose, (3, 2, 3, 4, 1), {"strides": (1, 2, 1), "padding": "causal"}),
]


@pytest.mark.parametrize(("operation", "shape", "how"), EMPTY)
def test_an_empty_batch_has_the_shape_of_any_other(operation, shape, how):
    rank = len(shape) - 2
    kernels = [np.ones(shape)]
    if "separable" in operation.__name__:
        kernels.append(np.ones((*(1,) * rank, math.prod(shape[-2:]), 3)))
    sample = (2, 4, *(9, 8, 7)[:rank])
    if how.get("data_format") != "channels_first":
        sample = (2, *sample[2:], 4)

    def run(x, *kernels):
        return operation(x, *kernels, **how)

    expected = run(keras.KerasTensor(sample), *kernels).shape[1:]
    signature = [(None, *sample[1:]), *(kernel.shape for kernel in kernels)]
    for batch in (0,) if SHORT else (0, 2):
        x, upstream = np.ones((batch, *sample[1:])), np.ones((batch, *expected))
        mode = "graph" if BACKEND == "tensorflow" else MODES[0]  # where a batch may be unknown
        outputs, to_inputs, *to_kernels = run_with_gradients(
            run, [x, *kernels], upstream, mode, "float32", signature
        )
        assert outputs.shape == upstream.shape
        assert to_inputs.shape == x.shape
        for gradient, kernel in zip(to_kernels, kernels, strict=True):
            assert gradient.shape == kernel.shape
            assert gradient.any() == bool(batch)


@pytest.mark.skipif(BACKEND != "jax", reason="exports by JAX")
@pytest.mark.parametrize(
    "layer",
    [
        sl.Conv2D(4, 3),
        sl.DepthwiseConv2D(3),
        sl.DepthwiseConv3D(2),
        sl.SeparableConv1D(4, 3, strides=2, padding="causal"),
        sl.SeparableConv2DTranspose(4, 3, strides=2, padding="same"),
        sl.SeparableConvBlock2D(4, strides=2),
    ],
    ids=lambda layer: layer.name,
)
def test_programs_of_symbolic_sizes_are_right_for_every_size(layer):
    import jax
    from jax import export

    rank = int(next(letter for letter in type(layer).__name__ if letter.isdigit()))
    layer.build((None,) * (rank + 1) + (3,))
    shape = export.symbolic_shape(", ".join("bhwd"[: rank + 1]) + ", 3")
    program = export.export(jax.jit(layer))(jax.ShapeDtypeStruct(shape, "float32"))
    for size in (3, 8):
        x = np.random.default_rng(0).normal(size=(2, *range(size, size + rank), 3))
        x = x.astype("float32")
        assert np.allclose(program.call(x), layer(x), atol=1e-4)
