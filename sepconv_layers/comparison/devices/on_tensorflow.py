"""Training under a strategy of TensorFlow with one process."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from sepconv_layers.comparison.devices.one import Devices
from sepconv_layers.sources import Batches


class StrategyDevices(Devices):
    """The replicas of a `tf.distribute.Strategy`, such as `MirroredStrategy`.

    Args:
        strategy: The strategy.
    """

    def __init__(self, strategy: Any) -> None:
        self.strategy = strategy
        self.count = strategy.num_replicas_in_sync

    def check(self, batch_size: int, samples: Sequence[int]) -> None:
        for count in samples:
            last = count % batch_size or batch_size
            if last < self.count:
                raise ValueError(
                    f"`batch_size` must leave at least one sample of each batch for each of the "
                    f"{self.count} devices. Received: batch_size={batch_size} and a part of "
                    f"{count} samples, whose last batch has {last}."
                )

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        with self.strategy.scope():
            yield

    @contextlib.contextmanager
    def synchronized(self, model: keras.Model) -> Iterator[None]:
        layers = [
            layer
            for layer in model._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized
        ]
        for layer in layers:
            layer.synchronized = True
        try:
            yield
        finally:
            for layer in layers:  # the model is saved as it was built
                layer.synchronized = False

    def weighed(self, loss: Any, y: Any) -> Any:
        import tensorflow as tf

        # Keras gives all replicas the same weight. The pieces of the last batch may differ.
        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return loss
        count = tf.cast(tf.shape(keras.tree.flatten(y)[0])[0], loss.dtype)
        share = self.count * count / replica.all_reduce(tf.distribute.ReduceOp.SUM, count)
        value = tf.stop_gradient(loss)
        return value + share * (loss - value)

    def dataset(self, batches: Batches) -> Any:
        # TensorFlow would divide a batch by the size of the largest, and leave replicas empty.
        pieces = batches.divided(self.count).dataset()
        return self.strategy.distribute_datasets_from_function(lambda _: pieces)
