"""Measurements, one command each. They use only the public API."""
