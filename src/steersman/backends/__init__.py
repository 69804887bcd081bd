"""Engines that run policies. One artifact, the same answers."""
