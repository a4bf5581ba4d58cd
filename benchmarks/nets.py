"""MobileNet V1 and its twin of standard convolutions: inference and training step, everywhere.

    python -m benchmarks.nets

Ours, the same net of `keras.layers`, in PyTorch and in LiteRT, taking turns in one process for each
Keras backend. The realized fraction is the speed-up over the standard twin in its best mode,
divided by the ratio of the MACs. Takes 7 minutes on two cores. A GPU needs more work:

    python -m benchmarks.nets --backends jax torch --size 224 --batch-size 128
        --policies float32 mixed_bfloat16
"""

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks import harness
from sepconv_layers import (
    BatchNormalization,
    ConvBlock2D,
    SeparableConvBlock2D,
    ops,
    profile,
    tables,
    timing,
)

NAME = "nets"
STEM = 32
FILTERS_AND_STRIDES = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
CLASSES = 1000
KINDS = {"infer": "inference", "train": "training step"}
PARTS = {"products": "matrix products", "norms": "normalizations"}
FULL, HALF = "float32", "mixed_bfloat16"
COLORS = {
    "sepconv_layers": "tab:blue",
    "keras.layers": "tab:orange",
    "PyTorch without Keras": "tab:green",
}
# JAX takes the memory of a training step anew each time, page by page: fewer when they are huge.
SETTINGS = {"jax": {"huge pages": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}}}
BY_HAND = "PyTorch"  # the place of a net that is not written in Keras


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sizes(parser)
    parser.add_argument("--policies", nargs="+", choices=(FULL, HALF), default=[FULL])
    parser.set_defaults(seconds=2.0)  # what else a machine does comes and goes


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Arguments for the sizes of the nets and of their input."""
    parser.add_argument("--size", type=int, default=128, help="height and width of the images")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--width", type=float, default=1.0, help="of all layers")


def stages(width: float) -> list[tuple[int, int]]:
    """Filters and stride of the stem and of each block."""
    table = ((STEM, 2), *FILTERS_AND_STRIDES)
    return [(max(1, round(filters * width)), strides) for filters, strides in table]


def ours(arguments: argparse.Namespace, block: Callable) -> keras.Model:
    images = x = keras.Input((arguments.size, arguments.size, 3))
    (filters, strides), *blocks = stages(arguments.width)
    x = ConvBlock2D(filters, strides=strides)(x)
    for filters, strides in blocks:
        x = block(filters, strides=strides)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(CLASSES)(x))


def of_keras_layers(arguments: argparse.Namespace) -> keras.Model:
    layers = keras.layers

    def then_norm_act(convolution: keras.layers.Layer, x: Any) -> Any:
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(convolution(x)))

    images = x = keras.Input((arguments.size, arguments.size, 3))
    (filters, strides), *blocks = stages(arguments.width)
    common: dict[str, Any] = {"padding": "same", "use_bias": False}
    x = then_norm_act(layers.Conv2D(filters, 3, strides, **common), x)
    for filters, strides in blocks:
        x = then_norm_act(layers.DepthwiseConv2D(3, strides, **common), x)
        x = then_norm_act(layers.Conv2D(filters, 1, **common), x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(CLASSES)(x))


BUILDERS: dict[str, Callable] = {
    "separable": partial(ours, block=SeparableConvBlock2D),
    "standard": partial(ours, block=ConvBlock2D),
    "keras.layers": of_keras_layers,
}


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
    rng, backend = np.random.default_rng(0), keras.backend.backend()
    shape = (arguments.batch_size, arguments.size, arguments.size, 3)
    x = rng.normal(size=shape).astype("float32")
    y = rng.integers(CLASSES, size=arguments.batch_size)
    # Where the nets are: a batch takes longer to a GPU than through a net.
    batch = keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y)
    calls, macs = {}, {}
    for net, build in BUILDERS.items():
        for mode in timing.MODES[backend]:
            model = build(arguments)
            macs[net] = profile(model).macs
            model.compile(
                keras.optimizers.SGD(0.01, momentum=0.9),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                jit_compile=mode == "xla",
            )
            if kind == "infer":
                calls[net, mode] = partial(model.predict_on_batch, batch[0])
            else:
                calls[net, mode] = partial(model.train_on_batch, *batch)
    for mode in timing.MODES[backend]:
        calls["matrix products", mode] = matrix_products(arguments, kind, policy, mode)
        if kind == "train":  # else they are folded into the convolutions
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


def matrix_products(
    arguments: argparse.Namespace, kind: str, policy: str, mode: str
) -> Callable[[], Any]:
    """The products of the pointwise steps alone: what no separable net can be faster than.

    A training step has three for each: the outputs, and the gradients of input and kernel.
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
        found = []
        for x, kernel, upstream in zip(arrays[::3], arrays[1::3], arrays[2::3], strict=True):
            found.append(x @ kernel)
            if kind == "train":
                found.append(upstream @ keras.ops.transpose(kernel))
                found.append(keras.ops.transpose(x) @ upstream)
        return found

    return harness.forward(products, mode, *arrays)


def normalizations(arguments: argparse.Namespace, policy: str, mode: str) -> Callable[[], Any]:
    """A training step of the normalizations and activations alone, of which the twin has half."""
    rng, size = np.random.default_rng(0), arguments.size
    dtype = keras.DTypePolicy(policy).compute_dtype
    layers, arrays, upstream = [], [], []
    depthwise = 0  # what comes before the pointwise step of a block, but not in the stem
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
        found = []
        for layer, *given in zip(layers, arrays[::3], arrays[1::3], arrays[2::3], strict=True):
            x, *trained = given
            statistics = [one.value for one in layer.non_trainable_variables]
            outputs, _ = layer.stateless_call(trained, statistics, x, training=True)
            found.append(keras.ops.relu(outputs))
        return found

    return harness.with_gradients(normalize, mode, *arrays, upstream=upstream)


@contextlib.contextmanager
def _in_tf32() -> Iterator[None]:
    """Lets PyTorch multiply matrices as it does in convolutions, and JAX everywhere, on a GPU."""
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


def in_pytorch(
    arguments: argparse.Namespace, conv: str, x: Any, labels: Any, kind: str, policy: str = FULL
) -> Callable[[], Any]:
    """The net as PyTorch users write it, in the memory format that is its fastest."""
    import torch
    from torch import nn

    def then_norm_act(*convolution: Any, **options: Any) -> list[nn.Module]:
        layer = nn.Conv2d(*convolution, bias=False, **options)
        return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU(inplace=True)]

    (channels, strides), *blocks = stages(arguments.width)
    layers = then_norm_act(3, channels, 3, strides, 1)
    for filters, strides in blocks:
        if conv == "separable":
            layers += then_norm_act(channels, channels, 3, strides, 1, groups=channels)
            layers += then_norm_act(channels, filters, 1)
        else:
            layers += then_norm_act(channels, filters, 3, strides, 1)
        channels = filters
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    net = nn.Sequential(*layers).to(x.device, memory_format=torch.channels_last)
    images, loss = x.permute(0, 3, 1, 2), nn.CrossEntropyLoss()  # channels-last in memory
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)

    def half() -> Any:
        if policy == FULL:
            return contextlib.nullcontext()
        return torch.autocast(x.device.type, torch.bfloat16)

    def infer() -> Any:
        with torch.inference_mode(), half():
            return net(images).cpu()

    def train() -> Any:
        optimizer.zero_grad()
        with half():
            found = loss(net(images), labels)
        found.backward()
        optimizer.step()
        return found.item()

    net.train(kind == "train")
    return train if kind == "train" else infer


def in_litert(model: keras.Model, x: np.ndarray) -> Callable[[], Any]:
    """The net as a file on LiteRT, with as many threads as there are cores."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    with ops.lowering("portable"), tempfile.TemporaryDirectory() as directory:
        saved = Path(directory) / "saved"
        archive = keras.export.ExportArchive()
        archive.track(model)
        spec = [keras.InputSpec(shape=x.shape, dtype="float32")]
        archive.add_endpoint("serve", partial(model, training=False), input_signature=spec)
        archive.write_out(str(saved), verbose=False)
        content = tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert()
    interpreter = Interpreter(model_content=content, num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    (into,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()

    def call() -> np.ndarray:
        interpreter.set_tensor(into["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(out["index"])

    return call


def gains(rows: list[dict]) -> list[dict]:
    """Speed-ups of the separable net in each place."""
    found = []
    for row in rows:
        if not row["net"].endswith("separable"):
            continue
        prefix = row["net"].removesuffix("separable")
        alike = ("backend", "kind", "policy")
        same = [other for other in rows if all(other[key] == row[key] for key in alike)]
        standard = {r["mode"]: r for r in same if r["net"] == f"{prefix}standard"}
        theirs = {r["mode"]: r["ms"] for r in same if r["net"] == "keras.layers"}
        alone = {(r["net"], r["mode"]): r["ms"] for r in same}
        best = min(r["ms"] for r in standard.values())
        macs = standard[row["mode"]]["macs"] / row["macs"]
        found.append(
            {
                "place": _place(row, prefix.strip()),
                "kind": row["kind"],
                "ms": row["ms"],
                "standard_ms": standard[row["mode"]]["ms"],
                "best_standard_ms": best,
                "speedup": standard[row["mode"]]["ms"] / row["ms"],
                "best_speedup": best / row["ms"],
                "mac_ratio": macs,
                "realized": best / row["ms"] / macs,
                **{
                    f"{part}_ms": None if prefix else alone.get((name, row["mode"]))
                    for part, name in PARTS.items()
                },
                "over_keras": theirs[row["mode"]] / row["ms"] if not prefix else None,
            }
        )
    return found


def _place(row: dict, other_library: str) -> str:
    place = other_library or f"{row['backend']}, {row['mode']}"
    return place if row["policy"] == FULL else f"{place}, {row['policy']}"


def table(rows: list[dict]) -> str:
    header = [
        "where",
        "what",
        "separable ms",
        "its matrix products alone, ms",
        "its normalizations alone, ms",
        "standard ms",
        "standard ms, best mode",
        "speed-up",
        "over best mode",
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
    """Ideal against real, for this library and for `keras.layers`."""
    found = gains(rows)
    places = list(dict.fromkeys(gain["place"] for gain in found))
    figure.set_size_inches(11, 1.4 + 0.55 * len(places))
    panels = figure.subplots(1, len(KINDS), sharey=True)
    for axes, (kind, title) in zip(panels, KINDS.items(), strict=True):
        here = [gain for gain in found if gain["kind"] == kind]
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
            drawn = axes.barh(where, list(bars.values()), 0.38, color=COLORS[name], label=name)
            axes.bar_label(drawn, fmt="%.1f×", padding=3)
        ratio = found[0]["mac_ratio"]
        axes.axvline(ratio, color="0.3", linestyle="--", label="ideal: ratio of the MACs")
        axes.axvline(1, color="0.8")
        axes.set_yticks(range(len(places)), places)
        axes.set(title=title, xlim=(0, 1.3 * ratio))
        axes.set_xlabel("speed-up over the standard net in its best mode")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
