"""What users bring to a training: an optimizer, callbacks, and weights to start from."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras

from sepconv_layers.files import regular

Optimizer = Callable[..., keras.optimizers.Optimizer]
Callbacks = Callable[[str, int], Sequence[keras.callbacks.Callback]]
NAME = re.compile(r'"name": "[^"]*"')
WEIGHTS_FILES = (".keras", ".weights.h5")


@dataclasses.dataclass(frozen=True)
class Own:
    """Arguments of `compare` that stand in for parts of its recipe; by default, none do.

    Attributes:
        optimizer: Returns a new optimizer.
        callbacks: Returns new callbacks for the name of a net and a seed.
        initial_weights: Name of a net to a file.
        seed: The first seed, whose callbacks stand for those of all.
    """

    optimizer: Optimizer | None = None
    callbacks: Callbacks | None = None
    initial_weights: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    seed: int = 0

    def check_nets(self, convs: Sequence[str]) -> None:
        """Checks that callbacks and weights are those of these nets."""
        unknown = sorted(set(self.initial_weights) - set(convs))
        if unknown:
            raise ValueError(
                f"`initial_weights` must have names of nets: {', '.join(convs)}. Received: "
                f"{', '.join(unknown)}."
            )
        for conv in convs if self.callbacks is not None else ():
            made = _called("callbacks", partial(self.new_callbacks, conv, self.seed))
            if not all(isinstance(each, keras.callbacks.Callback) for each in made):
                raise _bad("callbacks", f"a function that returned {made!r}")

    def key(self, conv: str) -> str:
        """What the result of a net depends on, to be hashed; nothing by default."""
        found: dict[str, Any] = {}
        if self.optimizer is not None:
            found["optimizer"] = keras.saving.serialize_keras_object(
                self.new_optimizer(learning_rate=1.0, weight_decay=0.0)
            )
        if self.callbacks is not None:
            found["callbacks"] = [_settings(each) for each in self.new_callbacks(conv, self.seed)]
        if conv in self.initial_weights:
            content = self.initial_weights[conv].read_bytes()
            found["weights"] = hashlib.sha256(content).hexdigest()
        # Keras numbers names in each process.
        return NAME.sub("", json.dumps(found, sort_keys=True, default=repr)) if found else ""

    def record(self, conv: str) -> dict[str, Any]:
        """The fields of a record; none by default. The callbacks are those of a net."""
        found: dict[str, Any] = {}
        if self.optimizer is not None:
            optimizer = self.new_optimizer(learning_rate=1.0, weight_decay=0.0)
            found["optimizer"] = type(optimizer).__name__
        if self.callbacks is not None:
            made = self.new_callbacks(conv, self.seed)
            found["callbacks"] = [type(each).__name__ for each in made]
        if self.initial_weights:
            found["initial_weights"] = {
                conv: path.name for conv, path in self.initial_weights.items()
            }
        return found

    def new_optimizer(self, **arguments: Any) -> keras.optimizers.Optimizer:
        """A new optimizer with these arguments."""
        return (self.optimizer or keras.optimizers.AdamW)(**arguments)

    def new_callbacks(self, conv: str, seed: int) -> list[keras.callbacks.Callback]:
        """New callbacks for a training."""
        return [] if self.callbacks is None else list(self.callbacks(conv, seed))

    def start(self, model: keras.Model, conv: str) -> None:
        """Gives a model the weights to start from, if there are any for it.

        Raises:
            ValueError: If they are not those of such a model.
        """
        path = self.initial_weights.get(conv)
        if path is None:
            return
        try:
            if path.suffix == ".keras":
                model.set_weights(keras.models.load_model(path).get_weights())
            else:
                model.load_weights(path)
        except Exception as error:  # any type: files can hold anything
            raise ValueError(
                f"`initial_weights` must name a file with the weights of the {conv} net. Received: "
                f"{path}, which cannot be used: {error}"
            ) from error


class Batchwise(keras.callbacks.Callback):
    """Passes on what callbacks want to know of batches: epochs and trainings are told apart.

    Args:
        callbacks: The callbacks, of which each epoch of `compare` is only a part of the training.
    """

    def __init__(self, callbacks: keras.callbacks.CallbackList) -> None:
        super().__init__()
        for name in ("train_batch", "test", "test_batch"):
            for end in ("begin", "end"):
                setattr(self, f"on_{name}_{end}", getattr(callbacks, f"on_{name}_{end}"))


def check_own(optimizer: Any, callbacks: Any, initial_weights: Any, seed: int) -> Own:
    """Returns the arguments of these names. What depends on the nets is not checked yet."""
    own = Own(optimizer, callbacks, _check_weights(initial_weights), seed)
    if optimizer is not None:
        made = _called("optimizer", lambda: own.new_optimizer(learning_rate=0.1, weight_decay=0.1))
        if not isinstance(made, keras.optimizers.Optimizer) or made is own.new_optimizer(
            learning_rate=0.1, weight_decay=0.1
        ):
            raise _bad("optimizer", f"a function that returned {made!r}")
    if callbacks is not None and not callable(callbacks):
        raise _bad("callbacks", repr(callbacks))
    return own


EXPECTED = {
    "optimizer": (
        "a class of `keras.optimizers`, or a function that takes `learning_rate` and "
        "`weight_decay`, and with `ema_momentum` also `use_ema` and `ema_momentum`, and returns a "
        "new optimizer"
    ),
    "callbacks": "a function that takes the name of a net and a seed, and returns new callbacks",
}


def _called(name: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # any type: users can raise anything
        raise _bad(name, f"one that fails: {error}") from error


def _bad(name: str, received: str) -> ValueError:
    return ValueError(f"`{name}` must be {EXPECTED[name]}. Received: {received}.")


def _check_weights(initial_weights: Any) -> dict[str, Path]:
    if initial_weights is None:
        return {}
    try:
        paths = {str(conv): Path(os.fspath(path)) for conv, path in initial_weights.items()}
        for path in paths.values():
            regular(path)
        is_valid = all(path.name.endswith(WEIGHTS_FILES) for path in paths.values())
    except (AttributeError, TypeError, ValueError):
        is_valid = False
    if not is_valid:
        raise ValueError(
            "`initial_weights` must be a mapping of names of nets to existing files whose names "
            f"end in {' or '.join(WEIGHTS_FILES)}. Received: initial_weights={initial_weights!r}."
        )
    return paths


def _settings(callback: keras.callbacks.Callback) -> list[Any]:
    """The class and the numbers of a callback, and the metric that it watches."""
    known = {
        name: value
        for name, value in vars(callback).items()
        if isinstance(value, bool | int | float) or name == "monitor"
    }
    return [type(callback).__name__, known]
