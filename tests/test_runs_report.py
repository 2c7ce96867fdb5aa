"""The report: self-contained, nothing repeated, text escaped, warnings shown, columns aligned."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from cryoem.files import save_arrays
from cryoem.runs import all_runs, get_profile, parse_setting, write_overview
from cryoem.runs.jobs import write_json
from cryoem.runs.pipeline import find_run
from cryoem.runs.quantities import Quantity, quantity
from cryoem.runs.report import render_report, render_text_summary
from cryoem.units import readable_duration


def figure_json(marker, **layout):
    return go.Figure(go.Scatter(x=np.arange(3.0), name=marker), layout=layout).to_json()


SUMMARY = {
    "Result": [Quantity("resolution", "8.0 Å", "Where <FSC> is 0.5."), quantity("pose_error_rad", 0.0384)],
    "Data <script>": [Quantity("map & model", '5J0N "quoted"')],
}
FIGURES = [
    ("one", "first figure", figure_json("marker-one", height=321, width=654)),
    ("map", "second & last", figure_json("marker-two</script><!--")),
]
PHASES = {
    "Data": {
        "seconds": 12.0,
        "status": "executed",
        "text": "Projections of <b>one</b> map.",
        "notebook": "0-data/a notebook.ipynb",
        "warnings": ["Too <few>."],
        "figures": FIGURES[:1],
    },
    "Recovery": {
        "seconds": 187.0,
        "status": "kept",
        "text": "",
        "notebook": "",
        "warnings": [],
        "figures": FIGURES[1:],
    },
}
PAGE = {
    "title": "A run <of> one",
    "about": "Finished & done",
    "links": {"Map": "3/map.mrc"},
    "command": "cryoem run --map '<one>'",
}


@pytest.fixture(scope="module")
def page():
    return render_report(**PAGE, summary=SUMMARY, phases=PHASES)


@pytest.fixture(scope="module")
def own_page(page):
    """Return the page without plotly's code."""
    return page.replace(get_plotlyjs(), "")


def test_the_page_needs_nothing_but_itself(page, own_page):
    assert page.count(get_plotlyjs()) == 1
    assert len(own_page) < 40_000
    assert re.search(r"https?:|//[a-z]|@import|<link|<iframe|\bsrc=|url\(", own_page) is None
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', own_page).group(1)
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert "showSendToCloud: false" in own_page


def test_each_figure_is_embedded_once_in_its_phase_and_unchanged(own_page):
    found = re.findall(r'class="figure-json">(.*?)</script>', own_page, re.DOTALL)
    assert [json.loads(text) for text in found] == [json.loads(text) for _, _, text in FIGURES]
    texts = ("<h2>Data<", "marker-one", "first figure", "<h2>Recovery<", "marker-two")
    order = [own_page.index(text) for text in texts]
    assert order == sorted(order)
    assert own_page.count("<figcaption>") == 2
    assert "min-height: 321px; max-width: 654px" in own_page
    assert "min-height: 440px" in own_page


def test_the_first_screen_shows_the_map_the_angles_in_degrees_and_the_links(own_page):
    first_screen = own_page.partition("<nav")[0]
    (turning,) = re.findall(r'class="plot turning" data-figure="([^"]*)"', first_screen)
    assert re.search(rf'<figure id="{turning}">.*?marker-two', own_page, re.DOTALL)
    assert "<dd>2.2° <small>0.0384 rad</small></dd>" in first_screen
    assert '<span role="tooltip">Mean angle between recovered and true' in first_screen
    assert '<a href="3/map.mrc">Map</a>' in first_screen
    assert '<a href="0-data/a%20notebook.ipynb">Executed notebook</a>' in own_page


def test_text_is_escaped(own_page):
    for text in (
        "A run &lt;of&gt; one",
        "Finished &amp; done",
        "cryoem run --map &#39;&lt;one&gt;&#39;",
        "Where &lt;FSC&gt; is 0.5.",
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
        "  pose error   0.0384 rad (2.2°)",
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


def write_run(folder, name, *, finished, numbers, curve=None):
    """Write the files of a complete run that the page of all runs reads."""
    content = {
        "finished_at": finished,
        "input": "<phantom>",
        "profile": "toy",
        "seconds": {"0": 61.0, "1": 2.0},
    }
    content |= {"numbers": {"3-reconstruction": numbers}, "warnings": {"0": ["One."], "1": []}}
    write_json(folder / name / "summary.json", content)
    if curve is not None:
        (folder / name / "3-reconstruction").mkdir()
        arrays = {
            "frequency": (np.array([0.01, 0.02, 0.03]), "1/angstrom"),
            "correlation": (np.array(curve), "1"),
        }
        save_arrays(folder / name / "3-reconstruction" / "half-map-fsc.h5", arrays, parameters={})


def test_the_page_of_all_runs_lists_and_compares_them(tmp_path):
    sharp = {"half_map_resolution_masked_angstrom": 8.5, "pose_error_rad": 0.1}
    write_run(tmp_path, "first", finished="2026-01-01T10:00:00+00:00", numbers=sharp, curve=[1, 0.9, 0.1])
    write_run(
        tmp_path, "second", finished="2026-01-02T10:00:00+00:00", numbers={"images": 1234}, curve=[1, 0.5, 0]
    )
    write_run(tmp_path, "third", finished="2026-01-01T11:00:00+00:00", numbers={})
    (tmp_path / "unfinished").mkdir()
    assert [run["name"] for run in all_runs(tmp_path)] == ["second", "third", "first"]
    page = write_overview(tmp_path).read_text(encoding="utf-8").replace(get_plotlyjs(), "")
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in body.split("</tr>")[:-1]]
    links = [f'<a href="{name}/report.html">{name}</a>' for name in ("second", "third", "first")]
    assert [row[0] for row in rows] == links
    headings = re.findall(r'<button type="button" title="[^"]+">([^<]*)</button>', page)
    assert all(len(row) == len(headings) for row in rows)
    first = dict(zip(headings, rows[2], strict=True))
    assert first["input"] == "&lt;phantom&gt;"
    assert first["pose error (°)"] == "5.73"
    assert first["half map resolution masked (Å)"] == "8.5"
    assert (first["images"], first["time"], first["warnings"]) == ("–", "1 min 03 s", "1")
    figure = json.loads(re.search(r'class="figure-json">(.*?)</script>', page, re.DOTALL).group(1))
    assert {"first", "second"} <= {trace.get("name") for trace in figure["data"]}
    assert "third" not in str(figure["data"])


@pytest.mark.parametrize(
    "overrides",
    [{}, {"noise_variance": 4.0, "ctf": True, "patience_epochs": None, "symmetry": "D2", "landmarks": 40}],
)
def test_the_command_of_a_run_repeats_it(overrides, tmp_path, monkeypatch):
    monkeypatch.setenv("CRYOEM_HOME", str(tmp_path))
    found = find_run("toy", run="mine", map_name="phantom-D2", overrides=overrides)
    words = shlex.split(found.command)
    assert words[:8] == ["cryoem", "run", "--profile", "toy", "--map", "phantom-D2", "--run", "mine"]
    assert set(words[8::2]) <= {"--set"}
    settings = dict(map(parse_setting, words[9::2]))
    assert get_profile("toy", map_name="phantom-D2", **settings) == found.profile
