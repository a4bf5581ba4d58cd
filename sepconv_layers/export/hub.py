"""Models as reusable SavedModels, the form of TensorFlow Hub, and a layer that takes them back."""

import functools
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras

from sepconv_layers.export.artifact import (
    Arrays,
    Artifact,
    Named,
    Runner,
    check_labels,
    check_model,
    compared,
    export_checked,
    require_tensorflow,
    sample_for,
)
from sepconv_layers.export.graph import is_half
from sepconv_layers.export.names import (
    argument_names,
    default_names,
    input_names,
    keys_of,
    leaves,
    named_arrays,
    output_names,
    output_structure,
)
from sepconv_layers.files import regular_below
from sepconv_layers.graph_edit import input_structure

LABELS = "labels.txt"
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.05


def to_hub(
    model: keras.Model,
    path: str | os.PathLike,
    preprocessor: Callable[[Any], Any] | None = None,
    labels: Sequence[str] | None = None,
    sample: Any = None,
    input_signature: Any = None,
    tolerance: float | Literal["auto"] | None = "auto",
) -> Artifact:
    """Writes a model as a reusable SavedModel, for inference and for fine-tuning.

    Whoever loads the folder needs TensorFlow, and this package not at all:

    - `hub.load(path)(x)` and `hub.load(path)(x, training=True)`;
    - `hub.KerasLayer(path, trainable=True)` in a model of tf_keras, `HubLayer` in one of Keras 3;
    - `keras.layers.TFSMLayer(path, call_endpoint="serving_default")`;
    - TensorFlow Serving, by the signature `serving_default`, whose inputs and outputs bear the
      names of the model's; with labels also by `classify`, which gives for each sample the `label`
      that is the likeliest one, all `labels`, and their `probabilities`.

    Args:
        model: The model. For the signature `classify` its only output must be logits.
        path: The folder to write. An older SavedModel there is replaced, once the new one is found
            to be good, and what else is in the folder stays; any other folder is left alone, with
            an error.
        preprocessor: What turns raw inputs into those of the model: a Keras model, a `tf.Module`,
            or a function of TensorFlow operations. It becomes part of the artifact.
        labels: Names of the classes, in the order of the outputs. They become `assets/labels.txt`.
        sample: A batch of inputs (raw ones, with a preprocessor) to try the artifact with; by
            default random numbers, which only a model without open sizes can take.
        input_signature: The `tf.TensorSpec` of the raw inputs, with an open batch, or a list or
            dictionary of them; needed for a preprocessor that is no Keras model.
        tolerance: Largest difference to allow between the model and the artifact, over the largest
            absolute output (or over 1, if that is less); `None` for any. By default 0.001, and 0.05
            for a model in half precision, which a graph rounds in other places.

    Returns:
        An `Artifact`.

    Raises:
        ValueError: If an argument is not of the kind described, the backend is not TensorFlow, or
            the artifact differs by more than the tolerance; what was at `path` is left there.

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

    require_tensorflow("export.to_hub")
    check_model(model)
    names = check_labels(labels, model)
    signature = _input_signature(model, preprocessor, input_signature)
    for argument, structure in (("input", signature), ("output", output_structure(model))):
        _check_keys(argument, structure)
    if preprocessor is None or isinstance(preprocessor, keras.Model):
        sample = sample_for(preprocessor or model, sample)
    elif sample is None:
        raise ValueError(
            "With a preprocessor that is no Keras model, the `sample` argument must be a batch of "
            "raw inputs to try the artifact with. Received: sample=None."
        )
    else:
        sample = _raw_sample(signature, sample)

    def whole(inputs: Any, training: bool = False) -> Any:
        return model(inputs if preprocessor is None else preprocessor(inputs), training=training)

    def write(beside: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            root = _root(whole, model, preprocessor, signature)
            signatures = {"serving_default": _serving(root, model, signature)}
            if names:
                file = Path(folder) / LABELS
                file.write_text("\n".join(names) + "\n", "utf-8")
                root.labels = tf.saved_model.Asset(str(file))
                signatures["classify"] = _classify(root, names, signature)
            # Without it, whoever loads the artifact cannot train through our own gradients.
            options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
            tf.saved_model.save(root, str(beside), signatures, options)

    outputs, structure = output_names(model), output_structure(model)
    allowed = (
        (HALF_TOLERANCE if is_half(model) else TOLERANCE) if tolerance == "auto" else tolerance
    )

    def run(call: Callable[[Any], Any], arrays: Arrays) -> Named:
        inputs = _packed(map(tf.convert_to_tensor, arrays), signature)
        return named_arrays(outputs, structure, call(inputs))

    def load(beside: Path) -> Runner:
        loaded = tf.saved_model.load(str(beside))
        tensors = zip((spec.name for spec in _named(signature)), sample, strict=True)
        inputs = {name: tf.convert_to_tensor(array) for name, array in tensors}
        served = loaded.signatures["serving_default"](**inputs)
        by_name = {name: keras.ops.convert_to_numpy(served[name]) for name in served}
        compared("hub", run(loaded, sample), by_name, allowed)
        return functools.partial(run, loaded)

    of_model = functools.partial(run, whole)
    return export_checked("hub", path, of_model, sample, write, load, allowed)


def _input_signature(model: keras.Model, preprocessor: Any, given: Any) -> Any:
    """One `tf.TensorSpec`, or a structure of them where there are several inputs."""
    import tensorflow as tf

    if given is None:
        takes = model if preprocessor is None else preprocessor
        if not isinstance(takes, keras.Model):
            raise ValueError(
                "With a preprocessor that is no Keras model, the `input_signature` argument must "
                "be the `tf.TensorSpec` of what it takes, such as tf.TensorSpec((None,), tf.string)"
                ". Received: input_signature=None."
            )
        specs = [
            tf.TensorSpec(tensor.shape, tensor.dtype, name)
            for tensor, name in zip(takes.inputs, input_names(takes), strict=True)
        ]
        return _packed(specs, input_structure(takes))
    specs = keras.tree.flatten(given)
    if not all(isinstance(spec, tf.TensorSpec) and spec.shape.rank for spec in specs):
        raise ValueError(
            "The `input_signature` argument must be a `tf.TensorSpec` with a batch, or a list or "
            f"dictionary of such. Received: input_signature={given!r}."
        )
    return given


def _check_keys(end: str, structure: Any) -> None:
    """Refuses dictionaries that a SavedModel cannot have."""

    def check(part: Any) -> None:
        if isinstance(part, Mapping) and not all(isinstance(key, str) for key in part):
            raise ValueError(
                f"The keys of the model's {end}s must be strings, or a SavedModel cannot have "
                f"them. Received: the keys {list(part)}. Make the model of tensors in a dictionary "
                "with strings for keys, by `keras.Model(inputs, outputs)`."
            )

    keras.tree.traverse(check, structure)


def _raw_sample(signature: Any, sample: Any) -> list[Any]:
    """What a sample has for each input of a preprocessor, which may be a list of strings."""
    found: list[Any] = []
    try:
        keras.tree.map_structure_up_to(signature, found.append, sample)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "The `sample` argument must be a batch of raw inputs in the structure of the "
            f"`input_signature`, {signature!r}. Received: sample={type(sample).__name__}: {error}"
        ) from error
    return found


def _root(whole: Callable[..., Any], model: keras.Model, preprocessor: Any, signature: Any) -> Any:
    """The object of the interface of a reusable SavedModel."""
    import tensorflow as tf

    root = tf.__internal__.tracking.AutoTrackable()
    root.__call__ = tf.function(whole)
    for training in (True, False):
        root.__call__.get_concrete_function(signature, training=training)
    parts = [model] if preprocessor is None else [model, preprocessor]
    weights = [weight for part in parts for weight in getattr(part, "variables", ())]
    root.variables = [_tensorflow_variable(weight) for weight in weights]
    trainable = model.trainable_variables
    root.trainable_variables = [_tensorflow_variable(weight) for weight in trainable]
    root.regularization_losses = [
        tf.function(functools.partial(weight.regularizer, weight), input_signature=[])
        for weight in trainable
        if weight.regularizer is not None
    ]
    if isinstance(preprocessor, tf.Module):
        root.preprocessor = preprocessor  # with its tables and assets
    root.tables = [
        found
        for part in parts
        if isinstance(part, keras.Layer)
        for found in tf.train.TrackableView(part).descendants()
        if isinstance(found, tf.saved_model.experimental.TrackableResource)
    ]
    return root


def _tensorflow_variable(weight: Any) -> Any:
    return weight.value if isinstance(weight, keras.Variable) else weight


def _serving(root: Any, model: keras.Model, signature: Any) -> Any:
    """A function with named inputs and outputs."""
    import tensorflow as tf

    names, structure = output_names(model), output_structure(model)

    @tf.function(input_signature=_named(signature))
    def serving_default(*inputs: Any) -> dict[str, Any]:
        outputs = leaves(structure, root.__call__(_packed(inputs, signature)))
        return dict(zip(names, outputs, strict=True))

    return serving_default


def _classify(root: Any, names: Sequence[str], signature: Any) -> Any:
    """A function to labels and their probabilities."""
    import tensorflow as tf

    labels = tf.constant(list(names))

    @tf.function(input_signature=_named(signature))
    def classify(*inputs: Any) -> dict[str, Any]:
        (logits,) = keras.tree.flatten(root.__call__(_packed(inputs, signature)))
        probabilities = tf.nn.softmax(tf.cast(logits, "float32"))
        return {
            "label": tf.gather(labels, tf.argmax(probabilities, -1)),
            "labels": tf.tile(labels[None], (tf.shape(logits)[0], 1)),
            "probabilities": probabilities,
        }

    return classify


def _named(signature: Any) -> list[Any]:
    """The specs as a list, each with a name, for the arguments of a signature."""
    import tensorflow as tf

    specs = keras.tree.flatten(signature)
    default = keys_of(signature) or default_names(len(specs))
    names = [spec.name or name for spec, name in zip(specs, default, strict=True)]
    return [
        tf.TensorSpec(spec.shape, spec.dtype, name)
        for spec, name in zip(specs, argument_names(names), strict=True)
    ]


def _packed(tensors: Iterable[Any], structure: Any) -> Any:
    """Tensors in the structure that `__call__` takes: a single one for a single one."""
    return keras.tree.pack_sequence_as(structure, list(tensors))


@keras.saving.register_keras_serializable("sepconv_layers")
class HubLayer(keras.layers.TFSMLayer):
    """What `to_hub` wrote, or another reusable SavedModel, as a layer of a Keras 3 model.

    `hub.KerasLayer` is for Keras 2 only, and `keras.layers.TFSMLayer` runs a signature of
    inference also in training. This layer trains with the weights, dropout and batch statistics of
    the artifact, and its regularization losses.

    Args:
        filepath: The folder.
        trainable: Whether training changes its weights, and runs it as in training.
        **kwargs: `name` and `dtype`, as for every Keras layer.

    Input shape:
        That of the artifact.

    Output shape:
        That of the artifact.

    Raises:
        ValueError: If there is no reusable SavedModel, or the backend is not TensorFlow; also where
            a model that holds this layer is loaded with `safe_mode=True`, as the folder is not
            part of its file.

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
        if not tf.io.gfile.exists(os.path.join(filepath, "saved_model.pb")):
            raise ValueError(
                "The `filepath` argument must be the folder of a SavedModel, with a saved_model.pb."
                f" Received: filepath={filepath!r}."
            )
        try:
            regular_below(Path(filepath))  # a pipe would never end
            super().__init__(filepath, call_endpoint="__call__", trainable=trainable, **kwargs)
        except Exception as error:  # of any kind: of what is truncated, each reader has its own
            raise ValueError(
                "The `filepath` argument must be the folder of a reusable SavedModel, such as "
                f"`export.to_hub` writes. Received: filepath={filepath!r}, which cannot be loaded: "
                f"{error}"
            ) from error
        self.autocast = False  # the artifact's floats are not those of the policy

    def _add_existing_weight(self, weight: Any) -> None:
        # Optimizers name their variables after a weight, and do not take its colon.
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
        inputs = _in_floats(inputs, self._input_floats())
        return _in_floats(self._reloaded_obj(inputs, training=training), self.compute_dtype)

    def _input_floats(self) -> str | None:
        """The only type of floats that the artifact takes, whatever the policy computes in."""
        functions = getattr(self.call_endpoint_fn, "concrete_functions", ())
        specs = keras.tree.flatten([function.structured_input_signature for function in functions])
        dtypes = {spec.dtype.name for spec in specs if hasattr(spec, "dtype")}
        floats = set(filter(keras.backend.is_float_dtype, dtypes))
        return floats.pop() if len(floats) == 1 else None

    def get_config(self) -> dict:
        config = super().get_config()
        del config["call_endpoint"], config["call_training_endpoint"]
        return config


def _in_floats(structure: Any, dtype: str | None) -> Any:
    """The tensors of a structure, those of floats in another type."""

    def cast(tensor: Any) -> Any:
        is_float = keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype))
        return keras.ops.cast(tensor, dtype) if is_float else tensor

    return structure if dtype is None else keras.tree.map_structure(cast, structure)
