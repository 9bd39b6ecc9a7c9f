"""A study's report: one folder with a page to read anywhere, the same in Markdown, its pictures, findings and trials.

No statistic is computed here, and the templates decide nothing: `page.py` says what stands where.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from textwrap import indent
from typing import Any

import pandas as pd
import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dashboards.charts import VEGA_LITE, document, in_picture, on_page
from dashboards.page import Page, ReportData, Score, page
from study.analysis.finding import Finding

__all__ = ["ReportData", "Score", "write"]

TEMPLATES = Path(__file__).parent / "templates"
PICTURE_SCALE = 2.0  # pixels per point, for sharp print


def write(report: ReportData, folder: Path) -> dict[str, Path]:
    """Writes report.html, report.md, findings.json, trials.csv and a PNG per figure; their paths by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = page(report)
    documents = {figure.name: [document(panel) for panel in figure.panels] for figure in shown.figures}
    drawings = {figure.name: drawing(documents[figure.name], figure.columns) for figure in shown.figures}
    files = {
        "report.html": as_html(shown, documents, drawings).encode(),
        "report.md": as_markdown(shown).encode(),
        "findings.json": as_json(report.findings).encode(),
        "trials.csv": as_csv(report.trials).encode(),
    } | {f"{name}.png": vl_convert.svg_to_png(svg, scale=PICTURE_SCALE) for name, svg in drawings.items()}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in files}


def drawing(panels: Sequence[Mapping[str, Any]], columns: int) -> str:
    """The figure as SVG: what a page shows where its scripts do not run, and the source of the PNG."""
    return vl_convert.vegalite_to_svg(in_picture(panels, columns), vl_version=VEGA_LITE)


def as_html(shown: Page, documents: Mapping[str, Sequence[Mapping[str, Any]]], drawings: Mapping[str, str]) -> str:
    """One file that needs no other: scripts, data and stills are inside."""
    stills = {name: base64.b64encode(svg.encode()).decode() for name, svg in drawings.items()}
    return (
        environment(autoescape=True)
        .get_template("report.html.jinja")
        .render(
            page=shown,
            documents={name: [on_page(panel) for panel in panels] for name, panels in documents.items()},
            stills={name: f"data:image/svg+xml;base64,{still}" for name, still in stills.items()},
            vega=vega() if shown.figures else "",
        )
    )


@cache
def vega() -> str:
    """The script that draws the charts, with everything it needs: 0.9 MB."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)


def as_markdown(shown: Page) -> str:
    """The same for reading in a repository; its pictures lie beside it."""
    made = environment(autoescape=False)
    made.finalize = inert
    code = {"commands": Verbatim(indent(shown.commands, "    ")), "spec": Verbatim(indent(shown.spec, "    "))}
    return made.get_template("report.md.jinja").render(page=shown, code=code)


def environment(autoescape: bool) -> Environment:
    """Templates that fail on a name they do not know."""
    loader = FileSystemLoader(TEMPLATES)
    return Environment(
        loader=loader, autoescape=autoescape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


class Verbatim(str):
    """Text that Markdown shows as it is: an indented block, which nothing inside can end."""


def inert(value: Any) -> Any:
    """One line of text whose every character Markdown prints: no tag, no link, no table cell."""
    if not isinstance(value, str) or isinstance(value, Verbatim):
        return value
    text = escape(" ".join(value.split()), quote=False)
    return text.replace("|", r"\|").replace("`", r"\`").replace("*", r"\*").replace("](", r"]\(")


def as_json(findings: Sequence[Finding]) -> str:
    """A list of findings; a number that is not finite becomes null, which JSON knows."""
    documents = [finite(finding.document()) for finding in findings]
    return json.dumps(documents, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def finite(value: Any) -> Any:
    """The same document without NaN and infinities."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_csv(trials: pd.DataFrame) -> str:
    """The table of trials; text that a spreadsheet would run as a formula gets a leading apostrophe."""
    return trials.map(no_formula).rename(columns=no_formula).to_csv(index=False)


def no_formula(value: Any) -> Any:
    """`=1+1` as text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
