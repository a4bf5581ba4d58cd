"""Copies the state of layers."""

import tempfile
from typing import Any

import keras


def copy_state(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Copies weights and vocabularies, by what Keras saves and loads."""
    for one, other in zip(old._flatten_layers(), new._flatten_layers(), strict=True):
        store: dict[str, Any] = {}
        one.save_own_variables(store)
        # Copies: training on JAX gives back the memory of the old values, which none may share.
        arrays = {key: keras.ops.convert_to_numpy(value).copy() for key, value in store.items()}
        other.load_own_variables(arrays)
        if hasattr(one, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                one.save_assets(folder)
                other.load_assets(folder)
