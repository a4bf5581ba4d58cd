"""`frontier`: trains and measures several sizes of each twin under one budget."""

import math
import numbers
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers.arguments import positive_number
from sepconv_layers.comparison import checks, deployment, experiment, memory, speed
from sepconv_layers.comparison.frontier_record import FAMILIES, FILES, Frontier
from sepconv_layers.comparison.recipe import Training
from sepconv_layers.comparison.row import SizedRow, net_name
from sepconv_layers.comparison.tradeoff import exceeded, spread
from sepconv_layers.comparison.training import Parts, classes_of
from sepconv_layers.cost import Profile

ARTIFACTS = "artifacts"
FEWEST_SIZES = 2
LIMITS = "macs", "params", "int8_bytes"  # costs of an untrained net


def frontier(
    build: Callable[[str, float], keras.Model],
    data: Any,
    sizes: Sequence[float] | Mapping[str, Sequence[float]] = (0.35, 0.5, 0.75, 1.0),
    *,
    limits: Mapping[str, float] | None = None,
    epochs: int = 10,
    batch_size: int = 64,
    seeds: int | Sequence[int] = 3,
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-2,
    label_smoothing: float = 0.0,
    augmentation: keras.layers.Layer | None = None,
    mixing: keras.layers.Layer | None = None,
    ema_momentum: float | None = None,
    infer_batch_sizes: Sequence[int] | None = None,
    jit_compile: bool | str = "auto",
    output: str | os.PathLike | None = None,
    task: str = "Classification",
    dataset: str = "",
    command: str = "",
    progress: bool = True,
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
        epochs: As in `compare`, and so are the arguments below.
        batch_size: Number of training samples per step.
        seeds: Number of seeds, or a list of seeds.
        learning_rate: Largest learning rate, after the warm-up.
        weight_decay: Weight decay of AdamW, for all weights except biases and normalization.
        label_smoothing: Share of each label that is spread over all classes, in `[0, 1)`.
        augmentation: Layer applied to the training inputs.
        mixing: Layer that mixes training samples and their labels.
        ema_momentum: Momentum of the average of the weights.
        infer_batch_sizes: Batch sizes for timing inference; by default 1 and `batch_size`. The
            largest one counts.
        jit_compile: How to time the nets, where the backend offers a choice.
        output: Directory for the results and for what resuming needs.
        task: The task, for the record.
        dataset: Name of the data, for the record.
        command: The command that reproduces the result, for the record.
        progress: Whether to print progress.

    Returns:
        A `Frontier`. Costs of LiteRT files are missing from it, with a note, unless the backend is
        TensorFlow and the extra `export` is installed.

    Raises:
        ValueError: If an argument, the data or a model is not as described.
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
    nets, limits = _check_sizes(sizes), _check_limits(limits)
    seeds = checks.check_seeds(seeds)
    settings = checks.check_settings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        augmentation=augmentation,
        mixing=mixing,
        ema_momentum=ema_momentum,
    )
    batch_sizes = checks.check_sizes(
        (1, batch_size) if infer_batch_sizes is None else infer_batch_sizes
    )
    checks.check_jit_compile(jit_compile)
    checks.check_output(output, FILES)
    parts, classes = checks.check_data(data)
    training = Training(**settings, classes=classes, progress=progress)
    checks.check_layers(training, parts)

    def build_net(name: str) -> keras.Model:
        return build(*nets[name])

    models = experiment.untrained_models(build_net, list(nets), parts, classes)
    profiles = experiment.profiles_of(models, parts)
    models, left_out = _within_limits(models, profiles, parts, limits)
    training.say(f"Timing {', '.join(models)}")
    names, part = list(models), parts["train"]
    times = speed.measure(build_net, names, part, training, batch_sizes, jit_compile)
    peaks = _train_peaks({name: build_net(name) for name in names}, part, training)

    with experiment.output_directory(output) as directory:
        trained = experiment.train_all(build_net, models, parts, training, seeds, times, directory)
        artifacts, notes = _artifacts(trained, parts, directory / ARTIFACTS, training)
        rows = [
            SizedRow(
                **experiment.row_fields(profiles[name], net, times[name]),
                conv=nets[name][0],
                size=nets[name][1],
                val_accuracy=spread([run["best"]["val_accuracy"] for run in net.runs.values()]),
                train_peak_bytes=peaks[name],
            )
            for name, net in trained.items()
        ]
        for row in rows:
            row.artifacts.update(artifacts.get(row.name, {}))
        seconds = time.perf_counter() - started + sum(net.earlier for net in trained.values())
        result = Frontier(
            rows=rows,
            notes=[*left_out, *notes],
            predictions=_predictions(trained, parts["test"]),
            task=task,
            dataset=dataset,
            command=command,
            **experiment.circumstances(training, seeds, parts, seconds),
        )
        if output is not None:
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


def _check_limits(limits: Any) -> dict[str, float]:
    limits = {} if limits is None else limits
    if not isinstance(limits, Mapping) or not set(limits) <= set(LIMITS):
        raise ValueError(
            f"`limits` must map any of {', '.join(map(repr, LIMITS))} to a number. For other "
            f"costs, use `Frontier.best`. Received: limits={limits!r}."
        )
    for name, limit in limits.items():
        positive_number(limit, f"limits[{name!r}]")
    why_not = deployment.unavailable()
    if "int8_bytes" in limits and why_not:
        raise ValueError(f"`limits` must not have 'int8_bytes' here. {why_not}")
    return dict(limits)


def _within_limits(
    models: Mapping[str, keras.Model],
    profiles: Mapping[str, Profile],
    parts: Parts,
    limits: Mapping[str, float],
) -> tuple[dict[str, keras.Model], list[str]]:
    """The nets within the limits, and a sentence on each that is not."""
    kept, notes = {}, []
    for name, costs in profiles.items():
        known: dict[str, float] = {"macs": costs.macs, "params": costs.params}
        if "int8_bytes" in limits:
            with tempfile.TemporaryDirectory() as folder:
                path = deployment.write_artifact(
                    models[name], "int8", Path(folder), parts["train"][0]
                )
                known["int8_bytes"] = path.stat().st_size
        over = exceeded(known, limits)
        if over:
            found = ", ".join(f"{cost} {known[cost]:,} > {limits[cost]:,}" for cost in over)
            notes.append(f"{name} was left out: {found}.")
        else:
            kept[name] = models[name]
    if not kept:
        raise ValueError(
            f"`limits` must leave at least one net. Received: limits={dict(limits)}. {notes[0]}"
        )
    return kept, notes


def _train_peaks(
    models: Mapping[str, keras.Model], part: tuple[Any, np.ndarray], training: Training
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
            "accuracy": deployment.accuracy_of(path, parts["test"]),
            "seed": trained[name].seed,
        }
    return found, []


def _predictions(
    trained: Mapping[str, experiment.TrainedNet], part: tuple[Any, np.ndarray]
) -> dict[str, np.ndarray]:
    """The classes that each net predicts with each seed, and the labels."""
    x, y = part
    dtype = np.min_scalar_type(int(y.max()))
    found = {"labels": y.astype(dtype)}
    for name, net in trained.items():
        models = (net.path_of(seed) for seed in net.runs)
        found[name] = np.array(
            [classes_of(keras.models.load_model(path), x).astype(dtype) for path in models]
        )
    return found
