"""A linear n-gram model: what a net for texts has to beat.

    python -m examples.text.baseline --dataset sst2
    python -m examples.text.baseline --dataset trec
    python -m examples.text.baseline --dataset imdb

Words and punctuation, alone and in pairs, weighted by tf-idf, and a linear support vector machine.
It is trained on the training part alone, as the nets are. Its regularization is chosen on the
validation part, and the test part is used once. It is printed and written to
`--output`/baseline.json.

Wang and Manning, "Baselines and Bigrams: Simple, Good Sentiment and Topic Classification", 2012:
https://aclanthology.org/P12-2018.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples import command_line
from examples.sources import Dataset, require
from examples.text import data
from sepconv_layers import files

INVERSE_REGULARIZATION = (0.03, 0.1, 0.3, 1.0, 3.0)
WORDS_AND_PUNCTUATION = r"\w+|[^\w\s]"
RECORD = "baseline.json"


def fit(dataset: Dataset, longest: int = 2) -> dict[str, Any]:
    """Trains linear models, and evaluates the one that is best on the validation part.

    Args:
        dataset: Texts, as `data.load` returns them.
        longest: The largest number of words in an n-gram.

    Returns:
        `accuracy` on the test part, `val_accuracy`, the number of n-grams as `features`, and the
        regularization `c`, the larger the weaker.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    vectorizer = require("sklearn.feature_extraction.text").TfidfVectorizer(
        ngram_range=(1, longest), sublinear_tf=True, token_pattern=WORDS_AND_PUNCTUATION
    )
    machine = require("sklearn.svm").LinearSVC
    (texts, y), (val_texts, val_y), (test_texts, test_y) = (
        dataset.train, dataset.val, dataset.test,
    )  # fmt: skip
    x, val_x = vectorizer.fit_transform(texts), vectorizer.transform(val_texts)
    models = [machine(C=c, random_state=0).fit(x, y) for c in INVERSE_REGULARIZATION]
    scores = [float(np.mean(model.predict(val_x) == val_y)) for model in models]
    best = int(np.argmax(scores))
    accuracy = float(np.mean(models[best].predict(vectorizer.transform(test_texts)) == test_y))
    return {
        "accuracy": round(accuracy, 6),
        "val_accuracy": round(scores[best], 6),
        "features": x.shape[1],
        "c": INVERSE_REGULARIZATION[best],
    }


@command_line.without_traceback
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    with command_line.user_errors(parser, file="--data"):
        dataset = data.load(
            arguments.dataset or data.DEFAULT, file=arguments.data, limit=arguments.limit
        )
    print(dataset.summary("texts", f", classes: {', '.join(dataset.classes)}"))
    record = {
        "task": "Text classification",
        "dataset": dataset.name,
        "model": f"linear, n-grams up to {arguments.longest}",
        **fit(dataset, arguments.longest),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "command": shlex.join(["python", "-m", "examples.text.baseline", *argv]),
        "versions": {"scikit-learn": require("sklearn").__version__},
    }
    print(
        f"Test accuracy {record['accuracy']:.4f} with {record['features']:,} n-grams; "
        f"validation accuracy {record['val_accuracy']:.4f}"
    )
    if arguments.output:
        output = Path(arguments.output)
        output.mkdir(parents=True, exist_ok=True)
        files.write_text(output / RECORD, json.dumps(record, indent=2) + "\n")
    return record


def make_parser() -> argparse.ArgumentParser:
    parser = command_line.new_parser("examples.text.baseline", __doc__)
    source = parser.add_mutually_exclusive_group()
    default = f"public data; default: {data.DEFAULT}"
    source.add_argument("--dataset", choices=data.SOURCES, help=default)
    source.add_argument("--data", metavar="PATH", help="your own texts, as for examples.text.train")
    positive = command_line.positive_number(int)
    parser.add_argument("--limit", type=positive, help="maximum number of training texts")
    words = "most words in an n-gram; default: 2"
    parser.add_argument("--longest", type=positive, default=2, help=words)
    parser.add_argument("--output", help=f"folder for {RECORD}; default: none")
    return parser


if __name__ == "__main__":
    main()
