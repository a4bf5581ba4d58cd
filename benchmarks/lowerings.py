"""Every lowering of the depthwise convolution: which one is fastest, and what `auto` loses to it.

    python -m benchmarks.lowerings

Uses shapes from which the table in `ops` was made, and others. Times a forward pass, and one with
both gradients. Takes 20 minutes on two cores. A GPU needs larger batches:

    python -m benchmarks.lowerings --backends jax torch --batches 64 --dtypes float32 bfloat16
"""

import argparse
import itertools
import statistics
import sys
from typing import Any

import keras
import numpy as np

from benchmarks import harness
from sepconv_layers import ops, tables, timing

NAME = "lowerings"
LOWERINGS = {
    1: ("native", "taps", "auto"),
    2: ("native", "triton", "taps", "auto"),
    3: ("native", "taps", "planes", "auto"),
}
# Rank to input shapes with the kernel sizes to apply to them.
TABLE = {
    1: [((8, 512, 64), (3, 15))],
    2: [((8, 32, 32, 64), (3, 5, 7)), ((1, 40, 40, 32), (31,))],
    3: [((2, 12, 16, 16, 32), (3, 5)), ((1, 8, 16, 16, 16), (7,))],
}
HELD_OUT = {
    1: [((4, 301, 96), (9,)), ((8, 2, 256), (3,))],
    2: [((4, 19, 45, 112), (3,)), ((2, 57, 23, 40), (4,)), ((8, 1, 1, 512), (3,))],
    3: [((1, 9, 21, 14, 48), (3,)), ((8, 2, 1, 1, 128), (3,))],
}
STRIDES = (1, 2)
HALF = "bfloat16"
FORCED = {
    "native": "tab:orange",
    "triton": "tab:red",
    "taps": "tab:blue",
    "planes": "tab:green",
}


def lowerings(rank: int) -> list[str]:
    """What to compare: Triton's kernels only where there are any."""
    has_triton = harness.has_torch_on_gpu()
    return [name for name in LOWERINGS[rank] if name != "triton" or has_triton]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", type=int, nargs="+", default=(1, 2, 3))
    parser.add_argument("--scale", type=int, default=1, help="divide sizes and channels by this")
    parser.add_argument("--batches", type=int, default=1, help="multiply batches by this")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", HALF), default=["float32"])


def cells(arguments: argparse.Namespace) -> list[tuple]:
    listed: list[tuple] = []
    for mode, rank in itertools.product(timing.MODES[keras.backend.backend()], arguments.ranks):
        for origin, shapes in (("table", TABLE), ("held out", HELD_OUT)):
            for (shape, kernels), strides in itertools.product(shapes[rank], STRIDES):
                for kernel, dtype in itertools.product(kernels, arguments.dtypes):
                    listed.append((mode, origin, shape, kernel, strides, dtype))
        if HALF not in arguments.dtypes:
            shape, kernels = TABLE[rank][0]
            listed.append((mode, "table", shape, kernels[0], 1, HALF))
    return listed


def measure(cell: tuple, arguments: argparse.Namespace) -> list[dict]:
    mode, origin, shape, kernel_size, strides, dtype = cell
    batch, *sizes = shape
    *spatial, channels = (max(1, size // arguments.scale) for size in sizes)
    batch *= arguments.batches
    rng, rank = np.random.default_rng(0), len(spatial)
    kernel_size = max(1, kernel_size // arguments.scale)
    arrays = [
        keras.ops.cast(rng.normal(size=shape).astype("float32"), dtype)
        for shape in ((batch, *spatial, channels), (*(kernel_size,) * rank, channels, 1))
    ]

    outputs = ops.depthwise_conv(*(keras.KerasTensor(one.shape) for one in arrays), strides, "same")
    upstream = keras.ops.cast(rng.normal(size=outputs.shape).astype("float32"), dtype)

    def function(name: str) -> Any:
        def run(x: Any, kernel: Any) -> Any:
            with ops.lowering(name):
                return ops.depthwise_conv(x, kernel, strides, "same")

        return run

    calls = {}
    for name in lowerings(rank):
        run = function(name)
        calls[name, "forward"] = harness.forward(run, mode, *arrays)
        calls[name, "both"] = harness.with_gradients(run, mode, *arrays, upstream=upstream)
    running, _ = timing.runnable(calls)
    medians = timing.medians(running, arguments.seconds, arguments.turns)
    place = {"backend": keras.backend.backend(), "mode": mode, "origin": origin, "rank": rank}
    what = {"shape": [batch, *spatial, channels], "kernel": kernel_size, "strides": strides}
    times = {
        f"{kind}_ms": {name: medians.get((name, kind)) for name in lowerings(rank)}
        for kind in ("forward", "both")
    }
    return [{**place, **what, "dtype": dtype, **times}]


def loss(row: dict, kind: str) -> float | None:
    """Time of `auto` divided by the time of the fastest lowering."""
    times = {name: ms for name, ms in row[kind].items() if ms}
    auto = times.pop("auto", None)
    return auto / min(times.values()) if auto and times else None


def table(rows: list[dict]) -> str:
    lines = []
    names = [name for name in FORCED if any(_has(row, "forward_ms", name) for row in rows)]
    for backend, mode, rank in dict.fromkeys((r["backend"], r["mode"], r["rank"]) for r in rows):
        here = [r for r in rows if (r["backend"], r["mode"], r["rank"]) == (backend, mode, rank)]
        cells = [f"{backend}, {mode}", f"{rank}D"]
        for name in names:
            cells.append(
                " / ".join(
                    harness.times(
                        _mean(
                            [
                                row[kind][name] / row[kind]["auto"]
                                for row in here
                                if _has(row, kind, name)
                            ]
                        )
                    )
                    for kind in ("forward_ms", "both_ms")
                )
            )
        for origin in ("table", "held out"):
            of_origin = [row for row in here if row["origin"] == origin]
            losses = [loss(row, kind) for row in of_origin for kind in ("forward_ms", "both_ms")]
            cells.append(harness.times(max(filter(None, losses), default=None)))
        lines.append(cells)
    header = [
        "backend, mode",
        "rank",
        *(f"{name} ÷ auto, forward / with gradients" for name in names),
        "worst auto ÷ best, shapes of the table",
        "worst auto ÷ best, other shapes",
    ]
    return tables.markdown([header, *lines], 2)


def _has(row: dict, kind: str, name: str) -> bool:
    return bool(row[kind].get(name) and row[kind].get("auto"))


def _mean(ratios: list[float]) -> float | None:
    return statistics.geometric_mean(ratios) if ratios else None


def draw(figure: Any, rows: list[dict]) -> None:
    places = list(dict.fromkeys((r["backend"], r["mode"]) for r in rows))
    figure.set_size_inches(4 * len(places), 4)
    for axes, place in zip(figure.subplots(1, len(places), squeeze=False)[0], places, strict=True):
        here = [row for row in rows if (row["backend"], row["mode"]) == place]
        for name, color in FORCED.items():
            points = [
                (row["both_ms"]["auto"], row["both_ms"][name])
                for row in here
                if _has(row, "both_ms", name)
            ]
            axes.scatter(
                *zip(*points, strict=True), s=14, color=color, label=name
            ) if points else None
        axes.set(title=", ".join(place), xscale="log", yscale="log", xlabel="auto, ms")
        axes.axline((1, 1), (10, 10), color="0.7", zorder=0)
        axes.legend()
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("forced lowering, ms (with gradients)")


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
