"""Volume classification: a 3D depthwise-separable net against its standard-convolution twin.

    python -m examples.volumes.train
        solids drawn as voxels, no download
    python -m examples.volumes.train --dataset modelnet10
    python -m examples.volumes.train --data FILE.npz

Both nets get the same data, budget and seeds. The comparison is printed and written to `--output`,
beside the trained models. Run the same command again to continue an interrupted run.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras

from examples.artifacts import add_export, export_arrays
from examples.command_line import (
    add_budget,
    add_output,
    command,
    default_output,
    in_sentences,
    new_parser,
    user_errors,
)
from examples.nets import CHOICES, by_name
from examples.volumes import data
from sepconv_layers import Comparison, compare, models

WIDTH = 0.5  # of the net, before `--width`
EPOCHS = {"solids": 8}
DEFAULT_EPOCHS = 15
BATCH_SIZE = 32
LEARNING_RATE = 4e-2
MIRRORED = (1, 2)  # axes: the objects of the public sets stand upright
SHIFTED = 2  # voxels at most, in ModelNet10: there are few volumes of some of its classes


@keras.saving.register_keras_serializable("sepconv_examples")
class RandomMirror(keras.layers.Layer):
    """Mirrors volumes in some of their axes, each in half of the cases, in training only."""

    def __init__(self, axes: Sequence[int], seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axes, self.seed = tuple(axes), seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if not training:
            return inputs
        for axis in self.axes:
            shape = (keras.ops.shape(inputs)[0], *(1,) * (len(inputs.shape) - 1))
            is_mirrored = keras.random.uniform(shape, seed=self.generator) < 0.5
            inputs = keras.ops.where(is_mirrored, keras.ops.flip(inputs, axis), inputs)
        return inputs

    def get_config(self) -> dict:
        return {**super().get_config(), "axes": self.axes, "seed": self.seed}


@keras.saving.register_keras_serializable("sepconv_examples")
class RandomShift(keras.layers.Layer):
    """Moves each volume by up to so many voxels along each axis, in training only. Zeros follow."""

    def __init__(self, voxels: int, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.voxels, self.seed = voxels, seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if not training:
            return inputs
        inputs = keras.ops.cast(inputs, self.compute_dtype)
        for number, axis in enumerate("xyz", 1):
            # A matrix for each volume, with ones where a position becomes another: XLA has no
            # kernel for what Keras shifts images by.
            places = keras.ops.arange(inputs.shape[number])
            shape = (keras.ops.shape(inputs)[0], 1)
            by = keras.random.randint(shape, -self.voxels, self.voxels + 1, seed=self.generator)
            moves = keras.ops.equal(keras.ops.expand_dims(places + by, -1), places)
            product = f"bn{axis},bxyzc->b{'xyz'.replace(axis, 'n')}c"
            inputs = keras.ops.einsum(product, keras.ops.cast(moves, inputs.dtype), inputs)
        return inputs

    def get_config(self) -> dict:
        return {**super().get_config(), "voxels": self.voxels, "seed": self.seed}


def augmentation(name: str) -> keras.layers.Layer:
    """What the volumes of a public set go through in training."""
    mirror = RandomMirror(MIRRORED)
    return mirror if name == "solids" else keras.Sequential([mirror, RandomShift(SHIFTED)])


def build(conv: str, input_shape: Sequence[int], classes: int, width: float = 1.0) -> keras.Model:
    """MobileNet in three dimensions. It takes values from 0 to 255 and gives logits."""
    volumes = keras.Input(input_shape, name="volumes")
    net = models.mobilenet_3d(input_shape, classes, conv, width=WIDTH * width)
    logits = net(keras.layers.Rescaling(1 / 255)(volumes))
    return keras.Model(volumes, logits, name=f"{conv}_net")


@in_sentences
def main(argv: Sequence[str] | None = None) -> Comparison:
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with user_errors(parser, file="--data"):
        dataset = data.load(
            arguments.dataset or "solids", file=arguments.data, limit=arguments.limit
        )
    input_shape, classes = dataset.train[0].shape[1:], len(dataset.classes)
    print(f"{dataset.name}: {dataset.note}")
    print(f"{dataset.sizes('volumes')} of shape {input_shape}, {classes} classes")
    if dataset.scaling:
        print(dataset.scaling)
    output = arguments.output or default_output("volumes", dataset.name)
    convs = CHOICES[arguments.conv]
    found = compare(
        by_name(partial(build, input_shape=input_shape, classes=classes), convs, arguments.width),
        dataset,
        convs=convs,
        epochs=arguments.epochs or EPOCHS.get(dataset.name, DEFAULT_EPOCHS),
        batch_size=arguments.batch_size,
        seeds=arguments.seeds,
        jit_compile=arguments.jit_compile,
        learning_rate=LEARNING_RATE,
        label_smoothing=0.1,
        augmentation=augmentation(dataset.name) if arguments.data is None else None,
        output=output,
        task="Volume classification",
        dataset=dataset.name,
        command=command("examples.volumes.train", argv),
    )
    export_arrays(found, arguments.export, output, dataset)
    print(f"\n{found}\n\nSaved in {output}: report.md, comparison.png, results.json, models")
    return found


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser("examples.volumes.train", __doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--dataset", choices=data.SOURCES, help="a public set; default: solids")
    source.add_argument("--data", metavar="FILE", help="your own volumes: a .npz file")
    add_budget(parser, epochs="8 for solids, else 15", batch_size=BATCH_SIZE)
    add_export(parser, default="none")
    add_output(parser, default="runs/volumes/DATASET")
    return parser


if __name__ == "__main__":
    main()
