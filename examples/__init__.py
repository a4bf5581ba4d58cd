"""Runnable examples, one folder per kind of data."""

import keras

# As the data of all of them are, whatever the user's own configuration says.
keras.config.set_image_data_format("channels_last")
