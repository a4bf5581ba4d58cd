"""Log-mel features in integers, by the front end of TensorFlow Lite Micro.

The C library that microcontrollers run takes 16-bit PCM at 16 kHz. It computes 40 mel bands of a
frame of 30 ms, reduces stationary noise, controls the gain of each band (PCAN), and takes a
logarithm, all in integers. A net that is trained on these features gets the same numbers on the
device.
"""

import numpy as np

from examples.audio.features import Settings
from examples.sources import require

SAMPLE_RATE, FRAME_SECONDS, BANDS = 16_000, 0.03, 40
HOP = 160  # samples from one frame of the library to the next
EVERY = 2  # frame that is used, so that the hop is 20 ms, as that of the other features
FULL_SCALE = 2**15


def settings(seconds: float) -> Settings:
    """Returns the settings of these features."""
    return Settings(SAMPLE_RATE, seconds, FRAME_SECONDS, EVERY * HOP / SAMPLE_RATE, BANDS, "micro")


class MicroFrames:
    """Computes features of pieces of a waveform of any length.

    The noise and the gain are those of all that was heard before.
    """

    def __init__(self) -> None:
        self._front_end = require("pymicro_features", "listen").MicroFrontend()
        self._left = np.zeros(0, "int16")
        self._count = 0

    def __call__(self, piece: np.ndarray) -> np.ndarray:
        """Returns the features of the frames that end in this piece, `(frames, bands)`.

        Args:
            piece: Numbers from -1 to 1.
        """
        rounded = np.round(np.clip(piece * FULL_SCALE, -FULL_SCALE, FULL_SCALE - 1))
        pcm = np.concatenate([self._left, rounded.astype("int16")])
        whole = len(pcm) - len(pcm) % HOP
        self._left = pcm[whole:]
        found = []
        for start in range(0, whole, HOP):
            features = self._front_end.process_samples(pcm[start : start + HOP].tobytes()).features
            if features:  # none until the first frame is full
                found.append(features)
        first, self._count = -self._count % EVERY, self._count + len(found)
        return np.array(found, "float32").reshape(-1, BANDS)[first::EVERY]


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """Returns the features `(frames, bands)` of a waveform at 16 kHz."""
    return MicroFrames()(waveform)
