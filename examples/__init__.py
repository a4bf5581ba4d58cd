"""Runnable examples, one folder per kind of data."""

import keras

# All examples use channels-last data, whatever the user's Keras configuration says.
keras.config.set_image_data_format("channels_last")
