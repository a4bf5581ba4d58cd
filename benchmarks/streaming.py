"""Whether data in files keep up with training, and what memory they take.

    python -m benchmarks.streaming images --count 20000
    python -m benchmarks.streaming recordings --count 20000
    python -m benchmarks.streaming images --count 20000 --cache /tmp/cache

Writes images of 256 pixels a side, or recordings of a second, trains a separable net on them for an
epoch, as the examples do, and then measures training steps and the reading of batches. Takes about
6 minutes on two cores. Writes a record to `results/streaming/` and prints it.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import keras
import numpy as np

from benchmarks import harness
from examples import cache
from examples.audio import train as audio
from examples.sources import require
from examples.vision import train as vision
from sepconv_layers import compare, files, timing

EXAMPLES = {"images": vision, "recordings": audio}
CLASSES = 4
SIDE, QUALITY = 256, 90
RATE = 16_000
BATCH_SIZE = 64
SECONDS = 20.0  # of each measurement


def write_image(path: Path, seed: int) -> None:
    """A bright disk or square on noise, whose kind and side tell the class."""
    rng = np.random.default_rng(seed)
    image = rng.integers(70, 140, (SIDE, SIDE, 3), "uint8")
    y, x = np.mgrid[:SIDE, :SIDE] - rng.integers(80, SIDE - 80, (2, 1, 1))
    label = seed % CLASSES
    is_inside = np.hypot(x, y) < 60 if label % 2 else np.maximum(abs(x), abs(y)) < 60
    image[is_inside] += np.uint8(70) if label < 2 else np.uint8(256 - 70)
    require("PIL.Image").fromarray(image).save(path.with_suffix(".jpg"), quality=QUALITY)


def write_recording(path: Path, seed: int) -> None:
    """A tone in noise, whose pitch tells the class."""
    rng = np.random.default_rng(seed)
    pitch = 300 * 2 ** (seed % CLASSES) * rng.uniform(0.9, 1.1)
    wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(RATE) / RATE) + rng.normal(0, 0.02, RATE)
    require("soundfile").write(path.with_suffix(".wav"), wave, RATE, subtype="PCM_16")


def write_samples(kind: str, folder: Path, count: int) -> None:
    """Writes one folder for each class."""
    write = {"images": write_image, "recordings": write_recording}[kind]
    for label in range(CLASSES):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
    places = [(folder / str(seed % CLASSES) / f"{seed:06}", seed) for seed in range(count)]
    for _ in cache.in_parallel(lambda place: write(*place), places):
        continue


def per_second(call, samples: int) -> float:
    """Samples per second of a call that processes so many, after a first one."""
    call()
    started, calls = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < SECONDS:
        call()
        calls += 1
    return calls * samples / spent


def measure(kind: str, folder: Path, options: Sequence[str]) -> dict:
    """Trains on a folder for an epoch, and measures memory and throughput."""
    example = EXAMPLES[kind]
    parser = example.make_parser()
    imports = harness.peak_bytes()
    started = time.perf_counter()
    experiment = example.prepare(parser, parser.parse_args(["--data", str(folder), *options]))
    prepared, loaded = time.perf_counter() - started, harness.peak_bytes()
    settings = {"epochs": 1, "seeds": 1, "batch_size": BATCH_SIZE, "jit_compile": False}
    build = partial(experiment.build, width=1.0)
    data, recipe = experiment.data, experiment.training
    compare(build, data, convs="separable", **settings, progress=False, **recipe)
    peak = harness.peak_bytes()
    x, y = data.train
    model = build("separable")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batch = x[:BATCH_SIZE], y[:BATCH_SIZE]
    order = np.random.default_rng(0).permutation(len(y))
    starts = itertools.cycle(range(0, len(y) - BATCH_SIZE, BATCH_SIZE))
    step = per_second(lambda: model.train_on_batch(*batch), BATCH_SIZE)
    reading = per_second(lambda: x[order[(start := next(starts)) : start + BATCH_SIZE]], BATCH_SIZE)
    return {
        "samples": sum(len(labels) for _, labels in (data.train, data.val, data.test)),
        "shape": list(x.shape[1:]),
        "seconds_to_prepare": round(prepared, 1),
        "peak_mib_of_imports": round(imports / 2**20),
        "peak_mib_above_when_loaded": round((loaded - imports) / 2**20),
        "peak_mib_above_when_trained": round((peak - imports) / 2**20),
        "samples_per_second": {"step": round(step), "input": round(reading)},
        "input_per_step": round(reading / step, 2),
    }


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=EXAMPLES)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--data", type=Path, help="folder of the files; default: a temporary one")
    parser.add_argument("--cache", help="as in the examples")
    parser.add_argument("--output", type=Path, default=Path("results/streaming"))
    return parser


def main(argv: Sequence[str] | None = None) -> dict:
    arguments = make_parser().parse_args(argv)
    kind, options = arguments.kind, ["--cache", arguments.cache] if arguments.cache else []
    with tempfile.TemporaryDirectory(prefix="streaming-", dir="/var/tmp") as temporary:
        folder = arguments.data or Path(temporary, kind)
        if not folder.exists():
            write_samples(kind, folder, arguments.count)
        found = measure(kind, folder, options)
    command = ["python -m benchmarks.streaming", kind, f"--count {arguments.count}"]
    record = {  # without the folders, which are nobody else's
        "command": " ".join(command + ["--cache FOLDER"] * bool(arguments.cache)),
        "kind": kind,
        "cache": arguments.cache is not None,
        **found,
        "device": timing.device(),
        "backend": keras.backend.backend(),
        "versions": timing.versions(),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    name = f"{kind}-cache.json" if arguments.cache else f"{kind}.json"
    files.write_text(arguments.output / name, json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))
    return record


if __name__ == "__main__":
    main()
