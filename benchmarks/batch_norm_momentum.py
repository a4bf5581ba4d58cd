"""How fast the moving statistics of batch normalization follow training, for several momenta.

    python -m benchmarks.batch_norm_momentum --dataset fashion_mnist

Trains a net of separable blocks with several momenta on the same batches, and evaluates each one
with its moving statistics after given numbers of steps. Takes 3 minutes on two cores. Writes
`results/batch_norm_momentum.json` and prints it as a table.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import keras
import numpy as np

from examples.vision import data
from sepconv_layers import SeparableConvBlock2D, files

MOMENTA = (0.99, 0.95, 0.9, 0.8, 0.6)
STEPS = (50, 100, 200, 400, 800)
FILTERS_AND_STRIDES = ((32, 2), (64, 1), (128, 2), (128, 1))
BATCH_SIZE = 64
LEARNING_RATE = 3e-3


def build(input_shape: Sequence[int], classes: int, momentum: float) -> keras.Model:
    normalization = partial(keras.layers.BatchNormalization, momentum=momentum)
    images = x = keras.Input(input_shape)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    for filters, strides in FILTERS_AND_STRIDES:
        x = SeparableConvBlock2D(filters, strides=strides, normalization=normalization)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(classes)(x))


def accuracies(
    dataset: data.Dataset, momentum: float, seed: int, steps: Sequence[int]
) -> list[float]:
    """Validation accuracy after each number of training steps."""
    keras.utils.set_random_seed(seed)
    model = build(dataset.train[0].shape[1:], len(dataset.classes), momentum)
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    (x, y), validation, measured = dataset.train, dataset.val, []
    rng = np.random.default_rng(seed)
    for step in range(1, max(steps) + 1):
        batch = rng.integers(len(y), size=BATCH_SIZE)
        model.train_on_batch(x[batch], y[batch])
        if step in steps:
            logs = model.evaluate(*validation, batch_size=256, verbose=0, return_dict=True)
            measured.append(round(float(logs["accuracy"]), 4))
    return measured


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=data.SOURCES, default="digits")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--output", default="results/batch_norm_momentum.json")
    return parser


def main(argv: Sequence[str] | None = None) -> dict:
    arguments = make_parser().parse_args(argv)
    dataset, seeds = data.load(arguments.dataset), range(arguments.seeds)
    print(f"Validation accuracy on {dataset.name}, mean of {arguments.seeds} seeds, after steps:")
    print("momentum", *(f"{step:>7}" for step in arguments.steps))
    rows = {}
    for momentum in MOMENTA:
        per_seed = [accuracies(dataset, momentum, seed, arguments.steps) for seed in seeds]
        rows[momentum] = [
            round(statistics.fmean(values), 4) for values in zip(*per_seed, strict=True)
        ]
        print(f"{momentum:8}", *(f"{accuracy:7.3f}" for accuracy in rows[momentum]), flush=True)
    record = {
        "dataset": dataset.name,
        "seeds": list(seeds),
        "batch_size": BATCH_SIZE,
        "steps": list(arguments.steps),
        "val_accuracy": rows,
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
    }
    path = Path(arguments.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(record, indent=2) + "\n")
    return record


if __name__ == "__main__":
    main()
