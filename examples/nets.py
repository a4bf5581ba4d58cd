"""Which nets the examples compare: twins, and a standard net that is as cheap as the other."""

from collections.abc import Callable, Sequence

import keras

from sepconv_layers import profile

TWINS = ("separable", "standard")
NARROW = "standard-narrow"
CHOICES = {
    "separable": ("separable",),
    "standard": ("standard",),
    "both": TWINS,
    "all": (*TWINS, NARROW),
}
HALVINGS = 12  # of the range in which the width of the narrow net is


def by_name(
    build: Callable[[str, float], keras.Model], convs: Sequence[str], width: float
) -> Callable[[str], keras.Model]:
    """What `compare` takes, of a function that makes a net of a kind in a width.

    The narrow net is the widest standard one that has no more MACs than the separable one.
    """
    narrow = _narrow(build, width) if NARROW in convs else width
    return lambda conv: build("standard", narrow) if conv == NARROW else build(conv, width)


def _narrow(build: Callable[[str, float], keras.Model], width: float) -> float:
    most = profile(build("separable", width)).macs
    low, high = 0.0, width
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if profile(build("standard", middle)).macs > most:
            high = middle
        else:
            low = middle
    return low or high  # no net is narrower than some width
