"""Augmentation of log-mel spectrograms: other speakers, rates, microphones, levels and noise."""

from typing import Any

import keras
import numpy as np

from examples.audio.features import FLOOR
from examples.audio.spectrograms import background_of
from examples.augmentation import Augmentation

COSINES = 3  # from slow to fast, that make up a random frequency response


@keras.saving.register_keras_serializable("sepconv_examples")
class Warp(Augmentation):
    """Stretches and shifts a spectrogram in time and in frequency, by linear interpolation.

    In time, this is another rate of speech and another moment. In frequency, it is another vocal
    tract. What lies beyond an edge repeats the edge.

    Args:
        rate: The largest logarithm of the factor on time.
        frames: The largest shift in time.
        tract: The largest logarithm of the factor on bands.
        bands: The largest shift in bands.
        **kwargs: As for `Augmentation`.

    Reference:
        [Ko et al., "Audio Augmentation for Speech Recognition", 2015](
        https://www.isca-archive.org/interspeech_2015/ko15_interspeech.html), for the rate;
        [Jaitly and Hinton, "Vocal Tract Length Perturbation (VTLP) improves speech recognition",
        2013](https://www.cs.toronto.edu/~hinton/absps/perturb.pdf).
    """

    def __init__(
        self,
        rate: float = 0.15,
        frames: float = 5.0,
        tract: float = 0.1,
        bands: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rate, self.frames = rate, frames
        self.tract, self.bands = tract, bands

    def augment(self, inputs: Any) -> Any:
        batch = keras.ops.shape(inputs)[0]
        over_time = self._interpolation(batch, inputs.shape[1], self.rate, self.frames)
        over_bands = self._interpolation(batch, inputs.shape[2], self.tract, self.bands)
        x = keras.ops.matmul(over_time, inputs)
        return keras.ops.matmul(x, keras.ops.swapaxes(over_bands, 1, 2))

    def _interpolation(self, batch: Any, size: int, stretch: float, shift: float) -> Any:
        """Random matrices `(batch, size, size)`, whose rows have the weights of two neighbors."""
        shape = (batch, 1, 1)
        factor = keras.ops.exp(keras.random.uniform(shape, -stretch, stretch, seed=self.generator))
        offset = keras.random.uniform(shape, -shift, shift, seed=self.generator)
        at = keras.ops.arange(size, dtype="float32")
        middle = (size - 1) / 2
        source = (keras.ops.reshape(at, (1, -1, 1)) - middle) * factor + middle + offset
        source = keras.ops.clip(source, 0, size - 1)
        return keras.ops.relu(1 - keras.ops.abs(source - keras.ops.reshape(at, (1, 1, -1))))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "rate": self.rate,
            "frames": self.frames,
            "tract": self.tract,
            "bands": self.bands,
        }


@keras.saving.register_keras_serializable("sepconv_examples")
class Equalize(Augmentation):
    """Changes the level, and each band by a random, smooth frequency response: a microphone.

    Args:
        level: The largest change of the level, as a natural logarithm of power.
        response: Standard deviation of each of the cosines over the bands that are added.
        **kwargs: As for `Augmentation`.
    """

    def __init__(self, level: float = 2.0, response: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.level, self.response = level, response

    def augment(self, inputs: Any) -> Any:
        batch, _, bands = keras.ops.shape(inputs)
        level = keras.random.uniform((batch, 1, 1), -self.level, self.level, seed=self.generator)
        scale = keras.random.normal((batch, COSINES), 0, self.response, seed=self.generator)
        number = np.arange(1, COSINES + 1)[:, None]
        cosines = np.cos(np.pi * number * (np.arange(bands) + 0.5) / bands).astype("float32")
        change = level + keras.ops.expand_dims(keras.ops.matmul(scale, cosines), 1)
        power = keras.ops.relu(keras.ops.exp(inputs) - FLOOR) * keras.ops.exp(change)
        return keras.ops.log(power + FLOOR)

    def get_config(self) -> dict:
        return {**super().get_config(), "level": self.level, "response": self.response}


@keras.saving.register_keras_serializable("sepconv_examples")
class Noise(Augmentation):
    """Adds noise of a random level.

    The power of the noise in a band follows an exponential distribution, whose mean is the random
    level times the power of the background.

    Args:
        background: The log-mel background: what is quieter than nine tenths of the data.
        decades: The largest level, as a power of ten. The smallest is a tenth.
        **kwargs: As for `Augmentation`.
    """

    def __init__(self, background: Any, decades: float = 1.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.background = [float(level) for level in background]
        self.decades = decades

    def augment(self, inputs: Any) -> Any:
        shape = keras.ops.shape(inputs)
        level = keras.random.uniform((shape[0], 1, 1), -1, self.decades, seed=self.generator)
        uniform = keras.random.uniform(shape, 1e-6, 1, seed=self.generator)
        noise = keras.ops.convert_to_tensor(self.background) + level * np.log(10)
        return keras.ops.logaddexp(inputs, noise + keras.ops.log(-keras.ops.log(uniform)))

    def get_config(self) -> dict:
        return {**super().get_config(), "background": self.background, "decades": self.decades}


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


def augmentation(spectrograms: np.ndarray, vary_speakers: bool = False) -> keras.layers.Layer:
    """Returns a time shift, background noise and SpecAugment, fitted to spectrograms.

    Args:
        spectrograms: Those of the training part.
        vary_speakers: Whether to also vary rate, vocal tract, level and microphone.
    """
    noise = Noise(background_of(spectrograms))
    if vary_speakers:
        layers = [Warp(), Equalize(), noise, SpecAugment()]
    else:
        layers = [Warp(rate=0, tract=0, bands=0), noise, SpecAugment()]
    return keras.Sequential(layers, name="augmentation")
