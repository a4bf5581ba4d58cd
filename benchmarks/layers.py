"""One separable layer on a grid of shapes: ours, `keras.layers`, PyTorch, LiteRT, and a standard
convolution with the same output shape.

    python -m benchmarks.layers

Times a forward pass, and one with the gradients with respect to input and weights. In 3D, where
`keras.layers` has no separable convolution, a grouped and a pointwise `Conv3D` replace it. Takes 12
minutes on two cores. A GPU needs larger batches:

    python -m benchmarks.layers --backends jax torch --batches 32
"""  # noqa: D205

import argparse
import itertools
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import sepconv_layers as sl
from benchmarks import harness
from benchmarks.mobilenet import in_litert
from sepconv_layers import profile, tables, timing

NAME = "layers"
# Input shape, filters, kernel size, strides, depth multiplier.
GRID = (
    ((8, 98, 40), 64, 9, 1, 1),
    ((8, 512, 64), 64, 3, 1, 1),
    ((8, 256, 128), 128, 13, 2, 1),
    ((8, 64, 64, 32), 64, 3, 1, 1),
    ((8, 64, 64, 64), 128, 3, 2, 1),
    ((8, 32, 32, 128), 128, 3, 1, 1),
    ((8, 8, 8, 512), 512, 3, 1, 1),
    ((8, 49, 10, 64), 64, 3, 1, 1),
    ((8, 16, 16, 240), 80, 5, 1, 1),
    ((8, 32, 32, 64), 64, 3, 1, 2),
    ((64, 25, 5, 64), 64, 3, 1, 3),
    ((64, 28, 28, 32), 32, 3, 1, 3),
    ((1, 56, 56, 64), 64, 7, 1, 1),
    ((2, 16, 16, 16, 32), 64, 3, 1, 1),
    ((2, 16, 32, 32, 16), 32, 3, 2, 1),
)
KINDS = ("forward", "both")

How = tuple[int, int, int, int]  # a row of the grid without the input shape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", type=int, nargs="+", default=(1, 2, 3))
    parser.add_argument("--scale", type=int, default=1, help="divide sizes and channels by this")
    parser.add_argument("--batches", type=int, default=1, help="multiply batches by this")
    parser.set_defaults(seconds=1.0)  # long enough to average out other load


def cells(arguments: argparse.Namespace) -> list[tuple]:
    return [cell for cell in GRID if len(cell[0]) - 2 in arguments.ranks]


def separable(module: Any, rank: int, channels: int, how: How) -> list:
    filters, kernel_size, strides, multiplier = how
    moving = {"kernel_size": kernel_size, "strides": strides, "padding": "same"}
    if rank < 3 or module is sl:
        layer = getattr(module, f"SeparableConv{rank}D")
        return [layer(filters, **moving, depth_multiplier=multiplier)]
    widened = channels * multiplier
    grouped = keras.layers.Conv3D(widened, **moving, groups=channels, use_bias=False)
    return [grouped, keras.layers.Conv3D(filters, 1)]


def measure(cell: tuple, arguments: argparse.Namespace) -> list[dict]:
    (batch, *sizes), filters, kernel_size, strides, multiplier = cell
    *spatial, channels = (max(1, size // arguments.scale) for size in sizes)
    filters, rank = max(1, filters // arguments.scale), len(spatial)
    batch *= arguments.batches
    how, backend = (filters, kernel_size, strides, multiplier), keras.backend.backend()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, *spatial, channels)).astype("float32")
    models = {
        name: keras.Sequential([keras.Input(x.shape[1:]), *layers])
        for name, layers in {
            "ours": separable(sl, rank, channels, how),
            "keras.layers": separable(keras.layers, rank, channels, how),
            "standard": [getattr(keras.layers, f"Conv{rank}D")(*how[:3], padding="same")],
        }.items()
    }
    macs = {name: profile(model).macs for name, model in models.items()}
    upstream = rng.normal(size=(batch, *models["ours"].output_shape[1:])).astype("float32")
    calls: dict[tuple, Callable] = {}
    for (name, model), mode in itertools.product(models.items(), timing.MODES[backend]):
        weights = [weight.value for weight in model.trainable_variables]

        def function(x: Any, *weights: Any, model: keras.Model = model) -> Any:
            return model.stateless_call(list(weights), [], x)[0]

        arrays = (x, *weights)
        calls[name, mode, "forward"] = harness.forward(function, mode, *arrays)
        both = harness.with_gradients(function, mode, *arrays, upstream=upstream)
        calls[name, mode, "both"] = both
    if backend == "torch":
        for name in ("PyTorch", "PyTorch standard"):
            net = in_pytorch(name == "PyTorch", rank, channels, how)
            images, given = as_in_pytorch(x), as_in_pytorch(upstream)
            calls[name, "eager", "forward"] = harness.forward(net, "eager", images)
            arrays = (images, *net.parameters())
            both = harness.with_gradients(
                lambda x, *_, net=net: net(x), "eager", *arrays, upstream=given
            )
            calls[name, "eager", "both"] = both
    if backend == "tensorflow":
        calls["LiteRT", "file", "forward"] = in_litert(models["ours"], x)
    running, _ = timing.runnable(calls)
    times = timing.medians(running, arguments.seconds, arguments.turns)
    where = {"shape": list(x.shape), "filters": filters, "kernel": kernel_size}
    where |= {"strides": strides, "multiplier": multiplier}
    return [
        {"backend": backend, "rank": rank, **where, "mode": mode, "layer": name}
        | {"macs": macs.get(name)}
        | {f"{kind}_ms": times.get((name, mode, kind)) for kind in KINDS}
        for name, mode in dict.fromkeys((name, mode) for name, mode, _ in calls)
    ]


def in_pytorch(is_separable: bool, rank: int, channels: int, how: How) -> Any:
    """The layer as PyTorch users write it."""
    import torch
    from torch import nn

    filters, kernel_size, strides, multiplier = how
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    moving = {"kernel_size": kernel_size, "stride": strides, "padding": kernel_size // 2}
    layers = [conv(channels, filters, **moving)]
    if is_separable:
        widened = channels * multiplier
        depthwise = conv(channels, widened, **moving, groups=channels, bias=False)
        layers = [depthwise, conv(widened, filters, 1)]
    net = nn.Sequential(*layers).to(keras.ops.zeros(()).device)
    return net.to(memory_format=torch.channels_last) if rank == 2 else net


def as_in_pytorch(values: np.ndarray) -> Any:
    """Values with channels first, as in PyTorch; images in the channels-last memory format."""
    import torch

    tensor = keras.ops.convert_to_tensor(np.ascontiguousarray(np.moveaxis(values, -1, 1)))
    return tensor.to(memory_format=torch.channels_last) if values.ndim == 4 else tensor


def ratios(rows: list[dict]) -> list[dict]:
    """Times of the others divided by ours, for each shape and place."""
    compared = []
    for row in (row for row in rows if row["layer"] == "ours"):
        same = ("shape", "filters", "kernel", "strides", "multiplier")
        peers = [r for r in rows if all(r[key] == row[key] for key in same)]
        here = [r for r in peers if r["backend"] == row["backend"]]
        standard = next(r["macs"] for r in here if r["layer"] == "standard")
        compared.append({**row, "mac_ratio": standard / row["macs"]})
        for kind in KINDS:
            key = f"{kind}_ms"
            for name, among in {
                "keras": [
                    r for r in here if (r["layer"], r["mode"]) == ("keras.layers", row["mode"])
                ],
                "standard": [r for r in here if r["layer"] == "standard"],
                "PyTorch": [r for r in here if r["layer"] == "PyTorch"],
                "LiteRT": [r for r in here if r["layer"] == "LiteRT"],
            }.items():
                best = min((r[key] for r in among if r[key]), default=None)
                compared[-1][name, kind] = best / row[key] if best and row[key] else None
    return compared


def table(rows: list[dict]) -> str:
    header = ["backend, mode", "input, filters, kernel, stride, multiplier"]
    header += ["ours ms, forward / with gradients"]
    peers = {"keras": "`keras.layers`", "standard": "standard, fastest mode"}
    peers |= {"PyTorch": "PyTorch", "LiteRT": "LiteRT"}
    header += [f"{name} ÷ ours" for name in peers.values()] + ["MACs, standard ÷ separable"]
    lines = []
    for row in ratios(rows):
        shape = "×".join(map(str, row["shape"]))
        cells = [f"{row['backend']}, {row['mode']}"]
        numbers = (row[key] for key in ("filters", "kernel", "strides", "multiplier"))
        cells.append(", ".join([shape, *map(str, numbers)]))
        cells.append(" / ".join(f"{row[f'{kind}_ms'] or float('nan'):.2f}" for kind in KINDS))
        for name in peers:
            cells.append(" / ".join(harness.times(row[name, kind]) for kind in KINDS))
        lines.append([*cells, f"{row['mac_ratio']:.1f}×"])
    return tables.markdown([header, *lines], 2)


def draw(figure: Any, rows: list[dict]) -> None:
    compared = ratios(rows)
    places = list(dict.fromkeys((r["backend"], r["mode"]) for r in compared))
    figure.set_size_inches(4 * len(places), 4)
    panels = figure.subplots(1, len(places), sharey=True, squeeze=False)[0]
    for axes, place in zip(panels, places, strict=True):
        here = [row for row in compared if (row["backend"], row["mode"]) == place]
        for name, color in (("keras", "tab:orange"), ("standard", "tab:gray")):
            for kind, marker in zip(KINDS, "os", strict=True):
                points = [(row["mac_ratio"], row[name, kind]) for row in here if row[name, kind]]
                if points:
                    label = f"{'keras.layers' if name == 'keras' else name}, {kind}"
                    axes.scatter(*zip(*points, strict=True), marker=marker, color=color,
                                 alpha=0.7, label=label)  # fmt: skip
        axes.axhline(1, color="0.7")
        axes.axline((1, 1), (10, 10), color="0.7", linestyle="--")
        axes.set(title=", ".join(place), xscale="log", yscale="log", xlabel="MAC ratio")
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("time of the other ÷ ours")
    panels[0].legend(fontsize="small")


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
