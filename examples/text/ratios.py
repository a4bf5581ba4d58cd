"""Naive Bayes log-count ratios of tokens: how much each one speaks for a class, before training."""

import keras
import numpy as np

PIECE = 2**12  # texts that are read at a time


def occurrences(x: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """Returns how often each token occurs.

    Args:
        x: Token numbers `(texts, length)`, an array or what is read by index.
        vocabulary_size: The number of different tokens.
    """
    starts = range(0, len(x), PIECE)
    counts = (np.bincount(x[i : i + PIECE].ravel(), minlength=vocabulary_size) for i in starts)
    return np.sum(list(counts), axis=0)


def log_count_ratios(x: np.ndarray, y: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """Returns the logarithm of how many times as frequent each token is in a class as outside it.

    What counts is the share of the texts that have the token, with one text added that has it and
    one that does not. Padding, token 0, has a ratio of 0.

    Wang and Manning, "Baselines and Bigrams: Simple, Good Sentiment and Topic Classification",
    2012, multiply features by these ratios: https://aclanthology.org/P12-2018.

    Args:
        x: Token numbers `(texts, length)`, an array or what is read by index.
        y: Class numbers `(texts,)`.
        vocabulary_size: The number of different tokens.

    Returns:
        Ratios `(vocabulary_size, classes)`. Two classes have opposite ones: `(vocabulary_size, 1)`.
    """
    classes = int(y.max()) + 1
    has = np.zeros((vocabulary_size, classes))
    for start in range(0, len(x), PIECE):
        part = slice(start, start + PIECE)
        for text, label in zip(x[part], y[part], strict=True):
            has[np.unique(text), label] += 1
    texts = np.bincount(y, minlength=classes)
    inside = (has + 1) / (texts + 2)
    outside = (has.sum(1, keepdims=True) - has + 1) / (texts.sum() - texts + 2)
    ratios = np.log(inside / outside)
    ratios[0] = 0
    return ratios[:, 1:] if classes == 2 else ratios


def start_from(model: keras.Model, values: np.ndarray) -> None:
    """Replaces the first channels of the embedding of a net by given values, as many as it has.

    Args:
        model: A net with a layer named "embedding".
        values: The channels `(vocabulary_size, channels)`.
    """
    layer = model.get_layer("embedding")
    (weights,) = layer.get_weights()
    channels = min(weights.shape[1], values.shape[1])
    weights[:, :channels] = values[:, :channels]
    layer.set_weights([weights])
