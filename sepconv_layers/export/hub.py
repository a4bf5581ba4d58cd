"""Exports models to reusable SavedModels, the format of TensorFlow Hub."""

import functools
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras

from sepconv_layers.export.artifact import (
    LABELS_FILE,
    TOLERANCE,
    Artifact,
    Runner,
    compare_outputs,
    export_checked,
)
from sepconv_layers.export.checks import check_arguments
from sepconv_layers.export.graph import uses_half_precision
from sepconv_layers.export.inputs import Arrays, sample_for
from sepconv_layers.export.names import (
    NamedArrays,
    argument_names,
    default_names,
    input_names,
    keys_of,
    leaves,
    named_arrays,
    output_names,
    output_structure,
)
from sepconv_layers.export.runtimes import SIGNATURE, run_by_name, signature_parts
from sepconv_layers.graph_edit import input_structure

HALF_PRECISION_TOLERANCE = 0.05


def to_hub(
    model: keras.Model,
    path: str | os.PathLike,
    preprocessor: Callable[[Any], Any] | None = None,
    labels: Sequence[str] | None = None,
    sample: Any = None,
    input_signature: Any = None,
    tolerance: float | Literal["auto"] | None = "auto",
) -> Artifact:
    """Exports a model to a reusable SavedModel, for inference and for fine-tuning.

    Loading the folder needs TensorFlow but not this package:

    - `hub.load(path)(x)` and `hub.load(path)(x, training=True)`;
    - `hub.KerasLayer(path, trainable=True)` in a tf_keras model, `HubLayer` in a Keras 3 model;
    - `keras.layers.TFSMLayer(path, call_endpoint="serving_default")`;
    - TensorFlow Serving, with the signature `serving_default`, whose inputs and outputs have the
      names of the model's. With labels there is also `classify`, which returns for each sample the
      most likely `label`, all `labels`, and their `probabilities`.

    Args:
        model: The model. For the signature `classify` its only output must be logits.
        path: The folder to write. An older SavedModel there is replaced only if the new one passes
            the check, and other files in it stay. Any other folder raises an error.
        preprocessor: A function from raw inputs to the model's inputs: a Keras model, a
            `tf.Module`, or a function of TensorFlow operations. It becomes part of the artifact.
        labels: Names of the classes, in the order of the outputs. They become `assets/labels.txt`.
        sample: A batch of inputs (raw inputs, with a preprocessor) to run the artifact with. By
            default random numbers, which only a model without open sizes can take.
        input_signature: The `tf.TensorSpec` of the raw inputs, with an open batch size, or a list
            or dictionary of them. Required for a preprocessor that is not a Keras model.
        tolerance: Largest difference to allow between the model and the artifact, relative to the
            largest absolute output (or to 1, if that is less); `None` for any. By default 0.001, or
            0.05 for a model in half precision, which a graph rounds in other places.

    Returns:
        An `Artifact`.

    Raises:
        ValueError: If an argument is invalid, the backend is not TensorFlow, or the artifact
            differs by more than the tolerance. An older SavedModel at `path` then stays.

    Example:
        >>> import os, tempfile
        >>> from sepconv_layers import SeparableConvBlock1D, export
        >>> model = keras.Sequential([keras.Input((9, 4)), SeparableConvBlock1D(8)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     artifact = export.to_hub(model, os.path.join(folder, "net"))
        >>> artifact.max_difference < 1e-5
        True

    Reference:
        [Reusable SavedModels](https://www.tensorflow.org/hub/reusable_saved_models).
    """
    import tensorflow as tf

    names = check_arguments("export.to_hub", model, labels)
    served = _ServedModel(model, preprocessor, input_signature)
    arrays = served.sample(sample)
    default = HALF_PRECISION_TOLERANCE if uses_half_precision(model) else TOLERANCE
    allowed = default if tolerance == "auto" else tolerance

    def load(beside: Path) -> Runner:
        loaded = tf.saved_model.load(str(beside))
        by_call = functools.partial(served.run, loaded)
        by_signature = run_by_name(signature_parts(loaded), [spec.name for spec in served.specs])
        compare_outputs("hub", by_call(arrays), by_signature(arrays), allowed)
        return by_call

    return export_checked(
        "hub",
        path,
        functools.partial(served.run, served.call),
        arrays,
        lambda beside: served.save(beside, names),
        load,
        allowed,
    )


class _ServedModel:
    """A model behind its preprocessor, with the interface of its SavedModel.

    Attributes:
        model: The model.
        preprocessor: Its preprocessor, or `None`.
        signature: The `tf.TensorSpec` of the input, or a structure of them for several inputs.
        specs: The same as a list, with names.
    """

    def __init__(self, model: keras.Model, preprocessor: Any, input_signature: Any) -> None:
        self.model, self.preprocessor = model, preprocessor
        self.signature = _input_signature(model, preprocessor, input_signature)
        self.specs = _named_specs(self.signature)
        self._outputs, self._structure = output_names(model), output_structure(model)
        for end, structure in (("input", self.signature), ("output", self._structure)):
            _check_keys(end, structure)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if self.preprocessor is not None:
            inputs = self.preprocessor(inputs)
        return self.model(inputs, training=training)

    def sample(self, sample: Any) -> Arrays:
        """Returns the sample as a list, or random numbers where there is none."""
        takes = self.model if self.preprocessor is None else self.preprocessor
        if isinstance(takes, keras.Model):
            return sample_for(takes, sample)
        if sample is None:
            raise ValueError(
                "With a preprocessor that is not a Keras model, the `sample` argument must be a "
                "batch of raw inputs to run the artifact with. Received: sample=None."
            )
        return _raw_sample(self.signature, sample)

    def run(self, function: Callable[[Any], Any], arrays: Arrays) -> NamedArrays:
        """Calls a function that has the model's interface with arrays."""
        import tensorflow as tf

        inputs = self._packed(map(tf.convert_to_tensor, arrays))
        return named_arrays(self._outputs, self._structure, function(inputs))

    def save(self, path: Path, labels: Sequence[str]) -> None:
        """Writes the SavedModel."""
        import tensorflow as tf

        root = self._root()
        signatures = {SIGNATURE: self._serving_default(root)}
        with tempfile.TemporaryDirectory() as folder:
            if labels:
                file = Path(folder) / LABELS_FILE
                file.write_text("\n".join(labels) + "\n", "utf-8")
                root.labels = tf.saved_model.Asset(str(file))
                signatures["classify"] = self._classify(root, labels)
            # Otherwise a loaded artifact could not train through this package's own gradients.
            options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
            tf.saved_model.save(root, str(path), signatures, options)

    def _root(self) -> Any:
        """Returns the object with the interface of a reusable SavedModel."""
        import tensorflow as tf

        root = tf.__internal__.tracking.AutoTrackable()
        root.__call__ = tf.function(self.call)
        for training in (True, False):
            root.__call__.get_concrete_function(self.signature, training=training)
        parts = [self.model] if self.preprocessor is None else [self.model, self.preprocessor]
        weights = [weight for part in parts for weight in getattr(part, "variables", ())]
        root.variables = [_tensorflow_variable(weight) for weight in weights]
        trainable = self.model.trainable_variables
        root.trainable_variables = [_tensorflow_variable(weight) for weight in trainable]
        root.regularization_losses = [
            tf.function(functools.partial(weight.regularizer, weight), input_signature=[])
            for weight in trainable
            if weight.regularizer is not None
        ]
        if isinstance(self.preprocessor, tf.Module):
            root.preprocessor = self.preprocessor  # tracks its tables and assets
        root.tables = [
            found
            for part in parts
            if isinstance(part, keras.Layer)
            for found in tf.train.TrackableView(part).descendants()
            if isinstance(found, tf.saved_model.experimental.TrackableResource)
        ]
        return root

    def _serving_default(self, root: Any) -> Any:
        """Returns a function with named inputs and outputs."""
        import tensorflow as tf

        @tf.function(input_signature=self.specs)
        def serving_default(*inputs: Any) -> dict[str, Any]:
            outputs = leaves(self._structure, root.__call__(self._packed(inputs)))
            return dict(zip(self._outputs, outputs, strict=True))

        return serving_default

    def _classify(self, root: Any, names: Sequence[str]) -> Any:
        """Returns a function to labels and their probabilities."""
        import tensorflow as tf

        labels = tf.constant(list(names))

        @tf.function(input_signature=self.specs)
        def classify(*inputs: Any) -> dict[str, Any]:
            (logits,) = keras.tree.flatten(root.__call__(self._packed(inputs)))
            probabilities = tf.nn.softmax(tf.cast(logits, "float32"))
            return {
                "label": tf.gather(labels, tf.argmax(probabilities, -1)),
                "labels": tf.tile(labels[None], (tf.shape(logits)[0], 1)),
                "probabilities": probabilities,
            }

        return classify

    def _packed(self, tensors: Iterable[Any]) -> Any:
        """Returns tensors in the structure that the model takes."""
        return keras.tree.pack_sequence_as(self.signature, list(tensors))


def _tensorflow_variable(weight: Any) -> Any:
    return weight.value if isinstance(weight, keras.Variable) else weight


def _input_signature(model: keras.Model, preprocessor: Any, given: Any) -> Any:
    """Returns a `tf.TensorSpec`, or a structure of them for several inputs."""
    import tensorflow as tf

    if given is None:
        takes = model if preprocessor is None else preprocessor
        if not isinstance(takes, keras.Model):
            raise ValueError(
                "With a preprocessor that is not a Keras model, the `input_signature` argument "
                "must be the `tf.TensorSpec` of its inputs, such as "
                "tf.TensorSpec((None,), tf.string). Received: input_signature=None."
            )
        specs = [
            tf.TensorSpec(tensor.shape, tensor.dtype, name)
            for tensor, name in zip(takes.inputs, input_names(takes), strict=True)
        ]
        return keras.tree.pack_sequence_as(input_structure(takes), specs)
    specs = keras.tree.flatten(given)
    if not all(isinstance(spec, tf.TensorSpec) and spec.shape.rank for spec in specs):
        raise ValueError(
            "The `input_signature` argument must be a `tf.TensorSpec` with a batch axis, or a "
            f"list or dictionary of them. Received: input_signature={given!r}."
        )
    return given


def _check_keys(end: str, structure: Any) -> None:
    """Raises a `ValueError` for dictionaries that a SavedModel cannot hold."""

    def check(part: Any) -> None:
        if isinstance(part, Mapping) and not all(isinstance(key, str) for key in part):
            raise ValueError(
                f"The keys of the model's {end}s must be strings, because a SavedModel has no "
                f"others. Received: the keys {list(part)}. Build a model with string keys from the "
                "same tensors, with `keras.Model(inputs, outputs)`."
            )

    keras.tree.traverse(check, structure)


def _raw_sample(signature: Any, sample: Any) -> list[Any]:
    """Returns the part of a sample for each raw input, which may be a list of strings."""
    found: list[Any] = []
    try:
        keras.tree.map_structure_up_to(signature, found.append, sample)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "The `sample` argument must be a batch of raw inputs with the structure of the "
            f"`input_signature`, {signature!r}. Received: sample={type(sample).__name__}: {error}"
        ) from error
    return found


def _named_specs(signature: Any) -> list[Any]:
    """Returns the specs as a list, with names for the arguments of a signature."""
    import tensorflow as tf

    specs = keras.tree.flatten(signature)
    default = keys_of(signature) or default_names(len(specs))
    names = [spec.name or name for spec, name in zip(specs, default, strict=True)]
    return [
        tf.TensorSpec(spec.shape, spec.dtype, name)
        for spec, name in zip(specs, argument_names(names), strict=True)
    ]
