"""Reusable SavedModels as Keras 3 layers."""

import os
from pathlib import Path
from typing import Any

import keras

from sepconv_layers.export.artifact import SAVED_MODEL_FILE
from sepconv_layers.export.checks import require_tensorflow
from sepconv_layers.files import regular_below


@keras.saving.register_keras_serializable("sepconv_layers")
class HubLayer(keras.layers.TFSMLayer):
    """A reusable SavedModel, such as `to_hub` writes, as a layer of a Keras 3 model.

    `hub.KerasLayer` is for Keras 2 only, and `keras.layers.TFSMLayer` runs an inference signature
    even in training. This layer trains with the artifact's weights, dropout, batch statistics and
    regularization losses.

    Args:
        filepath: The folder of the SavedModel.
        trainable: Whether its weights are trainable, and training runs it in training mode.
        **kwargs: `name` and `dtype`, as for every Keras layer.

    Input shape:
        The input shape of the artifact.

    Output shape:
        The output shape of the artifact.

    Raises:
        ValueError: If the folder holds no reusable SavedModel, or the backend is not TensorFlow;
            also if a model with this layer is loaded with `safe_mode=True`, because the folder is
            not part of the model's file.

    Example:
        >>> import os, tempfile
        >>> from sepconv_layers import SeparableConvBlock1D, export
        >>> model = keras.Sequential([keras.Input((9, 4)), SeparableConvBlock1D(8)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = export.to_hub(model, os.path.join(folder, "net")).path
        ...     layer = export.HubLayer(path, trainable=True)
        >>> len(layer.trainable_variables) == len(model.trainable_variables)
        True
    """

    def __init__(self, filepath: str | os.PathLike, trainable: bool = False, **kwargs: Any) -> None:
        import tensorflow as tf

        require_tensorflow("export.HubLayer")
        filepath = os.fspath(filepath)
        if not tf.io.gfile.exists(os.path.join(filepath, SAVED_MODEL_FILE)):
            raise ValueError(
                "The `filepath` argument must be the folder of a SavedModel, with a "
                f"{SAVED_MODEL_FILE}. Received: filepath={filepath!r}."
            )
        try:
            regular_below(Path(filepath))  # opening a pipe may never end
            super().__init__(filepath, call_endpoint="__call__", trainable=trainable, **kwargs)
        except Exception as error:  # truncated files raise many types
            raise ValueError(
                "The `filepath` argument must be the folder of a reusable SavedModel, such as "
                f"`export.to_hub` writes. Received: filepath={filepath!r}, which cannot be loaded: "
                f"{error}"
            ) from error
        self.autocast = False  # the artifact's float dtype need not be the policy's

    def _add_existing_weight(self, weight: Any) -> None:
        # Optimizers name their variables after a weight, without the colon of TensorFlow's names.
        variable = keras.Variable(
            weight,
            trainable=weight.trainable,
            dtype=weight.dtype,
            name=weight.name.partition(":")[0].replace("/", "_"),
        )
        self._track_variable(variable)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        training = bool(training and self.trainable)
        if training:
            for loss in getattr(self._reloaded_obj, "regularization_losses", ()):
                self.add_loss(loss())
        inputs = _cast_floats(inputs, self._input_dtype())
        return _cast_floats(self._reloaded_obj(inputs, training=training), self.compute_dtype)

    def _input_dtype(self) -> str | None:
        """Returns the artifact's only float dtype, or `None` if it has none or several."""
        functions = getattr(self.call_endpoint_fn, "concrete_functions", ())
        specs = keras.tree.flatten([function.structured_input_signature for function in functions])
        dtypes = {spec.dtype.name for spec in specs if hasattr(spec, "dtype")}
        floats = set(filter(keras.backend.is_float_dtype, dtypes))
        return floats.pop() if len(floats) == 1 else None

    def get_config(self) -> dict:
        config = super().get_config()
        del config["call_endpoint"], config["call_training_endpoint"]
        return config


def _cast_floats(structure: Any, dtype: str | None) -> Any:
    """Casts the float tensors of a structure, unless `dtype` is `None`."""

    def cast(tensor: Any) -> Any:
        is_float = keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype))
        return keras.ops.cast(tensor, dtype) if is_float else tensor

    return structure if dtype is None else keras.tree.map_structure(cast, structure)
