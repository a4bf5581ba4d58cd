"""What every public layer and block keeps: one loop over the table of cases."""

import inspect
import json
import math
import subprocess
import sys

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from tests.backends import BACKEND, SHORT, output_of, the_same_everywhere
from tests.cases import CASES, CHANNELS, FEW_CASES, PLAIN, RANKS, SIZES

ANY_RANK = (sl.DropPath, sl.BatchNormalization)
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def inputs_for(case):
    return np.random.default_rng(0).normal(size=case.input_shape).astype("float32")


def with_weights_of(layer, other, input_shape):
    layer.build(input_shape)
    layer.set_weights(other.get_weights())
    return layer


def test_the_table_holds_every_public_class():
    public = {
        name
        for name in sl.__all__
        if inspect.isclass(getattr(sl, name)) and issubclass(getattr(sl, name), keras.layers.Layer)
    }
    assert public == {case.cls.__name__ for case in CASES}


@every_case
def test_config_holds_exactly_the_arguments_and_survives_json(case):
    layer = case.make(name="some_name")
    config = json.loads(json.dumps(layer.get_config()))
    arguments = set(inspect.signature(case.cls).parameters) - {"kwargs"}
    assert set(config) == arguments | {"name", "trainable", "dtype"}
    again = case.cls.from_config(config)
    assert json.loads(json.dumps(again.get_config())) == config


@every_case
def test_the_inferred_shape_is_the_actual_one(case):
    layer = case.make()
    before = layer.compute_output_shape(case.input_shape)
    y = output_of(layer, inputs_for(case))
    assert y.shape == before == layer.compute_output_shape(case.input_shape)
    unknown = case.make().compute_output_shape(case.unknown_shape)
    assert unknown[0] is None
    assert all(n in (None, m) for n, m in zip(unknown, y.shape, strict=True))


@pytest.mark.parametrize("case", FEW_CASES, ids=str)
def test_a_functional_model_takes_unknown_sizes(case):
    symbolic = keras.Input(case.unknown_shape[1:])
    layer = case.make()
    model = keras.Model(symbolic, layer(symbolic))
    x = inputs_for(case)
    expected = output_of(layer, x)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        model = tf.function(model, input_signature=[tf.TensorSpec(case.unknown_shape)])
    np.testing.assert_allclose(output_of(model, x), expected, rtol=1e-4, atol=1e-5)


@every_case
def test_both_data_formats_agree(case):
    if "data_format" not in inspect.signature(case.cls).parameters:
        pytest.skip("has no data format")
    if callable(case.arguments.get("normalization")):
        pytest.skip("a callable knows its own axis")
    last = case.make(data_format="channels_last")
    x = np.random.default_rng(0).normal(size=(2, *SIZES[: case.rank], CHANNELS))
    expected = output_of(last, x)
    x = np.moveaxis(x, -1, 1)
    first = with_weights_of(case.make(data_format="channels_first"), last, x.shape)
    y = np.moveaxis(output_of(first, x), 1, -1)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@every_case
def test_mixed_precision_stays_close_to_float32(case):
    x = inputs_for(case)
    layer = case.make()
    expected = output_of(layer, x)
    y = output_of(with_weights_of(case.make(dtype="mixed_float16"), layer, x.shape), x)
    assert y.dtype == "float16"
    np.testing.assert_allclose(y.astype("float32"), expected, rtol=0.05, atol=0.05)


POLICIES = ("mixed_float16", "float32")
# How a training step runs. PyTorch's compiler is not part of this; op by op, JAX takes long and
# shows nothing new.
WAYS = {
    "tensorflow": {
        "xla": {"jit_compile": True},
        "graph": {"jit_compile": False},
        "eager": {"jit_compile": False, "run_eagerly": True},
    },
    "jax": {"xla": {"jit_compile": True}},
    "torch": {"eager": {"jit_compile": False}},
}[BACKEND]


def steps():
    """Every class takes every step, and the first case of a class in each rank the traced ones."""
    *traced, quickest = WAYS
    for case in FEW_CASES:
        if case.cls is sl.DropPath:  # which has no weights
            continue
        if case.number == 0 and traced:
            crosswise = POLICIES if case.rank % 2 else POLICIES[::-1]
            yield from ((case, *step) for step in zip(crosswise, traced, strict=True))
        elif case.number == 0 and not SHORT:
            yield from ((case, policy, quickest) for policy in POLICIES)
        else:
            yield case, POLICIES[case.rank % 2], quickest


@pytest.mark.parametrize(("case", "policy", "way"), list(steps()), ids=str)
def test_one_training_step_moves_every_weight(case, policy, way):
    keras.utils.set_random_seed(1)
    symbolic = keras.Input(case.input_shape[1:])
    model = keras.Model(symbolic, case.make(dtype=policy)(symbolic))
    assert model.outputs[0].dtype == ("float16" if policy == "mixed_float16" else "float32")
    model.compile(keras.optimizers.SGD(0.1), "mse", **WAYS[way])
    # Positive weights and inputs leave no rectifier of a narrow layer dead.
    before = [np.abs(weight) for weight in model.get_weights()]
    model.set_weights(before)
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(6, *case.input_shape[1:]))
    loss = model.train_on_batch(x, rng.normal(size=model.compute_output_shape(x.shape)))
    assert np.isfinite(loss)
    for variable, old, new in zip(model.weights, before, model.get_weights(), strict=True):
        if "seed_generator" not in variable.path:
            assert variable.dtype == "float32"
            # A bias in front of a normalization has no gradient: there must be none.
            assert not np.array_equal(old, new), variable.path
            assert np.isfinite(new).all(), variable.path


RELOAD = """
import sys, numpy as np, keras, sepconv_layers
run = lambda model, x: model(x)
if keras.backend.backend() == "jax":  # as in `output_of`
    import jax
    run = lambda model, x: jax.jit(model)(x)
for case in range(int(sys.argv[2])):
    data = np.load(f"{sys.argv[1]}/{case}.npz")
    model = keras.saving.load_model(f"{sys.argv[1]}/{case}.keras")
    y = keras.ops.convert_to_numpy(run(model, data["x"]))
    print(float(np.abs(y - data["y"]).max() / np.abs(data["y"]).max()))
"""


@the_same_everywhere
def test_saved_models_reload_in_a_fresh_process(tmp_path):
    rng = np.random.default_rng(2)
    for number, case in enumerate(FEW_CASES):
        symbolic = keras.Input(case.input_shape[1:])
        model = keras.Model(symbolic, case.make()(symbolic))
        model.set_weights(
            [
                np.abs(rng.normal(size=w.shape)).astype(w.dtype) if w.dtype.kind == "f" else w
                for w in model.get_weights()
            ]
        )
        model.save(tmp_path / f"{number}.keras")
        x = inputs_for(case)
        np.savez(tmp_path / f"{number}.npz", x=x, y=output_of(model, x))
    done = subprocess.run(
        [sys.executable, "-c", RELOAD, str(tmp_path), str(len(FEW_CASES))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    differences = map(float, done.stdout.split())
    assert [str(c) for c, d in zip(FEW_CASES, differences, strict=True) if not d < 1e-5] == []


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_the_registered_name_is_of_this_package(case):
    name = case.cls.__name__
    assert keras.saving.get_registered_name(case.cls) == f"sepconv_layers>{name}"


@keras.saving.register_keras_serializable("tests")
def wide_group_norm():
    return keras.layers.GroupNormalization(1, epsilon=0.5)


@pytest.mark.parametrize("rank", RANKS)
def test_a_block_with_a_function_for_normalization_reloads(rank, tmp_path):
    block = getattr(sl, f"ConvBlock{rank}D")(3, normalization=wide_group_norm)
    model = keras.Sequential([keras.Input((*SIZES[:rank], CHANNELS)), block])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.layers[0].normalization is wide_group_norm
    x = np.random.default_rng(0).normal(size=(2, *SIZES[:rank], CHANNELS)).astype("float32")
    np.testing.assert_allclose(output_of(again, x), output_of(model, x), rtol=1e-6)


@pytest.mark.parametrize("rank", RANKS)
def test_drop_path_drops_whole_samples_and_keeps_the_mean(rank):
    layer = sl.DropPath(0.25, seed=3)
    x = np.ones((4000, *(2, 1, 2)[:rank], 3), "float32")
    y = output_of(layer, x, training=True)
    per_sample = y.reshape(len(y), -1)
    assert (per_sample == per_sample[:, :1]).all()
    assert set(np.unique(np.round(y, 4))) == {0.0, np.float32(1.3333)}
    assert abs(y.mean() - 1) < 0.03
    np.testing.assert_array_equal(output_of(layer, x), x)


# Bad input gets a ValueError that names the argument, what was expected and what was received.

BAD = {
    "groups": [0, 1.5],
    "filters": [0, -3, 2.5, "8", True, None],
    "kernel_size": [0, -1, 2.5, "3", (3, 3, 3, 3), None],
    "strides": [0, (2, -1, 2, 1), 1.5, None],
    "dilation_rate": [0, -2, "2"],
    "padding": ["full", 1, None],
    "data_format": ["channels_middle", 1],
    "depth_multiplier": [0, 1.5],
    "normalization": ["instance", 3, keras.layers.Activation("relu", name="not_a_class")],
    "repeats": [0, 1.5],
    "depthwise": ["end", None, 1],
    "expansion": [0, -1, math.inf, math.nan, "6"],
    "se_ratio": [-0.1, 1.5, math.nan, "0.25"],
    "drop_path": [-0.1, 1, math.nan, "0.1"],
    "ratio": [0, 1.1, math.nan, "0.25", True],
    "rate": [-0.1, 1, math.nan, None],
    "divisor": [0, 2.5],
    "output_padding": [-1, 1, 1.5, "0", (0, 0, 0, 0)],
}


def operator(name, rank):
    """One of the operators with kernels for inputs of `CHANNELS` channels."""
    kernels = [np.ones((*(3,) * rank, CHANNELS, 2))]
    if name.startswith("separable"):
        kernels.append(np.ones((*(1,) * rank, 2 * CHANNELS, 6)))
    return lambda inputs, **arguments: getattr(sl.ops, name)(inputs, *kernels, **arguments)


SHRINKING = [
    pytest.param(operator(name, rank), rank, id=f"{name}-{rank}D")
    for name in ("depthwise_conv", "separable_conv", "conv")
    for rank in RANKS
]
ENLARGING = [
    pytest.param(operator(f"{name}_transpose", rank), rank, id=f"{name}_transpose-{rank}D")
    for name in ("depthwise_conv", "separable_conv")
    for rank in RANKS
]
OPERATORS = SHRINKING + ENLARGING


def named(argument, value, error):
    """Whether the message of an error tells of an argument all that it should."""
    message = str(error.value)
    return (
        f"`{argument}`" in message
        and ("must be" in message or "Expected" in message)
        and "eceived" in message
        and str(value) in message
    )


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_a_layer_names_a_bad_argument(case):
    for argument in BAD.keys() & inspect.signature(case.cls).parameters:
        for value in BAD[argument]:
            with pytest.raises(ValueError) as error:
                case.make(**{argument: value})
            assert named(argument, value, error), error.value


@pytest.mark.parametrize(("operator", "rank"), OPERATORS)
def test_an_operator_names_a_bad_argument(operator, rank):
    x = np.ones((2, *SIZES[:rank], CHANNELS))
    for argument in ("strides", "padding", "data_format", "dilation_rate"):
        for value in BAD[argument]:
            with pytest.raises(ValueError) as error:
                operator(x, **{argument: value})
            assert named(argument, value, error), error.value


def test_an_unknown_lowering_is_named():
    with pytest.raises(ValueError) as error, sl.ops.lowering("fast"):
        pass
    assert named("name", "fast", error)


def bad_shapes(rank):
    sizes = SIZES[:rank]
    return {
        "rank too low": (2, *sizes[1:], CHANNELS),
        "rank too high": (2, 5, *sizes, CHANNELS),
        "other channels": (2, *sizes, CHANNELS + 1),
        "no channels": (2, *sizes, 0),
        "unknown channels": (2, *sizes, None),
        "no size": (2, *sizes[1:], 0, CHANNELS),
    }


def refuses(function, shape, **arguments):
    """Whether a function refuses eager and symbolic input of that shape, and says why."""
    inputs = [keras.Input(batch_shape=shape)]
    if None not in shape:
        inputs.append(np.zeros(shape, "float32"))
    for x in inputs:
        with pytest.raises(ValueError) as error:
            function(x, **arguments)
        message = str(error.value)
        if not (str(shape) in message and ("xpect" in message or "must have" in message)):
            return False
    return True


@pytest.mark.parametrize("case", [c for c in PLAIN if c.cls not in ANY_RANK], ids=str)
@pytest.mark.parametrize("why", list(bad_shapes(1)))
def test_a_layer_refuses_a_bad_input(case, why):
    if why == "no size" and "kernel_size" not in case.arguments:
        pytest.skip("an average over nothing is no matter of shape")
    layer = case.make()
    if why == "other channels":
        layer.build(case.input_shape)
    assert refuses(layer, bad_shapes(case.rank)[why])


@pytest.mark.parametrize(("operator", "rank"), OPERATORS)
@pytest.mark.parametrize("why", list(bad_shapes(1)))
def test_an_operator_refuses_a_bad_input(operator, rank, why):
    assert refuses(operator, bad_shapes(rank)[why], padding="same")


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_a_layer_refuses_an_input_that_its_kernel_does_not_fit_into(case):
    if "kernel_size" not in inspect.signature(case.cls).parameters:
        pytest.skip("has no kernel")
    if case.cls.__name__.endswith("Transpose"):
        pytest.skip("any kernel fits")
    for arguments in ({"kernel_size": 10}, {"kernel_size": 4, "dilation_rate": 3}):
        layer = case.make(padding="valid", **arguments)
        assert refuses(layer, case.input_shape)
        with pytest.raises(ValueError, match="zero or negative"):
            layer.compute_output_shape(case.input_shape)


@pytest.mark.parametrize(("operator", "rank"), SHRINKING)
def test_an_operator_refuses_an_input_that_its_kernel_does_not_fit_into(operator, rank):
    assert refuses(operator, (2, *SIZES[:rank], CHANNELS), dilation_rate=5)


@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 9, 7, 4), (3, 4, 1)],
        [(2, 9, 4), (3, 5, 1)],
        [(2, 9, 4), (0, 4, 1)],
        [(2, 9, 4), (3, 4, 0)],
        [(2, 5, 5, 5, 5, 4), (1, 1, 1, 1, 4, 1)],
        [(2, 9, 4), (3, 4, 2), (1, 4, 6)],
        [(2, 9, 4), (3, 4, 2), (2, 8, 6)],
        [(2, 9, 4), (3, 4, 2), (1, 8, 0)],
    ],
    ids=str,
)
def test_an_operator_refuses_kernels_that_do_not_fit(shapes):
    operator = sl.ops.depthwise_conv if len(shapes) == 2 else sl.ops.separable_conv
    for make in (np.ones, lambda shape: keras.KerasTensor(shape)):
        with pytest.raises(ValueError, match="must have.*Received") as error:
            operator(*map(make, shapes))
        assert str(shapes[-1]) in str(error.value)


@pytest.mark.parametrize("normalization", [{"": object()}, {"class_name": 3}, {}, "instance", 2])
def test_what_is_no_normalization_is_refused(normalization):
    with pytest.raises(ValueError, match="normalization"):
        sl.SeparableConvBlock1D(4, normalization=normalization)
