"""The website: all pages, formulas and interactive figures work, and no page contacts another server."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from browser import browser_tab, find_chromium

from cryoem import plots
from cryoem.rotations import random_rotations
from cryoem.runs import PHASES, write_overview
from cryoem.runs.jobs import write_json
from cryoem.runs.pipeline import WITHOUT_MAP
from cryoem.runs.report import render_figures, render_page

ROOT = Path(__file__).parents[1]
TOOLS = ("myst_nb", "sphinx", "sphinx_book_theme")
EXECUTED = "notebooks/0-data-preparation/0-density-and-projections.html"
missing = [name for name in TOOLS if find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.notebooks,
    pytest.mark.skipif(bool(missing), reason=f"the extra site is not installed: no {', '.join(missing)}"),
]


def build(out: Path, *patterns: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "docs/build_site.py"), "--out", str(out), "--execute", *patterns]
    environment = os.environ | {"CRYOEM_HOME": str(out / "data")}  # not the runs of a user
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory, toy_run) -> Path:
    """A site with one executed notebook, from the toy run."""
    out = tmp_path_factory.mktemp("site")
    notebook = Path(EXECUTED).with_suffix(".ipynb")
    kept = out / "executed" / "toy" / notebook
    kept.parent.mkdir(parents=True)
    shutil.copyfile(toy_run.folder / notebook.relative_to("notebooks"), kept)
    run = build(out, notebook.stem + "*")
    assert run.returncode == 0, run.stderr[-3000:]
    return out / "html"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    if find_chromium() is None:
        pytest.skip("Chromium is not installed")
    with browser_tab(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


def pages(site: Path) -> list[Path]:
    skipped = {"_static", "_modules"}
    return sorted(path for path in site.rglob("*.html") if not skipped & set(path.relative_to(site).parts))


def test_an_unknown_notebook_is_an_error(tmp_path):
    run = build(tmp_path, "9-*")
    assert run.returncode == 1
    assert "no notebook matches ['9-*']" in run.stderr


def test_a_phase_is_preceded_by_the_phases_that_it_reads_at_its_own_size(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.setenv("CRYOEM_HOME", str(tmp_path / "home"))  # not the runs of a user
    import build_site

    done = []

    def execute(notebook, out, **options):
        done.append(notebook.stem)
        time.sleep(0.02)  # longer than the resolution of file times
        out.write_text("{}")

    monkeypatch.setattr(build_site, "execute_notebook", execute)
    *earlier, last = (Path("notebooks") / info.notebook for info in PHASES.values())
    without_map = Path("notebooks") / WITHOUT_MAP.notebook
    for name in earlier:  # phase 3 has changed since they were executed at their default size
        copy = tmp_path / "executed/quick" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy)
    shown = {
        name: build_site.shown_copy(name, tmp_path, size="toy") for name in (*earlier, without_map, last)
    }
    assert [size for _, size in shown.values()] == ["quick"] * 3 + ["toy"] * 2
    first, *between = (name.stem for name in earlier)
    assert done == [first, without_map.stem, *between, last.stem]
    build_site.shown_copy(last, tmp_path, size="toy")  # nothing has changed
    assert len(done) == 5
    (tmp_path / "executed/toy" / earlier[0]).touch()  # as if it had been executed again
    build_site.shown_copy(last, tmp_path, size="toy")
    assert done[5:] == [*between, last.stem]


def test_toy_sizes_belong_to_notebooks_that_exist():
    paths = list(ROOT.glob("notebooks/*/toy.json"))
    assert paths
    for path in paths:
        assert json.loads(path.read_text()).keys() <= {
            notebook.stem for notebook in path.parent.glob("*.ipynb")
        }


def test_every_page_is_there_and_shows_its_contents(site):
    sources = [*ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/[0-9]*/*.ipynb"), ROOT / "CHANGELOG.md"]
    for source in sources:
        assert (site / source.relative_to(ROOT).with_suffix(".html")).is_file()
    conventions = (site / "docs/conventions.html").read_text(encoding="utf-8")
    assert conventions.count('class="math') > 10
    assert "tex-svg.js" in conventions
    reference = (site / "docs/api/cryoem.orientations.html").read_text(encoding="utf-8")
    assert re.search(
        r'id="cryoem.orientations.fix_gauge".*Parameters.*<strong>images</strong>', reference, re.S
    )
    executed = html.unescape(re.sub(r"<[^>]+>", "", (site / EXECUTED).read_text(encoding="utf-8")))
    assert 'profile = "toy"' in executed


def test_notebook_pages_state_their_size_offer_the_notebook_and_hide_paths(site):
    for notebook in ROOT.glob("notebooks/[0-9]*/*.ipynb"):
        page = (site / notebook.relative_to(ROOT).with_suffix(".html")).read_text(encoding="utf-8")
        assert ("Executed at toy size" in page) == (notebook.stem == Path(EXECUTED).stem)
        assert re.search(rf'href="[./]*/_downloads/[^"]*/{re.escape(notebook.name)}"', page)
    executed = (site / EXECUTED).read_text(encoding="utf-8")
    assert "Written to data/runs/phantom-toy/0-data-preparation: particles.h5" in executed
    assert "Isosurface of the particle." in re.sub(r"<details.*?</details>", "", executed, flags=re.DOTALL)
    built_in = {str(site.parent), str(ROOT), str(Path.home()), tempfile.gettempdir()}
    for path in pages(site):
        text = path.read_text(encoding="utf-8")
        assert not [folder for folder in built_in if f"{folder}/" in text], path


def test_links_between_pages_resolve(site):
    broken = []
    for path in pages(site):
        for target in re.findall(r"<a\b[^>]*\bhref=\"([^\"#:?]+)[#?\"]", path.read_text(encoding="utf-8")):
            if not (path.parent / html.unescape(target)).resolve().exists():
                broken.append((path.name, target))
    assert not broken


def test_a_figure_can_be_turned(site, tab):
    tab.open((site / EXECUTED).as_uri())
    tab.evaluate("document.querySelector('.plot').scrollIntoView({block: 'center'})")
    tab.wait_for("document.querySelector('.plot')._fullLayout?.scene?._scene?.glplot")
    place = tab.evaluate("document.querySelector('.plot canvas').getBoundingClientRect().toJSON()")
    camera = "document.querySelector('.plot')._fullLayout.scene._scene.getCamera()"
    before = eye(tab.evaluate(camera))
    tab.drag((place["x"] + place["width"] / 2, place["y"] + place["height"] / 2), (160, -40))
    after = eye(tab.evaluate(camera))
    assert np.linalg.norm(after - before) > 0.3
    assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(before), rel=1e-3)  # rotated, not zoomed


@pytest.mark.parametrize("width", [400, 700])
def test_figures_fit_into_a_narrow_page(tab, tmp_path, width):
    methods = {f"a method with a long name, {i}": [0.5 + i, 1.5, 2.5] for i in range(7)}
    rows = [[f"{name}, described in words", "43.51 / 43.02", "1.14 / 0.97"] for name in methods]
    figures = {
        "curves": plots.method_comparison(methods, names=["clean", "noisy", "noisier"]),
        "table": plots.number_table(rows, header=["a method", "published method", "ours"]),
        "drawing": plots.intuition_schematic(np.eye(8) + np.zeros((3, 1, 1)), np.eye(3)),
        "scene": plots.density_isosurface(np.pad(np.ones((3, 3, 3)), 2), voxel_size_angstrom=1, level=0.5),
    }
    figures["scene"].update_layout(title={"text": "a title over the whole width of the page", "y": 0.97})
    (tmp_path / "a.html").write_text(render_figures(title="t", about="a", figures=figures), encoding="utf-8")
    tab.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=3000, deviceScaleFactor=1, mobile=False
    )
    tab.open((tmp_path / "a.html").as_uri())
    tab.wait_for(
        "[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('.modebar-group'))"
    )
    curves, table, drawing, scene = (f"document.querySelectorAll('.plot')[{i}]" for i in range(4))
    inside = f"{curves}.querySelector('NAME').getBoundingClientRect()"
    bar, legend = (inside.replace("NAME", name) for name in (".modebar", ".legend .bg"))
    tab.wait_for(f"{legend}.top >= {bar}.bottom - 1", seconds=20)
    bottom = (
        "Math.max(...[...{}.querySelectorAll('.cell-rect')].map(cell => cell.getBoundingClientRect().bottom))"
    )
    assert tab.evaluate(f"{bottom.format(table)} <= {table}.getBoundingClientRect().bottom")
    assert tab.evaluate(f"{drawing}.querySelector('.main-svg').clientWidth") < 900
    inside = f"{scene}.querySelector('NAME').getBoundingClientRect()"
    bar, title = (inside.replace("NAME", name) for name in (".modebar", ".gtitle"))
    assert width > 600 or tab.evaluate(f"{title}.top >= {bar}.bottom - 1")
    tab.call("Emulation.clearDeviceMetricsOverride")
    assert not tab.errors


def test_tables_of_runs_and_readings_fit_into_a_narrow_page(tab, tmp_path):
    about = {"finished_at": "2026-01-02T10:00:00+00:00", "input": "a-long-name-of-a-map", "profile": "quick"}
    write_json(tmp_path / "a-run" / "summary.json", about | {"numbers": {}, "seconds": {}, "warnings": {}})
    write_overview(tmp_path)
    readings = [("shifts in angstrom instead of pixels", "-1240.1", "-112.3 (-145 SE)", "23.5 Å")]
    texts = dict.fromkeys(("title", "about", "verdict"), "a")
    lists = {"findings": [], "remarks": [], "facts": [("images", "2")], "readings": readings, "figures": []}
    (tmp_path / "check.html").write_text(
        render_page("check.html", well=True, **texts, **lists), encoding="utf-8"
    )
    for name in ("index.html", "check.html"):
        assert scrolled_on_a_phone(tab, tmp_path / name) == []


def test_tables_of_the_site_fit_into_a_narrow_page(site, tab):
    for name in ("index.html", "docs/benchmarks.html", EXECUTED):
        assert {*scrolled_on_a_phone(tab, site / name)} <= {"PRE"}  # code


def test_a_sphere_is_not_cut_off_on_a_narrow_page(tab, tmp_path):
    sphere = plots.coverage_sphere(random_rotations(9, rng=0))
    page = render_figures(title="t", about="a", figures={"sphere": sphere})
    (tmp_path / "a.html").write_text(page, encoding="utf-8")
    tab.call("Emulation.setDeviceMetricsOverride", width=400, height=900, deviceScaleFactor=1, mobile=True)
    tab.open((tmp_path / "a.html").as_uri())
    tab.wait_for(
        "document.querySelector('.plot')._fullLayout?._size && document.querySelector('.modebar-group')"
    )
    scene = tab.evaluate("(({w, h}) => [w, h])(document.querySelector('.plot')._fullLayout._size)")
    tab.call("Emulation.clearDeviceMetricsOverride")
    assert scene[1] < 1.1 * scene[0]


def scrolled_on_a_phone(tab, page: Path) -> list[str]:
    """Return the names of elements, the page included, that scroll sideways at a width of 400 px."""
    tab.call("Emulation.setDeviceMetricsOverride", width=400, height=900, deviceScaleFactor=1, mobile=True)
    tab.open(page.as_uri())
    found = tab.evaluate("""[...document.querySelectorAll("html, main, main *")].filter(element =>
        element.clientWidth && element.scrollWidth > element.clientWidth + 1
        && (element.tagName == "HTML" || /auto|scroll/.test(getComputedStyle(element).overflowX))
    ).map(element => element.tagName)""")
    tab.call("Emulation.clearDeviceMetricsOverride")
    return found


def eye(camera: dict) -> np.ndarray:
    return np.array([camera["eye"][axis] - camera["center"][axis] for axis in "xyz"])


def test_formulas_are_drawn_and_no_page_makes_a_request_to_another_server(site, tab):
    for path in pages(site):
        tab.open(path.as_uri())
    tab.open((site / "docs/conventions.html").as_uri())
    tab.wait_for("document.querySelectorAll('mjx-container svg').length > 10")
    assert len(tab.requests) > 100
    assert not [url for url in tab.requests if not url.startswith(("file:", "data:", "blob:", "about:"))]
    assert not tab.errors
