"""Functions of labels and outputs as a loss and as a metric of Keras."""

from collections.abc import Callable
from typing import Any

import keras


class _OfFunction:
    """An object that is known by its function.

    Its configuration holds the function itself, so that it can be made again from it in this
    process even if the function is not registered.
    """

    def __init__(self, function: Callable[[Any, Any], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function = function

    def get_config(self) -> dict[str, Any]:
        return {"function": self.function}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        function = config["function"]
        is_read = isinstance(function, dict)
        return cls(keras.saving.deserialize_keras_object(function) if is_read else function)


@keras.saving.register_keras_serializable("sepconv_layers")
class FunctionLoss(_OfFunction, keras.losses.Loss):
    """The mean of a function of labels and outputs."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__(function, name=_name_of(function))

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.function(y_true, y_pred)


@keras.saving.register_keras_serializable("sepconv_layers")
class FunctionMetric(_OfFunction, keras.metrics.MeanMetricWrapper):
    """The mean of a function of labels and outputs over all samples."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__(function, fn=function, name=_name_of(function))


def _name_of(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__).strip("<>")
