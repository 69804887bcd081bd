"""Experiments that fit, choose and measure: they join methods, a backend and evaluation."""
