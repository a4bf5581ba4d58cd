"""Volume classification: a 3D depthwise-separable net against its standard-convolution twin.

    python -m examples.vision.volumes
        solids that are drawn as voxels, no download
    python -m examples.vision.volumes --dataset modelnet10
    python -m examples.vision.volumes --data FILE.npz

`modelnet10` is read from the folder that the environment variable SEPCONV_DATA names:

    $SEPCONV_DATA/volumes/modelnet10_voxels30.npz      x_train, y_train, x_test, y_test

Your own volumes are in a .npz file with such names, or with train_images, train_labels, ... as
MedMNIST has them, of shape `(n, depth, height, width)`, or the same and `channels` at the end; val
and test may be absent. Both nets get the same data, budget and seeds. The comparison is printed and
written to `--output`, beside the trained models.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

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
from examples.sources import (
    Dataset,
    balanced,
    existing,
    expect,
    local,
    printable,
    read_npz,
    reading,
    split,
)
from examples.vision.arrays import Source, from_npz
from sepconv_layers import Comparison, compare, models

AXES = ("depth", "height", "width")
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
        dataset = load(arguments.dataset or "solids", file=arguments.data, limit=arguments.limit)
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
        command=command("examples.vision.volumes", argv),
    )
    export_arrays(found, arguments.export, output, dataset)
    print(f"\n{found}\n\nSaved in {output}: report.md, comparison.png, results.json, models")
    return found


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser("examples.vision.volumes", __doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--dataset", choices=SOURCES, help="a public set; default: solids")
    source.add_argument("--data", metavar="FILE", help="your own volumes: a .npz file")
    add_budget(parser, epochs="8 for solids, else 15", batch_size=BATCH_SIZE)
    add_export(parser, default="none")
    add_output(parser, default="runs/volumes/DATASET")
    return parser


def load(
    name: str = "solids",
    *,
    file: str | os.PathLike | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a data set, splits it where needed and shuffles its training part.

    Args:
        name: "solids" or "modelnet10". Not used if `file` is given.
        file: Your own volumes, a `.npz` file (see the top of this file).
        limit: Use at most this many training volumes, in the proportions of the classes. Of
            ModelNet10, those of rare classes then come several times.
        seed: Of the split and of the order.

    Returns:
        A `Dataset` of volumes `(n, depth, height, width, channels)` with values from 0 to 255.

    Raises:
        ValueError: If an argument or the file does not hold what is described here.
        RuntimeError: If SEPCONV_DATA does not hold the public set.
    """
    scaling = ""
    if file is None:
        expect(name in SOURCES, f"`name` must be one of {', '.join(SOURCES)}", repr(name))
        parts, classes, note = SOURCES[name]()
    else:
        expected = "`file` must be an existing .npz file"
        path = existing(file, expected)
        is_npz = path.is_file() and path.suffix.lower() == ".npz"
        expect(is_npz, expected, repr(str(file)))
        name = printable(path.stem)
        (parts, classes, note), scaling = from_npz(path, AXES)
    parts = split(parts, classes, limit, seed, "volumes")
    if file is None and name in BALANCED:
        parts["train"] = balanced(parts["train"], seed)
    parts = {part: (volumes, labels.astype("int64")) for part, (volumes, labels) in parts.items()}
    return Dataset(name, **parts, classes=tuple(classes), note=note, scaling=scaling)


FRAME = 3  # voxels on all sides of the grids of ModelNet10, which are always empty
BALANCED = ("modelnet10",)  # whose test part has as many of all, unlike its training part
MODELNET = "bathtub bed chair desk dresser monitor night_stand sofa table toilet".split()


def _modelnet10() -> Source:
    place = "volumes/modelnet10_voxels30.npz"
    path = local(place)
    if path is None:
        raise RuntimeError(
            f"Set SEPCONV_DATA to a folder that holds {place}. "
            f"Received SEPCONV_DATA={os.environ.get('SEPCONV_DATA')!r}."
        )
    parts = {}
    arrays = read_npz(path, ["x_train", "y_train", "x_test", "y_test"])
    with reading(path):
        for part in ("train", "test"):
            volumes, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
            # Nothing can be learned from a grid without a voxel. Tested is what is there.
            keep = volumes.any((1, 2, 3)) | (part == "test")
            volumes = volumes[keep, FRAME:-FRAME, FRAME:-FRAME, FRAME:-FRAME, None]
            parts[part] = (255 * volumes.astype("uint8"), labels[keep])
    note = (
        "ModelNet10, Wu et al. 2015, 24 voxels a side, rare classes repeated; for academic research"
    )
    return parts, MODELNET, note


# Solids as voxels

SIZE = 24  # voxels a side
EACH = 200  # solids of a kind
NOISE = 0.01  # share of voxels that are the other way round


def _torus(x: np.ndarray) -> np.ndarray:
    ring = np.hypot(x[..., 0], x[..., 1]) - 0.7
    return np.hypot(ring, x[..., 2]) < 0.28


# Whether points (..., 3) are inside, about one unit from the center to the surface.
SOLIDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ball": lambda x: np.linalg.norm(x, axis=-1) < 0.9,
    "cube": lambda x: np.abs(x).max(-1) < 0.7,
    "octahedron": lambda x: np.abs(x).sum(-1) < 1.1,
    "cylinder": lambda x: (np.hypot(x[..., 0], x[..., 1]) < 0.5) & (np.abs(x[..., 2]) < 0.85),
    "cone": lambda x: np.hypot(x[..., 0], x[..., 1]) < 0.4 * (0.9 - x[..., 2]) * (x[..., 2] > -0.8),
    "torus": _torus,
}


def _solids() -> Source:
    """Upright solids, turned, stretched and shifted at random, with some voxels wrong."""
    rng = np.random.default_rng(0)
    line = np.linspace(-1.6, 1.6, SIZE)
    grid = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1)
    volumes = np.empty((EACH * len(SOLIDS), SIZE, SIZE, SIZE, 1), "uint8")
    labels = np.repeat(np.arange(len(SOLIDS)), EACH)
    for i, label in enumerate(labels):
        angle = rng.uniform(0, 2 * np.pi)
        sine, cosine = np.sin(angle), np.cos(angle)
        rotation = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
        scale = rng.uniform(0.7, 1.3) * rng.uniform(0.85, 1.15, 3)
        points = (grid - rng.uniform(-0.25, 0.25, 3)) @ rotation / scale
        inside = list(SOLIDS.values())[label](points)
        volumes[i, ..., 0] = 255 * (inside ^ (rng.uniform(size=inside.shape) < NOISE))
    note = f"Solids drawn as {SIZE} voxels a side, upright, turned and stretched at random"
    return {"train": (volumes, labels)}, list(SOLIDS), note


SOURCES = {"solids": _solids, "modelnet10": _modelnet10}


if __name__ == "__main__":
    main()
