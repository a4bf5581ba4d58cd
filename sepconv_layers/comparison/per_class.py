"""Confusion matrices, and the figures of each class that follow from them."""

from collections.abc import Sequence

import numpy as np

Figures = dict[str, dict[str, float]]  # name of a class or of an output to its figures


def confusion_of(
    labels: np.ndarray, decided: np.ndarray, weights: np.ndarray, count: int
) -> np.ndarray:
    """Adds up weights by label, in rows, and by decision, in columns.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers.comparison.per_class import confusion_of
        >>> confusion_of(np.array([0, 1, 1]), np.array([0, 1, 0]), np.ones(3), 2)
        array([[1., 0.],
               [1., 1.]])
    """
    cells = labels.ravel().astype("int64") * count + decided.ravel()
    return np.bincount(cells, weights.ravel(), count * count).reshape(count, count)


def figures_of(matrix: np.ndarray, names: Sequence[str]) -> Figures:
    """Precision, recall and F1 of each class, and its share of the labels.

    A figure without any sample to tell it is 0.

    Args:
        matrix: The confusion matrix.
        names: The names of the classes.
    """
    right, true, decided = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    columns = {
        "share": _ratio(true, np.full_like(true, matrix.sum())),
        "precision": _ratio(right, decided),
        "recall": _ratio(right, true),
        "f1": _ratio(2 * right, true + decided),
    }
    return {
        name: {figure: round(float(values[index]), 6) for figure, values in columns.items()}
        for index, name in enumerate(names)
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
