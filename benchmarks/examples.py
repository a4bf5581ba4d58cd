"""Inference and training steps of the nets of the examples and their twins.

    python -m benchmarks.examples

Images of 28×28, one second of sound, texts of 52 tokens and volumes of 24×24×24, on each Keras
backend, and one sample at a time in LiteRT. The separable and the standard net take turns, each in
its fastest mode.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks import harness
from examples.audio import train as audio
from examples.nets import TWINS
from examples.text import train as text
from examples.vision import train as vision
from examples.volumes import train as volumes
from sepconv_layers import export, profile, tables, timing

NAME = "examples"
CLASSES = 10
WORDS = 8_000  # size of the vocabulary
SHAPES = {
    "images": (28, 28, 1),
    "sounds": (49, 40),
    "texts": (52,),
    "volumes": (24, 24, 24, 1),
}
PLACES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch", "litert": "LiteRT"}


def _sounds(conv: str, shape: tuple[int, ...]) -> keras.Model:
    return audio.build(conv, "ds_cnn", np.ones((1, *shape)), CLASSES)


def _texts(conv: str, shape: tuple[int, ...]) -> keras.Model:
    return text.build(conv, shape[0], CLASSES, WORDS, text.Settings())


BUILDERS: dict[str, Callable[[str, tuple[int, ...]], keras.Model]] = {
    "images": partial(vision.mobilenet, classes=CLASSES),
    "sounds": _sounds,
    "texts": _texts,
    "volumes": partial(volumes.build, classes=CLASSES),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--nets", nargs="+", choices=SHAPES, default=list(SHAPES))


def cells(arguments: argparse.Namespace) -> list[str]:
    return arguments.nets


def measure(net: str, arguments: argparse.Namespace) -> list[dict]:
    rng, backend = np.random.default_rng(0), keras.backend.backend()
    shape = (arguments.batch_size, *SHAPES[net])
    x = rng.integers(1, WORDS, shape) if net == "texts" else rng.normal(size=shape)
    x, y = x.astype("int32" if net == "texts" else "float32"), rng.integers(CLASSES, size=shape[0])
    inference, steps, macs = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for conv in TWINS:
            for mode in timing.MODES[backend]:
                model = BUILDERS[net](conv, SHAPES[net])
                model.compile(
                    keras.optimizers.AdamW(1e-3),
                    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                    jit_compile=mode == "xla",
                )
                inference[backend, conv, mode] = partial(model.predict_on_batch, x)
                steps[backend, conv, mode] = partial(model.train_on_batch, x, y)
            macs[conv] = profile(model, SHAPES[net]).macs
            if backend == "tensorflow":
                path = Path(folder) / f"{conv}.tflite"
                run = export.load(export.to_litert(model, path, sample=x[:1]).path)
                inference["litert", conv, "file"] = partial(run, x[:1])
        return [
            {
                "net": net,
                "place": place,
                "kind": kind,
                "conv": conv,
                "mode": mode,
                "macs": macs[conv],
                "batch_size": 1 if place == "litert" else arguments.batch_size,
                "ms": ms,
            }
            for kind, calls in (("infer", inference), ("train", steps))
            for (place, conv, mode), ms in timing.medians(
                calls, arguments.seconds, arguments.turns
            ).items()
        ]


def gains(rows: list[dict]) -> dict[tuple[str, str, str], float]:
    """Speed-up of the separable net, by net, place and kind."""
    best: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        times = best.setdefault((row["net"], row["place"], row["kind"]), {})
        times[row["conv"]] = min(row["ms"], times.get(row["conv"], row["ms"]))
    return {key: times["standard"] / times["separable"] for key, times in best.items()}


def mac_ratios(rows: list[dict]) -> dict[str, float]:
    """MAC ratio, the ideal speed-up, by net."""
    macs = {(row["net"], row["conv"]): row["macs"] for row in rows}
    return {net: macs[net, "standard"] / macs[net, "separable"] for net, _ in macs}


def table(rows: list[dict]) -> str:
    speedups, ratios = gains(rows), mac_ratios(rows)
    places = [place for place in PLACES if any(place == key[1] for key in speedups)]
    lines = []
    for net, ratio in ratios.items():
        cells = (
            [
                speedups[net, place, kind]
                for kind in ("infer", "train")
                if (net, place, kind) in speedups
            ]
            for place in places
        )
        speeds = [" / ".join(f"{gain:.1f}×" for gain in cell) for cell in cells]
        lines.append([net, f"{ratio:.1f}", *speeds])
    header = ["net for", "MACs ÷", *(PLACES[place] for place in places)]
    return tables.markdown([header, *lines])


def draw(figure: Any, rows: list[dict]) -> None:
    speedups, ratios = gains(rows), mac_ratios(rows)
    figure.set_size_inches(8, 4)
    axes, width = figure.subplots(), 0.8 / len(PLACES)
    for i, (place, name) in enumerate(PLACES.items()):
        bars = {n: speedups[net, place, "infer"] for n, net in enumerate(ratios)
                if (net, place, "infer") in speedups}  # fmt: skip
        shift = (i - (len(PLACES) - 1) / 2) * width
        axes.bar([n + shift for n in bars], bars.values(), width, label=name)
    for n, ratio in enumerate(ratios.values()):
        label = "MAC ratio" if n == 0 else None
        axes.hlines(ratio, n - 0.42, n + 0.42, "0.3", "--", label=label)
    axes.axhline(1, color="0.8")
    axes.set_xticks(range(len(ratios)), ratios)
    axes.set(ylabel="speed-up over the standard twin, inference")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left")


if __name__ == "__main__":
    harness.main(sys.modules[__name__])
