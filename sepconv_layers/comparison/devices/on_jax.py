"""Training under a distribution of Keras on JAX, by one process or several."""

import atexit
import contextlib
import copy
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers.comparison.devices.one import Devices
from sepconv_layers.files import write
from sepconv_layers.sources import Batches


class MeshDevices(Devices):
    """The devices of a `keras.distribution.Distribution`, such as `DataParallel`.

    The program is the same for all devices and processes, and each holds its part of the batch, so
    losses, gradients and statistics are those of the whole batch. A last batch that the devices
    cannot divide is computed by each of them.

    Args:
        distribution: The distribution.
    """

    def __init__(self, distribution: Any) -> None:
        import jax

        self.by_batch = copy.copy(distribution)
        self.by_batch.auto_shard_dataset = False  # this process reads its part alone
        self.on_each = copy.copy(self.by_batch)
        self.on_each.get_data_layout = self._layout_of_copies
        self.shares = distribution.num_model_replicas
        self.count = distribution.device_mesh.devices.size
        self.processes = jax.process_count()
        self.is_first = jax.process_index() == 0

    def check(self, batch_size: int, samples: Sequence[int]) -> None:
        if batch_size % self.shares:
            raise ValueError(
                f"`batch_size` counts the samples of all devices together, and must be a multiple "
                f"of the {self.shares} parts that a batch is divided into. Received: batch_size="
                f"{batch_size}."
            )

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        before = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(before)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        with self.by_batch.scope(), self._all_alive():
            yield

    def fit(
        self,
        trainer: Any,
        train: Batches,
        val: Batches,
        verbose: int,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> dict[str, float]:
        whole, rest = self._divided(train)
        trainer.reset_metrics()
        logs: dict[str, float] = {}
        if len(whole):
            fitted = trainer.fit(whole, shuffle=False, verbose=verbose, callbacks=list(callbacks))
            logs = {name: values[0] for name, values in fitted.history.items()}
        if len(rest):
            with self.on_each.scope(), trainer.keeping_metrics():
                logs = trainer.train_on_batch(*rest[0], return_dict=True)
        around = keras.callbacks.CallbackList(list(callbacks), model=trainer)
        around.on_test_begin()
        found = self.evaluate(trainer, val)
        around.on_test_end()
        return logs | {f"val_{name}": value for name, value in found.items()}

    def evaluate(self, trainer: Any, batches: Batches) -> dict[str, float]:
        whole, rest = self._divided(batches)
        trainer.reset_metrics()
        logs: dict[str, float] = {}
        if len(whole):
            logs = trainer.evaluate(whole, verbose=0, return_dict=True)
        if len(rest):
            with self.on_each.scope(), trainer.keeping_metrics():
                logs = trainer.test_on_batch(*rest[0], return_dict=True)
        return logs

    def share(self, *paths: Path) -> None:
        for path in paths if self.processes > 1 else ():
            content = path.read_bytes() if self.is_first and path.is_file() else b""
            size = int(self._of_first(np.array(len(content))))
            if size:
                held = np.frombuffer(content, "uint8") if self.is_first else np.zeros(size, "uint8")
                received = self._of_first(held)
                if not self.is_first:
                    write(path, received.tofile)

    def _divided(self, batches: Batches) -> tuple[Batches, Batches]:
        """The samples of this process in all batches that can be divided, and the rest."""
        order = batches.indices
        width = min(batches.batch_size, len(order))
        whole = len(order) // width * width if width % self.shares == 0 else 0
        mine = self._rows(width) if whole else np.arange(0)
        ours = order[:whole].reshape(-1, width)[:, mine].ravel()
        return batches.of(ours, max(1, len(mine))), batches.of(order[whole:], width)

    def _rows(self, size: int) -> np.ndarray:
        """Which samples of a batch are on devices of this process."""
        layout = self.by_batch.get_data_layout((size,)).backend_layout
        parts = layout.addressable_devices_indices_map((size,)).values()
        rows = [np.arange(size)[part] for part in parts]
        return np.unique(np.concatenate(rows))

    def _layout_of_copies(self, shape: Sequence[int]) -> Any:
        axes = [None] * len(shape)
        return keras.distribution.TensorLayout(axes, self.by_batch.device_mesh)

    def _of_first(self, array: np.ndarray) -> np.ndarray:
        """An array of the first process, in all of them."""
        from jax.experimental import multihost_utils

        with self._all_alive():
            return np.asarray(multihost_utils.broadcast_one_to_all(array))

    @contextlib.contextmanager
    def _all_alive(self) -> Iterator[None]:
        """Says so if another process is lost."""
        import jax

        try:
            yield
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            is_lost = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)
            if self.processes == 1 or not is_lost:
                raise
            # JAX would wait for the lost process when this one ends.
            atexit.register(_exit_at_once)
            raise ConnectionError(
                f"This process cannot compute with the other {self.processes - 1} any more, most "
                "likely because one has ended. All complete epochs are kept: start the same "
                f"command in all processes to go on. {str(error).partition(chr(10))[0]}"
            ) from error


def _exit_at_once() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
