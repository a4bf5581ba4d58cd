"""Files that subcommands read: models, arrays and labels."""

import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers.files import regular

LIBRARIES = ("keras", "sepconv_layers")  # whose classes are known here
HDF5 = (".h5", ".hdf5")


def load_model(path: Path) -> keras.Model:
    """Loads a model in safe mode, or raises a `ValueError` that names the problem of the file."""
    if path.suffix != ".keras":
        raise ValueError(
            "The model must be a .keras file, as written by `model.save`. Received: "
            f"{path}{_conversion_hint(path)}"
        )
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"The model must be a .keras file. Received: {path}, which {problem}")
    try:
        with zipfile.ZipFile(path) as archive:
            config = dict(json.loads(archive.read("config.json"))["config"])
    except (zipfile.BadZipFile, zlib.error, LookupError, TypeError, ValueError, EOFError) as error:
        raise ValueError(
            f"The model must be a .keras file. Received: {path}, which is truncated or of another "
            "kind. Copy or save it again"
        ) from error
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # any type: each layer fails in its own way
        unknown = sorted(set(_unknown_objects(config)))
        if unknown:
            raise ValueError(
                f"{path} needs custom objects: {', '.join(unknown)}. Only those of Keras and of "
                "sepconv_layers are known here. Load the model in Python, after importing its "
                "custom objects, and call the functions of sepconv_layers there"
            ) from error
        raise ValueError(f"{path} cannot be loaded: {first_line(error)}") from error


def _conversion_hint(path: Path) -> str:
    """How to convert a model to a .keras file, judging by the name of its file."""
    target = path.parent / f"{path.name.partition('.')[0]}.keras"
    ending = path.suffix.lower()
    if path.name.lower().endswith((".weights.h5", ".weights.hdf5", ".ckpt")):
        return (
            ", which holds only weights. Build the model in Python, then call "
            f"`model.load_weights({str(path)!r})` and `model.save({str(target)!r})`"
        )
    if ending in HDF5:
        return (
            ", which has an older format. Convert it in Python: `keras.saving.load_model("
            f"{str(path)!r}, compile=False).save({str(target)!r})`"
        )
    if ending in (".tflite", ".onnx", ".pb") or path.is_dir():
        return (
            ", an artifact that no longer has the layers of the model. Use the .keras file that it "
            "was exported from, or save one by `model.save`. `sepconv bench` takes SavedModel "
            "folders, .tflite and .onnx files directly"
        )
    return ""


def _unknown_objects(config: Any) -> Iterator[str]:
    """Classes and functions in a configuration that neither Keras nor a registry knows."""
    if isinstance(config, dict):
        name = config.get("registered_name") or config.get("class_name")
        if name == "function":
            name = config.get("config")
        module = str(config.get("module") or "").partition(".")[0]
        if (
            isinstance(name, str)
            and not name.startswith("__")  # internal to Keras, such as a lambda
            and module not in LIBRARIES
            and keras.saving.get_registered_object(name) is None
        ):
            yield name
    for value in config.values() if isinstance(config, dict) else config:
        if isinstance(value, dict | list):
            yield from _unknown_objects(value)


def load_array(path: Path) -> np.ndarray:
    """Returns the only array in a file."""
    arrays = _arrays_in(path)
    if len(arrays) != 1:
        raise ValueError(f"{path} must hold one array. Received: {sorted(arrays)}")
    return next(iter(arrays.values()))


def load_arrays(path: Path, model: keras.Model) -> Any:
    """Returns the array in a file, or a list of arrays if the model has several inputs."""
    arrays = _arrays_in(path)
    names = [tensor.name for tensor in model.inputs]
    if len(names) == len(arrays) == 1:
        return next(iter(arrays.values()))
    if not set(names) <= set(arrays):
        raise ValueError(
            f"{path} must hold an array for each input of the model, {names}. Received: "
            f"{sorted(arrays)}"
        )
    chosen = [arrays[name] for name in names]
    return chosen if len(chosen) > 1 else chosen[0]


def _arrays_in(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(regular(path), "rb") as file:
            content = np.load(file, allow_pickle=False)
            is_array = isinstance(content, np.ndarray)
            return {"an unnamed array": content} if is_array else dict(content)
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} must be a .npy or .npz file of numbers, as written by `numpy.save` or "
            f"`numpy.savez`. Received: one that cannot be read: {first_line(error)}"
        ) from error


def load_labels(path: Path) -> list[str]:
    """Returns the lines of a text file."""
    try:
        return regular(path).read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--labels must be a text file in UTF-8, with one class per line. Received: {path}, "
            f"which cannot be read: {error}"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an error: messages of the backends can fill pages."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
