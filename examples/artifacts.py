"""Exports the nets of a run, in all examples, as artifacts that run without this package."""

import argparse
import dataclasses
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np

from examples.sources import Dataset
from sepconv_layers import Comparison, export

LITERT = ("ai_edge_litert",)
NEEDS = {
    "hub": (),
    "litert": LITERT,
    "int8": LITERT,
    "micro": (*LITERT, "tflite_micro"),
    "onnx": ("tf2onnx", "onnxruntime"),
}
KINDS = tuple(NEEDS)
CHECKED, CALIBRATED, BATCH = 64, 256, 256  # samples


def add_export(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds `--export`."""
    parser.add_argument(
        "--export",
        type=_kinds,
        default=_kinds(default) if keras.backend.backend() == "tensorflow" else (),
        metavar="KIND,...",
        help=f"any of {', '.join(KINDS)}, or none; default: {default}",
    )


def _kinds(text: str) -> tuple[str, ...]:
    """Returns the kinds, or refuses them now rather than after the training."""
    kinds = tuple(text.split(",")) if text != "none" else ()
    if not set(kinds) <= set(KINDS):
        raise argparse.ArgumentTypeError(f"must be of {','.join(KINDS)}, or none, received {text}")
    if kinds and keras.backend.backend() != "tensorflow":
        raise argparse.ArgumentTypeError("needs KERAS_BACKEND=tensorflow")
    absent = [(name, kind) for kind in kinds for name in NEEDS[kind] if not find_spec(name)]
    for name, kind in absent[:1]:
        extra = "micro" if kind == "micro" else "export"
        message = f"needs {name}: run `pip install 'sepconv-layers[{extra}]'`"
        raise argparse.ArgumentTypeError(message)
    return kinds


def export_all(
    found: Comparison,
    kinds: Sequence[str],
    output: Path,
    classes: Sequence[str],
    train: np.ndarray,
    test: tuple[np.ndarray, np.ndarray],
    raw: np.ndarray | None = None,
    **preprocessing: Any,
) -> None:
    """Exports each net as each kind of artifact, checks it, and adds it to the record.

    Args:
        found: The comparison, whose rows are updated. It is not saved again.
        kinds: The kinds of artifacts.
        output: The folder of the run.
        classes: The names of the classes.
        train: Training inputs. The first ones are for calibration.
        test: Test inputs and labels, for the accuracy of the files.
        raw: A batch of inputs of the preprocessor, if there is one.
        **preprocessing: `preprocessor` and `input_signature` of `export.to_hub`.
    """
    x, y = test
    for row in found.rows:
        model, stem = found.models[row.conv], output / row.conv
        common = {"model": model, "labels": classes, "sample": x[:CHECKED]}
        whole = {**common, **preprocessing, "sample": common["sample"] if raw is None else raw}
        calibrated = {**common, "calibration": train[:CALIBRATED]}
        int8 = {**calibrated, "quantize": "int8"}
        writers = {
            "hub": partial(export.to_hub, path=f"{stem}-hub", **whole),
            "litert": partial(export.to_litert, path=f"{stem}.tflite", **common),
            "int8": partial(export.to_litert, path=f"{stem}-int8.tflite", **int8),
            "micro": partial(export.to_micro, folder=f"{stem}-micro", **calibrated),
            "onnx": partial(export.to_onnx, path=f"{stem}.onnx", **common),
        }
        for kind in kinds:
            artifact = writers[kind]()
            record = dataclasses.asdict(artifact)
            left_out = ("path", "kind")
            record = {key: value for key, value in record.items() if key not in left_out}
            if kind != "hub":  # a hub model takes other inputs than the test part has
                file = artifact.path / "model.tflite" if kind == "micro" else artifact.path
                net, starts = export.load(file), range(0, len(x), BATCH)
                logits = np.concatenate([net(x[start : start + BATCH])[0] for start in starts])
                record["accuracy"] = float(np.mean(logits.argmax(-1) == y))
            row.artifacts[kind] = record
            print(
                f"{artifact.path}: {artifact.bytes / 1e3:,.0f} kB, {artifact.latency_ms:.2f} ms, "
                f"agrees in {artifact.agreement:.1%} of {len(common['sample'])} samples"
            )
            if isinstance(artifact, export.MicroArtifact):
                print(
                    f"    flash {artifact.flash_bytes / 1e3:,.1f} kB, arena "
                    f"{artifact.arena_bytes / 1024:,.1f} KiB"
                )


def export_arrays(found: Comparison, kinds: Sequence[str], output: Path, data: Dataset) -> None:
    """Exports nets that take the samples of a data set as they are, and saves the record again.

    The hub model takes them in their original type. The record notes how values were scaled.

    Args:
        found: The comparison.
        kinds: The kinds of artifacts.
        output: The folder of the run.
        data: The data set.
    """
    if data.scaling:
        found.notes.append(data.scaling)
    if not kinds:
        found.save(output)
        return
    samples = data.test[0][:CHECKED]
    name = next(iter(found.models.values())).input.name
    raw = keras.Input(samples.shape[1:], dtype=samples.dtype.name, name=name)
    cast = keras.Model(raw, keras.ops.cast(raw, "float32"))
    train = data.train[0]
    export_all(found, kinds, output, data.classes, train, data.test, raw=samples, preprocessor=cast)
    found.save(output)
