"""Replaces trained standard convolutions with separable ones."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from sepconv_layers.arguments import check_number, positive_int, positive_number
from sepconv_layers.blocks.base import Block
from sepconv_layers.convert.fitting.adaptation import adapt
from sepconv_layers.convert.fitting.calibration import Calibration
from sepconv_layers.convert.fitting.moments import Metric
from sepconv_layers.convert.fitting.patches import standard_kernels
from sepconv_layers.convert.folding import norms_to_fold, pairs_of
from sepconv_layers.convert.separable.costs import Costs
from sepconv_layers.convert.separable.fit import Fit, moments_of
from sepconv_layers.convert.separable.kernels import errors_of_ranks
from sepconv_layers.convert.separable.ranks import Candidate, for_budget, for_energy
from sepconv_layers.convert.separable.report import Conversion, ConvertedLayer
from sepconv_layers.convert.unrolling import Pair, unrolled_block
from sepconv_layers.graph_edit import ModelGraph, calls_as_defined, clone_layer, copy_state
from sepconv_layers.twins import hidden_layers, is_grouped, is_spatial, is_standard, separable_like

Ranks = Mapping[int, int | None]  # id of a convolution → its rank, or `None` if it stays standard
CLOSE = 0.02  # share of a budget that may be left without a note


def to_separable(
    model: keras.Model,
    rank: int | None = None,
    keep: Sequence[str] = (),
    *,
    energy: float | None = None,
    macs: float | None = None,
    data: Any = None,
) -> tuple[keras.Model, Conversion]:
    """Replaces the standard convolutions of a trained model with separable ones.

    For each input channel, a kernel is a matrix of positions by filters. Its `rank` largest
    singular values yield the depthwise and the pointwise kernel, and no separable convolution of
    that rank is closer. A rank equal to the number of positions, 9 for a 3×3 kernel, is exact but
    saves nothing. This converts layers of this package and of `keras.layers`, and blocks of this
    package, which become models of their inner layers. A convolution with groups becomes a model of
    a depthwise and a grouped pointwise convolution.

    With `data`, a few thousand typical inputs without labels, the kernels are fitted to what they
    are for: layer after layer, on the activations that the layer gets from the part that is already
    converted, they reproduce the outputs of the original layer in the least-squares sense. Biases
    are fitted too. The statistics of the batch normalizations after them change as the statistics
    of their inputs on the data have changed. On the data, no layer has a larger output error than
    with the closest kernels. The memory needed does not grow with the number of inputs: data are
    read in batches, once or more for each layer, and wide layers are fitted to random output
    positions.

    Choose at most one of `rank`, the same for all layers, `energy` and `macs`, which give each
    layer its own.

    Args:
        model: A functional model or a built sequential model. It is not changed.
        rank: Number of depthwise output channels per input channel, at most the number of kernel
            positions. Defaults to 1 if neither `energy` nor `macs` is given.
        keep: Names of layers, blocks and nested models to leave as they are, such as a stem with
            few channels.
        energy: Share of the squared kernel, or with `data` of the variance of the outputs, that
            each layer keeps, such as 0.95. Each layer gets the lowest rank that suffices, and stays
            standard if that saves nothing.
        macs: Multiply-accumulates of the whole converted model: a share of those of `model` up to
            1, or a number above 1. Ranks are chosen for the smallest sum of relative squared errors
            within it, and layers stay standard where that is the best use of it.
        data: Inputs of the model: an array or a structure of arrays as the model takes it, a data
            set that is read by index, or batches that can be iterated repeatedly, such as a
            `tf.data.Dataset`, a `keras.utils.PyDataset` or a PyTorch `DataLoader`. Labels in a
            batch are ignored.

    Returns:
        A functional model with the same inputs, output shapes and names, and a `Conversion`, which
        is a sequence with a `ConvertedLayer` for each convolution.

    Raises:
        ValueError: If the model is of another kind or has no standard convolution, an argument is
            invalid, or the lowest ranks need more than `macs`.

    Example:
        >>> import keras, numpy as np
        >>> from sepconv_layers import convert
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(32, 3)])
        >>> exact, (layer,) = convert.to_separable(model, rank=9)
        >>> layer.error < 1e-6
        True
        >>> x = np.random.normal(size=(64, 8, 8, 4)).astype("float32")
        >>> np.allclose(model(x), exact(x), atol=1e-5)
        True
        >>> half, (layer,) = convert.to_separable(model, macs=0.5, data=x)
        >>> layer.rank, layer.macs_ratio
        (3, 0.427...)

    Reference:
        [Guo et al., "Network Decoupling: From Regular to Depthwise Separable Convolutions", 2018](
        https://arxiv.org/abs/1808.05517);
        [He et al., "Depth-wise Decomposition for Accelerating Separable Convolutions in Efficient
        Convolutional Neural Networks", 2019](https://arxiv.org/abs/1910.09455), for the fit to
        data.
    """
    graph = ModelGraph(model)
    _check_goal(rank, energy, macs)
    convs = _convolutions(graph, graph.layers_named(keep, "keep"))
    if not convs:
        raise ValueError(
            "The `model` argument must be a model with a standard convolution that is not in "
            f"`keep`. Received: model={model!r} without one.{hidden_layers(graph, is_standard)}"
        )
    calibration = None if data is None else Calibration(data, model)
    costs = Costs(model, convs, None if calibration is None else calibration.input_shapes)
    centered = _centered(graph, convs)
    limit = None if macs is None else _limit(macs, convs, costs)
    if limit is not None:
        forms = _forms(convs, costs, centered, calibration)
        chosen = [form.rank for form in for_budget(forms, limit - costs.fixed)]
    elif energy is not None:
        forms = _forms(convs, costs, centered, calibration)
        chosen = [form.rank for form in for_energy(forms, energy)]
    else:
        chosen = [min(rank or 1, math.prod(conv.kernel_size)) for conv in convs]
    ranks = dict(zip(map(id, convs), chosen, strict=True))
    converted, pairs = _rebuilt(graph, ranks)
    fits = {
        id(old): Fit(old, new, rank, id(old) in centered)
        for old, new in pairs
        if (rank := ranks.get(id(old)))
    }
    if calibration is not None:
        copies = [(old, new) for old, new in pairs if id(old) not in fits]
        adapt(model, converted, list(fits.values()), copies, calibration)
    return converted, _report(model, pairs, ranks, fits, costs, limit)


def _report(
    model: keras.Model,
    pairs: Sequence[Pair],
    ranks: Ranks,
    fits: Mapping[int, Fit],
    costs: Costs,
    limit: float | None,
) -> Conversion:
    rows = []
    inner = (layer for old, _ in pairs for layer in old._flatten_layers())
    for conv in {id(layer): layer for layer in inner if id(layer) in ranks}.values():
        fit, rank, before = fits.get(id(conv)), ranks[id(conv)], costs.standard(conv)
        after = costs.separable(conv, rank) if rank else before
        rows.append(
            ConvertedLayer(
                name=conv.path,
                rank=rank,
                error=fit.error if fit else 0.0,
                macs_ratio=after / before,
                output_error=fit.output_error if fit else None,
                macs_before=None if costs.total is None else int(before),
                macs_after=None if costs.total is None else int(after),
            )
        )
    notes = []
    total = None
    if costs.total is not None:
        total = costs.total + sum((row.macs_after or 0) - (row.macs_before or 0) for row in rows)
    if costs.uncounted:
        notes.append(f"Not counted: {', '.join(costs.uncounted)}.")
    if limit is not None and total is not None and total < (1 - CLOSE) * limit:
        notes.append(
            f"The limit is {limit:,.0f} MACs. No ranks that cost more, up to it, lose less."
        )
    return Conversion(model.name, tuple(rows), costs.total, total, tuple(notes))


# Checks.


def _check_goal(rank: Any, energy: Any, macs: Any) -> None:
    given = {"rank": rank, "energy": energy, "macs": macs}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise ValueError(
            "At most one of the arguments `rank`, `energy` and `macs` may be given. Received: "
            f"{', '.join(f'{name}={value!r}' for name, value in given.items())}."
        )
    if rank is not None:
        positive_int(rank, "rank")
    if energy is not None:
        check_number(energy, "energy", "a number in (0, 1]", lambda number: 0 < number <= 1)
    if macs is not None:
        positive_number(macs, "macs")


def _limit(macs: float, convs: Sequence[Any], costs: Costs) -> float:
    """The limit on the MACs of the whole model, or a `ValueError` if it needs more."""
    if costs.total is None:
        raise ValueError(
            "The `macs` argument needs a model whose input sizes are all known. Received: a model "
            "with open sizes. Pass `data` too, or `rank` or `energy` instead."
        )
    limit = macs * costs.total if macs <= 1 else macs
    least = costs.fixed + sum(min(costs.separable(c, 1), costs.standard(c)) for c in convs)
    if limit < least:
        raise ValueError(
            f"The `macs` argument must be at least {least:,.0f}, or as a share "
            f"{math.ceil(least / costs.total * 1e4) / 1e4}, what it costs with rank 1 in all "
            f"layers. Received: macs={macs!r}."
        )
    return limit


# The choice of ranks.


def _convolutions(graph: ModelGraph, kept: set[int]) -> list[Any]:
    """The standard convolutions to convert, once each."""
    found: dict[int, Any] = {}
    for node in graph.nodes:
        layer = node.operation
        is_block = isinstance(layer, Block) and calls_as_defined(layer)
        inner = layer.inner_layers() if is_block else [layer]
        found |= {id(conv): conv for conv in inner if is_spatial(conv) or is_grouped(conv)}
    return [conv for key, conv in found.items() if key not in kept]


def _centered(graph: ModelGraph, convs: Sequence[Any]) -> set[int]:
    """The ids of convolutions whose mean outputs are set by a bias or a batch normalization."""
    blocks = [node.operation for node in graph.nodes if isinstance(node.operation, Block)]
    pairs = itertools.chain.from_iterable(map(pairs_of, blocks))
    biased = {id(conv) for conv in convs if conv.use_bias}
    return {*norms_to_fold(graph), *(id(conv) for conv, _ in pairs), *biased}


def _forms(
    convs: Sequence[Any], costs: Costs, centered: set[int], calibration: Calibration | None
) -> list[list[Candidate]]:
    """The forms that each convolution may take, with their costs and errors."""
    metrics: Iterable[list[Metric] | None] = itertools.repeat(None, len(convs))
    if calibration is not None:
        moments = moments_of(calibration.model, convs, calibration)
        metrics = (one.metrics(id(one.original.layer) in centered) for one in moments)
    forms = []
    for conv, of_groups in zip(convs, metrics, strict=True):
        first, standard = costs.separable(conv, 1), costs.standard(conv)
        ranks = [rank for rank in range(1, math.prod(conv.kernel_size)) if rank * first < standard]
        errors = errors_of_ranks(standard_kernels(conv), len(ranks), of_groups)
        separable = map(Candidate, ranks, (rank * first for rank in ranks), errors)
        forms.append([*separable, Candidate(None, standard, 0.0)])
    return forms


# The converted model.


def _rebuilt(graph: ModelGraph, ranks: Ranks) -> tuple[keras.Model, list[Pair]]:
    """The converted model, and all pairs of old and new layers.

    Separable convolutions still have their initial weights.
    """
    unrolled: dict[int, list[Pair]] = {}

    def replacement(old: Any) -> tuple[Any, list[Pair]]:
        rank = ranks.get(id(old))
        new = separable_like(old, depth_multiplier=rank) if rank else clone_layer(old)
        return new, [(old, new)]

    def make(old: Any) -> Any:
        if isinstance(old, Block) and any(ranks.get(id(inner)) for inner in old.inner_layers()):
            new, unrolled[id(old)] = unrolled_block(old, replacement)
            return new
        return replacement(old)[0]

    converted, pairs = graph.rebuild(make)
    inner = [pair for old, new in pairs for pair in unrolled.get(id(old), [(old, new)])]
    for old, new in inner:
        if not ranks.get(id(old)):
            copy_state(old, new)
    return converted, inner
