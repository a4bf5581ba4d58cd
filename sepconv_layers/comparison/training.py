"""Training of one net with one seed, saved after each epoch so that it can resume."""

import dataclasses
import hashlib
import json
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers.checkpoint import set_aside, set_seed, values
from sepconv_layers.comparison import resume
from sepconv_layers.comparison.data import Epoch, Part, Parts
from sepconv_layers.comparison.devices import Devices
from sepconv_layers.comparison.own import Batchwise
from sepconv_layers.comparison.recipe import Trainer, Training
from sepconv_layers.comparison.task import LOSS, Task, words
from sepconv_layers.files import locked, remove_leftovers, write
from sepconv_layers.sources import Batches, take

CHECKED_SAMPLES = 256
RUNS = "runs"

# The name of a layer in the JSON of a model: in its configuration and in the history of tensors,
# but not the name of a dtype policy.
NAME = re.compile(r'((?<!DTypePolicy", "config": {)"name": |\[(?="[^"]*", \d+, \d+\]))"([^"]*)"')


def run(
    build: Callable[[str], keras.Model],
    conv: str,
    seed: int,
    parts: Parts,
    training: Training,
    folder: Path,
    jit_compile: bool | str,
    watch: Callable[[Sequence[dict[str, float]]], None] | None = None,
) -> tuple[dict[str, Any], float]:
    """Trains one net with one seed, or resumes that training.

    Another process that trains the same net in the same folder waits, and finds it trained.

    Args:
        build: Returns the net.
        conv: Its name.
        seed: The seed.
        parts: The data.
        training: The settings.
        folder: The folder of the runs of this net.
        jit_compile: As in `keras.Model.compile`.
        watch: Called before each epoch with the logs of all epochs so far. It may end the training
            with an exception.

    Returns:
        The result of the run, and the seconds that were spent on it before this call.
    """
    with locked(folder / f".seed-{seed}.lock", training.say_waiting):
        return _run(build, conv, seed, parts, training, folder, jit_compile, watch)


def _run(
    build: Callable[[str], keras.Model],
    conv: str,
    seed: int,
    parts: Parts,
    training: Training,
    folder: Path,
    jit_compile: bool | str,
    watch: Callable[[Sequence[dict[str, float]]], None] | None,
) -> tuple[dict[str, Any], float]:
    """`run`, in a folder that no other process uses."""
    result_path, state_path = (folder / f"seed-{seed}.{end}" for end in ("json", "state.npz"))
    saved, task, devices = model_path(folder, seed), training.task, training.devices
    devices.share(result_path, saved, state_path)
    result = resume.load_result(result_path, saved, task)
    if result is not None:
        state_path.unlink(missing_ok=True)  # left behind if the process was killed right before
        training.say(f"  trained before: {words(task.monitor)} {result[task.monitor]:.4f}")
        return result, result["seconds"]

    def new() -> Trainer:
        keras.utils.set_random_seed(seed)
        trainer = training.trainer(build(conv), parts["train"][0], jit_compile)
        training.own.start(trainer.model, conv)
        return trainer

    with devices.together():
        trainer = new()
        with devices.synchronized(trainer.model):
            history, best, earlier = _fit(trainer, conv, seed, parts, training, state_path, watch)
    if devices.processes > 1:  # the variables are those of all processes together
        trainer, training = new(), dataclasses.replace(training, devices=Devices())
    model = trainer.model
    model.set_weights(best)
    measured = _evaluate(trainer, parts["test"], training)
    if not math.isfinite(sum(measured.values())):
        raise FloatingPointError(
            f"The {conv} net with seed {seed} had a loss that is not finite on the test part. "
            "Check the inputs for values that are not finite."
        )
    write(saved, model.save)
    result = {
        **measured,
        "best": max(history, key=task.score),
        "seconds": sum(epoch["seconds"] for epoch in history),
        "artifact": _check_artifact(saved, model, parts["test"][0], task),
        "history": history,
    }
    if not task.is_default:
        result[resume.TALLY] = tally_of(model, parts["test"], task).tolist()
    resume.save_result(result_path, saved, result)
    state_path.unlink(missing_ok=True)  # another process may have removed it
    return result, earlier


def _fit(
    trainer: Trainer,
    conv: str,
    seed: int,
    parts: Parts,
    training: Training,
    state_path: Path,
    watch: Callable[[Sequence[dict[str, float]]], None] | None,
) -> tuple[list[dict[str, float]], list[np.ndarray], float]:
    """Trains for the epochs that are left, and saves the state after each.

    Returns:
        The history, the weights of the best epoch, and the seconds spent before this call.
    """
    model, task = trainer.model, training.task
    # The first use builds parts that draw random numbers. They must not be those of an epoch.
    _evaluate(trainer, take(parts["val"], slice(training.batch_size)), training)
    history, best = resume.load_state(
        state_path, trainer.state, model.weights, training.epochs, task
    )
    earlier = sum(epoch["seconds"] for epoch in history)
    callbacks = keras.callbacks.CallbackList(
        training.own.new_callbacks(conv, seed), model=trainer, epochs=training.epochs
    )
    callbacks.on_train_begin()
    trainer.stop_training = False
    for epoch, logs in enumerate(history):  # which they saw before an interruption
        callbacks.on_epoch_begin(epoch)
        callbacks.on_epoch_end(epoch, logs)
    for epoch in range(len(history), training.epochs):
        if trainer.stop_training:
            break
        callbacks.on_epoch_begin(epoch)
        if watch is not None:
            watch(history)
        # Each epoch sets its own seed and order, so it is the same after an interruption.
        set_seed((seed, epoch))
        order = np.random.default_rng((seed, epoch)).permutation(len(parts["train"][1]))
        logs = _train_epoch(trainer, parts, order, training, f"epoch {epoch + 1}", callbacks)
        if not math.isfinite(logs["loss"] + logs["val_loss"]):
            raise FloatingPointError(
                f"The {conv} net with seed {seed} had a training loss of {logs['loss']} and a "
                f"validation loss of {logs['val_loss']} in epoch {epoch + 1}. Lower "
                f"`learning_rate` (now {training.learning_rate}) and check the inputs for "
                "values that are not finite."
            )
        if not history or task.score(logs) > max(map(task.score, history)):
            with trainer.averaged():
                best = values(model.weights)
        history.append(logs)
        resume.save_state(state_path, trainer.state, history, best)
        trainer.stop_training = False
        callbacks.on_epoch_end(epoch, logs)
    callbacks.on_train_end()
    return history, best, earlier


def model_path(folder: Path, seed: int) -> Path:
    """Where the model of a run is saved."""
    return folder / f"seed-{seed}.keras"


def runs_folder(
    directory: Path, conv: str, model: keras.Model, training: Training, digest: str
) -> Path:
    """The folder of all runs that differ only in the seed."""
    folder = directory / RUNS / f"{conv}-{key_of(conv, model, training, digest)}"
    if not folder.exists() and list(folder.parent.glob(f"{conv}-{'?' * 12}")):
        training.say(
            f"Earlier runs of the {conv} net had a different net, data or settings. They are kept, "
            "and training starts from the beginning."
        )
    if not folder.is_dir():
        set_aside(folder, "it is not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)  # of an interrupted run
    return folder


def key_of(conv: str, model: keras.Model, training: Training, digest: str) -> str:
    """A short hash of all that a run depends on, except the seed."""
    settings = dataclasses.replace(training, augmentation=None, mixing=None, progress=True)
    net, *layers_at_random = (
        json.dumps(keras.saving.serialize_keras_object(layer))
        for layer in (model, training.augmentation, training.mixing)
    )
    changes = re.sub(r'"seed": (null|\d+)', "", "".join(layers_at_random))  # the run sets the seed
    # Keras numbers names in each process, so only which of them are equal matters.
    names: dict[str, int] = {}
    layers = NAME.sub(
        lambda match: f"{match[1]}{names.setdefault(match[2], len(names))}", net + changes
    )
    weights = [tuple(weight.shape) for weight in model.weights]  # a class may lack a config
    key = repr((settings, layers, weights, digest, keras.backend.backend()))
    key += training.devices.key() + training.own.key(conv)
    if not training.task.is_default:  # which is as old as the other settings
        key += json.dumps(training.task.config(), sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest()[:12]


def outputs_of(model: keras.Model, x: Any) -> np.ndarray:
    """Outputs of a model for one batch, as NumPy floats."""
    return keras.ops.convert_to_numpy(model(x, training=False)).astype("float64")


def decisions_of(model: keras.Model, x: Any, task: Task, batch_size: int = 256) -> np.ndarray:
    """What a model decides for each sample, such as the class with the largest logit."""
    if not task.shape:
        outputs = model.predict(Batches((x,), batch_size).dataset(), verbose=0)
        return task.decisions(np.asarray(outputs))
    batches = Batches((x,), batch_size)  # whose outputs may not fit into memory together
    decided = (task.decisions(outputs_of(model, batches[i][0])) for i in range(len(batches)))
    return np.concatenate(list(decided))


def tally_of(model: keras.Model, part: Part, task: Task, batch_size: int = 256) -> np.ndarray:
    """What the figures of each class follow from, such as the confusion matrix."""
    total = np.zeros(())
    for start in range(0, len(part[1]), batch_size):
        x, labels, *weights = take(part, slice(start, start + batch_size))
        weight = task.weights(weights[0] if weights else np.ones(len(labels)))
        total = total + task.tally(labels, outputs_of(model, x), weight.ravel())
    return np.round(total, 6)


def _train_epoch(
    trainer: Trainer,
    parts: Parts,
    order: np.ndarray,
    training: Training,
    name: str,
    callbacks: keras.callbacks.CallbackList,
) -> dict[str, float]:
    task, is_terminal = training.task, sys.stdout.isatty()
    if is_terminal:
        training.say(f"  {name} of {training.epochs}")
    started = time.perf_counter()
    found = training.devices.fit(
        trainer,
        Epoch(parts["train"], training, order, trainer.inputs_for),
        Epoch(parts["val"], training),
        verbose=int(is_terminal and training.progress),
        callbacks=[*trainer.averaging(), Batchwise(callbacks)],
    )
    logs = {key: round(float(value), 6) for key, value in found.items()}
    logs["seconds"] = round(time.perf_counter() - started, 3)
    if not is_terminal:
        training.say(
            f"  {name} of {training.epochs}: loss {logs['loss']:.4f}, validation "
            f"{words(task.monitor)} {logs[f'val_{task.monitor}']:.4f}, {logs['seconds']:.1f} s"
        )
    return logs


def _evaluate(trainer: Trainer, part: Part, training: Training) -> dict[str, float]:
    """The metrics, the monitored one first, or NaN if the loss is not finite."""
    logs = training.devices.evaluate(trainer, Epoch(part, training))
    is_finite = math.isfinite(logs[LOSS])
    names = training.task.measured
    return {name: round(float(logs[name]), 6) if is_finite else math.nan for name in names}


def _check_artifact(path: Path, model: keras.Model, x: Any, task: Task) -> dict[str, Any]:
    """Loads a saved model and compares its outputs with the original."""
    x = take(x, slice(CHECKED_SAMPLES))
    expected, loaded = outputs_of(model, x), outputs_of(keras.models.load_model(path), x)
    return {
        "bytes": path.stat().st_size,
        "max_difference": float(np.abs(expected - loaded).max()),
        **task.agreement(expected, loaded),
    }
