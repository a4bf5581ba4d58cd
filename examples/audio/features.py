"""The front end: waveforms to log-mel spectrograms, offline by librosa, in a model by Keras.

Both compute the same: frames of a waveform without padding, a periodic Hann window, the power of
the short-time Fourier transform, librosa's mel bands and the logarithm of their energies.
"""

import dataclasses
import functools
from typing import Any

import keras
import numpy as np

FLOOR = 1e-4  # energy that is added before the logarithm: below it is nothing but rounding
COEFFICIENTS = 10  # of the cosine transform, as in "Hello Edge"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a waveform becomes a spectrogram.

    Attributes:
        sample_rate: Samples per second.
        seconds: How long a clip is.
        frame_seconds: How long a frame is.
        hop_seconds: From the beginning of a frame to that of the next.
        bands: Number of mel bands.
    """

    sample_rate: int
    seconds: float = 1.0
    frame_seconds: float = 0.04
    hop_seconds: float = 0.02
    bands: int = 40

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
        """The weights from the power of each frequency to the energy of each band."""
        import librosa

        return librosa.filters.mel(
            sr=self.sample_rate, n_fft=self.fft, n_mels=self.bands, fmin=20, norm=None
        ).T


def log_mel(waveform: np.ndarray, settings: Settings) -> np.ndarray:
    """The spectrogram of one waveform by librosa, of shape `(frames, bands)`."""
    import librosa

    framed = librosa.util.frame(waveform, frame_length=settings.frame, hop_length=settings.hop)
    window = librosa.filters.get_window("hann", settings.frame)
    power = np.abs(np.fft.rfft(framed.T * window, settings.fft)) ** 2
    return np.log(power @ settings.mel + FLOOR).astype("float32")


def front_end(settings: Settings) -> keras.Model:
    """A model from waveforms `(batch, samples)` to spectrograms `(batch, frames, bands)`.

    It has no weights that train, and only layers of Keras: whoever loads it needs nothing else.
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
    # Power is that of both halves of the spectrum, whose ends occur once.
    halves = np.full((settings.fft // 2 + 1, 1), 0.5)
    halves[[0, -1]] = 1
    x = fixed_product(halves * settings.mel, "mel")(x)
    return keras.Model(waveforms, keras.ops.log(x + FLOOR), name="log_mel")


def fixed_product(matrix: np.ndarray, name: str) -> keras.layers.Layer:
    """A layer that multiplies the last axis with a matrix, which does not train."""
    layer = keras.layers.Dense(matrix.shape[1], use_bias=False, trainable=False, name=name)
    layer.build((None, matrix.shape[0]))
    layer.set_weights([matrix])
    return layer


def cosine_transform(bands: int) -> np.ndarray:
    """The orthonormal matrix from log-mel bands to MFCCs."""
    n, k = np.arange(bands)[:, None], np.arange(COEFFICIENTS)
    matrix = np.sqrt(2 / bands) * np.cos(np.pi * (n + 0.5) * k / bands)
    matrix[:, 0] /= np.sqrt(2)
    return matrix.astype("float32")


@keras.saving.register_keras_serializable("sepconv_examples")
class SpecAugment(keras.layers.Layer):
    """Hides a random stretch of time and a random range of bands, in training only.

    Park et al., "SpecAugment", 2019: https://arxiv.org/abs/1904.08779.
    """

    def __init__(
        self, time: float = 0.15, bands: float = 0.2, seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.time, self.bands, self.seed = time, bands, seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if not training:
            return inputs
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
        return {
            **super().get_config(), "time": self.time, "bands": self.bands, "seed": self.seed
        }  # fmt: skip


@keras.saving.register_keras_serializable("sepconv_examples")
class ShiftAndNoise(keras.layers.Layer):
    """Shifts a log-mel spectrogram in time, and adds noise of a random level, in training only.

    The power of noise in a band is drawn from an exponential distribution around its mean, which is
    that of the quietest tenth of the data: where no speech is.
    """

    def __init__(
        self, noise: Any, frames: int = 5, decades: float = 1.5, seed: int | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.noise = [float(level) for level in noise]
        self.frames, self.decades, self.seed = frames, decades, seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if not training:
            return inputs
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
            "seed": self.seed,
        }


def augmentation(spectrograms: np.ndarray) -> keras.layers.Layer:
    """Time shift, background noise and SpecAugment for spectrograms like these."""
    noise = np.quantile(spectrograms, 0.1, axis=(0, 1))
    return keras.Sequential([ShiftAndNoise(noise), SpecAugment()], name="augmentation")
