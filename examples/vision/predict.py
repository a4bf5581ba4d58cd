"""What a trained model sees in images.

    python -m examples.vision.predict MODEL FILE...
        the likeliest classes of each file

MODEL is a `separable.keras` or `standard.keras` of a run, or the folder of the run, whose separable
net is taken. Files are resized and scaled as those that it was trained on were.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from examples.answers import likeliest, preferred, record_of, softmax
from examples.command_line import in_sentences, new_parser, positive_number, user_errors
from examples.sources import expect, expect_file, printable, read_json, reading
from examples.vision import data, image_files
from sepconv_layers import files  # and Keras knows the layers

ABOUT = "images.json"  # beside the models: what their inputs and outputs mean


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser("examples.vision.predict", __doc__)
    parser.add_argument("model", help="a *.keras of a run, or the folder of the run")
    parser.add_argument("files", nargs="+", metavar="file", help="an image")
    parser.add_argument("--top", type=positive_number(int), default=3, help="classes; default: 3")
    return parser


@in_sentences
def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with user_errors(parser):
        model, about = load(Path(arguments.model))
        for file in arguments.files:
            (logits,) = model.predict(image_of(Path(file), model, about["ranges"]), verbose=0)
            said = likeliest(about["classes"], softmax(logits), arguments.top)
            print(f"{printable(file)}: {said}")


def save_about(dataset: data.Dataset, output: Path) -> None:
    """Writes beside the models what `load` reads."""
    about = {"classes": dataset.classes, "ranges": dataset.ranges}
    files.write_text(output / ABOUT, json.dumps(about) + "\n")


def load(path: Path) -> tuple[keras.Model, dict]:
    """The model, and what its inputs and outputs mean."""
    if os.path.isdir(path):
        convs = [row.conv for row in record_of(path).rows]
        path = path / f"{preferred(convs)}.keras"
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
    """An image as the model takes it, `(1, height, width, channels)`."""
    _, *size, channels = model.input_shape
    expect(channels in (1, 3), "The model must take gray or colored images", f"{channels} channels")
    with reading(path), image_files.open_image(path) as image:
        found = image_files.pixels(image, "L" if channels == 1 else "RGB", tuple(size), ranges)
        return found.reshape(1, *size, channels)


if __name__ == "__main__":
    main(sys.argv[1:])
