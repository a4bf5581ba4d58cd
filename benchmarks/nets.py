"""Inference and training steps of MobileNet V1 and its standard twin, on every backend.

    python -m benchmarks.nets

Nets of this library, of `keras.layers`, in PyTorch and in LiteRT take turns in one process per
Keras backend. The realized fraction is the speed-up over the standard twin in its fastest mode,
divided by the MAC ratio. Takes 7 minutes on two cores. A GPU needs more work:

    python -m benchmarks.nets --backends jax torch --size 224 --batch-size 128
        --policies float32 mixed_bfloat16
"""

import argparse
import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np

from benchmarks import harness
from benchmarks.mobilenet import (
    BUILDERS,
    CLASSES,
    FULL,
    HALF,
    add_sizes,
    in_litert,
    in_pytorch,
    stages,
)
from sepconv_layers import BatchNormalization, profile, single_graph, tables, timing

NAME = "nets"
KINDS = {"infer": "inference", "train": "training step"}
PARTS = {"products": "matrix products", "norms": "normalizations"}
COLORS = {
    "sepconv_layers": "tab:blue",
    "keras.layers": "tab:orange",
    "PyTorch without Keras": "tab:green",
}
# JAX allocates the memory of each training step anew, page by page: huge pages are fewer.
SETTINGS = {"jax": {"huge pages": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}}}
COMPILED = "compiled"  # by PyTorch
BY_HAND = "PyTorch"  # prefix of places whose nets are not written in Keras


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sizes(parser)
    parser.add_argument("--policies", nargs="+", choices=(FULL, HALF), default=[FULL])
    parser.set_defaults(seconds=2.0)  # long enough to average out other load


def cells(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    return list(itertools.product(KINDS, arguments.policies))


def measure(cell: tuple[str, str], arguments: argparse.Namespace) -> list[dict]:
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(cell[1])
        return _measure(*cell, arguments)
    finally:
        keras.config.set_dtype_policy(policy)


def _measure(kind: str, policy: str, arguments: argparse.Namespace) -> list[dict]:
    rng, backend, modes = np.random.default_rng(0), keras.backend.backend(), modes_here()
    shape = (arguments.batch_size, arguments.size, arguments.size, 3)
    x = rng.normal(size=shape).astype("float32")
    y = rng.integers(CLASSES, size=arguments.batch_size)
    # On the device already: a batch takes longer to reach a GPU than to pass through a net.
    batch = keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y)
    calls, macs = {}, {}
    for net, build in BUILDERS.items():
        for mode, jit_compile in modes.items():
            model = build(arguments)
            if mode == COMPILED:
                single_graph(model)
            macs[net] = profile(model).macs
            model.compile(
                keras.optimizers.SGD(0.01, momentum=0.9),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                jit_compile=jit_compile,
            )
            if kind == "infer":
                calls[net, mode] = partial(model.predict_on_batch, batch[0])
            else:
                calls[net, mode] = partial(model.train_on_batch, *batch)
    for mode in modes:
        calls["matrix products", mode] = matrix_products(arguments, kind, policy, mode)
        if kind == "train":  # in inference they are folded into the convolutions
            calls["normalizations", mode] = normalizations(arguments, policy, mode)
    for conv in ("separable", "standard"):
        if backend == "torch":
            calls[f"PyTorch {conv}", "eager"] = in_pytorch(arguments, conv, *batch, kind, policy)
        if backend == "tensorflow" and (kind, policy) == ("infer", FULL):
            calls[f"LiteRT {conv}", "file"] = in_litert(BUILDERS[conv](arguments), x)
    timing.runnable(calls)  # JAX compiles them in parallel; `medians` raises what fails
    return [
        {
            "backend": backend,
            "mode": mode,
            "policy": policy,
            "kind": kind,
            "net": net,
            "macs": macs.get(net, macs.get(net.split()[-1])),
            "batch_size": arguments.batch_size,
            "ms": ms,
        }
        for (net, mode), ms in timing.medians(calls, arguments.seconds, arguments.turns).items()
    ]


def modes_here() -> dict[str, bool]:
    """The modes of the backend; on a GPU also PyTorch's compiler, which takes long on a CPU."""
    modes = timing.MODES[keras.backend.backend()]
    return {**modes, COMPILED: True} if harness.has_torch_on_gpu() else modes


def matrix_products(
    arguments: argparse.Namespace, kind: str, policy: str, mode: str
) -> Callable[[], Any]:
    """The matrix products of the pointwise steps alone: no separable net can be faster.

    A training step has three products for each: the output, and the gradients with respect to input
    and kernel.
    """
    rng, size = np.random.default_rng(0), arguments.size
    dtype = keras.DTypePolicy(policy).compute_dtype
    ((channels, strides), *blocks), arrays = stages(arguments.width), []
    size = -(-size // strides)
    for filters, strides in blocks:
        size = -(-size // strides)
        positions = arguments.batch_size * size * size
        for shape in ((positions, channels), (channels, filters), (positions, filters)):
            array = rng.standard_normal(size=shape, dtype="float32")
            arrays.append(keras.ops.cast(array, dtype))
        channels = filters

    def products(*arrays: Any) -> list:
        with _in_tf32():
            return multiply(*arrays)

    def multiply(*arrays: Any) -> list:
        outputs = []
        for x, kernel, upstream in zip(arrays[::3], arrays[1::3], arrays[2::3], strict=True):
            outputs.append(x @ kernel)
            if kind == "train":
                outputs.append(upstream @ keras.ops.transpose(kernel))
                outputs.append(keras.ops.transpose(x) @ upstream)
        return outputs

    return harness.forward(products, mode, *arrays)


def normalizations(arguments: argparse.Namespace, policy: str, mode: str) -> Callable[[], Any]:
    """A training step of the normalizations and activations alone; the twin has half of them."""
    rng, size = np.random.default_rng(0), arguments.size
    dtype = keras.DTypePolicy(policy).compute_dtype
    layers, arrays, upstream = [], [], []
    depthwise = 0  # channels of the depthwise step, which the stem lacks
    for filters, strides in stages(arguments.width):
        size = -(-size // strides)
        for channels in filter(None, (depthwise, filters)):
            layer = BatchNormalization(dtype=policy)
            layer.build((None, size, size, channels))
            layers.append(layer)
            shape = (arguments.batch_size, size, size, channels)
            x, gradient = rng.standard_normal(size=(2, *shape), dtype="float32")
            arrays += [keras.ops.cast(x, dtype), *(one.numpy() for one in layer.trainable_weights)]
            upstream.append(keras.ops.cast(gradient, dtype))
        depthwise = filters

    def normalize(*arrays: Any) -> list:
        activations = []
        for layer, *given in zip(layers, arrays[::3], arrays[1::3], arrays[2::3], strict=True):
            x, *trained = given
            statistics = [one.value for one in layer.non_trainable_variables]
            normalized, _ = layer.stateless_call(trained, statistics, x, training=True)
            activations.append(keras.ops.relu(normalized))
        return activations

    return harness.with_gradients(normalize, mode, *arrays, upstream=upstream)


@contextlib.contextmanager
def _in_tf32() -> Iterator[None]:
    """Lets PyTorch multiply matrices in TF32 on a GPU, as its convolutions and JAX do."""
    if keras.backend.backend() != "torch":
        yield
        return
    from torch.backends.cuda import matmul

    before = matmul.allow_tf32
    matmul.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32 = before


def gains(rows: list[dict]) -> list[dict]:
    """Speed-ups of the separable net, for each place and kind."""
    alike = ("backend", "kind", "policy")
    return [
        _gain(row, [peer for peer in rows if all(peer[key] == row[key] for key in alike)])
        for row in rows
        if row["net"].endswith("separable")
    ]


def _gain(row: dict, peers: list[dict]) -> dict:
    library, mode = row["net"].removesuffix("separable"), row["mode"]
    standard = f"{library}standard"
    times = {(peer["net"], peer["mode"]): peer["ms"] for peer in peers}
    macs = next(peer["macs"] for peer in peers if peer["net"] == standard)
    fastest = min(ms for (net, _), ms in times.items() if net == standard)
    # The nets of other libraries have no such measurements.
    others = {} if library else {net: ms for (net, other), ms in times.items() if other == mode}
    return {
        "place": _place(row, library.strip()),
        "kind": row["kind"],
        "ms": row["ms"],
        **{f"{part}_ms": others.get(name) for part, name in PARTS.items()},
        "standard_ms": times[standard, mode],
        "best_standard_ms": fastest,
        "speedup": times[standard, mode] / row["ms"],
        "best_speedup": fastest / row["ms"],
        "mac_ratio": macs / row["macs"],
        "realized": fastest / row["ms"] / (macs / row["macs"]),
        "over_keras": others["keras.layers"] / row["ms"] if others else None,
    }


def _place(row: dict, other_library: str) -> str:
    place = other_library or f"{row['backend']}, {row['mode']}"
    return place if row["policy"] == FULL else f"{place}, {row['policy']}"


def table(rows: list[dict]) -> str:
    header = [
        "backend, mode",
        "kind",
        "separable ms",
        "only its matrix products, ms",
        "only its normalizations, ms",
        "standard ms",
        "standard ms, fastest mode",
        "speed-up",
        "over fastest mode",
        "realized fraction",
        "`keras.layers` ÷ ours",
    ]
    lines = [
        [
            gain["place"],
            KINDS[gain["kind"]],
            *(
                f"{gain[key]:.1f}" if gain[key] else "–"
                for key in ("ms", "products_ms", "norms_ms", "standard_ms", "best_standard_ms")
            ),
            harness.times(gain["speedup"]),
            harness.times(gain["best_speedup"]),
            f"{gain['realized']:.0%}",
            harness.times(gain["over_keras"]),
        ]
        for gain in gains(rows)
    ]
    return tables.markdown([header, *lines], 2)


def draw(figure: Any, rows: list[dict]) -> None:
    """Draws measured speed-ups of this library and of `keras.layers`, and the ideal one."""
    all_gains = gains(rows)
    places = list(dict.fromkeys(gain["place"] for gain in all_gains))
    figure.set_size_inches(11, 1.4 + 0.55 * len(places))
    panels = figure.subplots(1, len(KINDS), sharey=True)
    for axes, (kind, title) in zip(panels, KINDS.items(), strict=True):
        here = [gain for gain in all_gains if gain["kind"] == kind]
        ours = {gain["place"]: gain["best_speedup"] for gain in here}
        series = {
            "sepconv_layers": {
                place: ours[place] for place in ours if not place.startswith(BY_HAND)
            },
            "keras.layers": {
                gain["place"]: gain["best_speedup"] / gain["over_keras"]
                for gain in here
                if gain["over_keras"]
            },
            "PyTorch without Keras": {
                place: ours[place] for place in ours if place.startswith(BY_HAND)
            },
        }
        for (name, bars), shift in zip(series.items(), (-0.2, 0.2, -0.2), strict=True):
            where = [places.index(place) + shift for place in bars]
            patches = axes.barh(where, list(bars.values()), 0.38, color=COLORS[name], label=name)
            axes.bar_label(patches, fmt="%.1f×", padding=3)
        ratio = all_gains[0]["mac_ratio"]
        axes.axvline(ratio, color="0.3", linestyle="--", label="ideal: MAC ratio")
        axes.axvline(1, color="0.8")
        axes.set_yticks(range(len(places)), places)
        axes.set(title=title, xlim=(0, 1.3 * ratio))
        axes.set_xlabel("speed-up over the standard net in its fastest mode")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
