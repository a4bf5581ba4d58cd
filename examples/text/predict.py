"""What a trained model says of texts.

    python -m examples.text.predict MODEL TEXT...
        the likeliest labels of each text
    python -m examples.text.predict MODEL < FILE
        the same for each line

MODEL is a `*-hub` folder of a run, or the folder of the run, whose separable net is taken.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import tensorflow as tf

from examples.answers import likeliest, preferred, record_of
from examples.command_line import in_sentences, new_parser, positive_number, user_errors
from examples.sources import expect_file, require, shortened

BATCH = 256


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser("examples.text.predict", __doc__)
    parser.add_argument("model", help="a *-hub folder, or the folder of a run")
    parser.add_argument("texts", nargs="*", metavar="text", help="by default the standard input")
    parser.add_argument("--top", type=positive_number(int), default=3, help="labels; default: 3")
    return parser


@in_sentences
def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with user_errors(parser):
        classify = load(Path(arguments.model))
        texts = arguments.texts or (line.rstrip("\r\n") for line in sys.stdin)
        for text, labels, row in answers(classify, texts):
            said = likeliest([label.decode() for label in labels], row, arguments.top)
            print(f"{said}\t{text}", flush=True)


def load(path: Path):
    """The function from strings to labels and probabilities."""
    require("tensorflow_text")  # whose operations the artifact has
    if not os.path.exists(path / "saved_model.pb"):
        path = of_run(path)
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


def of_run(path: Path) -> Path:
    """The *-hub folder of the separable net of a run, or else of another one.

    Others may be in the folder, of an earlier run; only the record says which are of this one.
    """
    expected = f"{shortened(str(path))} must be a *-hub folder, or the folder of a run with its "
    expected += "results.json"
    if not os.path.isfile(path / "results.json"):
        raise ValueError(f"{expected}. Received: neither")
    convs = [row.conv for row in record_of(path).rows if "hub" in row.artifacts]
    if not convs:
        fix = "Run it again with `--export hub`."
        raise ValueError(f"{expected}, which must list an artifact 'hub'. Received: none. {fix}")
    return path / f"{preferred(convs)}-hub"


def answers(classify, texts: Iterable[str]):
    """Each text, the labels, and their probabilities."""
    for batch in batches(texts):
        found = classify(tf.constant(batch))
        yield from zip(batch, found["labels"].numpy(), found["probabilities"].numpy(), strict=True)


def batches(texts: Iterable[str]):
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
