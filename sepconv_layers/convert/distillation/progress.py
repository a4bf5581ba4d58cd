"""Keeps the best epoch of a distillation, and saves all that the next epoch depends on."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers import checkpoint
from sepconv_layers.convert.distillation.batches import Rows
from sepconv_layers.convert.distillation.losses import Distiller

FILE = "distillation.npz"
Logs = dict[str, float]


class Progress(keras.callbacks.Callback):
    """Follows a training: its history, the weights of its best epoch, and its saved state.

    Args:
        distiller: The compiled model.
        rows: The training data.
        averages: Whether the optimizer averages weights.
        settings: What the training depends on, as values that JSON can hold.
        folder: Where the state is saved after each epoch, or `None`.
    """

    def __init__(
        self,
        distiller: Distiller,
        rows: Any,
        averages: bool,
        settings: Mapping[str, Any],
        folder: str | os.PathLike | None,
    ) -> None:
        super().__init__()
        self.distiller, self.rows, self.settings = distiller, rows, dict(settings)
        self.averaging = keras.callbacks.SwapEMAWeights() if averages else None
        self.path = None if folder is None else Path(folder) / FILE
        self.start: Logs = {}
        self.history: list[Logs] = []
        self.best: list[np.ndarray] = []
        if self.path is not None:
            self._resume(self.path)

    @property
    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What `fit` needs: averaged weights take the place of the weights during validation."""
        return [*([self.averaging] if self.averaging else []), self]

    def begin(self, held_out: Any) -> None:
        """Evaluates the student as it starts, which counts like an epoch, unless it was before."""
        if held_out is None or self.history:
            return
        found = self.distiller.evaluate(held_out, verbose=0, return_dict=True)
        self.start = {f"val_{name}": float(value) for name, value in found.items()}
        self.best = checkpoint.values(self.distiller.student.weights)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Dropout of PyTorch and functions of the user draw from the global state, which is lost.
        checkpoint.set_seed((self.settings["seed"], epoch))
        if isinstance(self.rows, Rows):
            self.rows.shuffle(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        found = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(sum(found.values())):
            raise FloatingPointError(
                f"The loss in epoch {epoch + 1} is not finite: {found}. Lower `learning_rate` and "
                "check the data for values that are not finite."
            )
        if not self.best or _score(found) >= max(map(_score, [*self.history, self.start or found])):
            self.best = self._averaged_weights()
        self.history.append(found)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            state = checkpoint.values(self.distiller.state)
            record = {
                "settings": self.settings,
                "start": self.start,
                "history": self.history,
            }
            checkpoint.save(self.path, [*state, *self.best], record)

    def _averaged_weights(self) -> list[np.ndarray]:
        if self.averaging is None:
            return checkpoint.values(self.distiller.student.weights)
        self.averaging.on_test_begin()
        try:
            return checkpoint.values(self.distiller.student.weights)
        finally:
            self.averaging.on_test_end()

    def _resume(self, path: Path) -> None:
        if not os.path.lexists(path):
            return
        state, weights = self.distiller.state, self.distiller.student.weights
        try:
            record, arrays = checkpoint.read(path, [*state, *weights])
            settings, start, history = (record[name] for name in ("settings", "start", "history"))
            scores = [_score(epoch) for epoch in history]
            if not 0 < len(scores) <= self.settings["epochs"] or not np.isfinite(scores).all():
                raise ValueError("its history is not the history of a distillation")
        except Exception as error:  # any type: a damaged file can hold anything
            checkpoint.set_aside(path, error)
            return
        self._check(settings)
        checkpoint.assign(state, arrays[: len(state)])
        self.start, self.history, self.best = start, history, arrays[len(state) :]

    def _check(self, settings: Mapping[str, Any]) -> None:
        changed = [
            name
            for name in {**self.settings, **settings}
            if self.settings.get(name) != settings.get(name)
        ]
        ours, theirs = (
            {name: held.get(name) for name in changed} for held in (self.settings, settings)
        )
        if changed:
            raise ValueError(
                "The `folder` argument must be a folder without the state of another distillation. "
                f"Received: {str(self.path)!r}, which was made with {theirs}, not with {ours}. "
                "Give each distillation a folder of its own."
            )


def _score(logs: Logs) -> tuple[float, float]:
    """Ranks epochs: by agreement on held-out data, then by loss. Without such data, none is best.

    The last of equal epochs counts.
    """
    return logs.get("val_agreement", 0.0), -logs.get("val_loss", 0.0)
