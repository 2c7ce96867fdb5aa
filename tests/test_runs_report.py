"""The report: self-contained, nothing repeated, text escaped, warnings shown, columns aligned."""

from __future__ import annotations

import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from cryoem.runs.runner import render_report, render_text_summary
from cryoem.units import readable_duration


def figure_json(marker, **layout):
    return go.Figure(go.Scatter(x=np.arange(3.0), name=marker), layout=layout).to_json()


SUMMARY = {
    "Result": {"resolution": "8.0 Å", "pose error": "2.2°"},
    "Data <script>": {"map & model": '5J0N "quoted"'},
}
FIGURES = [
    ("first figure", figure_json("marker-one", height=321, width=654)),
    ("second & last", figure_json("marker-two</script><!--")),
]
PHASES = {
    "Data": {
        "seconds": 12.0,
        "status": "executed",
        "text": "Projections of <b>one</b> map.",
        "warnings": ["Too <few>."],
        "figures": FIGURES[:1],
    },
    "Recovery": {"seconds": 187.0, "status": "kept", "text": "", "warnings": [], "figures": FIGURES[1:]},
}


@pytest.fixture(scope="module")
def page():
    return render_report(title="A run <of> one", summary=SUMMARY, phases=PHASES)


@pytest.fixture(scope="module")
def own_page(page):
    """Return the page without plotly's code."""
    return page.replace(get_plotlyjs(), "")


def test_the_page_needs_nothing_but_itself(page, own_page):
    assert page.count(get_plotlyjs()) == 1
    assert len(own_page) < 30_000
    assert re.search(r"https?:|//[a-z]|@import|<link|<iframe|\bsrc=|url\(", own_page) is None
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', own_page).group(1)
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert "showSendToCloud: false" in own_page


def test_each_figure_is_embedded_once_in_its_phase_and_unchanged(own_page):
    found = re.findall(r'class="figure-json">(.*?)</script>', own_page, re.DOTALL)
    assert [json.loads(text) for text in found] == [json.loads(text) for _, text in FIGURES]
    texts = ("<h2>Data<", "marker-one", "first figure", "<h2>Recovery<", "marker-two")
    order = [own_page.index(text) for text in texts]
    assert order == sorted(order)
    assert own_page.count("<figcaption>") == 2
    assert "min-height: 321px; max-width: 654px" in own_page
    assert "min-height: 440px" in own_page


def test_text_is_escaped(own_page):
    for text in (
        "A run &lt;of&gt; one",
        "Projections of &lt;b&gt;one&lt;/b&gt; map.",
        "Data &lt;script&gt;",
        "map &amp; model",
        "second &amp; last",
        "<li>Data: Too &lt;few&gt;.</li>",
    ):
        assert text in own_page
    # two figures, plotly and the drawing script: names inside a figure open or close no element
    assert own_page.count("<script") == own_page.count("</script>") == 4
    assert "<!--" not in own_page


def test_text_summary_aligns_its_columns():
    assert render_text_summary(SUMMARY, PHASES).split("\n") == [
        "Result",
        "  resolution   8.0 Å",
        "  pose error   2.2°",
        "",
        "Warnings",
        "  Data         Too <few>.",
        "",
        "Data <script>",
        '  map & model  5J0N "quoted"',
        "",
        "Phases",
        "  Data                 12 s  executed",
        "  Recovery       3 min 07 s  kept",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (3599.7, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_readable_duration_carries_over(seconds, text):
    assert readable_duration(seconds) == text
