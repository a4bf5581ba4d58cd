"""Measurements, one command each. They use the public API only."""
