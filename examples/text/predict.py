"""Classifies texts with a trained model.

    python -m examples.text.predict MODEL TEXT...
        prints the most probable labels of each text
    python -m examples.text.predict MODEL < FILE
        does the same for each line of a file

MODEL is a `*-hub` folder of a run, or the folder of the run, which stands for its separable net.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import tensorflow as tf

from examples.command_line import user_errors, without_traceback
from examples.prediction import likeliest, net_of_run, prediction_parser
from examples.sources import expect_file, require

BATCH = 256


def make_parser() -> argparse.ArgumentParser:
    model = "a *-hub folder of a run, or the folder of the run"
    parser = prediction_parser("examples.text.predict", __doc__, model, "labels")
    texts = "default: the lines of the standard input"
    parser.add_argument("texts", nargs="*", metavar="text", help=texts)
    return parser


@without_traceback
def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with user_errors(parser):
        classify = load(Path(arguments.model))
        texts = arguments.texts or (line.rstrip("\r\n") for line in sys.stdin)
        for text, labels, probabilities in predictions(classify, texts):
            names = [label.decode() for label in labels]
            print(f"{likeliest(names, probabilities, arguments.top)}\t{text}", flush=True)


def load(path: Path):
    """Returns the function from strings to labels and probabilities."""
    require("tensorflow_text")  # registers operations of the model
    if not os.path.exists(path / "saved_model.pb"):
        path = net_of_run(path, "*-hub", artifact="hub")
    expect_file(path / "saved_model.pb")
    try:
        signatures = tf.saved_model.load(str(path)).signatures
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from error
    if "classify" not in signatures:
        raise ValueError(f"{path} must have the signature 'classify'. Received: {[*signatures]}")
    classify = signatures["classify"]
    kinds = [spec.dtype.name for spec in classify.structured_input_signature[1].values()]
    if kinds != ["string"]:
        raise ValueError(f"{path} must take strings, as a model for texts does. Received: {kinds}")
    return classify


def predictions(classify, texts: Iterable[str]):
    """Yields each text, the labels and their probabilities."""
    for batch in batches(texts):
        found = classify(tf.constant(batch))
        yield from zip(batch, found["labels"].numpy(), found["probabilities"].numpy(), strict=True)


def batches(texts: Iterable[str]):
    """Yields lists of up to `BATCH` texts."""
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


if __name__ == "__main__":
    main(sys.argv[1:])
