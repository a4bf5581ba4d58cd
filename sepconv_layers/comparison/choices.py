"""`search`: finds the most accurate net of each family within limits."""

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from sepconv_layers.arguments import positive_int
from sepconv_layers.comparison import checks
from sepconv_layers.comparison.experiment import arguments_of_compare, compare
from sepconv_layers.comparison.frontier_record import FAMILIES
from sepconv_layers.comparison.limits import check_limits
from sepconv_layers.comparison.search_record import REPEATED, TRAINING, Search, Trial, best_of
from sepconv_layers.comparison.setup import prepare
from sepconv_layers.comparison.space import Space
from sepconv_layers.comparison.task import SIGNS
from sepconv_layers.comparison.trials import Family

TRIALS, BEST = "trials", "best"  # folders


def search(
    build: Callable[..., keras.Model],
    data: Any,
    space: Mapping[str, Any],
    *,
    trials: int = 30,
    limits: Mapping[str, float] | None = None,
    convs: str | Sequence[str] = FAMILIES,
    stop_early: bool = True,
    **settings: Any,
) -> Search:
    """Finds the net of each family that is most accurate within limits on its cost.

    Kernel sizes, widths, depth, expansion, resolution: whatever `build` takes can be searched, for
    separable and standard nets alike, with the same space, limits and number of trials. Nets beyond
    the limits, and nets that were tried before, cost no training and do not count as trials. A
    training ends early if the net is worse on the validation part than half of those before it. The
    best net of each family is then trained with every seed by `compare`, which alone uses the test
    part.

    Choices are suggested by the tree-structured Parzen estimator of
    [optuna](https://optuna.readthedocs.io), and trainings end by its median rule. With the same
    seeds, they are the same again. With `output`, an interrupted search resumes after its last
    complete epoch when it is called again, and one with more trials goes on after the earlier ones.

    Args:
        build: `build(conv, **choices)` returns a new model that outputs logits, for "separable" and
            "standard". A choice of resolution can be a `keras.layers.Resizing` at its start. It may
            raise a `ValueError` for choices that make no net.
        data: As in `compare`.
        space: Name of an argument of `build` to its values: a list of any of them, such as
            `[3, 5, 7]`; a pair of integers or floats, `(lowest, highest)`, both included; a
            `range`, such as `range(16, 65, 8)`; or a distribution of optuna, for example on a
            logarithmic scale.
        trials: Number of nets to train for each family.
        limits: Name of a cost, "macs", "params" or "int8_bytes", to its largest value.
        convs: The families, "separable" and "standard" or one of them.
        stop_early: Whether to end trainings that are not promising.
        **settings: The other arguments of `compare`, such as `epochs`, `seeds` and `output`. Trials
            are trained with the first seed, and without XLA on TensorFlow unless `jit_compile` is
            true.

    Returns:
        A `Search`. `output` has its files, the trials in `trials`, and in `best` what `compare`
        writes for the best nets, with the models.

    Raises:
        ValueError: If an argument, the data or a model is not as described, or if no net is within
            the limits.
        TypeError: If an argument is unknown.
        FloatingPointError: If a loss of the best nets is not finite with another seed.
        OSError: If a file cannot be written. The same call resumes from there.
        ImportError: If optuna is not installed, or `output` is given and matplotlib is not.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import ConvBlock1D, SeparableConvBlock1D
        >>> def build(conv, width, kernel_size):
        ...     block = {"separable": SeparableConvBlock1D, "standard": ConvBlock1D}[conv]
        ...     head = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)]
        ...     return keras.Sequential([keras.Input((16, 4)), block(width, kernel_size), *head])
        >>> part = np.random.rand(32, 16, 4), np.arange(32) % 2
        >>> data = {"train": part, "val": part, "test": part}
        >>> space = {"width": range(8, 33, 8), "kernel_size": [3, 5]}
        >>> brief = {"epochs": 1, "seeds": 1, "infer_batch_sizes": [8], "jit_compile": False}
        >>> result = search(
        ...     build, data, space, trials=2, limits={"macs": 3000}, **brief, progress=False
        ... )
        >>> result.best("separable").costs["macs"] <= 3000
        True

    Reference:
        [Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011](
        https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization);
        [Golovin et al., "Google Vizier: A Service for Black-Box Optimization", 2017](
        https://doi.org/10.1145/3097983.3098043), for the median rule.
    """
    started = time.perf_counter()
    checks.check_callable(build)
    values, limits = Space(space), check_limits(limits, "`Search.front`")
    _check_names(build, values)
    trials, convs = positive_int(trials, "trials"), _check_families(convs)
    if not isinstance(stop_early, bool):
        raise ValueError(
            f"`stop_early` must be True or False. Received: stop_early={stop_early!r}."
        )
    arguments = arguments_of_compare("search", settings)
    setup = prepare(data, Search.NAMES, **arguments)
    setup.training.own.check_nets(convs)

    with setup.directory() as directory:
        folder = directory / TRIALS
        folder.mkdir(exist_ok=True)
        families = {
            conv: Family(build, conv, values, setup, limits, stop_early, folder) for conv in convs
        }
        tried = {conv: family.search(trials) for conv, family in families.items()}
        sign = SIGNS[setup.training.task.mode]
        best = {conv: _best(tried[conv], limits, sign) for conv in convs}
        seconds = time.perf_counter() - started
        seconds += sum(family.earlier for family in families.values())
        setup.training.say("Training the best nets with every seed")
        found = compare(
            lambda conv: build(conv, **best[conv].choices),
            data,
            convs=convs,
            **arguments
            | {
                "output": setup.output and Path(setup.output) / BEST,
                "distribution": setup.training.devices,
                "progress": setup.training.progress,
            },
        )
        every = [trial for conv in convs for trial in tried[conv] if trial.outcome != REPEATED]
        circumstances = setup.circumstances(seconds + found.wall_seconds, convs[0])
        circumstances["budget"]["trials"] = trials
        result = Search(
            **circumstances,
            space=values.record(),
            limits=limits,
            trials=every,
            rows=found.rows,
            notes=[note for conv in convs for note in _notes(conv, tried[conv], trials)],
        )
        if setup.output is not None:
            result.save(directory)
    return result


def _check_families(convs: Any) -> tuple[str, ...]:
    names = checks.check_convs(convs)
    if not set(names) <= set(FAMILIES):
        raise ValueError(f"`convs` must be names of {FAMILIES}. Received: convs={convs!r}.")
    return names


def _check_names(build: Callable[..., keras.Model], space: Space) -> None:
    """Checks that `build` takes the choices."""
    try:
        inspect.signature(build).bind(FAMILIES[0], **dict.fromkeys(space.distributions))
    except TypeError as error:
        raise ValueError(
            f"`build` must take the name of a family, and the names in `space` as keywords: "
            f"{', '.join(space.distributions)}. Received: build={build!r}, which does not: "
            f"{error}"
        ) from error


def _best(trials: Sequence[Trial], limits: Mapping[str, float], sign: int) -> Trial:
    best = best_of(trials, sign)
    if best is None:
        smallest = {
            cost: min(known) if known else "not measured"
            for cost in limits
            for known in [[trial.costs[cost] for trial in trials if cost in trial.costs]]
        }
        last = [trial for trial in trials if trial.outcome != REPEATED][-1]
        raise ValueError(
            "`limits` and `space` must allow at least one net that can be trained. The smallest "
            f"costs of {len(trials)} nets are {smallest}. Received: limits={dict(limits)}. The "
            f"last net: {last.outcome}, {last.note}."
        )
    return best


def _notes(conv: str, tried: Sequence[Trial], wanted: int) -> list[str]:
    count = sum(trial.outcome in TRAINING for trial in tried)
    if count == wanted:
        return []
    return [f"No more than {count} {conv} nets were found within the limits and the space."]
