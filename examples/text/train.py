"""Text classification: a depthwise-separable net against its standard-convolution twin.

    python -m examples.text.train
        docstrings of installed packages, no download
    python -m examples.text.train --dataset sst2
        accuracy 0.821 (separable), 0.816 (standard); 7 minutes with --conv all
    python -m examples.text.train --dataset trec
        accuracy 0.907 (separable), 0.908 (standard); 8 minutes with --conv all
    python -m examples.text.train --dataset imdb
        accuracy 0.888 (separable), 0.887 (standard); 19 minutes with --conv all
    python -m examples.text.train --data FILE
        your own texts: a label and a text on each line

Minutes are on two CPU cores. Both nets get the same data, budget and seeds. The comparison is
printed and written to `--output`, beside the trained models. The folders that end in `-hub` are
models that take strings. Run the same command again to continue an interrupted run.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from examples import command_line
from examples.artifacts import CHECKED, export_all
from examples.augmentation import Augmentation
from examples.cache import checked_folder
from examples.nets import Experiment, compare_nets
from examples.text import data, ratios, tokens
from sepconv_layers import Comparison, Frontier, Search, models, timing

WEIGHT_DECAY = 0.1
SPACE = {"width": (0.25, 2.0), "embedding": [32, 64, 128]}  # of --search
OPTIONS: dict[str, Any] = {  # of `train` and `convert`
    "datasets": data.SOURCES,
    "default": data.DEFAULT,
    "own_data": ("PATH", "a file of texts and labels, or a folder with one for each part"),
    "cache": "tokens, for all runs; default: none",
    "epochs": "4 for imdb, 6 for docstrings, 14 for trec, else 8",
    "batch_size": "32 for trec, else 64",
}
SERVED = 256  # texts in a batch, to measure the throughput


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings for a corpus.

    Attributes:
        epochs: Passes over the training texts.
        batch_size: Training texts per step.
        learning_rate: Peak learning rate.
        longest: Largest default for the number of tokens after which a text is truncated.
        head: `head` of the tokenizer: of a longer text, the tokens that are kept from its start.
        vocabulary_size: Default for the approximate number of tokens to learn.
        pieces: Whether a word that is not in the vocabulary is split into pieces. If not, it is one
            token, which it shares with all unknown words of the same shape.
        rarity: `rarity` of `TokenDropout`.
        embedding: Length of the embedding of a token.
        width: Width of the net.
        dropout: Dropout of the net.
        net: Returns the net.
        prior: Factor of the log-count ratios that the first channels of the embedding start from,
            or 0 to start from random numbers alone.
        ema_momentum: As in `compare`.
    """

    epochs: int = 8
    batch_size: int = 64
    learning_rate: float = 2e-3
    longest: int = 400
    head: int | None = None
    vocabulary_size: int = 8_000
    pieces: bool = True
    rarity: float = 5.0
    embedding: int = 256
    width: float = 1.0
    dropout: float = 0.6
    net: Callable[..., keras.Model] = models.sep_cnn
    prior: float = 0.0
    ema_momentum: float | None = None


SETTINGS = {
    # Few short texts, and many long ones: with a small net they take minutes, not hours.
    "docstrings": Settings(
        epochs=6, learning_rate=6e-3, longest=40, rarity=1.0, embedding=64, width=0.5, dropout=0.3
    ),
    "imdb": Settings(
        epochs=4, learning_rate=4e-3, rarity=1.0, embedding=64, width=0.5, dropout=0.4
    ),
    # Short sentences, in which single words decide: convolutions need no more than one kernel for
    # each channel.
    "sst2": Settings(net=models.region_cnn, embedding=128, prior=0.1, ema_momentum=0.99),
    # Short questions, in which the word that matters is often unknown.
    "trec": Settings(epochs=14, batch_size=32, pieces=False, rarity=1.0, dropout=0.5),
}


@keras.saving.register_keras_serializable("sepconv_examples")
class TokenDropout(Augmentation):
    """Replaces some tokens with the token for unknown words, above all rare ones.

    A token that occurs `n` times is replaced with a probability of `rarity / (rarity + n)`, or of
    `rate` if that is higher. Otherwise the net memorizes the few texts that have it.

    Kiperwasser and Goldberg, "Simple and Accurate Dependency Parsing", 2016:
    https://arxiv.org/abs/1603.04351.

    Args:
        counts: The number of occurrences of each token.
        unknown: The replacement for each token. A token that is its own replacement stays.
        rate: The smallest probability.
        rarity: The number of occurrences for which the probability is one half.
        **kwargs: As for `Augmentation`.
    """

    def __init__(
        self, counts: Sequence[int], unknown: Sequence[int], rate: float = 0.1,
        rarity: float = 5.0, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.counts = [int(count) for count in counts]
        self.unknown = [int(token) for token in unknown]
        self.rate, self.rarity = rate, rarity
        rare = rarity / (rarity + np.array(self.counts))
        self.probabilities = np.maximum(rate, rare).astype("float32")

    def augment(self, inputs: Any) -> Any:
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
        }


def build(
    conv: str,
    length: int,
    classes: int,
    vocabulary_size: int,
    settings: Settings,
    width: float = 1.0,
    embedding: int | None = None,
    prior: np.ndarray | None = None,
) -> keras.Model:
    """Returns a net from `length` token numbers to logits.

    The first channels of its embedding start from `prior`, if given.
    """
    model = settings.net(
        (length,),
        classes,
        vocabulary_size=vocabulary_size,
        conv=conv,
        width=settings.width * width,
        embedding=embedding or settings.embedding,
        dropout=settings.dropout,
    )
    if prior is not None:
        ratios.start_from(model, prior)
    return model


def prepare(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> tuple[Experiment, data.Dataset, tokens.Tokenizer]:
    """Loads the texts that the options name, and returns nets for their tokens and their recipe."""
    columns = (arguments.text_column, arguments.label_column, arguments.separator)
    if arguments.data is None and any(columns):
        parser.error("--text-column, --label-column and --separator are for --data")
    with command_line.user_errors(parser, file="--data"):
        dataset = data.load(
            arguments.dataset or data.DEFAULT,
            file=arguments.data,
            text_column=arguments.text_column,
            label_column=arguments.label_column,
            separator=arguments.separator,
            limit=arguments.limit,
        )
    print(dataset.summary("texts", f", classes: {', '.join(dataset.classes)}"))
    settings = SETTINGS.get(dataset.name, Settings()) if arguments.data is None else Settings()
    with command_line.user_errors(parser):
        folder = checked_folder(arguments.cache)
        tokenizer = make_tokenizer(
            dataset.train[0],
            arguments.vocabulary_size or settings.vocabulary_size,
            arguments.max_length,
            settings.longest,
            settings.pieces if arguments.pieces is None else arguments.pieces,
            settings.head,
        )
    length, vocabulary_size = tokenizer.max_length, len(tokenizer.vocabulary)
    print(f"{vocabulary_size:,} tokens; texts are truncated to {length} tokens")
    parts = {
        part: (tokenizer.arrays(texts, folder), labels)
        for part, (texts, labels) in (
            ("train", dataset.train), ("val", dataset.val), ("test", dataset.test)
        )
    }  # fmt: skip
    counts = ratios.occurrences(parts["train"][0], vocabulary_size)
    net = partial(
        build,
        length=length,
        classes=len(dataset.classes),
        vocabulary_size=vocabulary_size,
        settings=settings,
    )
    if settings.prior:
        found = ratios.log_count_ratios(*parts["train"], vocabulary_size)
        net = partial(net, prior=settings.prior * found)
    unknown = tokenizer.unknown(dataset.train[0])
    training = {
        "learning_rate": settings.learning_rate,
        "weight_decay": WEIGHT_DECAY,
        "label_smoothing": 0.1,
        "augmentation": TokenDropout(counts, unknown, rarity=settings.rarity),
        "ema_momentum": settings.ema_momentum,
        "task": "Text classification",
    }
    labeled = {**parts, "classes": dataset.classes}
    sizes = settings.epochs, training, settings.batch_size
    return Experiment(dataset.name, labeled, net, *sizes), dataset, tokenizer


@command_line.without_traceback
def main(argv: Sequence[str] | None = None) -> Comparison | Frontier | Search:
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    arguments = parser.parse_args(argv)
    texts, dataset, tokenizer = prepare(parser, arguments)
    parts = texts.data
    options = command_line.compare_options(
        arguments,
        argv,
        example="text",
        dataset=texts.name,
        epochs=texts.epochs,
        batch_size=texts.batch_size,
    )
    found = compare_nets(texts.build, parts, arguments, {**options, **texts.training}, SPACE)
    if not isinstance(found, Comparison):
        return found
    output = options["output"]
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
    size: int = Settings.vocabulary_size,
    length: int | None = None,
    longest: int = Settings.longest,
    pieces: bool = True,
    head: int | None = None,
) -> tokens.Tokenizer:
    """Returns a tokenizer learned from texts.

    Args:
        texts: The training texts.
        size: The approximate size of the vocabulary.
        length: The number of tokens after which texts are truncated. By default 95 % of the
            training texts are not truncated, unless `longest` is less.
        longest: The largest default for `length`.
        pieces: Whether unknown words are split into pieces.
        head: `head` of the tokenizer.
    """
    vocabulary = tokens.learn_vocabulary(texts, size, pieces)
    if length is None:
        batches = tokens.Tokenizer(vocabulary, longest).pieces(texts)
        counts = np.concatenate([np.count_nonzero(batch, axis=1) for batch in batches])
        length = max(1, int(np.quantile(counts, 0.95)))
    return tokens.Tokenizer(vocabulary, length, head)


def throughput(found: Comparison, output: Path, texts: np.ndarray) -> str:
    """Measures the exported models, from strings to labels, and returns a sentence about it."""
    batch = tf.constant(np.resize(texts, SERVED).tolist())
    loaded = {conv: tf.saved_model.load(str(output / f"{conv}-hub")) for conv in found.models}
    calls = {conv: partial(model.signatures["classify"], batch) for conv, model in loaded.items()}
    each = ", ".join(
        f"{1e3 * SERVED / ms:,.0f} ({conv})" for conv, ms in timing.medians(calls).items()
    )
    return f"Texts per second, from strings to labels in batches of {SERVED}: {each}."


def make_parser() -> argparse.ArgumentParser:
    parser = command_line.training_parser("text", __doc__, **OPTIONS, searched=SPACE, export="hub")
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of texts and their tokens."""
    column = "its name, or its number, starting from 1; default: detected"
    parser.add_argument("--text-column", metavar="NAME", help=column)
    parser.add_argument("--label-column", metavar="NAME", help=column)
    parser.add_argument(
        "--separator", metavar="CHARACTER", help="between columns, or `tab`; default: detected"
    )
    positive = command_line.positive_number(int)
    parser.add_argument(
        "--vocabulary-size",
        type=positive,
        help=f"default: {Settings.vocabulary_size}",
    )
    parser.add_argument(
        "--pieces",
        action=argparse.BooleanOptionalAction,
        help="split unknown words into pieces, or represent them by case, ending and digits; "
        "default: split, except for trec",
    )
    parser.add_argument(
        "--max-length", type=positive, help="tokens; default: by the texts, at most 400"
    )


if __name__ == "__main__":
    main()
