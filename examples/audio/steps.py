"""Causal nets as LiteRT files that run frame by frame, in floats and in integers."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from examples.artifacts import CALIBRATED
from examples.audio.data import Dataset
from examples.prediction import outputs_of
from sepconv_layers import Comparison, export, quantize, streaming

CLIPS = 1024  # that run in parallel
KINDS = {"litert": "streaming", "int8": "int8-streaming"}  # of `--export` → of the record


def step_of(model: keras.Model) -> streaming.Streaming:
    """Returns the step of a net, whose global pooling is over as many frames as a clip has."""
    chunk_size = streaming.to_streaming(model).stride
    return streaming.to_streaming(model, chunk_size, pool_window=model.input_shape[1])


def export_steps(found: Comparison, kinds: Sequence[str], dataset: Dataset, output: Path) -> None:
    """Writes each net as files that take the frames of one step and the states, and records them.

    Args:
        found: The comparison, whose rows are updated.
        kinds: The kinds of `--export`. Those without such a file are left out.
        dataset: The clips.
        output: The folder of the run.
    """
    (train, _), (x, y) = dataset.train, dataset.test
    for row in found.rows:
        for kind in (kind for kind in KINDS if kind in kinds):
            model, quantized = found.models[row.conv], None
            labels = outputs_of(model, x).argmax(-1)
            if kind == "int8":
                model, quantized = quantize.aware(model, calibration=train[:CALIBRATED]), "int8"
            step = step_of(model)
            path = output / f"{row.conv}-{KINDS[kind]}.tflite"
            artifact = export.to_litert(
                step.model, path, quantized, quantize_io=quantized is not None
            )
            run, starts = export.load(path), range(0, len(x), CLIPS)
            logits = [logits_in_steps(run, step, x[start : start + CLIPS]) for start in starts]
            words = np.concatenate(logits).argmax(-1)
            row.artifacts[KINDS[kind]] = {
                "bytes": artifact.bytes,
                "max_difference": artifact.max_difference,
                "agreement": float(np.mean(words == labels)),
                "latency_ms": artifact.latency_ms,
                "accuracy": float(np.mean(words == y)),
            }
            found.notes.append(
                f"Frame by frame, the {row.conv} net takes "
                f"{artifact.latency_ms / step.stride:.3f} ms for each hop of "
                f"{1e3 * dataset.settings.hop_seconds:.0f} ms, as a LiteRT file"
                f"{' in int8' if quantized else ''}."
            )


def logits_in_steps(
    run: export.LoadedArtifact, step: streaming.Streaming, spectrograms: np.ndarray
) -> np.ndarray:
    """Returns the logits after the last frame, for clips that run in parallel."""
    missing = -spectrograms.shape[1] % step.stride  # frames that affect no output
    frames = np.pad(spectrograms, ((0, 0), (0, missing), (0, 0)))
    chunk, *states = (tensor.name for tensor in step.model.inputs)
    (logits,) = set(run.outputs) - {f"new_{state}" for state in states}
    values = dict(zip(states, step.initial_states(len(frames)), strict=True))
    for part in np.split(frames, frames.shape[1] // step.stride, axis=1):
        outputs = dict(zip(run.outputs, run({chunk: part, **values}), strict=True))
        values = {state: outputs[f"new_{state}"] for state in states}
    return outputs[logits]
