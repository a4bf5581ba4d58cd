"""Training on one device, and what training on several has beyond that."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from sepconv_layers.sources import Batches


class Devices:
    """The device that Keras chooses.

    Attributes:
        count: Number of devices. Each gets its share of a batch.
        processes: Number of processes that train together, each on some of the devices.
        is_first: Whether this process is the one that writes results.
    """

    count = 1
    processes = 1
    is_first = True

    def key(self) -> str:
        """What the results depend on, to be hashed; nothing on one device."""
        found = self.record()
        return repr(found) if found else ""

    def record(self) -> dict[str, int]:
        """The fields of a record; none on one device."""
        if (self.count, self.processes) == (1, 1):
            return {}
        return {"devices": self.count, "processes": self.processes}

    def check(self, batch_size: int, samples: Sequence[int]) -> None:
        """Checks that the devices can share all batches.

        Args:
            batch_size: Number of samples in a batch.
            samples: Number of samples of each part.
        """

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Within it, what is computed is computed by each process alone."""
        yield

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Within it, models are built and trained on all devices."""
        yield

    @contextlib.contextmanager
    def synchronized(self, model: keras.Model) -> Iterator[None]:
        """Within it, batches are normalized by the statistics of all devices together."""
        yield

    def weighed(self, loss: Any, y: Any) -> Any:
        """The loss of the samples of a device, with the gradient of its share of the batch."""
        return loss

    def fit(
        self,
        trainer: Any,
        train: Batches,
        val: Batches,
        verbose: int,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> dict[str, float]:
        """Trains for one epoch, validates, and returns the logs of both.

        Args:
            trainer: A `Trainer`, built within `together`.
            train: The batches to train on.
            val: The batches to validate on.
            verbose: As in `keras.Model.fit`.
            callbacks: As in `keras.Model.fit`.
        """
        fitted = trainer.fit(
            self.dataset(train),
            shuffle=False,
            steps_per_epoch=len(train),  # those of several devices do not say it
            validation_data=self.dataset(val),
            validation_steps=len(val),
            verbose=verbose,
            callbacks=list(callbacks),
        )
        return {name: values[0] for name, values in fitted.history.items()}

    def evaluate(self, trainer: Any, batches: Batches) -> dict[str, float]:
        """Returns the loss and the metrics on all batches."""
        steps = len(batches)
        return trainer.evaluate(self.dataset(batches), steps=steps, verbose=0, return_dict=True)

    def dataset(self, batches: Batches) -> Any:
        """The batches as the trainer takes them."""
        return batches.dataset()

    def share(self, *paths: Path) -> None:
        """Gives the files of the first process to the others, where they have the same path."""
