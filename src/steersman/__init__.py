"""Steersman: steer a language or vision-language model while it runs, without retraining it."""

__version__ = "0.1.0"
