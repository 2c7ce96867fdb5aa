"""The notebooks of phase 5: experiments run at toy size, figures are drawn and headline results hold."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import plotly.io
import pytest
from notebook_rules import code_cells, execute, outputs_of

from cryoem import experiments, orientations, plots
from cryoem.experiments import FigureFolder, published, tables
from cryoem.files import notebooks_folder

FOLDER = notebooks_folder() / "5-paper-figures"
RESULTS = FOLDER / "results"
BENCHMARKS = FOLDER.parents[1] / "benchmarks" / "results"
TOY = json.loads((FOLDER / "toy.json").read_text(encoding="utf-8"))  # the site also uses these sizes
# experiment -> selection of the point to execute, one for each notebook
POINTS = {
    "pairwise-distances": {"coverage": "so3"},
    "perturbed-recovery": {"method": "spectral+gauss_newton", "symmetry": "C1", "coverage": "so3"},
    "start-up": {"noise_variance": 0.0},
    "feature-distance": {"feature_distance": "mlp"},
    "published": {"method": "published", "noise_variance": 0.0},
    "whole-method": {"noise_variance": 1.0},
    "methods": {"noise_variance": 0.1},
    "generalisation": {"training_count": 2},
    "strong-noise": {"images": 80},
}


def test_each_notebook_belongs_to_an_experiment_and_saves_its_rows():
    of_experiments = {experiment.notebook for experiment in experiments.EXPERIMENTS.values()}
    found = list((FOLDER / "experiments").glob("*.ipynb"))
    assert {path.name for path in found} == of_experiments
    assert {experiments.EXPERIMENTS[name].notebook for name in POINTS} == of_experiments
    for path in found:
        last = ast.parse(code_cells(nbformat.read(path, as_version=4).cells)[-1].source)
        assert ast.unparse(last.body[-1]) == "experiments.save_rows(rows_file, rows)"


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_the_tables_of_the_repository_are_complete(name):
    experiment = experiments.EXPERIMENTS[name]
    table = experiments.read_table(RESULTS, name)
    assert set(table.experiment) == {name}
    assert (table.quantity == "point_seconds").sum() == len(experiment.grid("quick").points())
    assert table.value.notna().all()
    for column, values in experiment.grid("quick").axes.items():
        if column in table:
            assert {None if pd.isna(value) else value for value in table[column]} == set(values)


@pytest.mark.parametrize("size", ["cpu", "gpu"])
def test_the_published_training_at_full_size_is_longer_and_half_as_accurate_as_ours(size):
    table = experiments.read_table(RESULTS, f"published-{size}")
    points = experiments.EXPERIMENTS["published"].grid(size).points()
    assert (table.quantity == "point_seconds").sum() == len(points)
    assert set(tables.where(table, method="published").network_image_size) == {116}
    for noise_variance in (0, 16):
        of_case = tables.where(table, size=size, noise_variance=noise_variance)
        theirs, ours = (tables.where(of_case, method=method) for method in ("published", "ours"))
        for quantity, ratio in (
            ("training_seconds", 1),
            ("distance_error_rad", 2),
            ("recovery_error_rad", 2),
        ):
            value, of_ours = (tables.select(rows, quantity).value.max() for rows in (theirs, ours))
            assert ratio * of_ours < value


# --- executed


@pytest.mark.notebooks
@pytest.mark.parametrize("name", POINTS)
def test_experiments_run_at_toy_size(name, home):
    whole = experiments.EXPERIMENTS[name]
    chosen = POINTS[name].items()
    (point,) = [point for point in whole.grid("toy").points() if chosen <= _hashable(point).items()]
    grid = experiments.Grid({"the": (point,)})
    one = experiments.Experiment(name, whole.question, whole.notebook, {"toy": grid}, whole.cost)
    table = experiments.run_experiment(one, size="toy", progress=False)
    (executed,) = home.rglob("*.ipynb")
    _, figures = outputs_of(nbformat.read(executed, as_version=4))
    assert len(figures) >= 1
    assert (table[table.quantity.str.endswith("_error_rad")].value >= 0).all()
    first = table.drop_duplicates("quantity").set_index("quantity").value
    if name == "pairwise-distances":
        density = tables.select(table, "density_per_rad").value
        assert density.sum() * np.pi / 60 == pytest.approx(1, abs=1e-4)
    elif name == "perturbed-recovery":
        assert first["recovery_error_rad"] < 1e-3  # unperturbed
    elif name == "start-up":
        assert first["pose_error_rad"] < 1.5 * table.start_error_rad.max()
    elif name == "methods":
        errors = table[table.quantity == "pose_error_rad"].set_index("method").value
        assert errors[["ab initio", "projection matching"]].max() < 0.2
        assert "learned distances, ab initio map" in errors
        assert 0 < first["limit_rad"] < 0.2
    elif name == "strong-noise":
        assert first["pose_error_rad"] < 0.2
        assert first["near_fraction"] > 0.9
        assert 0 <= first["agreement"] <= 1
    elif name == "generalisation":
        assert first["neighbour_distance_rad"] > first["nearest_distance_rad"] > 0
        assert set(table[table.quantity == "near_fraction"].refined) == {0, 1}
    elif name == "published":
        assert first["encoder_parameters"] == 4_551_936
        of_epochs = tables.select(table, "training_error_rad", epoch=2).value
        assert of_epochs.item() < first["training_error_rad"]  # of the first epoch
        assert first["recovery_error_median_rad"] != first["recovery_error_rad"]
        assert set(table["size"]) == {"toy"}
        assert not list(home.rglob("checkpoints"))
    elif name == "whole-method":
        assert 0 < first["recovery_error_median_rad"] <= np.pi
        assert 0 < first["shift_error_px"] < 2 * np.sqrt(2)  # shifts are at most 2 px along each axis
        _, percent = tables.error_shares(table, np.linspace(0, np.pi, 20))
        assert percent.sum() == pytest.approx(100)
        mean = tables.select(table, "orientation_error_rad").value.mean()
        assert mean == pytest.approx(first["recovery_error_rad"], rel=0.05)
        assert set(table.orientations.dropna()) == {"true", "random", "recovered"}
        resolution = tables.select(table, "resolution_angstrom").set_index("orientations").value
        assert resolution["true"] < resolution["random"]
    else:
        assert first["distance_error_rad"] < 1.5 * first["chance_rad"]


def _hashable(point: dict) -> dict:
    return {name: value for name, value in point.items() if not isinstance(value, list)}


@pytest.mark.notebooks
@pytest.mark.parametrize("name", ["5.1-orientation-recovery", "5.2-difference-learning"])
def test_figures_are_drawn_from_the_tables(name, tmp_path):
    parameters = {**TOY[name], "export_to": str(tmp_path / "figures")}
    notebook = execute(FOLDER / f"{name}.ipynb", tmp_path, **parameters)
    printed, figures = outputs_of(notebook)
    pages = list((tmp_path / "figures").glob("*.html"))
    assert len(pages) == len(figures) == sum(cell.source.count("saved.save(") for cell in notebook.cells)
    assert all("plotly.min.js" in page.read_text(encoding="utf-8") for page in pages)
    assert f"{len(pages)} figures as HTML" in printed
    if name == "5.1-orientation-recovery":
        prefixes = {prefix_of(number) for number in published("items").number}
        assert {"-".join(page.stem.split("-")[:2]) for page in pages} >= prefixes
        assert len(re.findall(r"published value [\d.]+ rad; our method [\d.]+", printed)) == 4
    if name == "5.2-difference-learning":
        check_sentences_on_the_second_paper(printed, RESULTS / "published-alignment.csv")


def best_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the training with the smallest error of each method on each set, and only sets with all methods."""
    rows = rows.loc[rows.groupby(["set", "method"]).reference_mean_deg.idxmin()]
    return rows.groupby("set").filter(lambda some: len(some) == 6)


def check_sentences_on_the_second_paper(printed: str, table: Path) -> None:
    """Compare the printed counts of sets with the table."""
    rows = best_of(pd.read_csv(table))
    count = rows["set"].nunique()
    assert f"{count} of 14 sets" in printed
    names = {"published JUDL": "published-judl", "published UDL": "published-udl", "pairs": "correlation"}
    found = re.findall(r"error of (UDL|JUDL|template) is below that of (.*) on (\d+) of (\d+) sets", printed)
    assert len(found) == 5
    for ours, theirs, below, of in found:
        quantity = "pairs_mean_deg" if ours == "UDL" else "reference_mean_deg"
        errors = rows.pivot(index="set", columns="method", values=quantity)
        expected = (errors[ours.lower()] < errors[names.get(theirs, theirs.lower())]).sum()
        assert (int(below), int(of)) == (expected, count)


def test_error_shares_are_the_histogram_of_the_quantiles():
    fractions = np.linspace(0, 1, 51)
    rows = {"quantity": "orientation_error_rad", "fraction": fractions, "value": 0.1 + 0.4 * fractions}
    edges, percent = tables.error_shares(pd.DataFrame(rows), np.array([0.2, 0.3, 0.4, 0.45]))
    np.testing.assert_allclose(edges, [0.2, 0.3, 0.4, 0.45])
    np.testing.assert_allclose(
        percent, [50, 25, 25]
    )  # the first and the last bin include everything beyond them


def prefix_of(number: str) -> str:
    """Return the start of the file names of an item: ``figure-07a`` for Figure 7a."""
    kind, digits, letter = re.fullmatch(r"(Figure|Table) (\d+)([a-z]?)", number).groups()
    return f"{kind.lower()}-{int(digits):02}{letter}"


def test_notebook_shows_every_item_of_the_first_paper_in_order():
    cells = nbformat.read(FOLDER / "5.1-orientation-recovery.ipynb", as_version=4).cells
    shown: dict[str, list[str]] = {}
    for cell in cells:
        if cell.cell_type == "markdown":
            for heading in re.findall(r"^## (.+)$", cell.source, re.MULTILINE):
                shown[heading] = []
        elif found := re.findall(r"saved\.save\(\s*\"([^\"]+)\"", cell.source):
            (name,) = found  # a second figure of a cell would not be displayed
            shown[list(shown)[-1]].append(name)
    items = {f"{one.number}: {one.title}": prefix_of(one.number) for one in published("items").itertuples()}
    assert list(shown) == [*items, "Beyond the paper"]
    for heading, prefix in items.items():
        assert shown[heading]
        assert all(name.startswith(f"{prefix}-") for name in shown[heading]), heading
    assert all(name.startswith("beyond-") for name in shown["Beyond the paper"])


def test_the_items_are_those_of_the_paper():
    numbers = list(published("items").number)
    assert [n for n in numbers if n.startswith("Table")] == ["Table 1"]
    figures = [re.fullmatch(r"Figure (\d+)([a-z]?)", n).groups() for n in numbers if n != "Table 1"]
    assert sorted({int(number) for number, _ in figures}) == list(range(1, 19))
    assert figures == sorted(figures, key=lambda figure: (int(figure[0]), figure[1]))
    panels = {6: "ab", 7: "ab", 8: "abcd", 12: "abcd", 17: "ab"}
    for number in range(1, 19):
        letters = "".join(letter for of, letter in figures if int(of) == number)
        assert letters == panels.get(number, "")


@pytest.mark.notebooks
def test_methods_are_compared_on_the_same_images(tmp_path):
    name = "5.3-does-learning-pay"
    printed, figures = outputs_of(execute(FOLDER / f"{name}.ipynb", tmp_path, **TOY[name]))
    assert len(figures) == 10
    compared = " ".join(trace.get("name") or "" for trace in figures[-1]["data"])
    assert all(method in compared for method in ("learned distances", "projection matching", "ab initio"))
    assert ("common lines" in compared) == orientations.is_installed()
    assert ("ASPIRE is not installed" in printed) != orientations.is_installed()
    live = dict(re.findall(r"on this machine, ([^:]+): ([\d.]+) rad", printed))
    assert float(live["ab initio"]) < 0.2
    assert float(live["projection matching"]) < 0.2
    assert float(live["learned distances"]) < 0.5


@pytest.mark.notebooks
def test_time_grows_in_proportion_and_memory_does_not(tmp_path):
    printed, figures = outputs_of(execute(FOLDER / "5.4-speed-and-scale.ipynb", tmp_path))
    assert len(figures) == 4
    exponents = dict(re.findall(r"against the number of (\w+): ([\d.]+)", printed))
    assert exponents.keys() == {"images", "landmarks", "pixels"}
    assert all(float(exponent) <= 1.1 for exponent in exponents.values())
    (bytes_each,) = re.findall(r"reads blocks: (\d+) bytes", printed)
    assert int(bytes_each) <= 100


def test_a_large_job_takes_minutes_and_little_memory():
    jobs = pd.read_csv(RESULTS / "large-job.csv", index_col="images")
    assert jobs.index.max() == 50_000
    assert jobs.seconds[50_000] <= 45 * 60
    assert jobs.peak_memory_gb.max() <= 4
    assert jobs.seconds.div(jobs.index).is_monotonic_decreasing  # of each image
    readme = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    largest = jobs.loc[50_000]
    quoted = f"from a particle file takes {largest.seconds / 60:.1f} min and {largest.peak_memory_gb:.2f} GB"
    assert quoted in " ".join(readme.split())


# --- headline results of the stored tables


def _measured(name: str, row: str) -> float:
    table = pd.read_csv(BENCHMARKS / f"{name}.csv", comment="#", dtype=str, index_col=0)
    return float(table.loc[row, "measured"].split()[0])


def test_orientation_errors_are_below_those_of_the_paper():
    proteins = {"5j0n": "5j0n", "5a1a": "beta-galactosidase-D2"}
    for paper in published("figure-8").itertuples():
        ours = _measured(f"end-to-end-{proteins[paper.protein]}-noise-{paper.noise_variance}", "E_OR")
        assert ours < paper.recovery_error_rad


def test_the_kernel_is_better_than_the_cosine():
    table = experiments.read_table(RESULTS, "feature-distance")
    kernel, cosine = (
        tables.select(table, "distance_error_rad", feature_distance=kind).value.iloc[0]
        for kind in ("kernel", "cosine")
    )
    assert kernel < 0.7 * cosine


def test_alignment_networks_are_better_than_their_rivals():
    sets = json.loads((FOLDER.parent / "4-udl-alignment" / "fourteen-sets.json").read_text(encoding="utf-8"))
    assert len(sets) == 14
    for errors in sets.values():
        assert errors["udl"] < errors["pair"]
        assert errors["judl"] < errors["template"]
    natural = pd.read_csv(BENCHMARKS / "natural.csv", comment="#", index_col="method").drop(
        columns="training"
    )
    assert (natural.loc["udl"] < natural.loc["stn"]).all()


def test_alignment_networks_are_better_than_those_of_the_second_paper():
    rows = best_of(pd.read_csv(RESULTS / "published-alignment.csv"))
    for quantity, ours in {"pairs_mean_deg": "udl", "reference_mean_deg": "judl"}.items():
        errors = rows.pivot(index="set", columns="method", values=quantity)
        assert errors.shape == (14, 6)
        assert (errors[ours] < errors[f"published-{ours}"]).all()


def test_natural_images_of_the_second_paper_are_measured_at_both_sizes():
    rows = pd.read_csv(RESULTS / "natural-images.csv")
    counts = rows.groupby("image_size_px")[["noise", "method"]].nunique()
    assert counts.to_dict("index") == {size: {"noise": 3, "method": 4} for size in (64, 128)}
    assert not rows.duplicated(["image_size_px", "noise", "method", "device"]).any()
    errors = rows.pivot_table(
        index=["image_size_px", "noise"], columns="method", values="mean_deg", aggfunc="min"
    )
    assert (errors["udl"] < errors[["stn", "published"]].min(axis=1)).all()


# --- export


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
def test_figures_are_html_if_images_cannot_be_exported(tmp_path, monkeypatch, error, reason):
    def fail(figures, files, **options):
        files[0].write_text("half")
        raise error

    monkeypatch.setattr(plotly.io, "write_images", fail)
    saved = FigureFolder(tmp_path / "figures")
    figure = plots.measured_curves({"a": ([1, 2], [3, 4])}, x_title="x", y_title="y")
    assert saved.save("line", figure) is figure
    assert saved.finish().startswith(
        f"1 figures as HTML in {tmp_path / 'figures'}; no SVG or PDF, because {reason}"
    )
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"line.html", "plotly.min.js"}
    quiet = FigureFolder(tmp_path / "figures", images=False)
    quiet.save("line", figure)
    assert quiet.finish().endswith("SVG and PDF were not requested")
