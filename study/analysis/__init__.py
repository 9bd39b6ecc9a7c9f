"""Analyses: one pure function per question, from a table of results to findings. No database, no plots, no search."""

import pandas as pd

from study.analysis.compare import compare
from study.analysis.cost import cost
from study.analysis.finding import POOLED, Estimate, Finding
from study.analysis.plan import Plan
from study.analysis.response import response
from study.analysis.sensitivity import sensitivity
from study.analysis.variance import Rank, ranking, variance

__all__ = ["POOLED", "Estimate", "Finding", "Plan", "Rank", "analyze", "ranking"]

QUESTIONS = (response, sensitivity, variance, compare, cost)


def analyze(table: pd.DataFrame, plan: Plan) -> list[Finding]:
    """Every question for every task; BadInput where the table is not the plan's."""
    return [finding for task in plan.directions for question in QUESTIONS for finding in question(table, plan, task)]
