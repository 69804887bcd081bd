"""Evaluation: suites judge answers, `run` asks a backend, `choose` picks, `report` shows.

Importing this package loads only the records; the rest is imported by its module's name:

    from steersman.evals.run import evaluate
    from steersman.evals.report import render
"""

from steersman.evals.records import AnswerRecord, Result, Results

__all__ = ["AnswerRecord", "Result", "Results"]
