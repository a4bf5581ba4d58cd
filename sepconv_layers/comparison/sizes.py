"""`frontier`: trains and measures several sizes of each twin under one budget."""

import math
import numbers
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers.comparison import checks, deployment, experiment, memory
from sepconv_layers.comparison.data import Part, Parts
from sepconv_layers.comparison.frontier_record import FAMILIES, PREDICTIONS, Frontier
from sepconv_layers.comparison.limits import check_limits, excess_text, untrained_costs
from sepconv_layers.comparison.recipe import Training
from sepconv_layers.comparison.row import SizedRow, net_name
from sepconv_layers.comparison.setup import prepare
from sepconv_layers.comparison.task import ACCURACY, Task
from sepconv_layers.comparison.tradeoff import spread
from sepconv_layers.comparison.training import decisions_of
from sepconv_layers.cost import Profile

ARTIFACTS = "artifacts"
FEWEST_SIZES = 2


def frontier(
    build: Callable[[str, float], keras.Model],
    data: Any,
    sizes: Sequence[float] | Mapping[str, Sequence[float]] = (0.35, 0.5, 0.75, 1.0),
    *,
    limits: Mapping[str, float] | None = None,
    **settings: Any,
) -> Frontier:
    """Trains several sizes of separable and standard nets, and measures accuracy at equal cost.

    A standard net can also be made cheaper by making it narrower. `frontier` answers whether the
    separable net is worth it: it draws a line of accuracy against cost for each family, and reports
    the margin between the lines where both cover the same costs: multiply-accumulates, time and
    memory in Keras, and time and size of LiteRT files. Training is that of `compare`, and so is
    resuming with `output`.

    Args:
        build: `build(conv, size)` returns a new model that outputs logits, for "separable" and
            "standard". It is called as in `compare`.
        data: As in `compare`.
        sizes: The sizes of each family, at least two, such as factors on all widths; or
            "separable" and "standard" to the sizes of that family, so that the costs overlap.
        limits: Name of a cost, "macs", "params" or "int8_bytes", to its largest value. Nets that
            exceed one are left out before any training.
        **settings: The other arguments of `compare`, such as `epochs`, `seeds` and `output`. The
            largest of `infer_batch_sizes` counts.

    Returns:
        A `Frontier`. Costs of LiteRT files are missing from it, with a note, unless the backend is
        TensorFlow and the extra `export` is installed.

    Raises:
        ValueError: If an argument, the data or a model is not as described.
        TypeError: If an argument is unknown.
        FloatingPointError: If a loss is not finite.
        OSError: If a file cannot be written. The same call resumes from there.
        ImportError: If `output` is given and matplotlib is not installed.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import ConvBlock1D, SeparableConvBlock1D
        >>> def build(conv, size):
        ...     block = {"separable": SeparableConvBlock1D, "standard": ConvBlock1D}[conv]
        ...     head = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)]
        ...     return keras.Sequential([keras.Input((16, 4)), block(int(8 * size)), *head])
        >>> part = np.random.rand(32, 16, 4), np.arange(32) % 2
        >>> data = {"train": part, "val": part, "test": part}
        >>> sizes = {"separable": (1, 4), "standard": (0.5, 2)}
        >>> brief = {"epochs": 1, "seeds": 1, "infer_batch_sizes": [8], "jit_compile": False}
        >>> result = frontier(build, data, sizes, **brief, progress=False)
        >>> round(result.margin("macs").low)
        776
        >>> result.best(macs=2000).macs <= 2000
        True
    """
    started = time.perf_counter()
    checks.check_callable(build)
    nets, limits = _check_sizes(sizes), check_limits(limits, "`Frontier.best`")
    files = [*Frontier.NAMES, PREDICTIONS]
    setup = prepare(data, files, **experiment.arguments_of_compare("frontier", settings))

    def build_net(name: str) -> keras.Model:
        return build(*nets[name])

    parts, training = setup.parts, setup.training
    with setup.directory() as directory:
        models = experiment.untrained_models(build_net, list(nets), setup)
        profiles = experiment.profiles_of(models, parts)
        models, left_out = _within_limits(models, profiles, parts, limits)
        times = experiment.times_of(build_net, models, setup)
        peaks = _train_peaks({name: build_net(name) for name in models}, parts["train"], training)
        trained = experiment.train_all(build_net, models, setup, times, directory)
        artifacts, notes = _artifacts(trained, parts, directory / ARTIFACTS, training)
        rows = [
            SizedRow(
                **experiment.row_fields(profiles[name], net, times[name]),
                conv=nets[name][0],
                size=nets[name][1],
                **_validated(net),
                train_peak_bytes=peaks[name],
            )
            for name, net in trained.items()
        ]
        for row in rows:
            row.artifacts.update(artifacts.get(row.name, {}))
        seconds = time.perf_counter() - started + sum(net.earlier for net in trained.values())
        result = Frontier(
            **setup.circumstances(seconds, rows[0].name),
            rows=rows,
            notes=[*left_out, *notes, *experiment.early_ends(trained, training.epochs)],
            predictions=_predictions(trained, parts["test"], training.task),
        )
        if setup.output is not None:
            result.save(directory)
    return result


def _check_sizes(sizes: Any) -> dict[str, tuple[str, float]]:
    """Returns the name of each net, with its family and size."""
    by_family = sizes if isinstance(sizes, Mapping) else dict.fromkeys(FAMILIES, sizes)
    if set(by_family) != set(FAMILIES):
        raise _bad_sizes(sizes)
    nets = {}
    for conv in FAMILIES:
        family = by_family[conv]
        if not isinstance(family, Sequence | np.ndarray) or isinstance(family, str):
            raise _bad_sizes(sizes)
        for size in family:
            if not isinstance(size, numbers.Real) or not 0 < float(size) < math.inf:
                raise _bad_sizes(sizes)
            nets[net_name(conv, float(size))] = conv, float(size)
        if len(family) < FEWEST_SIZES or len(set(family)) < len(family):
            raise _bad_sizes(sizes)
    return nets


def _bad_sizes(sizes: Any) -> ValueError:
    return ValueError(
        f"`sizes` must be at least {FEWEST_SIZES} distinct positive numbers, or 'separable' and "
        f"'standard' to such numbers. Received: sizes={sizes!r}."
    )


def _within_limits(
    models: Mapping[str, keras.Model],
    profiles: Mapping[str, Profile],
    parts: Parts,
    limits: Mapping[str, float],
) -> tuple[dict[str, keras.Model], list[str]]:
    """The nets within the limits, and a sentence on each that is not."""
    kept, notes = {}, []
    for name, model in models.items():
        over = excess_text(untrained_costs(model, profiles[name], parts, limits), limits)
        if over:
            notes.append(f"{name} was left out: {over}.")
        else:
            kept[name] = model
    if not kept:
        raise ValueError(
            f"`limits` must leave at least one net. Received: limits={limits!r}. {' '.join(notes)}"
        )
    return kept, notes


def _train_peaks(
    models: Mapping[str, keras.Model], part: Part, training: Training
) -> dict[str, int | None]:
    """Peak memory of a training step of each model, in parallel processes."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        measure = partial(memory.train_peak_bytes, part=part, training=training)
        return dict(zip(models, pool.map(measure, models.values()), strict=True))


def _artifacts(
    trained: Mapping[str, experiment.TrainedNet], parts: Parts, folder: Path, training: Training
) -> tuple[dict[str, dict[str, dict[str, Any]]], list[str]]:
    """What the LiteRT files of each net cost and how accurate they are, or why there are none."""
    why_not = deployment.unavailable()
    if why_not:
        return {}, [why_not]
    x = parts["train"][0]
    paths = {}
    for name, net in trained.items():
        for kind in deployment.KINDS:
            training.say(f"Exporting {name} to {kind}")
            (folder / name).mkdir(parents=True, exist_ok=True)
            paths[name, kind] = deployment.write_artifact(net.model, kind, folder / name, x)
    latencies = deployment.latencies_ms(paths, x)
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in trained}
    for (name, kind), path in paths.items():
        found[name][kind] = {
            "bytes": path.stat().st_size,
            "latency_ms": latencies[name, kind],
            **deployment.score_of(path, parts["test"], training.task),
            "seed": trained[name].seed,
        }
    return found, []


def _validated(net: experiment.TrainedNet) -> dict[str, Any]:
    """The best value of the monitored metric on the validation part."""
    name = net.task.monitor
    best = spread([run["best"][f"val_{name}"] for run in net.runs.values()])
    return {"val_accuracy": best} if name == ACCURACY else {"val_accuracy": {}, "val_score": best}


def _predictions(
    trained: Mapping[str, experiment.TrainedNet], part: Part, task: Task
) -> dict[str, np.ndarray]:
    """What each net predicts with each seed, such as classes, and the labels."""
    x, y = part[0], part[1][:]
    dtype = np.dtype("float32") if y.dtype.kind == "f" else np.min_scalar_type(int(y.max()))
    found = {"labels": y.astype(dtype)}
    for name, net in trained.items():
        models = (net.path_of(seed) for seed in net.runs)
        found[name] = np.array(
            [decisions_of(keras.models.load_model(path), x, task).astype(dtype) for path in models]
        )
    return found
