"""The web site: its parts, and that the built pages live in a browser that may fetch nothing."""

from __future__ import annotations

import html
import io
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from browser import browser_tab, find_chromium

from cryoem import pipeline

DOCS = Path(__file__).parents[1] / "docs"
TOOLS = ("myst_nb", "sphinx", "sphinx_book_theme")
EXECUTED = "0-data-preparation/0-density-and-projections"
AS_WRITTEN = "4-udl-alignment/4.1-synthetic-particles"
OWN = ("file:", "data:", "blob:", "about:")

missing = [name for name in TOOLS if find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(missing), reason=f"the extra site is not installed: no {', '.join(missing)}"),
]


@pytest.fixture
def website(monkeypatch):
    """Puts the folder of the site's own modules on the path."""
    monkeypatch.syspath_prepend(str(DOCS))


def build(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(DOCS / "build_site.py"), *arguments], capture_output=True, text=True, check=False
    )


# --- its parts


def test_docstrings_become_fields(website):
    from website.docstrings import converted

    lines = """Turn |x| and ``|y|``.

Parameters
----------
images, masks : (n, y, x) real,
    y == x.
rng : seed.

Raises
------
ValueError : images are none.

Source: a paper,
    page 1."""
    expected = r"""Turn \|x\| and ``|y|``.


:Parameters:
    ``images``, ``masks``
        (n, y, x) real,
        y == x.
    ``rng``
        seed.


:Raises:
    ``ValueError``
        images are none.


:Source: a paper, page 1.
"""
    assert "\n".join(converted(lines.splitlines())) == expected


def test_a_returned_value_stays_as_it_is_written(website):
    from website.docstrings import converted

    lines = ["Returns", "-------", "(n, n) radians: the distances,", "symmetric."]
    assert converted(lines) == [
        "",
        ":Returns:",
        "    (n, n) radians: the distances,",
        "    symmetric.",
        "",
    ]


def test_formulas_are_mathml(website):
    from website.mathml import to_mathml

    inline = to_mathml(r"R^{\mathsf T} x", as_block=False)
    assert re.match(r"<math xmlns=\"[^\"]+\">\s*<msup>", inline)
    block = to_mathml(r"a &= b \\ c &= d", as_block=True)
    assert 'display="block"' in block
    assert block.count("<mtr>") == 2
    assert "<munderover>" not in to_mathml(r"\hat d_{ij} + \hat{\theta}_i", as_block=False)
    assert to_mathml(r"\sin x \cos(y)", as_block=False).count("<mspace") == 2  # around x
    with pytest.raises(ValueError, match=r"a formula must be simple LaTeX, got '\\\\nonsense"):
        to_mathml(r"\nonsense{x}", as_block=False)


def test_what_is_no_site_is_not_overwritten(tmp_path):
    keep = tmp_path / "keep.txt"
    keep.write_text("mine")
    run = build("--out", str(tmp_path), "--home", str(tmp_path / "home"))
    assert run.returncode == 1
    assert f"out must be a new or an empty folder or an earlier site, got {tmp_path}" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["keep.txt"]


def test_a_pattern_without_a_notebook_is_an_error(tmp_path):
    run = build("--out", str(tmp_path / "site"), "--home", str(tmp_path / "home"), "--execute", "9-*")
    assert run.returncode == 1
    assert "build_site: execute must match a notebook, got '9-*'" in run.stderr
    assert not list(tmp_path.iterdir())


def test_toy_sizes_are_those_of_notebooks_that_exist():
    listed = {path: json.loads(path.read_text()) for path in DOCS.parent.glob("notebooks/*/toy.json")}
    assert listed
    for path, sizes in listed.items():
        assert sizes.keys() <= {notebook.stem for notebook in path.parent.glob("*.ipynb")}


# --- the built pages


@pytest.fixture(scope="module")
def site(toy_run, tmp_path_factory) -> Path:
    """A site with the notebooks of the four phases executed."""
    out = tmp_path_factory.mktemp("built") / "site"
    home = toy_run.folder.parents[1]
    run = build("--out", str(out), "--home", str(home), "--execute", "[0-3]-*")
    assert run.returncode == 0, run.stderr
    assert [path.name for path in out.parent.iterdir()] == ["site"]  # nothing half done beside it
    return out


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    if find_chromium() is None:
        pytest.skip("no Chromium is installed to look at the pages with")
    with browser_tab(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


def pages(site: Path) -> list[Path]:
    """All pages; the theme keeps templates of its own in ``_static``."""
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


def picture(tab, clip: dict) -> np.ndarray:
    """(y, x, 3) of a part of the page."""
    from skimage.io import imread

    return imread(io.BytesIO(tab.screenshot(clip)))[..., :3].astype(int)


@pytest.mark.slow
@pytest.mark.notebooks
def test_every_notebook_and_page_is_there(site):
    source = DOCS.parent
    notebooks = [path.relative_to(source) for path in source.glob("notebooks/*/*.ipynb")]
    pages = [Path("docs/conventions.md"), Path("docs/benchmarks.md"), Path("CHANGELOG.md"), *notebooks]
    for page in pages:
        assert (site / page.with_suffix(".html")).is_file()
    first = (site / "index.html").read_text(encoding="utf-8")
    order = [first.index(f'href="{page.with_suffix(".html").as_posix()}"') for page in sorted(notebooks)]
    assert order == sorted(order)
    for name in ("rotations", "gauge", "udl"):
        assert (site / "api" / f"{name}.html").is_file()


@pytest.mark.slow
@pytest.mark.notebooks
def test_plotly_is_there_once_and_pages_name_no_other_server(site):
    texts = {path: path.read_text(encoding="utf-8") for path in pages(site)}
    with_figures = {path for path, text in texts.items() if 'class="figure-json"' in text}
    phases = pipeline.PHASES.values()
    executed = {info.notebook for info in phases} | {info.notebook_of_measured for info in phases} - {None}
    assert {path.stem for path in with_figures} == {Path(name).stem for name in executed}
    for path, text in texts.items():
        assert ("_static/plotly.min.js" in text) == (path in with_figures)
        fetched = re.findall(r"<(?:script|img|iframe)\b[^>]*\bsrc=\"([^\"]*)\"", text)
        fetched += re.findall(r"<link\b(?![^>]*rel=\"canonical\")[^>]*\bhref=\"([^\"]*)\"", text)
        assert not [address for address in fetched if re.match(r"(https?:)?//", address)]
        assert "cdn" not in re.sub(r'class="figure-json">.*?</script>', "", text, flags=re.DOTALL).lower()
    assert len(list(site.rglob("plotly*.js"))) == 1


@pytest.mark.slow
@pytest.mark.notebooks
def test_docstrings_formulas_and_parameters_are_shown(site):
    gauge = (site / "api" / "gauge.html").read_text(encoding="utf-8")
    assert 'id="cryoem.gauge.fix_gauge"' in gauge
    assert re.search(
        r"Parameters.*<code[^>]*><span class=\"pre\">images</span>.*\(n, y, x\) real", gauge, re.S
    )
    conventions = (site / "docs" / "conventions.html").read_text(encoding="utf-8")
    assert conventions.count("<math ") > 10
    assert "conventions.svg" in conventions
    executed = (site / "notebooks" / f"{EXECUTED}.html").read_text(encoding="utf-8")
    text = html.unescape(re.sub(r"<[^>]+>", "", executed))
    assert "Executed when this site was built, at the size toy" in text
    assert 'profile = "toy"' in text
    assert 'profile = "quick"' not in text
    written = (site / "notebooks" / f"{AS_WRITTEN}.html").read_text(encoding="utf-8")
    assert "Shown as it is written" in written


@pytest.mark.slow
@pytest.mark.notebooks
def test_figures_of_three_dimensions_render_and_rotate(site, tab):
    tab.open((site / "notebooks" / f"{EXECUTED}.html").as_uri())
    tab.evaluate("document.querySelector('.plot').scrollIntoView({block: 'center'})")
    tab.wait_for("document.querySelector('.plot')._fullLayout?.scene?._scene?.glplot", seconds=90)
    box = (
        "document.querySelector('.plot .gl-container canvas, .plot canvas').getBoundingClientRect().toJSON()"
    )
    place = tab.evaluate(box)
    scroll = tab.evaluate("[scrollX, scrollY]")
    clip = {
        "x": place["x"] + scroll[0], "y": place["y"] + scroll[1],
        "width": place["width"], "height": place["height"],
    }  # fmt: skip
    assert place["width"] > 600  # as wide as the page
    camera = "document.querySelector('.plot')._fullLayout.scene._scene.getCamera()"
    before, seen = tab.evaluate(camera), settled(tab, clip)
    blue = (seen[..., 2] - seen[..., 0]) > 40  # the surface
    assert blue.mean() > 0.02
    assert len(np.unique(seen[blue], axis=0)) > 20  # it is lit, not flat
    tab.drag((place["x"] + place["width"] / 2, place["y"] + place["height"] / 2), (160, -40))
    after, turned = tab.evaluate(camera), settled(tab, clip)
    assert np.linalg.norm(position(after) - position(before)) > 0.3
    # it is turned and not zoomed
    assert np.linalg.norm(position(after)) == pytest.approx(np.linalg.norm(position(before)), rel=1e-3)
    changed = np.abs(turned - seen).max(axis=2) > 40
    assert changed.mean() > 0.01
    assert ((turned[..., 2] - turned[..., 0]) > 40).mean() > 0.02


def position(camera: dict) -> np.ndarray:
    """Of the eye, from what it looks at."""
    return np.array([camera["eye"][axis] - camera["center"][axis] for axis in "xyz"])


def settled(tab, clip: dict) -> np.ndarray:
    """The picture once it no longer changes."""
    one = picture(tab, clip)
    for _ in range(50):
        tab.evaluate("new Promise(done => setTimeout(done, 200))")
        other = picture(tab, clip)
        if np.array_equal(one, other):
            return other
        one = other
    raise AssertionError("the picture does not come to rest")


@pytest.mark.slow
@pytest.mark.notebooks
def test_maps_side_by_side_turn_together(site, tab):
    tab.open((site / "notebooks/3-reconstruction/3-reconstruct-and-refine.html").as_uri())
    pair = "[...document.querySelectorAll('.plot')].find(plot => plot._fullLayout?.scene2)"
    for plot in range(tab.evaluate("document.querySelectorAll('.plot').length")):
        tab.evaluate(f"document.querySelectorAll('.plot')[{plot}].scrollIntoView({{block: 'center'}})")
        tab.evaluate("new Promise(done => setTimeout(done, 500))")
        if tab.evaluate(f"Boolean({pair})"):
            break
    tab.wait_for(f"{pair}?._fullLayout.scene2._scene?.glplot")
    tab.evaluate(f"{pair}.scrollIntoView({{block: 'center'}})")
    place = tab.evaluate(f"{pair}.querySelector('canvas').getBoundingClientRect().toJSON()")
    eyes = f"['scene', 'scene2'].map(name => {pair}._fullLayout[name]._scene.getCamera().eye)"
    _, before = tab.evaluate(eyes)
    tab.drag((place["x"] + place["width"] / 4, place["y"] + place["height"] / 2), (100, 0))
    tab.wait_for(f"JSON.stringify({eyes}[1]) != {json.dumps(json.dumps(before, separators=(',', ':')))}")
    one, other = tab.evaluate(eyes)
    assert one == pytest.approx(other)


@pytest.mark.slow
@pytest.mark.notebooks
def test_no_page_asks_another_server_or_stumbles(site, tab):
    for path in pages(site):
        if "_modules" not in path.parts:
            tab.open(path.as_uri())
    assert len(tab.requests) > 100
    assert not [address for address in tab.requests if not address.startswith(OWN)]
    assert not tab.errors


@pytest.mark.slow
@pytest.mark.notebooks
def test_links_between_pages_lead_somewhere(site):
    broken = []
    for path in pages(site):
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"<(?:a|link)\b[^>]*\bhref=\"([^\"#:?]+)[#?\"]", text):
            if not (path.parent / html.unescape(target)).resolve().exists():
                broken.append((path.name, target))
    assert not broken
