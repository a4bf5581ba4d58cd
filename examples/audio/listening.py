"""From samples to probabilities, as the samples come: frames of a spectrogram, and a net for them.

A causal net runs frame by frame, as the file of a step that `examples.audio.train --causal`
exports, in int8 or in floats. Any other net runs on the last clip's length, five times a second.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from examples.audio import features, micro_features
from examples.audio.predict import read_about
from examples.prediction import net_of_run, softmax
from examples.sources import existing, expect, reading
from sepconv_layers import export

STEP_SECONDS = 0.2  # between two runs of a net that takes whole clips
STREAMING = ("-int8-streaming.tflite", "-streaming.tflite")  # the first one that there is
ENDINGS = (*STREAMING, "-waveform.json", "-waveform.keras", ".keras")

# From a chunk of frames `(frames, bands)` to logits `(classes,)`.
Net = Callable[[np.ndarray], np.ndarray]


class Frames:
    """Computes the frames of a spectrogram from pieces of a waveform of any length.

    Args:
        settings: The settings of the front end.
    """

    def __init__(self, settings: features.Settings) -> None:
        self.settings = settings
        self._left = np.zeros(0, "float32")

    def __call__(self, piece: np.ndarray) -> np.ndarray:
        """Returns the frames that end in this piece, `(frames, bands)`."""
        frame, hop = self.settings.frame, self.settings.hop
        self._left = np.concatenate([self._left, piece])
        if len(self._left) < frame:
            return np.zeros((0, self.settings.bands), "float32")
        found = features.log_mel(self._left, self.settings)
        self._left = self._left[len(found) * hop :]
        return found


class Listener:
    """A trained net that listens: from pieces of a waveform to probabilities, step by step.

    Args:
        place: The folder of a run, a file of a streaming step, or a model of the run.

    Attributes:
        classes: The names of the classes.
        settings: The settings of the front end.
        scale: The divisor of floats in recordings.
        path: The file of the net.
        chunk: Frames of one step.
        first: The first step whose probabilities are those of a whole clip.
    """

    def __init__(self, place: Any) -> None:
        self.path = net_file(place)
        stem = self.path.name
        for ending in ENDINGS:
            stem = stem.removesuffix(ending)
        about = read_about(self.path.with_name(f"{stem}-waveform.json"))
        self.classes, self.scale = about["classes"], about["scale"]
        rate, samples = about["sample_rate"], about["samples"]
        self.settings = (
            micro_features.settings(samples / rate)
            if about["front_end"] == "micro"
            else features.Settings(rate, samples / rate)
        )
        if self.path.suffix == ".tflite":
            self._make, self.chunk = _streaming_net, _chunk_of(self.path)
        else:
            self._make = _clip_net
            path = self.path.with_name(f"{stem}.keras")
            self.path = existing(path, f"{self.path} needs the net beside it, {path.name}")
            self.chunk = max(1, round(STEP_SECONDS / self.settings.hop_seconds))
        self.first = -(-self.settings.frames // self.chunk) - 1
        self.restart()

    @property
    def step_seconds(self) -> float:
        """Seconds from one step to the next."""
        return self.chunk * self.settings.hop_seconds

    def restart(self) -> None:
        """Forgets what was heard."""
        is_micro = self.settings.front_end == "micro"
        self._frames = micro_features.MicroFrames() if is_micro else Frames(self.settings)
        self._net = self._make(self.path, self.settings)
        self._rest = np.zeros((0, self.settings.bands), "float32")
        self._step = 0

    def __call__(self, piece: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the number of each step that ends in this piece, and its probabilities.

        Steps in which less than a whole clip was heard are left out.
        """
        frames = np.concatenate([self._rest, self._frames(piece)])
        whole = len(frames) - len(frames) % self.chunk
        self._rest = frames[whole:]
        for start in range(0, whole, self.chunk):
            logits = self._net(frames[start : start + self.chunk])
            if self._step >= self.first:
                yield self._step, softmax(logits)
            self._step += 1


def net_file(place: Any) -> Path:
    """Returns the file of a net that can listen.

    Raises:
        ValueError: If there is none.
    """
    expected = "The model must be the folder of a run, or a file in it"
    path = existing(place, expected)
    if path.is_dir():
        found = [net for ending in STREAMING for net in sorted(path.glob(f"*{ending}"))]
        found.sort(key=lambda net: not net.name.startswith("separable"))
        return found[0] if found else net_of_run(path, "*-waveform.json")
    expect(path.name.endswith(ENDINGS), f"{expected}, {', '.join(ENDINGS)}", path.name)
    return path


def _chunk_of(path: Path) -> int:
    """Returns the number of frames that the file of a step takes."""
    with reading(path):
        inputs = {tensor.name: tensor.shape for tensor in export.load(path).inputs}
    expect("chunk" in inputs, f"{path} must be the file of a streaming step", list(inputs))
    return inputs["chunk"][1]


def _streaming_net(path: Path, settings: features.Settings) -> Net:
    file = export.load(path, threads=1)
    states = {
        tensor.name: np.zeros((1, *tensor.shape[1:]), tensor.dtype)
        for tensor in file.inputs
        if tensor.name != "chunk"
    }

    def run(frames: np.ndarray) -> np.ndarray:
        outputs = dict(zip(file.outputs, file({"chunk": frames[None], **states}), strict=True))
        states.update({name: outputs.pop(f"new_{name}") for name in states})
        (logits,) = outputs.values()
        return logits[0]

    return run


def _clip_net(path: Path, settings: features.Settings) -> Net:
    with reading(path):
        model = keras.saving.load_model(path)
    clip = np.zeros((settings.frames, settings.bands), "float32")

    def run(frames: np.ndarray) -> np.ndarray:
        nonlocal clip
        clip = np.concatenate([clip, frames])[-settings.frames :]
        return keras.ops.convert_to_numpy(model.predict_on_batch(clip[None]))[0]

    return run
