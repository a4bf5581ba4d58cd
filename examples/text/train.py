"""Text classification: a depthwise-separable net against its standard-convolution twin.

    python -m examples.text.train
        docstrings of installed packages, no download
    python -m examples.text.train --dataset sst2
    python -m examples.text.train --dataset trec
    python -m examples.text.train --dataset imdb
    python -m examples.text.train --data FILE          a label and a text on each line

Both nets get the same data, budget and seeds. The comparison is printed and written to `--output`,
beside the trained models: the folders that end in `-hub` take strings, and need no other file. The
same command goes on where an interrupted run stopped.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from examples.artifacts import CHECKED, add_export, export_all
from examples.command_line import (
    add_budget,
    add_output,
    command,
    default_output,
    in_sentences,
    new_parser,
    positive_number,
    user_errors,
)
from examples.nets import CHOICES, by_name
from examples.text import data, tokens
from sepconv_layers import Comparison, compare, models, timing

WEIGHT_DECAY = 0.1
VOCABULARY_SIZE = 8_000
SERVED = 256  # texts in a batch, to time how many are served


@dataclasses.dataclass(frozen=True)
class Settings:
    """What depends on the corpus.

    Attributes:
        epochs: Passes over the training texts.
        batch_size: Training texts per step.
        learning_rate: The largest one.
        longest: Tokens after which a text is cut, if not one in twenty is as long.
        pieces: Whether a word that is not in the vocabulary is split, or one token for all words of
            its shape.
        rarity: How often training hides rare tokens, as `TokenDropout` has it.
        embedding: Length of the vector that stands for a token.
        width: Of the net.
        dropout: Of the net.
    """

    epochs: int = 8
    batch_size: int = 64
    learning_rate: float = 2e-3
    longest: int = 400
    pieces: bool = True
    rarity: float = 5.0
    embedding: int = 256
    width: float = 1.0
    dropout: float = 0.6


SETTINGS = {
    # Few and short, or many and long: a small net takes minutes, not hours.
    "docstrings": Settings(
        epochs=6, learning_rate=6e-3, longest=40, rarity=1.0, embedding=64, width=0.5, dropout=0.3
    ),
    "imdb": Settings(
        epochs=4, learning_rate=4e-3, rarity=1.0, embedding=64, width=0.5, dropout=0.4
    ),
    # Short questions, in which the word that is asked about is often a new one.
    "trec": Settings(epochs=14, batch_size=32, pieces=False, rarity=1.0, dropout=0.5),
}


@keras.saving.register_keras_serializable("sepconv_examples")
class TokenDropout(keras.layers.Layer):
    """Takes some tokens for unknown ones, in training only: above all those that are rare.

    A token that occurs `n` times is hidden with a probability of `rarity / (rarity + n)`, or with
    `rate` if that is more. What is seen a few times only is learned by heart otherwise. What then
    stands in its place is in `unknown`; a token that stands for itself there is never hidden.

    Kiperwasser and Goldberg, "Simple and Accurate Dependency Parsing", 2016:
    https://arxiv.org/abs/1603.04351.
    """

    def __init__(
        self, counts: Sequence[int], unknown: Sequence[int], rate: float = 0.1,
        rarity: float = 5.0, seed: int | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.counts = [int(count) for count in counts]
        self.unknown = [int(token) for token in unknown]
        self.rate, self.rarity, self.seed = rate, rarity, seed
        rare = rarity / (rarity + np.array(self.counts))
        self.probabilities = np.maximum(rate, rare).astype("float32")
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if not training:
            return inputs
        drawn = keras.random.uniform(keras.ops.shape(inputs), seed=self.generator)
        likely = keras.ops.take(keras.ops.convert_to_tensor(self.probabilities), inputs)
        unknown = keras.ops.take(keras.ops.convert_to_tensor(self.unknown, inputs.dtype), inputs)
        is_hidden = keras.ops.logical_and(drawn < likely, inputs > 0)  # padding stays padding
        return keras.ops.where(is_hidden, unknown, inputs)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "counts": self.counts,
            "unknown": self.unknown,
            "rate": self.rate,
            "rarity": self.rarity,
            "seed": self.seed,
        }


def build(
    conv: str,
    length: int,
    classes: int,
    vocabulary_size: int,
    settings: Settings,
    width: float = 1.0,
) -> keras.Model:
    """A net for texts of so many tokens. It gives logits."""
    return models.sep_cnn(
        (length,),
        classes,
        vocabulary_size=vocabulary_size,
        conv=conv,
        width=settings.width * width,
        embedding=settings.embedding,
        dropout=settings.dropout,
    )


@in_sentences
def main(argv: Sequence[str] | None = None) -> Comparison:
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    arguments = parser.parse_args(argv)
    of_own = (arguments.text_column, arguments.label_column, arguments.separator)
    if arguments.data is None and any(of_own):
        parser.error("--text-column, --label-column and --separator are for --data")
    with user_errors(parser, file="--data"):
        dataset = data.load(
            arguments.dataset or "docstrings",
            file=arguments.data,
            text_column=arguments.text_column,
            label_column=arguments.label_column,
            separator=arguments.separator,
            limit=arguments.limit,
        )
    print(f"{dataset.name}: {dataset.note}")
    print(f"{dataset.sizes('texts')}, classes: {', '.join(dataset.classes)}")
    settings = SETTINGS.get(dataset.name, Settings()) if arguments.data is None else Settings()
    with user_errors(parser):
        tokenizer = make_tokenizer(
            dataset.train[0],
            arguments.vocabulary_size,
            arguments.max_length,
            settings.longest,
            settings.pieces if arguments.pieces is None else arguments.pieces,
        )
    length, vocabulary_size = tokenizer.max_length, len(tokenizer.vocabulary)
    print(f"{vocabulary_size:,} tokens; texts are cut to {length} tokens")
    parts = {
        part: (tokenizer.arrays(texts), labels)
        for part, (texts, labels) in (
            ("train", dataset.train), ("val", dataset.val), ("test", dataset.test)
        )
    }  # fmt: skip
    counts = np.bincount(parts["train"][0].ravel(), minlength=vocabulary_size)
    output = arguments.output or default_output("text", dataset.name)
    convs = CHOICES[arguments.conv]
    net = partial(
        build,
        length=length,
        classes=len(dataset.classes),
        vocabulary_size=vocabulary_size,
        settings=settings,
    )
    found = compare(
        by_name(net, convs, arguments.width),
        {**parts, "classes": dataset.classes},
        convs=convs,
        epochs=arguments.epochs or settings.epochs,
        batch_size=arguments.batch_size or settings.batch_size,
        seeds=arguments.seeds,
        jit_compile=arguments.jit_compile,
        learning_rate=settings.learning_rate,
        weight_decay=WEIGHT_DECAY,
        label_smoothing=0.1,
        augmentation=TokenDropout(
            counts, tokenizer.unknown(dataset.train[0]), rarity=settings.rarity
        ),
        output=output,
        task="Text classification",
        dataset=dataset.name,
        command=command("examples.text.train", argv),
    )
    if arguments.export:
        export_all(
            found,
            arguments.export,
            output,
            dataset.classes,
            parts["train"][0],
            parts["test"],
            raw=dataset.test[0][:CHECKED],
            preprocessor=tokenizer,
            input_signature=tf.TensorSpec((None,), tf.string, name="texts"),
        )
        if "hub" in arguments.export:
            found.notes.append(throughput(found, output, dataset.test[0]))
        found.save(output)
    print(f"\n{found}\n\nSaved in {output}: report.md, comparison.png, results.json, models, and")
    print(f"models for strings. Try: python -m examples.text.predict {output} 'Some text.'")
    return found


def make_tokenizer(
    texts: np.ndarray,
    size: int = VOCABULARY_SIZE,
    length: int | None = None,
    longest: int = Settings.longest,
    pieces: bool = True,
) -> tokens.Tokenizer:
    """A tokenizer for texts like these, which cuts one in twenty of them, or what is very long."""
    vocabulary = tokens.learn_vocabulary(texts, size, pieces)
    if length is None:
        every = tokens.Tokenizer(vocabulary, longest).arrays(texts)
        length = max(1, int(np.quantile(np.count_nonzero(every, axis=1), 0.95)))
    return tokens.Tokenizer(vocabulary, length)


def throughput(found: Comparison, output: Path, texts: np.ndarray) -> str:
    """How many strings a second become labels, by the artifacts in turns."""
    batch = tf.constant(np.resize(texts, SERVED).tolist())
    loaded = {conv: tf.saved_model.load(str(output / f"{conv}-hub")) for conv in found.models}
    calls = {conv: partial(model.signatures["classify"], batch) for conv, model in loaded.items()}
    each = ", ".join(
        f"{1e3 * SERVED / ms:,.0f} ({conv})" for conv, ms in timing.medians(calls).items()
    )
    return f"Texts per second, from strings to labels in batches of {SERVED}: {each}."


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser("examples.text.train", __doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--dataset", choices=data.SOURCES, help="a corpus; default: docstrings")
    source.add_argument("--data", metavar="PATH", help="your own texts: a file, or a folder")
    parser.add_argument("--text-column", metavar="NAME", help="or its number, from 1 on")
    parser.add_argument("--label-column", metavar="NAME", help="or its number, from 1 on")
    parser.add_argument(
        "--separator", metavar="CHARACTER", help="between columns, or tab; default: what fits best"
    )
    add_budget(
        parser,
        epochs="4 for imdb, 6 for docstrings, 14 for trec, else 8",
        batch_size="32 for trec, else 64",
    )
    positive = positive_number(int)
    parser.add_argument(
        "--vocabulary-size", type=positive, default=VOCABULARY_SIZE, help="default: 8000"
    )
    parser.add_argument(
        "--pieces",
        action=argparse.BooleanOptionalAction,
        help="split words that are not in the vocabulary, or go by case, ending and digits; "
        "default: split, but for trec",
    )
    parser.add_argument(
        "--max-length", type=positive, help="tokens; default: by the texts, 400 at most"
    )
    add_export(parser, default="hub")
    add_output(parser, default="runs/text/DATASET")
    return parser


if __name__ == "__main__":
    main()
