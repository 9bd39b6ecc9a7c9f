"""Analyses: one pure function per question, from a table of results to findings. No database, no plots, no search."""

import pandas as pd

from study.analysis.budget import budget
from study.analysis.compare import compare
from study.analysis.cost import cost
from study.analysis.finding import POOLED, Estimate, Finding
from study.analysis.peers import peers
from study.analysis.plan import Plan
from study.analysis.response import response
from study.analysis.sensitivity import sensitivity
from study.analysis.shared_value import shared_value
from study.analysis.sharpness import sharpness
from study.analysis.shift import shift
from study.analysis.stability import stability
from study.analysis.tunability import tunability
from study.analysis.variance import Rank, ranking, variance

__all__ = ["POOLED", "Estimate", "Finding", "Plan", "Rank", "analyze", "ranking"]

QUESTIONS = (
    *(response, sensitivity, variance, peers),
    *(compare, stability, shared_value, shift, tunability, budget, cost),
)


def analyze(table: pd.DataFrame, plan: Plan, curvature: pd.DataFrame | None = None) -> list[Finding]:
    """Every question for every task; BadInput where the table is not the plan's.

    `curvature`: rows of `study.curvature` where somebody measured it.
    """
    findings = [found for task in plan.directions for question in QUESTIONS for found in question(table, plan, task)]
    if curvature is not None:
        findings += [found for task in plan.directions for found in sharpness(table, plan, task, curvature)]
    return findings
