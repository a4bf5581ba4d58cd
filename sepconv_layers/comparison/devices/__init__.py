"""Where nets are trained: on one device, on several, or by several processes."""

from sepconv_layers.comparison.devices.choice import devices_for
from sepconv_layers.comparison.devices.one import Devices

__all__ = ["Devices", "devices_for"]
