"""Volume classification data sets as NumPy arrays: two public ones, or your own volumes.

`load("solids")` needs no download. "modelnet10" is read from the folder that the environment
variable SEPCONV_DATA names:

    $SEPCONV_DATA/volumes/modelnet10_voxels30.npz      x_train, y_train, x_test, y_test

`load(file=...)` takes your own volumes, a .npz file with such names (val is optional), or with
train_images, train_labels, ... as MedMNIST has them. Their shape is `(n, depth, height, width)` or
`(n, depth, height, width, channels)`. A part that is absent is held out of the training part, in
the proportions of the classes.
"""

import os
from collections.abc import Callable

import numpy as np

from examples.arrays import Source, from_npz
from examples.sources import (
    Dataset,
    balanced,
    existing,
    expect,
    local_path,
    not_found,
    printable,
    read_npz,
    reading,
    split,
)

DEFAULT = "solids"
AXES = ("depth", "height", "width")


def load(
    name: str = DEFAULT,
    *,
    file: str | os.PathLike | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a data set, splits it if needed and shuffles its training part.

    Args:
        name: "solids" or "modelnet10". Not used if `file` is given.
        file: Your own volumes, a `.npz` file (see the top of this file).
        limit: The maximum number of training volumes, with the classes in proportion. In
            ModelNet10, volumes of rare classes are then repeated.
        seed: Seed of the split and of the order.

    Returns:
        A `Dataset` of volumes `(n, depth, height, width, channels)` with values from 0 to 255.

    Raises:
        ValueError: If an argument or the file is not as described here.
        RuntimeError: If a public set is not in SEPCONV_DATA.
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


FRAME = 3  # voxels on every side of the grids of ModelNet10 that are always empty
BALANCED = ("modelnet10",)  # balanced test part, unbalanced training part
MODELNET = "bathtub bed chair desk dresser monitor night_stand sofa table toilet".split()


def _modelnet10() -> Source:
    place = "volumes/modelnet10_voxels30.npz"
    path = local_path(place)
    if path is None:
        raise not_found("ModelNet10 was not found.", place)
    parts = {}
    arrays = read_npz(path, ["x_train", "y_train", "x_test", "y_test"])
    with reading(path):
        for part in ("train", "test"):
            volumes, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
            # An empty grid teaches nothing. The test part stays whole.
            keep = volumes.any((1, 2, 3)) | (part == "test")
            volumes = volumes[keep, FRAME:-FRAME, FRAME:-FRAME, FRAME:-FRAME, None]
            parts[part] = (255 * volumes.astype("uint8"), labels[keep])
    note = "ModelNet10, Wu et al. 2015, 24 voxels a side, rare classes repeated; for research"
    return parts, MODELNET, note


# Solids drawn as voxels

SIZE = 24  # voxels a side
EACH = 200  # solids of each kind
NOISE = 0.01  # share of flipped voxels


def _torus(x: np.ndarray) -> np.ndarray:
    ring = np.hypot(x[..., 0], x[..., 1]) - 0.7
    return np.hypot(ring, x[..., 2]) < 0.28


# Whether points (..., 3) are inside. The surface is about one unit from the center.
SOLIDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ball": lambda x: np.linalg.norm(x, axis=-1) < 0.9,
    "cube": lambda x: np.abs(x).max(-1) < 0.7,
    "octahedron": lambda x: np.abs(x).sum(-1) < 1.1,
    "cylinder": lambda x: (np.hypot(x[..., 0], x[..., 1]) < 0.5) & (np.abs(x[..., 2]) < 0.85),
    "cone": lambda x: np.hypot(x[..., 0], x[..., 1]) < 0.4 * (0.9 - x[..., 2]) * (x[..., 2] > -0.8),
    "torus": _torus,
}


def _solids() -> Source:
    """Upright solids, turned, stretched and shifted at random, with some voxels flipped."""
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
