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
    build: Callable[..., keras.Model], convs: Sequence[str], width: float
) -> Callable[[str], keras.Model]:
    """What `compare` takes, of `build(conv, width=width)` that makes a net of a kind in a width.

    The narrow net is the widest standard one that has no more MACs than the separable one.
    """
    narrow = _narrow(build, width) if NARROW in convs else width

    def net(conv: str) -> keras.Model:
        if conv == NARROW:
            return build("standard", width=narrow)
        return build(conv, width=width)

    return net


def _narrow(build: Callable[..., keras.Model], width: float) -> float:
    most = profile(build("separable", width=width)).macs
    low, high = 0.0, width
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if profile(build("standard", width=middle)).macs > most:
            high = middle
        else:
            low = middle
    return low or high  # no net is narrower than some width
