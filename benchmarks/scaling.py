"""Growth of time and memory of a training step with batch, width, resolution and kernel.

    python -m benchmarks.scaling

Measures three blocks, separable and standard, and compares each exponent with the one that the MACs
predict. Memory is the peak of a separate process, minus its peak before the step. Takes 10 minutes
on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from typing import Any

import keras
import numpy as np

from benchmarks import harness
from sepconv_layers import ConvBlock2D, SeparableConvBlock2D, profile, tables, timing

NAME = "scaling"
BLOCKS = {"separable": SeparableConvBlock2D, "standard": ConvBlock2D}
COLORS = {"separable": "tab:blue", "standard": "tab:gray"}
DEPTH = 3
POINT = {"batch": 8, "width": 64, "resolution": 32, "kernel": 3}
AXES = {
    "batch": (4, 8, 16, 32),
    "width": (32, 64, 128, 256),
    "resolution": (16, 32, 64, 128),
    "kernel": (3, 5, 7, 9),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--values", type=int, default=4, help="number of values on each axis")
    parser.add_argument("--scale", type=int, default=1, help="divide resolution and width by this")


def cells(arguments: argparse.Namespace) -> list[tuple]:
    return [(axis, value) for axis in arguments.axes for value in AXES[axis][: arguments.values]]


def training_step(conv: str, point: dict[str, int]) -> tuple[Any, keras.Model]:
    rng = np.random.default_rng(0)
    shape = (point["batch"], point["resolution"], point["resolution"], point["width"])
    layers = [BLOCKS[conv](point["width"], point["kernel"]) for _ in range(DEPTH)]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input(shape[1:]), *layers])
    first, *_ = timing.MODES[keras.backend.backend()].values()
    model.compile("sgd", "mse", jit_compile=first)
    x, y = rng.normal(size=shape).astype("float32"), np.zeros((shape[0], 1), "float32")
    return partial(model.train_on_batch, x, y), model


def measure(cell: tuple, arguments: argparse.Namespace) -> list[dict]:
    axis, value = cell
    point = {**POINT, axis: value}
    for name in ("width", "resolution"):
        point[name] = max(4, point[name] // arguments.scale)
    calls, macs = {}, {}
    for conv in BLOCKS:
        calls[conv], model = training_step(conv, point)
        macs[conv] = profile(model).macs * point["batch"]
    times = timing.medians(calls, arguments.seconds, arguments.turns)
    return [
        {
            "backend": keras.backend.backend(),
            "axis": axis,
            "value": value,
            "conv": conv,
            "macs": macs[conv],
            "ms": times[conv],
            "peak_mb": _peak_of_process(conv, point),
        }
        for conv in BLOCKS
    ]


def _peak_of_process(conv: str, point: dict[str, int]) -> float:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"benchmarks.{NAME}", "--peak", conv]
        + [json.dumps(point)],
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend(), "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout.split()[-1])


def peak(conv: str, point: dict[str, int]) -> float:
    """Megabytes that a step needs beyond those of a tiny step."""
    tiny, _ = training_step(conv, {**point, "batch": 1, "resolution": point["kernel"], "width": 8})
    tiny()
    call, _ = training_step(conv, point)
    before = harness.peak_bytes()
    call()
    return round((harness.peak_bytes() - before) / 1e6, 2)


def exponent(rows: list[dict], key: str) -> float | None:
    """Log-log slope between the two largest values: overhead dominates the smaller ones."""
    points = [(row["value"], row[key]) for row in sorted(rows, key=lambda row: row["value"])][-2:]
    if len(points) < 2 or min(value for _, value in points) <= 0:
        return None
    (x0, y0), (x1, y1) = points
    return float(np.log(y1 / y0) / np.log(x1 / x0))


def _by_curve(rows: list[dict]) -> dict[tuple, list[dict]]:
    curves: dict[tuple, list[dict]] = {}
    for row in rows:
        curves.setdefault((row["backend"], row["axis"], row["conv"]), []).append(row)
    return curves


def table(rows: list[dict]) -> str:
    header = ["backend", "axis", "net", "exponent of MACs", "of time", "of memory"]
    header += ["ms, smallest to largest size", "peak MB, smallest to largest size"]
    lines = []
    for (backend, axis, conv), curve in _by_curve(rows).items():
        slopes = (exponent(curve, key) for key in ("macs", "ms", "peak_mb"))
        cells = ["–" if slope is None else f"{slope:.2f}" for slope in slopes]
        cells += [f"{curve[0][key]:.1f} to {curve[-1][key]:.1f}" for key in ("ms", "peak_mb")]
        lines.append([backend, axis, conv, *cells])
    return tables.markdown([header, *lines], 3)


def draw(figure: Any, rows: list[dict]) -> None:
    curves = _by_curve(rows)
    axes_names = list(dict.fromkeys(axis for _, axis, _ in curves))
    backends = list(dict.fromkeys(backend for backend, _, _ in curves))
    figure.set_size_inches(3.2 * len(axes_names), 5.5)
    panels = figure.subplots(2, len(axes_names), squeeze=False)
    styles = dict(zip(backends, ("-", "--", ":"), strict=False))
    for (backend, axis, conv), curve in curves.items():
        column = axes_names.index(axis)
        for panel, key, label in zip(panels, ("ms", "peak_mb"), ("ms", "peak MB"), strict=True):
            panel[column].plot(
                [row["value"] for row in curve],
                [row[key] for row in curve],
                styles[backend],
                marker="o",
                markersize=3,
                color=COLORS[conv],
                label=f"{conv}, {backend}",
            )
            scale = "log" if min(row[key] for row in rows) > 0 else "linear"
            panel[column].set(xscale="log", yscale=scale, xlabel=axis, ylabel=label)
            values = [row["value"] for row in curve]
            panel[column].set_xticks(values, values)
            panel[column].xaxis.minorticks_off()
            panel[column].grid(alpha=0.25)
    panels[0][0].legend(fontsize="x-small")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print(peak(sys.argv[2], json.loads(sys.argv[3])))
    else:
        harness.main(sys.modules[__name__])
