"""Which devices nets are trained on."""

import os
import warnings
from typing import Any

import keras

from sepconv_layers.comparison.devices.one import Devices

AUTO = "auto"
EXPECTED = {
    "tensorflow": "a `tf.distribute.MirroredStrategy` or another strategy with one process",
    "jax": "a `keras.distribution.DataParallel` or another distribution of Keras",
    "torch": "None: with PyTorch, nets are trained on one device",
}


def devices_for(distribution: Any) -> Devices:
    """Returns the devices that an argument `distribution` stands for.

    Args:
        distribution: As in `compare`, or what this function has returned.

    Raises:
        ValueError: If the backend has no such distribution.
    """
    if isinstance(distribution, Devices):
        return distribution
    backend = keras.backend.backend()
    if backend == "torch":
        _refuse_processes_of_torch()
    around = _of_caller()
    if distribution is None:
        return Devices() if around is None else _wrapped(around)
    if around is not None and around is not distribution and distribution != AUTO:
        raise ValueError(
            "`distribution` must be the one that the call stands in, or be left out. Received: "
            f"distribution={distribution!r} within {around!r}."
        )
    if isinstance(distribution, str) and distribution == AUTO:
        if backend == "torch":
            _warn_of_idle_devices()
            return Devices()
        return _wrapped(around or _of_all_devices())
    if not _is_distribution(distribution):
        raise ValueError(
            f"`distribution` must be 'auto' for all devices, or with the {backend} backend "
            f"{EXPECTED[backend]}. Received: distribution={distribution!r}."
        )
    return _wrapped(distribution)


def _of_caller() -> Any:
    """The distribution or strategy that the user has made around the call."""
    if keras.backend.backend() == "jax":
        return keras.distribution.distribution()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
    return None


def _of_all_devices() -> Any:
    if keras.backend.backend() == "jax":
        return keras.distribution.DataParallel()
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _is_distribution(distribution: Any) -> bool:
    if keras.backend.backend() == "jax":
        kinds = keras.distribution.DataParallel | keras.distribution.ModelParallel
        return isinstance(distribution, kinds)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return isinstance(distribution, tf.distribute.Strategy)
    return False


def _wrapped(distribution: Any) -> Devices:
    if keras.backend.backend() == "jax":
        if distribution.device_mesh.devices.size == 1:
            return Devices()
        from sepconv_layers.comparison.devices.on_jax import MeshDevices

        return MeshDevices(distribution)
    import tensorflow as tf

    if isinstance(distribution, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            "`distribution` must be a strategy with one process: Keras 3 cannot train under "
            "`MultiWorkerMirroredStrategy`. For several processes use the JAX backend with "
            f"`keras.distribution.initialize`. Received: distribution={distribution!r}."
        )
    if distribution.num_replicas_in_sync == 1:
        return Devices()
    from sepconv_layers.comparison.devices.on_tensorflow import StrategyDevices

    return StrategyDevices(distribution)


def _warn_of_idle_devices() -> None:
    import torch

    if (count := torch.cuda.device_count()) > 1:
        warnings.warn(
            f"distribution='auto' trains on one of {count} GPUs: with the PyTorch backend, nets "
            "are trained on one device. Use the JAX or TensorFlow backend for all of them.",
            stacklevel=2,
        )


def _refuse_processes_of_torch() -> None:
    """Refuses `torchrun`: `fit` of Keras would train each process for itself."""
    import torch

    is_started = torch.distributed.is_available() and torch.distributed.is_initialized()
    processes = os.environ.get("WORLD_SIZE", "1") if "LOCAL_RANK" in os.environ else "1"
    if is_started or processes != "1":
        raise ValueError(
            "With the PyTorch backend, nets are trained on one device by one process: "
            "`fit` of Keras would train each process for itself. Start one process, or use the "
            "JAX backend with `distribution='auto'`, or the TensorFlow one for several GPUs of "
            "one machine."
        )
