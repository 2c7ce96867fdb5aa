"""The notebooks of phase 5: how they are written, that each experiment runs at toy size, and that the figures draw."""

from __future__ import annotations

import ast

import nbformat
import pandas as pd
import plotly.io
import pytest
from notebook_rules import assert_well_written

from cryoem import experiments, plots
from cryoem.experiments import benchmarks_page
from cryoem.experiments.exporting import FigureFolder
from cryoem.folders import notebooks_folder
from cryoem.pipeline.execution import NotebookError, execute_notebook

FOLDER = notebooks_folder() / "5-paper-figures"
PAGE = """# Benchmarks

### 5j0n, noise variance 0, 1650 images of 116 px

| quantity | asked | measured |
| --- | --- | --- |
| E_OR | <= 0.1 rad | 0.0143 rad |
| FSC 0.5, clean images | - | 7.33 Å |
"""
FIGURES = ("5.1-orientation-recovery", "5.2-difference-learning")
EACH = pytest.mark.parametrize(
    "path", sorted(FOLDER.rglob("*.ipynb")), ids=lambda path: path.relative_to(FOLDER).as_posix()
)
# experiment -> what varies at the point to be executed, one of each notebook
POINTS = {
    "pairwise-distances": {"coverage": "so3"},
    "perturbed-recovery": {"method": "spectral+refine", "symmetry": "C1"},
    "start-up": {"noise_variance": 0.0},
    "feature-distance": {"feature_distance": "mlp"},
}


def code_cells(path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def execute(name: str, home, **parameters) -> nbformat.NotebookNode:
    execute_notebook(
        FOLDER / f"{name}.ipynb",
        home / f"{name}.ipynb",
        parameters={"images": False, "export_to": str(home / "figures"), **parameters},
        environment={"CRYOEM_HOME": str(home)},
        title="",
        progress=False,
    )
    return nbformat.read(home / f"{name}.ipynb", as_version=4)


# --- as they are written


@EACH
def test_notebooks_are_well_written(path):
    title = rf"Phase {path.name[:3]}" if path.parent == FOLDER else "Experiment"
    assert_well_written(nbformat.read(path, as_version=4).cells, title=title)


def test_experiments_end_by_saving_their_rows():
    for path in (FOLDER / "experiments").glob("*.ipynb"):
        last = ast.parse(code_cells(path)[-1].source)
        assert ast.unparse(last.body[-1]) == "experiments.save_rows(rows_file, rows)"


def test_each_notebook_is_of_an_experiment():
    of_experiments = {experiment.notebook for experiment in experiments.EXPERIMENTS.values()}
    assert {path.name for path in (FOLDER / "experiments").glob("*.ipynb")} == of_experiments
    assert {experiments.EXPERIMENTS[name].notebook for name in POINTS} == of_experiments
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {
        *FIGURES,
        "5.3-common-lines",
        "5.4-speed-and-scale",
    }


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_the_tables_that_go_with_the_notebooks_are_whole(name):
    experiment = experiments.EXPERIMENTS[name]
    table = experiments.read_table(FOLDER / "results", name)
    assert set(table.experiment) == {name}
    assert (table.quantity == "point_seconds").sum() == len(experiment.grid("quick").points())
    assert table.value.notna().all()
    for column, values in experiment.grid("quick").axes.items():
        if column in table:
            found = {None if pd.isna(value) else value for value in table[column]}
            assert found == set(values)


# --- executed


@pytest.mark.notebooks
@pytest.mark.parametrize("name", POINTS)
def test_experiments_run_at_toy_size(name, tmp_path, monkeypatch):
    monkeypatch.setenv("CRYOEM_HOME", str(tmp_path))
    whole = experiments.EXPERIMENTS[name]
    chosen = POINTS[name].items()
    (point,) = [point for point in whole.grid("toy").points() if chosen <= _hashable(point).items()]
    grid = experiments.Grid({"the": (point,)})
    one = experiments.Experiment(name, whole.question, whole.notebook, {"toy": grid}, whole.cost)
    table = experiments.run_experiment(name, size="toy", experiment=one, progress=False)
    assert (table[table.quantity.str.endswith("_error_rad")].value >= 0).all()
    (executed,) = tmp_path.rglob("executed.ipynb")
    outputs = [o for cell in nbformat.read(executed, as_version=4).cells for o in cell.get("outputs", [])]
    assert "Warning" not in "".join(output.text for output in outputs if output.get("name") == "stderr")
    assert len([o for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]) >= 1


def _hashable(point: dict) -> dict:
    return {name: value for name, value in point.items() if not isinstance(value, list)}


@pytest.mark.notebooks
@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_draw_from_the_tables(name, tmp_path):
    cells = execute(name, tmp_path).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert "Warning" not in "".join(output.text for output in outputs if output.get("name") == "stderr")
    figures = [o for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
    pages = list((tmp_path / "figures").glob("*.html"))
    assert len(pages) == len(figures) == sum(cell.source.count("saved.save(") for cell in cells)
    assert all("plotly.min.js" in page.read_text(encoding="utf-8") for page in pages)


@pytest.mark.notebooks
def test_figures_without_their_tables_say_how_to_make_them(tmp_path):
    with pytest.raises(
        NotebookError, match=r"there is no table .*; `cryoem experiment pairwise-distances --out"
    ):
        execute(FIGURES[0], tmp_path, results=str(tmp_path))


# --- what the figure notebooks stand on


def test_tables_of_the_benchmarks_are_read(tmp_path):
    page = tmp_path / "benchmarks.md"
    with pytest.raises(FileNotFoundError, match=f"there is no page {page}"):
        benchmarks_page.read_tables(page)
    page.write_text(PAGE, encoding="utf-8")
    found = benchmarks_page.read_tables(page)
    table = benchmarks_page.table_like(found, "^5j0n, noise variance 0,")
    assert table.header == ("quantity", "asked", "measured")
    assert table.number("E_OR") == 0.0143
    assert table.number("FSC 0.5, clean images") == 7.33
    assert table.cell("E_OR", "asked") == "<= 0.1 rad"
    with pytest.raises(KeyError, match="has no row 'E_IN'"):
        table.number("E_IN")
    with pytest.raises(KeyError, match="no table of the page has a title like '5a1a'"):
        benchmarks_page.table_like(found, "5a1a")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Kaleido requires Google Chrome to be installed."), "Chromium is not installed"),
        (
            ValueError("Image export requires the Kaleido package, pip install kaleido"),
            "kaleido is not installed",
        ),
        (OSError("the disk is full"), "OSError: the disk is full"),
    ],
)
def test_figures_are_html_even_where_nothing_draws_images(tmp_path, monkeypatch, error, reason):
    def fail(figures, files, **options):
        files[0].write_text("half")
        raise error

    monkeypatch.setattr(plotly.io, "write_images", fail)
    saved = FigureFolder(tmp_path / "figures")
    figure = plots.measured_curves({"a": ([1, 2], [3, 4])}, x_title="x", y_title="y")
    assert saved.save("line", figure) is figure
    assert saved.finish().startswith(
        f"1 figures as HTML in {tmp_path / 'figures'}; no SVG and PDF, because {reason}"
    )
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"line.html", "plotly.min.js"}
    quiet = FigureFolder(tmp_path / "figures", images=False)
    quiet.save("line", figure)
    assert quiet.finish().endswith("SVG and PDF were not asked for")
