"""What all examples save at the end of a run: artefacts that run without this package."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sepconv_layers import Comparison, export

KINDS = ("hub", "litert", "int8", "onnx")
CHECKED, CALIBRATED = 64, 256  # samples


def add_export(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds which artefacts to write."""
    parser.add_argument(
        "--export",
        type=_kinds,
        default=_kinds(default),
        metavar="KIND,...",
        help=f"any of {', '.join(KINDS)}, or none; default: {default}",
    )


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(",")) if text != "none" else ()
    if not set(kinds) <= set(KINDS):
        raise argparse.ArgumentTypeError(f"must be of {','.join(KINDS)}, or none, received {text}")
    return kinds


def export_all(
    found: Comparison,
    kinds: Sequence[str],
    output: Path,
    dataset: Any,
    inputs: tuple[np.ndarray, np.ndarray],
    raw: np.ndarray | None = None,
    **preprocessing: Any,
) -> None:
    """Writes each net in each form, checks it, and puts its size and agreement into the record.

    Args:
        found: The comparison, whose record is written again.
        kinds: Which forms.
        output: The folder of the run.
        dataset: Has the names of the classes.
        inputs: What the nets take, of the training part and of the test part.
        raw: What the preprocessor takes, of the test part, if the hub form has one.
        **preprocessing: `preprocessor` and `input_signature` of `export.to_hub`.
    """
    train, test = inputs
    test = test[:CHECKED]
    for row in found.rows:
        model, stem = found.models[row.conv], str(output / row.conv)
        common = {"labels": dataset.classes, "sample": test}
        for kind in kinds:
            if kind == "hub":
                sample = test if raw is None else raw[:CHECKED]
                hub = {**common, **preprocessing, "sample": sample}
                artefact = export.to_hub(model, f"{stem}-hub", **hub)
            elif kind == "onnx":
                artefact = export.to_onnx(model, f"{stem}.onnx", **common)
            elif kind == "litert":
                artefact = export.to_litert(model, f"{stem}.tflite", **common)
            else:
                common["calibration"] = train[:CALIBRATED]
                artefact = export.to_litert(model, f"{stem}-int8.tflite", quantize="int8", **common)
            record = dataclasses.asdict(artefact)
            row.artefacts[kind] = {
                key: record[key] for key in ("bytes", "max_difference", "agreement", "latency_ms")
            }
            print(
                f"{artefact.path}: {artefact.bytes / 1e3:,.0f} kB, agrees in "
                f"{artefact.agreement:.1%} of {CHECKED} samples, {artefact.latency_ms:.2f} ms each"
            )
    found.save(output)
