"""The arguments that `compare`, `frontier` and `search` share, checked."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from sepconv_layers import timing
from sepconv_layers.comparison import checks
from sepconv_layers.comparison.data import Part, Parts, check_data
from sepconv_layers.comparison.devices import devices_for
from sepconv_layers.comparison.labels import pieces
from sepconv_layers.comparison.own import check_own
from sepconv_layers.comparison.recipe import Training
from sepconv_layers.comparison.task import Task
from sepconv_layers.comparison.task_choice import choose_task


@dataclasses.dataclass(frozen=True)
class Setup:
    """The checked arguments that are the same for all nets.

    Attributes:
        training: The settings of the training.
        seeds: The seeds.
        parts: The data.
        batch_sizes: The batch sizes for timing inference, in rising order.
        jit_compile: How to time the nets.
        output: The directory of the results, if they are to be kept.
        words: `task`, `dataset` and `command`, for the record.
    """

    training: Training
    seeds: list[int]
    parts: Parts
    batch_sizes: list[int]
    jit_compile: bool | str
    output: str | os.PathLike | None
    words: dict[str, str]

    @contextlib.contextmanager
    def directory(self) -> Iterator[Path]:
        """The directory of the results, or a temporary one.

        Within it, nothing is computed by several devices except trainings.
        """
        with self.training.devices.alone():
            if self.output is not None:
                yield Path(self.output)
            else:
                with tempfile.TemporaryDirectory() as directory:
                    yield Path(directory)

    def circumstances(self, seconds: float, conv: str) -> dict[str, Any]:
        """The fields of a `Record`: where, with what and for how long nets were trained.

        Args:
            seconds: The time that all trainings took.
            conv: The name of a net, for what each of them has of its own.
        """
        task = self.training.task
        return {
            **self.words,
            "device": timing.device(),
            "backend": keras.backend.backend(),
            "versions": timing.versions(),
            "wall_seconds": round(seconds, 1),
            "budget": {
                "epochs": self.training.epochs,
                "batch_size": self.training.batch_size,
                "seeds": self.seeds,
                "training_samples": len(self.parts["train"][1]),
                **self.training.devices.record(),
                **self.training.own.record(conv),
                **_precision(),
                **_spent_on(task, self.parts),
            },
            "test_part": summary_of(self.parts["test"], task),
            "metric": {} if task.is_default else {"name": task.monitor, "mode": task.mode},
        }


def prepare(
    data: Any,
    files: Sequence[str],
    *,
    seeds: Any,
    infer_batch_sizes: Any,
    jit_compile: Any,
    output: Any,
    progress: Any,
    task: str | None,
    dataset: str,
    command: str,
    loss: Any,
    metrics: Any,
    monitor: Any,
    class_weight: Any,
    distribution: Any,
    optimizer: Any,
    callbacks: Any,
    initial_weights: Any,
    **settings: Any,
) -> Setup:
    """Checks the arguments of `compare` that do not depend on the nets.

    Args:
        data: As in `compare`.
        files: The names of the files to be written to `output`.
        seeds: As in `compare`, and so are the arguments below.
        infer_batch_sizes: Batch sizes for timing inference.
        jit_compile: How to time the nets.
        output: Directory for the results.
        progress: Whether to print progress.
        task: The task.
        dataset: Name of the data.
        command: The command.
        loss: The loss.
        metrics: The metrics.
        monitor: The metric that chooses the epoch.
        class_weight: The weights of the classes.
        distribution: The devices.
        optimizer: The optimizer.
        callbacks: The callbacks.
        initial_weights: The weights to start from.
        **settings: The settings of the training, as `checks.check_settings` takes them.
    """
    seeds, settings = checks.check_seeds(seeds), checks.check_settings(**settings)
    usual = 1, settings["batch_size"]
    batch_sizes = checks.check_sizes(usual if infer_batch_sizes is None else infer_batch_sizes)
    checks.check_jit_compile(jit_compile)
    devices = devices_for(distribution)
    own = check_own(optimizer, callbacks, initial_weights, seeds[0])
    output, progress = (output, progress) if devices.is_first else (None, False)
    checks.check_output(output, files)
    parts, labels, classes = check_data(data)
    devices.check(settings["batch_size"], [len(part[1]) for part in parts.values()])
    what = choose_task(
        labels,
        parts,
        classes,
        loss=loss,
        metrics=metrics,
        monitor=monitor,
        class_weight=class_weight,
        label_smoothing=settings["label_smoothing"],
    )
    training = Training(
        **settings,
        classes=len(what.names),
        progress=progress,
        task=what,
        devices=devices,
        own=own,
    )
    with devices.alone():
        checks.check_layers(training, parts)
    words = {"task": what.TITLE if task is None else task, "dataset": dataset, "command": command}
    return Setup(training, seeds, parts, batch_sizes, jit_compile, output, words)


def _precision() -> dict[str, str]:
    """The policy of Keras for the types of layers, if it is not the usual one."""
    policy = keras.config.dtype_policy().name
    return {} if policy == "float32" else {"dtype_policy": policy}


def summary_of(part: Part, task: Task) -> dict[str, Any]:
    """The size of a part, and how good it is to predict the same for all samples."""
    return {"samples": len(part[1]), **task.summary(lambda: pieces(part))}


def _spent_on(task: Task, parts: Parts) -> dict[str, Any]:
    """What the budget has beside the usual: the loss and the weights."""
    if task.is_default:
        return {}
    weights = task.class_weight and dict(zip(task.names, task.class_weight, strict=True))
    return {
        "loss": type(task.loss).__name__,
        "class_weight": weights,
        "sample_weights": [name for name, part in parts.items() if len(part) > 2],
    }
