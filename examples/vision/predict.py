"""Classifies images with a trained model.

    python -m examples.vision.predict MODEL FILE...
        prints the most probable classes of each file

MODEL is the `separable.keras` or `standard.keras` of a run, or the folder of the run, which stands
for its separable net. Files are resized and scaled like the training images.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from examples.command_line import user_errors, without_traceback
from examples.prediction import likeliest, net_of_run, prediction_parser, softmax
from examples.sources import expect, expect_file, printable, read_json, reading
from examples.vision import data, image_files
from sepconv_layers import files  # importing the package registers its layers

ABOUT = "images.json"  # beside the models: their classes, and how to scale images for them


def make_parser() -> argparse.ArgumentParser:
    model = "a *.keras of a run, or the folder of the run"
    parser = prediction_parser("examples.vision.predict", __doc__, model, "classes")
    parser.add_argument("files", nargs="+", metavar="file", help="an image")
    return parser


@without_traceback
def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with user_errors(parser):
        model, about = load(Path(arguments.model))
        for file in arguments.files:
            (logits,) = model.predict(image_of(Path(file), model, about["ranges"]), verbose=0)
            best = likeliest(about["classes"], softmax(logits), arguments.top)
            print(f"{printable(file)}: {best}")


def save_about(dataset: data.Dataset, output: Path) -> None:
    """Writes what `load` reads beside the models."""
    about = {"classes": dataset.classes, "ranges": dataset.ranges}
    files.write_text(output / ABOUT, json.dumps(about) + "\n")


def load(path: Path) -> tuple[keras.Model, dict]:
    """Returns the model, and the classes and ranges that were saved beside it."""
    if os.path.isdir(path):
        path = net_of_run(path, "*.keras")
    beside = expect_file(path).with_name(ABOUT)
    about = read_json(beside)
    with reading(beside):
        about = {"classes": list(about["classes"]), "ranges": dict(about["ranges"])}
    with reading(path):
        model = keras.saving.load_model(path)
    expected = f"{path} must be a model of the run that wrote {beside}"
    classes = len(about["classes"])
    fits = len(model.input_shape) == 4 and model.output_shape == (None, classes)
    expect(fits, expected, f"shapes {model.input_shape}, {model.output_shape}, {classes} classes")
    return model, about


def image_of(path: Path, model: keras.Model, ranges: image_files.Ranges) -> np.ndarray:
    """Returns an image as an input of the model, `(1, height, width, channels)`."""
    _, *size, channels = model.input_shape
    expect(channels in (1, 3), "The model must take gray or colored images", f"{channels} channels")
    with reading(path), image_files.open_image(path) as image:
        found = image_files.pixels(image, "L" if channels == 1 else "RGB", tuple(size), ranges)
        return found.reshape(1, *size, channels)


if __name__ == "__main__":
    main(sys.argv[1:])
