"""Image classification data sets: three public ones, or your own images.

`load("digits")` needs no download. "fashion_mnist" and "cifar10" are read from the folder that the
environment variable SEPCONV_DATA names, if it holds them, and are otherwise downloaded by Keras:

    $SEPCONV_DATA/keras_home/datasets/fashion-mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz
    $SEPCONV_DATA/vision/cifar10_jpeg.npz

`load(folder=...)` takes your own images, as a folder or as a .npz file:

    FOLDER/CLASS/**/*.jpg                       one folder per class
    FOLDER/{train,val,test}/CLASS/**/*.jpg      the same, already split; val and test may be absent
    FILE.npz                                    x_train, y_train, x_test, y_test, x_val, y_val, or
                                                train_images, train_labels, ... as MedMNIST has them

A missing part is held out of the training part, with the classes in proportion.
"""

import dataclasses
import io
import os
from pathlib import Path

import keras
import numpy as np

from examples import sources
from examples.arrays import Source, from_npz
from examples.cache import checked_folder
from examples.sources import (
    Part,
    download,
    existing,
    expect,
    local_path,
    printable,
    read_file,
    read_npz,
    reading,
    require,
    split,
)
from examples.vision import image_files

DEFAULT = "digits"
FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")
CIFAR = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck".split(",")


@dataclasses.dataclass(frozen=True)
class Dataset(sources.Dataset):
    """Images `(n, height, width, channels)` and labels `(n,)`, by part.

    Image files that are large together are no arrays, but read by index.

    Attributes:
        ranges: The values that became 0 and 255, for files with more than 8 bits.
    """

    ranges: image_files.Ranges = dataclasses.field(default_factory=dict)


def load(
    name: str = DEFAULT,
    *,
    folder: str | os.PathLike | None = None,
    limit: int | None = None,
    image_size: int | None = None,
    cache: str | os.PathLike | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a data set, splits it if needed and shuffles its training part.

    Args:
        name: "digits", "fashion_mnist" or "cifar10". Not used if `folder` is given.
        folder: Your own images: a folder, or a `.npz` file (see the top of this file).
        limit: The maximum number of training images, with the classes in proportion. The
            validation and test parts are not limited.
        image_size: Height and width to resize images to. Images that are not square are
            center-cropped first, like `crop_to_aspect_ratio=True` in Keras. By default the size
            stays, except for image files that differ in size or have a side of more than 96
            pixels: those get the median of their shorter sides, rounded to a multiple of 8, at most
            96.
        cache: Folder for decoded image files, which are then decoded once for all runs. Those of
            more than 128 MiB are mapped into memory and read by index. Without a cache, they are
            decoded batch by batch, whenever they are needed.
        seed: Seed of the split, of the choice for `limit` and of the order. The same seed and
            files give the same result on every machine.

    Returns:
        A `Dataset` of images `(n, height, width, channels)` with values from 0 to 255, of type
        uint8, or float32 if a `.npz` file has floats. Images from files have one channel if all are
        gray, otherwise three. Transparent pixels become white.

    Raises:
        ValueError: If an argument, a folder or a file is not as described here.
        RuntimeError: If a public set is not in SEPCONV_DATA and cannot be downloaded.
    """
    for argument, value in (("limit", limit), ("image_size", image_size)):
        valid = value is None or (isinstance(value, int | np.integer) and value > 0)
        expect(valid, f"`{argument}` must be a positive integer or None", repr(value))
    size = None if image_size is None else (int(image_size), int(image_size))
    scaling, ranges = "", {}
    if folder is None:
        names = ", ".join(SOURCES)
        fix = "For your own images, use `folder`."
        expect(name in SOURCES, f"`name` must be one of {names}", repr(name), fix)
        parts, classes, note = SOURCES[name]()
    else:
        expected = "`folder` must be an existing folder of images or .npz file"
        path = existing(folder, expected)
        is_npz = path.is_file() and path.suffix.lower() == ".npz"
        name = printable(path.stem if is_npz else path.name)
        expect(is_npz or path.is_dir(), expected, repr(str(folder)))
        if is_npz:
            (parts, classes, note), scaling = from_npz(path)
        else:
            parts, classes, note = image_files.from_folder(path)
    is_files = parts["train"][0].ndim == 1
    if is_files:
        parts, default_size, mode, deep = image_files.read_headers(parts)
    parts = split(parts, classes, limit, seed, "images")
    if is_files:
        ranges = image_files.ranges_of(file for file in parts["train"][0] if file in deep)
        scaling = image_files.scaling(ranges)
        size = size or default_size
        parts = image_files.decode(parts, classes, size, mode, ranges, checked_folder(cache))
    elif size is not None:
        parts = {part: (_resize(images, size), labels) for part, (images, labels) in parts.items()}
    parts = {part: (images, labels.astype("int64")) for part, (images, labels) in parts.items()}
    return Dataset(name, **parts, classes=tuple(classes), note=note, scaling=scaling, ranges=ranges)


def _resize(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if images.shape[1:3] == size:
        return images
    result = np.empty((len(images), *size, images.shape[-1]), images.dtype)
    for i in range(0, len(images), 1000):  # all at once may not fit into memory
        batch = keras.ops.image.resize(
            images[i : i + 1000].astype("float32"),
            size,
            antialias=True,
            crop_to_aspect_ratio=True,
            data_format="channels_last",
        )
        batch = np.clip(keras.ops.convert_to_numpy(batch), 0, 255)
        result[i : i + 1000] = np.rint(batch) if images.dtype == "uint8" else batch
    return result


# Public sets


def _digits() -> Source:
    digits = require("sklearn.datasets").load_digits()
    images = np.rint(digits.images * (255 / 16)).astype("uint8")[..., None]
    note = "Handwritten digits (UCI, from scikit-learn); CC BY 4.0"
    return {"train": (images, digits.target)}, list("0123456789"), note


def _fashion_mnist() -> Source:
    place = "keras_home/datasets/fashion-mnist"
    if found := local_path(place):
        kinds = ("images-idx3", "labels-idx1")
        train, test = (
            [_read_idx(found / f"{prefix}-{kind}-ubyte.gz") for kind in kinds]
            for prefix in ("train", "t10k")
        )
    else:
        train, test = _download("fashion_mnist", place)
    parts = {"train": (train[0][..., None], train[1]), "test": (test[0][..., None], test[1])}
    return parts, FASHION, "Fashion-MNIST, Zalando SE; MIT license"


def _cifar10() -> Source:
    place = "vision/cifar10_jpeg.npz"
    note = "Krizhevsky 2009; no license stated, for research"
    if found := local_path(place):
        note = f"CIFAR-10, JPEG copy (lossy), {note}"
        train, test = (_read_jpegs(found, part) for part in ("train", "test"))
    else:
        note = f"CIFAR-10, {note}"
        train, test = (  # (n, 3, 32, 32) if Keras is set to channels-first
            (np.moveaxis(images, 1, -1) if images.shape[1] == 3 else images, labels.reshape(-1))
            for images, labels in _download("cifar10", place)
        )
    return {"train": train, "test": test}, CIFAR, note


SOURCES = {"digits": _digits, "fashion_mnist": _fashion_mnist, "cifar10": _cifar10}


def _download(name: str, place: str) -> tuple[Part, Part]:
    return download(repr(name), getattr(keras.datasets, name).load_data, place)


def _read_idx(path: Path) -> np.ndarray:
    raw = read_file(path)
    with reading(path):
        shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
        return np.frombuffer(raw, "uint8", offset=4 + 4 * len(shape)).reshape(shape)


def _read_jpegs(path: Path, part: str) -> Part:
    Image = require("PIL.Image")
    kinds = ("jpeg", "offsets", "labels")
    arrays = read_npz(path, [f"{part}_{kind}" for kind in kinds])
    jpegs, offsets, labels = (arrays[f"{part}_{kind}"] for kind in kinds)
    images = np.empty((len(offsets) - 1, 32, 32, 3), "uint8")
    with reading(path):
        for i in range(len(images)):
            images[i] = Image.open(io.BytesIO(jpegs[offsets[i] : offsets[i + 1]].tobytes()))
    return images, labels
