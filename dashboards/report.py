"""A study's report: one folder with a page to read anywhere, the same in Markdown, its pictures, findings and trials.

No statistic is computed here, and the templates decide nothing: `page.py` says what stands where.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from textwrap import indent
from typing import Any, Literal, get_args

import pandas as pd
import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dashboards.charts import VEGA_LITE, document, in_picture, on_page
from dashboards.page import Page, ReportData, Score, page
from study.analysis.finding import Finding
from study.analysis.records import Place, Row, curves, rows

__all__ = ["FORMATS", "Format", "ReportData", "Score", "write"]

Format = Literal["html", "md", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)

TEMPLATES = Path(__file__).parent / "templates"
PICTURE_SCALE = 2.0  # pixels per point, for sharp print


def write(report: ReportData, folder: Path, formats: Sequence[Format] = FORMATS) -> dict[str, Path]:
    """Writes findings.json and what the formats stand for; the paths by file name.

    html: report.html. md: report.md and a PNG per figure. csv: trials.csv, findings.csv, curves.csv.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {"findings.json": as_json(report.findings)}
    if "csv" in formats:
        files |= as_tables(report)
    content = {name: text.encode() for name, text in files.items()} | as_pages(report, formats)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in content}


def as_pages(report: ReportData, formats: Sequence[Format]) -> dict[str, bytes]:
    """The pages asked for, by file name; figures are drawn for a page alone."""
    if not {"html", "md"} & set(formats):
        return {}
    shown = page(report)
    documents = {figure.name: [document(panel) for panel in figure.panels] for figure in shown.figures}
    drawings = {figure.name: drawing(documents[figure.name], figure.columns) for figure in shown.figures}
    files: dict[str, bytes] = {}
    if "html" in formats:
        files["report.html"] = as_html(shown, documents, drawings).encode()
    if "md" in formats:
        files["report.md"] = as_markdown(shown).encode()
        files |= {f"{name}.png": vl_convert.svg_to_png(svg, scale=PICTURE_SCALE) for name, svg in drawings.items()}
    return files


def as_tables(report: ReportData) -> dict[str, str]:
    """The tables by file name."""
    return {
        "trials.csv": as_csv(report.trials),
        "findings.csv": as_csv(pd.DataFrame(rows(report.findings), columns=Row._fields)),
        "curves.csv": as_csv(pd.DataFrame(curves(report.findings), columns=Place._fields)),
    }


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
    """A list with an object per published number: docs/findings.md."""
    listed = [row._asdict() for row in rows(findings)]
    return json.dumps(listed, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def as_csv(trials: pd.DataFrame) -> str:
    """The table; text that a spreadsheet would run as a formula gets a leading apostrophe."""
    return trials.map(no_formula).rename(columns=no_formula).to_csv(index=False)


def no_formula(value: Any) -> Any:
    """`=1+1` as text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
