"""The report: one self-contained HTML page made of results and answers."""

from steersman.evals.report.page import render

__all__ = ["render"]
