"""`compare`: the same budget for all nets, and what each makes of it."""

import contextlib
import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers import timing
from sepconv_layers.arguments import check_number, positive_int, positive_number
from sepconv_layers.comparison import checks, speed
from sepconv_layers.comparison.figure import figure_class
from sepconv_layers.comparison.record import Comparison
from sepconv_layers.comparison.row import Row
from sepconv_layers.comparison.training import Training, digest_of, run, runs_folder, score
from sepconv_layers.cost import profile
from sepconv_layers.files import write


def compare(
    build: Callable[[str], keras.Model],
    data: Any,
    *,
    convs: str | Sequence[str] = ("separable", "standard"),
    epochs: int = 10,
    batch_size: int = 64,
    seeds: int | Sequence[int] = 3,
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-2,
    label_smoothing: float = 0.0,
    augmentation: keras.layers.Layer | None = None,
    infer_batch_sizes: Sequence[int] | None = None,
    jit_compile: bool | str = "auto",
    output: str | os.PathLike | None = None,
    task: str = "Classification",
    dataset: str = "",
    command: str = "",
    progress: bool = True,
) -> Comparison:
    """Trains and measures twins under one budget.

    All nets get AdamW with a short warm-up and cosine decay, the same regularization and the same
    seeds. The test accuracy is that of the epoch that was best on the validation part.

    With `output`, a comparison that was interrupted goes on after its last epoch when it is called
    again, and one with more seeds trains only the new ones. Every net, data set and setting has
    folders of its own in `output/runs`, so that nothing stale is used and nothing trained is lost.
    A file there that is damaged is renamed, with a sentence, and what it held is trained again.

    Args:
        build: `build(conv)` returns a new model that outputs logits. Called for every seed, after
            `keras.utils.set_random_seed(seed)`, and for throw-away models to check and to time.
        data: Object or mapping with `train`, `val` and `test`, each a pair of inputs (an array, or
            a structure of arrays) and integer labels. `classes` (names, or a number) may be there
            too; the default is the largest label plus 1.
        convs: Which nets: "separable", "standard", "standard-narrow".
        epochs: Number of passes over the training part.
        batch_size: Training samples per step.
        seeds: How many seeds, or which.
        learning_rate: Largest learning rate, after the warm-up; a number, no schedule.
        weight_decay: Of AdamW, for all weights but biases and normalization.
        label_smoothing: Share of each label that is spread over all classes, in `[0, 1)`.
        augmentation: Layer through which training inputs go. It is no part of the saved model,
            and its random state comes from the seed of the run.
        infer_batch_sizes: Batch sizes to time inference with; by default 1 and `batch_size`.
        jit_compile: How to time the nets, where the backend has the choice: compiled by XLA
            (`True`), which may take a minute for a large net, or not (`False`); by default in both
            ways, of which each net gets the faster. TensorFlow trains in that way too, if there are
            so many steps that it makes up for compiling.
        output: Directory for the results and for what resuming needs.
        task: For the record: what is learned.
        dataset: For the record: the data.
        command: For the record: what to run to get it again.
        progress: Whether to show what is going on.

    Returns:
        A `Comparison`.

    Raises:
        ValueError: If an argument, the data or a model is not as described.
        FloatingPointError: If a loss is not finite.
        OSError: If a file cannot be written, such as on a full disk. What is trained by then is
            kept, and the same call goes on from there.
        ImportError: If `output` is given and matplotlib is missing.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import ConvBlock1D, SeparableConvBlock1D
        >>> def build(conv):
        ...     block = {"separable": SeparableConvBlock1D, "standard": ConvBlock1D}[conv]
        ...     head = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)]
        ...     return keras.Sequential([keras.Input((16, 4)), block(8), *head])
        >>> part = np.random.rand(32, 16, 4), np.arange(32) % 2
        >>> data = {"train": part, "val": part, "test": part}
        >>> result = compare(build, data, epochs=1, seeds=1, progress=False)
        >>> [row.macs for row in result.rows]
        [720, 1552]
    """
    started, resumed = time.perf_counter(), 0.0
    convs, seeds = checks.check_convs(convs), checks.check_seeds(seeds)
    epochs = positive_int(epochs, "epochs")
    batch_size = positive_int(batch_size, "batch_size")
    sizes = checks.check_sizes((1, batch_size) if infer_batch_sizes is None else infer_batch_sizes)
    checks.check_jit_compile(jit_compile)
    learning_rate = float(positive_number(learning_rate, "learning_rate"))
    weight_decay = float(
        check_number(
            weight_decay, "weight_decay", "a number in [0, inf)", lambda x: 0 <= x < math.inf
        )
    )
    label_smoothing = float(
        check_number(label_smoothing, "label_smoothing", "a number in [0, 1)", lambda x: 0 <= x < 1)
    )
    checks.check_augmentation(augmentation)
    checks.check_output(output, convs)
    if output is not None:
        figure_class()  # to hear now, not after the training, that it is missing
    parts, classes = checks.check_data(data)
    training = Training(
        epochs, batch_size, learning_rate, weight_decay, label_smoothing, augmentation, classes,
        progress,
    )  # fmt: skip

    x, y = parts["train"]
    shape = keras.tree.map_structure(lambda array: array.shape[1:], x)
    probes = {}
    for conv in convs:
        keras.utils.set_random_seed(0)  # a net may hold a seed that it drew
        probes[conv] = checks.check_build(build, conv, parts, classes)
    profiles = {conv: profile(probe, shape) for conv, probe in probes.items()}
    training.say(f"Timing {', '.join(convs)}")
    times = speed.measure(build, convs, parts["train"], training, sizes, jit_compile)

    rows, artifacts, models, digest = [], {}, {}, digest_of(parts)
    with _directory(output) as directory:
        for i, conv in enumerate(convs):
            folder = runs_folder(directory, conv, probes[conv], training, digest)
            compiles = training.jit_compile(times[conv]["train_mode"], x)
            runs = {}
            for j, seed in enumerate(seeds):
                count = f"{i * len(seeds) + j + 1}/{len(convs) * len(seeds)}"
                training.say(f"[{count}] {conv}, seed {seed}")
                runs[seed], earlier = run(build, conv, seed, parts, training, folder, compiles)
                resumed += earlier
            best = max(seeds, key=lambda seed: score(runs[seed]["best"]))
            artifacts[conv] = folder / f"seed-{best}.keras"
            models[conv] = keras.models.load_model(artifacts[conv])
            row = Row(
                conv=conv,
                model=probes[conv].name,
                params=profiles[conv].params,
                macs=profiles[conv].macs,
                accuracy=_spread([runs[seed]["accuracy"] for seed in seeds]),
                artifacts={"keras": {"seed": best, **runs[best]["artifact"]}},
                embedding_params=sum(
                    cost.params for cost in profiles[conv].rows if cost.kind == "Embedding"
                ),
                **times[conv],
            )
            rows.append(row)
    result = Comparison(
        task=task,
        dataset=dataset,
        command=command,
        device=timing.device(),
        backend=keras.backend.backend(),
        versions=timing.versions(),
        wall_seconds=round(time.perf_counter() - started + resumed, 1),
        budget={
            "epochs": epochs,
            "batch_size": batch_size,
            "seeds": seeds,
            "training_samples": len(y),
        },
        test_part=_test_part(parts["test"][1]),
        **_gains({row.conv: row for row in rows}),
        rows=rows,
        models=models,
    )
    if output is not None:
        for conv, artifact in artifacts.items():
            write(directory / f"{conv}.keras", partial(shutil.copyfile, artifact))
        result.save(output)
    return result


def _test_part(labels: np.ndarray) -> dict[str, float]:
    counts = np.bincount(labels)
    return {"samples": len(labels), "largest_class": round(float(counts.max() / len(labels)), 6)}


def _spread(values: list[float]) -> dict[str, Any]:
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {
        "mean": round(statistics.fmean(values), 6),
        "std": round(std, 6),
        "per_seed": values,
    }


def _gains(rows: dict[str, Row]) -> dict[str, Any]:
    if not {"separable", "standard"} <= set(rows):
        return {"mac_ratio": None, "speedup": {}, "realized_fraction": {}}
    ours, theirs = rows["separable"], rows["standard"]
    largest = max(ours.infer_ms)
    ratio = theirs.macs / ours.macs if theirs.macs and ours.macs else None
    speedup = {
        "infer": theirs.infer_ms[largest] / ours.infer_ms[largest],
        "train": theirs.train_step_ms / ours.train_step_ms,
    }
    realized = {key: value / ratio for key, value in speedup.items()} if ratio else {}
    return {
        "mac_ratio": ratio and round(ratio, 4),
        "speedup": {key: round(value, 4) for key, value in speedup.items()},
        "realized_fraction": {key: round(value, 4) for key, value in realized.items()},
    }


@contextlib.contextmanager
def _directory(output: str | os.PathLike | None) -> Iterator[Path]:
    if output is not None:
        yield Path(output)
    else:
        with tempfile.TemporaryDirectory() as directory:
            yield Path(directory)
