"""The report: complete in itself, everything once, text escaped, columns aligned."""

import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from cryoem.report import readable_duration, render_report, render_text_summary

SUMMARY = {
    "Result": {"resolution": "8.0 Å", "pose error": "2.2°"},
    "Data <script>": {"map & model": '5J0N "quoted"'},
}
PHASES = {
    "Data": {"seconds": 12.0, "status": "done", "text": "Projections of <b>one</b> map."},
    "Recovery": {"seconds": None, "status": "skipped"},
}


def figure_json(marker, **layout):
    return go.Figure(go.Scatter(x=np.arange(3.0), name=marker), layout=layout).to_json()


FIGURES = [
    ("Recovery", "second & last", figure_json("marker-two</script><!--")),
    ("Data", "first figure", figure_json("marker-one", height=321, width=654)),
]


@pytest.fixture(scope="module")
def page():
    return render_report(title="A run <of> one", summary=SUMMARY, figures=FIGURES, phases=PHASES)


@pytest.fixture(scope="module")
def own_page(page):
    """The page without plotly's own code."""
    return page.replace(get_plotlyjs(), "")


def embedded_figures(own_page):
    return [
        json.loads(text) for text in re.findall(r'class="figure-json">(.*?)</script>', own_page, re.DOTALL)
    ]


def test_plotly_is_inlined_once(page, own_page):
    assert page.count(get_plotlyjs()) == 1
    assert len(own_page) < 30_000


def test_nothing_is_fetched_from_elsewhere(own_page):
    assert re.search(r"https?:|//[a-z]|@import|<link|<iframe|\bsrc=|url\(", own_page) is None
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', own_page).group(1)
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert "showSendToCloud: false" in own_page


def test_each_figure_is_embedded_once_in_its_phase_and_unchanged(own_page):
    embedded = embedded_figures(own_page)
    assert embedded == [json.loads(FIGURES[1][2]), json.loads(FIGURES[0][2])]
    assert own_page.count("marker-one") == own_page.count("marker-two") == 1
    order = [
        own_page.index(text)
        for text in ("<h2>Data<", "marker-one", "first figure", "<h2>Recovery<", "marker-two")
    ]
    assert order == sorted(order)
    assert own_page.count("<figcaption>") == 2


def test_room_is_kept_for_each_figure(own_page):
    assert "min-height: 321px; max-width: 654px" in own_page
    assert "min-height: 440px" in own_page


def test_text_is_escaped(own_page):
    assert "A run &lt;of&gt; one" in own_page
    assert "<of>" not in own_page
    assert "Projections of &lt;b&gt;one&lt;/b&gt; map." in own_page
    assert "Data &lt;script&gt;" in own_page
    assert "map &amp; model" in own_page
    assert "second &amp; last" in own_page
    # the figures, plotly, and the script that draws: a name inside a figure opens or closes none
    assert own_page.count("<script") == own_page.count("</script>") == 4
    assert "<!--" not in own_page


def test_numbers_and_phases_are_shown(own_page):
    headline = own_page[own_page.index('class="headline"') : own_page.index("</dl>")]
    assert "<dt>resolution</dt><dd>8.0 Å</dd>" in headline
    assert "5J0N" not in headline
    assert re.search(r"<td>5J0N .*quoted.*</td>", own_page)
    assert '<span class="duration">12 s</span>' in own_page
    assert own_page.count('class="duration"') == 1
    assert '<span class="status status-done">done</span>' in own_page


def test_an_empty_report_is_still_a_page():
    page = render_report(title="Nothing", summary={}, figures=[], phases={})
    assert "<h1>Nothing</h1>" in page
    assert 'class="headline"' not in page


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (
            ("Nowhere", "", FIGURES[0][2]),
            r"figures\[0\] must belong to one of \['Data', 'Recovery'\], got .*'Nowhere'",
        ),
        (("Data", "", "no json"), r"figures\[0\] must be the JSON of a plotly figure, got 'no json'"),
        (("Data", "", "[1]"), r"figures\[0\] must be the JSON of a plotly figure with 'data', got '\[1\]'"),
    ],
)
def test_wrong_figures_are_named(figure, message):
    with pytest.raises(ValueError, match=message):
        render_report(title="", summary={}, figures=[figure], phases=PHASES)


def test_text_summary_aligns_its_columns():
    lines = render_text_summary(SUMMARY, PHASES).split("\n")
    assert lines == [
        "Result",
        "  resolution   8.0 Å",
        "  pose error   2.2°",
        "",
        "Data <script>",
        '  map & model  5J0N "quoted"',
        "",
        "Phases",
        "  Data                 12 s  done",
        "  Recovery                   skipped",
    ]


def test_text_summary_of_nothing_is_empty():
    assert render_text_summary({}, {}) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (3599.7, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_readable_duration_carries_over(seconds, text):
    assert readable_duration(seconds) == text
