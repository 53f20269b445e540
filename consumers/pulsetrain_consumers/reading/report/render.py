"""Dresses a report as one HTML file that asks nothing of any network.

Scripts and styles stand in the page and are named by their SHA-256 in the page's own Content-Security-Policy, so that
nothing else on the page can run or style, whatever a run, a metric or a console line is called.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from importlib import resources

import jinja2
from markupsafe import Markup

from pulsetrain_consumers.reading.report.model import Report
from pulsetrain_consumers.reading.report.payload import dump, payload

SCRIPTS = (
    "vendor/uplot/uPlot.iife.min.js",
    "data.js",
    "format.js",
    "state.js",
    "alerts.js",
    "tooltip.js",
    "charts.js",
    "panels.js",
    "tables.js",
    "main.js",
)
STYLES = ("vendor/uplot/uPlot.min.css", "report.css")
LICENCES = ("vendor/uplot/LICENSE",)


def render(report: Report) -> str:
    """The report as the text of an HTML file (UTF-8)."""
    scripts = [_asset(name) for name in SCRIPTS]
    styles = [_asset(name) for name in STYLES]
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(_sources(scripts))}",
            f"style-src {' '.join(_sources(styles))}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset("report.html.j2")).render(
        title=report.title,
        generated=report.generated,
        policy=policy,
        # The project's own files, and JSON whose every < is escaped: what may stand as it is.
        scripts=[Markup(text) for text in scripts],  # noqa: S704
        styles=[Markup(text) for text in styles],  # noqa: S704
        licences=[_asset(name) for name in LICENCES],
        data=Markup(dump(payload(report))),  # noqa: S704
    )


def _asset(name: str) -> str:
    text = resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")
    # The hash is over what the browser's parser leaves of line ends.
    return text.replace("\r\n", "\n")


def _sources(texts: list[str]) -> Iterator[str]:
    for text in texts:
        yield f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
