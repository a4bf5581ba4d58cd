"""The front end, from waveforms to log-mel spectrograms: offline with librosa, or as a Keras model.

Both compute the same: frames of a waveform without padding, a periodic Hann window, the power of
the short-time Fourier transform, librosa's mel bands and the logarithm of their energies.
"""

import dataclasses
import functools
from typing import Any

import keras
import numpy as np

from examples.augmentation import Augmentation

FLOOR = 1e-4  # energy added before the logarithm: anything below it is rounding error
COEFFICIENTS = 10  # MFCCs, as in "Hello Edge"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the front end.

    Attributes:
        sample_rate: Samples per second.
        seconds: Length of a clip.
        frame_seconds: Length of a frame.
        hop_seconds: Time between the starts of two frames.
        bands: Number of mel bands.
        front_end: "librosa", or "micro" for that of `micro_features`.
    """

    sample_rate: int
    seconds: float = 1.0
    frame_seconds: float = 0.04
    hop_seconds: float = 0.02
    bands: int = 40
    front_end: str = "librosa"

    @property
    def samples(self) -> int:
        return round(self.seconds * self.sample_rate)

    @property
    def frame(self) -> int:
        return round(self.frame_seconds * self.sample_rate)

    @property
    def hop(self) -> int:
        return round(self.hop_seconds * self.sample_rate)

    @property
    def fft(self) -> int:
        return 1 << (self.frame - 1).bit_length()

    @property
    def frames(self) -> int:
        return (self.samples - self.frame) // self.hop + 1

    @functools.cached_property
    def mel(self) -> np.ndarray:
        """The mel filter bank `(frequencies, bands)`."""
        import librosa

        return librosa.filters.mel(
            sr=self.sample_rate, n_fft=self.fft, n_mels=self.bands, fmin=20, norm=None
        ).T


def log_mel(waveform: np.ndarray, settings: Settings) -> np.ndarray:
    """Returns the spectrogram `(frames, bands)` of a waveform, with librosa."""
    import librosa

    framed = librosa.util.frame(waveform, frame_length=settings.frame, hop_length=settings.hop)
    window = librosa.filters.get_window("hann", settings.frame)
    power = np.abs(np.fft.rfft(framed.T * window, settings.fft)) ** 2
    return np.log(power @ settings.mel + FLOOR).astype("float32")


def front_end(settings: Settings) -> keras.Model:
    """Returns a model from waveforms `(batch, samples)` to spectrograms `(batch, frames, bands)`.

    It has no trainable weights, and only Keras layers, so that it loads without this package.
    """
    waveforms = keras.Input((settings.samples,), name="waveforms")
    x = keras.layers.Reshape((settings.samples, 1))(waveforms)
    x = keras.layers.STFTSpectrogram(
        mode="psd",
        frame_length=settings.frame,
        frame_step=settings.hop,
        fft_length=settings.fft,
        window="hann",
        periodic=True,
        scaling=None,
        trainable=False,
        name="power",
    )(x)
    # The layer counts both halves of the spectrum. The first and last frequency occur only once.
    halves = np.full((settings.fft // 2 + 1, 1), 0.5)
    halves[[0, -1]] = 1
    x = fixed_product(halves * settings.mel, "mel")(x)
    return keras.Model(waveforms, keras.ops.log(x + FLOOR), name="log_mel")


def fixed_product(matrix: np.ndarray, name: str) -> keras.layers.Layer:
    """Returns a layer that multiplies the last axis by a fixed matrix."""
    layer = keras.layers.Dense(matrix.shape[1], use_bias=False, trainable=False, name=name)
    layer.build((None, matrix.shape[0]))
    layer.set_weights([matrix])
    return layer


def cosine_transform(bands: int) -> np.ndarray:
    """Returns the orthonormal matrix from log-mel bands to MFCCs."""
    n, k = np.arange(bands)[:, None], np.arange(COEFFICIENTS)
    matrix = np.sqrt(2 / bands) * np.cos(np.pi * (n + 0.5) * k / bands)
    matrix[:, 0] /= np.sqrt(2)
    return matrix.astype("float32")


@keras.saving.register_keras_serializable("sepconv_examples")
class SpecAugment(Augmentation):
    """Replaces a random stretch of time and a random range of bands with the mean.

    Park et al., "SpecAugment", 2019: https://arxiv.org/abs/1904.08779.

    Args:
        time: The largest share of the frames.
        bands: The largest share of the bands.
        **kwargs: As for `Augmentation`.
    """

    def __init__(self, time: float = 0.15, bands: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.time, self.bands = time, bands

    def augment(self, inputs: Any) -> Any:
        mean = keras.ops.mean(inputs, axis=(1, 2), keepdims=True)
        for axis, share in ((1, self.time), (2, self.bands)):
            size = inputs.shape[axis]
            shape = (keras.ops.shape(inputs)[0], 1, 1)
            length = keras.random.uniform(shape, 0, share * size, seed=self.generator)
            start = keras.random.uniform(shape, 0, 1, seed=self.generator) * (size - length)
            at = keras.ops.arange(size, dtype="float32")
            at = keras.ops.reshape(at, (1, -1, 1) if axis == 1 else (1, 1, -1))
            hidden = keras.ops.logical_and(at >= start, at < start + length)
            inputs = keras.ops.where(hidden, mean, inputs)
        return inputs

    def get_config(self) -> dict:
        return {**super().get_config(), "time": self.time, "bands": self.bands}


@keras.saving.register_keras_serializable("sepconv_examples")
class ShiftAndNoise(Augmentation):
    """Shifts a log-mel spectrogram in time, and adds noise of a random level.

    The power of the noise in a band follows an exponential distribution, whose mean is the random
    level times the power of the background.

    Args:
        noise: The log-mel background: what is quieter than nine tenths of the data.
        frames: The largest shift.
        decades: The largest level, as a power of ten. The smallest is a tenth.
        **kwargs: As for `Augmentation`.
    """

    def __init__(self, noise: Any, frames: int = 5, decades: float = 1.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.noise = [float(level) for level in noise]
        self.frames, self.decades = frames, decades

    def augment(self, inputs: Any) -> Any:
        batch, frames, bands = keras.ops.shape(inputs)
        shift = keras.random.randint(
            (batch, 1), -self.frames, self.frames + 1, dtype="int32", seed=self.generator
        )
        index = keras.ops.clip(keras.ops.arange(frames, dtype="int32") + shift, 0, frames - 1)
        inputs = keras.ops.take_along_axis(inputs, keras.ops.expand_dims(index, -1), axis=1)
        level = keras.random.uniform((batch, 1, 1), -1, self.decades, seed=self.generator)
        uniform = keras.random.uniform((batch, frames, bands), 1e-6, 1, seed=self.generator)
        noise = keras.ops.convert_to_tensor(self.noise) + level * np.log(10)
        noise = noise + keras.ops.log(-keras.ops.log(uniform))
        return keras.ops.logaddexp(inputs, noise)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "noise": self.noise,
            "frames": self.frames,
            "decades": self.decades,
        }


def augmentation(spectrograms: np.ndarray) -> keras.layers.Layer:
    """Returns time shift, background noise and SpecAugment, fitted to spectrograms."""
    noise = np.quantile(spectrograms, 0.1, axis=(0, 1))
    return keras.Sequential([ShiftAndNoise(noise), SpecAugment()], name="augmentation")
