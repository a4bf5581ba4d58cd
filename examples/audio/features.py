"""The front end, from waveforms to log-mel spectrograms: offline with librosa, or as a Keras model.

Both compute the same: frames of a waveform without padding, a periodic Hann window, the power of
the short-time Fourier transform, librosa's mel bands and the logarithm of their energies.
"""

import dataclasses
import functools

import keras
import numpy as np

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
