"""Runnable examples, one folder per kind of data."""
