"""Factorizes dense layers and embeddings, by singular value decomposition."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers import tables
from sepconv_layers.arguments import check_number, positive_int
from sepconv_layers.convert.report import LayerReport
from sepconv_layers.graph_edit import ModelGraph, clone_layer, copy_state


@dataclasses.dataclass(frozen=True)
class FactorizedLayer:
    """Report on a factorized layer.

    Attributes:
        name: Path of the layer in the model.
        rank: Number of channels between the two factors.
        error: Relative Frobenius error of the matrix (0 = exact).
        params_before: Number of parameters of the original layer.
        params: Number of parameters of the two factors.
    """

    name: str
    rank: int
    error: float
    params_before: int
    params: int


@dataclasses.dataclass(frozen=True)
class FactorizationReport(LayerReport[FactorizedLayer]):
    """The report of `factorize`, a sequence of `FactorizedLayer`; `print` shows it as a table.

    Attributes:
        layers: One `FactorizedLayer` for each factorized layer.
    """

    layers: tuple[FactorizedLayer, ...]

    def _rows(self) -> list[tables.Cells]:
        rows = [
            [
                row.name,
                f"{row.rank:,}",
                f"{row.error:.3f}",
                f"{row.params_before:,}",
                f"{row.params:,}",
            ]
            for row in self
        ]
        return ["layer|rank|error|params before|params".split("|"), *rows]


def factorize(
    model: keras.Model,
    rank: int | None = None,
    energy: float | None = None,
    keep: Sequence[str] = (),
) -> tuple[keras.Model, FactorizationReport]:
    """Replaces dense layers and embeddings with two smaller layers each.

    Use it where they are most of the file, such as an embedding of many words or the dense layers
    of VGG16. The closest matrix of a rank is the product of two thin ones, by the largest singular
    values. A dense layer becomes one without bias and activation and one with them, and an
    embedding becomes a narrower one and a dense layer without bias. Both stand in a model with the
    name of the layer. A layer stays as it is if the factors have no fewer parameters.

    Args:
        model: A functional model or a built sequential model. It is not changed.
        rank: Number of channels between the factors. Give either this or `energy`.
        energy: Share of the sum of the squared singular values to retain at least, in `(0, 1]`. It
            yields a rank for each layer.
        keep: Names of layers and nested models to leave as they are.

    Returns:
        A functional model with the same inputs, output shapes and names, and a
        `FactorizationReport`.

    Raises:
        ValueError: If the model is of another kind, not exactly one of `rank` and `energy` is
            given, an argument is invalid, or no layer gets smaller.

    Example:
        >>> import keras
        >>> from sepconv_layers import convert
        >>> model = keras.Sequential(
        ...     [
        ...         keras.Input((9,), dtype="int32"),
        ...         keras.layers.Embedding(1000, 64, name="embedding"),
        ...         keras.layers.GlobalAveragePooling1D(),
        ...         keras.layers.Dense(3),
        ...     ]
        ... )
        >>> factorized, report = convert.factorize(model, rank=8)
        >>> [(row.rank, row.params_before, row.params) for row in report]
        [(8, 64000, 8512)]

    Reference:
        [Denton et al., "Exploiting Linear Structure Within Convolutional Networks for Efficient
        Evaluation", 2014](https://arxiv.org/abs/1404.0736);
        [Lan et al., "ALBERT", 2019](https://arxiv.org/abs/1909.11942) for embeddings.
    """
    graph = ModelGraph(model)
    if (rank is None) == (energy is None):
        raise ValueError(
            "Exactly one of the `rank` and `energy` arguments must be given. Received: "
            f"rank={rank!r}, energy={energy!r}"
        )
    if rank is not None:
        rank = positive_int(rank, "rank")
    else:
        check_number(energy, "energy", "a number in (0, 1]", lambda share: 0 < share <= 1)
    kept = graph.layers_named(keep, "keep")
    factors: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    rows: list[FactorizedLayer] = []

    def make(old: Any) -> Any:
        if type(old) in _NAMES and id(old) not in kept and not _is_changed(old):
            matrix = _matrix(old)
            left, values, right = np.linalg.svd(matrix, full_matrices=False)
            used = min(rank, len(values)) if rank else _rank_of(values, energy)
            params = used * sum(matrix.shape)
            if params < matrix.size:
                root = np.sqrt(values[:used])
                factors[id(old)] = (left[:, :used] * root, root[:, None] * right[:used])
                norm = float(np.linalg.norm(values))
                lost = float(np.linalg.norm(values[used:])) / (norm or 1.0)
                others = old.count_params() - matrix.size
                rows.append(
                    FactorizedLayer(old.path, used, lost, old.count_params(), params + others)
                )
                return _pair(old, used)
        return clone_layer(old)

    factorized, pairs = graph.rebuild(make)
    if not rows:
        raise ValueError(
            "The `model` argument must be a model with a dense layer or an embedding that the "
            f"factors make smaller. Received: model={model!r} without one for rank={rank!r}, "
            f"energy={energy!r}."
        )
    for old, new in pairs:
        if id(old) not in factors:
            copy_state(old, new)
            continue
        bias = [old.bias] if getattr(old, "use_bias", False) else []
        new.set_weights([*factors[id(old)], *map(keras.ops.convert_to_numpy, bias)])
    return factorized, FactorizationReport(tuple(rows))


_NAMES = {keras.layers.Dense: "kernel", keras.layers.Embedding: "embeddings"}


def _matrix(layer: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(getattr(layer, _NAMES[type(layer)])).astype("float64")


def _is_changed(layer: Any) -> bool:
    """Whether Keras has replaced the matrix."""
    return getattr(layer, "lora_enabled", False) or layer.quantization_mode is not None


def _rank_of(values: np.ndarray, energy: Any) -> int:
    shares = np.cumsum(values**2) / max(np.sum(values**2), 1e-300)
    return min(int(np.searchsorted(shares, energy - 1e-12)) + 1, len(values))


def _pair(layer: Any, rank: int) -> keras.Sequential:
    """Two layers in place of one."""
    if isinstance(layer, keras.layers.Embedding):
        first = clone_layer(layer, output_dim=rank)
        second = keras.layers.Dense(
            layer.output_dim, use_bias=False, name="expand", dtype=layer.dtype_policy
        )
    else:
        first = keras.layers.Dense(
            rank,
            use_bias=False,
            kernel_regularizer=layer.kernel_regularizer,
            name="reduce",
            dtype=layer.dtype_policy,
        )
        second = clone_layer(layer)
    first.trainable = second.trainable = layer.trainable
    return keras.Sequential([first, second], name=layer.name)
