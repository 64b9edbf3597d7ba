"""Honest quality: test, then learn, beside baselines that see exactly the same stream.

::

    plan ──▶ examination ──▶ evaluator ──▶ report ──▶ views
    what is asked     what one model answers   all models     the figures    tables
    notes (what is odd about the data) · pictures (curves)
    stream_order (time) · metrics · protocols (what a model must offer)
    judging (ours and its rivals) · baselines: baseline, counts, neighbours, factors
    ranking, sparse_rows: what baselines are built from
"""

from stream_app.evaluation.evaluator import evaluate
from stream_app.evaluation.examination import Answers, run
from stream_app.evaluation.pictures import plot
from stream_app.evaluation.report import EvaluationReport, ModelQuality
from stream_app.evaluation.views import render

__all__ = ["Answers", "EvaluationReport", "ModelQuality", "evaluate", "plot", "render", "run"]
