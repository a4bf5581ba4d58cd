"""Time of the first call, which traces and compiles, for nets and for large kernels.

    python -m benchmarks.compile_time

Takes 4 minutes on two cores.
"""

import argparse
import sys
import time
from functools import partial
from typing import Any

import keras
import numpy as np

import sepconv_layers as sl
from benchmarks import harness, mobilenet, nets
from sepconv_layers import tables, timing

NAME = "compile_time"
KERNELS = ((3,), (31,), (3, 3), (7, 7), (31, 31), (3, 3, 3), (7, 7, 7))
SIZES = {1: (256,), 2: (40, 40), 3: (8, 16, 16)}
CHANNELS = 32
COLORS = {"separable": "tab:blue", "standard": "tab:gray", "keras.layers": "tab:orange"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    mobilenet.add_sizes(parser)
    parser.add_argument("--kernels", type=int, default=len(KERNELS), help="number of kernels")


def cells(arguments: argparse.Namespace) -> list[tuple]:
    modes = timing.MODES[keras.backend.backend()]
    return [
        *((mode, net, kind) for mode in modes for net in mobilenet.BUILDERS for kind in nets.KINDS),
        *((mode, kernel, "both") for mode in modes for kernel in KERNELS[: arguments.kernels]),
    ]


def measure(cell: tuple, arguments: argparse.Namespace) -> list[dict]:
    mode, what, kind = cell
    place = {"backend": keras.backend.backend(), "mode": mode, "kind": kind}
    rng = np.random.default_rng(0)
    if isinstance(what, str):
        shape = (arguments.batch_size, arguments.size, arguments.size, 3)
        x = rng.normal(size=shape).astype("float32")
        model = mobilenet.BUILDERS[what](arguments)
        model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=mode == "xla")
        if kind == "infer":
            call = partial(model.predict_on_batch, x)
        else:
            call = partial(model.train_on_batch, x, np.zeros(len(x), "int32"))
        return [{**place, "what": what, "seconds": _compile_seconds(call)}]
    rank = len(what)
    shape = (1, *SIZES[rank], CHANNELS)
    x, kernel, upstream = (
        rng.normal(size=size).astype("float32") for size in (shape, (*what, CHANNELS, 1), shape)
    )

    def function(x: Any, kernel: Any) -> Any:
        return sl.ops.depthwise_conv(x, kernel, padding="same")

    call = harness.with_gradients(function, mode, x, kernel, upstream=upstream)
    name = f"depthwise {'×'.join(map(str, what))}"
    return [{**place, "what": name, "seconds": _compile_seconds(call)}]


def _compile_seconds(call: Any) -> float:
    """Seconds of the first call minus those of the second, which has nothing to compile."""
    moments = [time.perf_counter()]
    for _ in range(2):
        call()
        moments.append(time.perf_counter())
    start, first, second = moments
    return round(max(0.0, (first - start) - (second - first)), 3)


def table(rows: list[dict]) -> str:
    places = list(dict.fromkeys((row["backend"], row["mode"]) for row in rows))
    header = ["net or operation", *(f"{', '.join(place)}: s" for place in places)]
    lines = []
    for what, kind in dict.fromkeys((row["what"], row["kind"]) for row in rows):
        seconds = {
            (row["backend"], row["mode"]): f"{row['seconds']:.2f}"
            for row in rows
            if (row["what"], row["kind"]) == (what, kind)
        }
        name = f"{what}, {nets.KINDS.get(kind, 'with gradients')}"
        lines.append([name, *(seconds.get(place, "–") for place in places)])
    return tables.markdown([header, *lines])


def draw(figure: Any, rows: list[dict]) -> None:
    places = list(dict.fromkeys((row["backend"], row["mode"]) for row in rows))
    names = [", ".join(pair) for pair in dict.fromkeys((r["what"], r["kind"]) for r in rows)]
    figure.set_size_inches(3 * len(places) + 2, 1.2 + 0.3 * len(names))
    panels = figure.subplots(1, len(places), sharey=True, squeeze=False)[0]
    for axes, place in zip(panels, places, strict=True):
        here = [row for row in rows if (row["backend"], row["mode"]) == place]
        where = [names.index(f"{row['what']}, {row['kind']}") for row in here]
        colors = [COLORS.get(row["what"], "tab:green") for row in here]
        patches = axes.barh(where, [row["seconds"] for row in here], color=colors)
        axes.bar_label(patches, fmt="%.1f", padding=2)
        axes.set(title=", ".join(place), xlabel="seconds")
        axes.margins(x=0.2)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
