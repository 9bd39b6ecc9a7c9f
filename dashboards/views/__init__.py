"""Views: a file per question, from findings to figures and tables; nobody else knows what `values` are called."""

from dashboards.views import (
    budget,
    comparison,
    cost,
    peers,
    response,
    sensitivity,
    shared_value,
    sharpness,
    shift,
    stability,
    tunability,
    variance,
)
from dashboards.views.base import View

# In the order of a reader's interest; a question that is not listed follows under its own name.
VIEWS = {
    "variance": variance.VIEW,
    "response": response.VIEW,
    "sensitivity": sensitivity.VIEW,
    "comparison": comparison.VIEW,
    "stability": stability.VIEW,
    "shared value": shared_value.VIEW,
    "shift": shift.VIEW,
    "tunability": tunability.VIEW,
    "sharpness": sharpness.VIEW,
    "budget": budget.VIEW,
    "cost": cost.VIEW,
    "peers": peers.VIEW,
}


def of_question(question: str) -> View:
    """The question's own view; a question without one is shown in words and a plain table."""
    return VIEWS.get(question, View(question.replace("_", " ").capitalize()))
