"""Parameter grids, rows of measurements and their tables, published numbers, and growth with size."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from cryoem import experiments
from cryoem.experiments import tables, trials
from cryoem.rotations import random_rotations
from cryoem.volumes import phantom


def test_a_grid_is_all_combinations():
    grid = experiments.Grid(
        {"a": (1, 2), "case": ({"b": 3, "c": [1]}, {"b": 4, "c": [2]})}, {"d": 5, "listed": [1, 2]}
    )
    shared = {"d": 5, "listed": [1, 2]}
    assert grid.points() == [
        {**shared, "a": a, "b": b, "c": c} for a in (1, 2) for b, c in ((3, [1]), (4, [2]))
    ]
    for arguments, message in (
        (({"a": ()},), r"axes\['a'\] must contain at least one value, got \(\)"),
        (({"a": (1,)}, {"a": 2}), "a must be either in axes or in fixed, not in both"),
    ):
        with pytest.raises(ValueError, match=message):
            experiments.Grid(*arguments)


def test_work_is_the_product_of_the_costs():
    grids = {
        "quick": experiments.Grid({"x": (1, 2)}, {"many": [0]}),
        "paper": experiments.Grid({"x": (6,)}, {"many": [0, 0]}),
    }
    experiment = experiments.Experiment("a", "?", "a.ipynb", grids, ("x", "many"))
    assert (experiment.work("quick"), experiment.work("paper")) == (1 + 2, 6 * 2)
    with pytest.raises(ValueError, match="size must be one of quick, paper, got 'huge'"):
        experiment.grid("huge")


def test_rows_are_plain_and_finite(tmp_path):
    row = experiments.measurement("error_rad", np.float32(0.5), seed=np.int64(3), kind="a")
    assert row == {"seed": 3, "kind": "a", "quantity": "error_rad", "value": 0.5}
    experiments.save_rows(tmp_path / "record.json", [row])
    assert json.loads((tmp_path / "record.json").read_text()) == {"results": {"rows": [row]}}
    experiments.save_rows(None, [row])
    with pytest.raises(ValueError, match="error_rad must be finite, got nan"):
        experiments.measurement("error_rad", float("nan"))
    with pytest.raises(ValueError, match="rows must contain at least one measurement, got none"):
        experiments.save_rows(None, [])
    with pytest.raises(ValueError, match=r"each row must contain quantity and value, got \{'seed': 1\}"):
        experiments.save_rows(None, [{"seed": 1}])


def test_a_curve_is_the_mean_over_the_other_conditions():
    rows = [
        {"noise_variance": noise, "test_coverage": "so3", "test_noise_variance": test, "seed": seed}
        | {"experiment": "a", "coverage": "so3", "quantity": "error", "value": noise + test + seed}
        for noise in (0, 4)
        for test in (0, 4)
        for seed in (0, 2)
    ]
    table = pd.DataFrame(rows)
    x, mean, low, high = tables.curve(table, "error", against="noise_variance", test_noise_variance=4)
    assert (list(x), list(mean), list(low), list(high)) == ([0, 4], [5, 9], [4, 8], [6, 10])
    own = tables.own_test(table)
    assert (own.noise_variance == own.test_noise_variance).all()
    assert len(own) == 4
    with pytest.raises(KeyError, match="the table has no error with noise_variance 9"):
        tables.select(table, "error", noise_variance=9)


def test_missing_and_damaged_tables_are_one_sentence(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"noise.csv not found; create it with `cryoem experiment noise --out"
    ):
        tables.read_table(tmp_path, "noise")
    with pytest.raises(FileNotFoundError, match="`cryoem experiment published --size cpu --out"):
        tables.read_table(tmp_path, "published-cpu")
    header = "experiment,quantity,value"
    for content, message in (
        ("a,b\n1,2\n", "needs the columns experiment, quantity and value, but has a, b"),
        (f"{header},value\na,b,1,2\n", "has two columns named value"),
        (f"{header}\n", "has no rows"),
        (f"{header}\na,b,1\na,b,inf\n", "value in row 2 must be a finite number, got inf"),
        ("", "is not a CSV table: No columns"),
    ):
        (tmp_path / "noise.csv").write_text(content)
        with pytest.raises(ValueError, match=message):
            tables.read_table(tmp_path, "noise")


def test_published_numbers_have_a_source():
    names = [path.stem for path in tables.PUBLISHED.glob("*.csv")]
    assert {"figure-5", "figure-8", "table-1"} <= set(names)
    for name in names:
        table = experiments.published(name)
        assert table.source.str.fullmatch(r"arXiv:\d{4}\.\d{5}.*").all()
        assert len(table)
    errors = experiments.published("figure-8").set_index(["protein", "noise_variance"])
    assert tuple(errors.loc[("5j0n", 16), ["training_error_rad", "recovery_error_rad"]]) == (0.153, 0.2546)
    with pytest.raises(ValueError, match=r"name must be one of .*, times, got 'others'"):
        experiments.published("others")


def test_the_exponent_of_growth_is_that_of_the_largest_sizes():
    sizes = np.array([10, 100, 1000, 10_000])
    seconds = np.where(sizes == 10, 50.0, 0.01 * sizes**1.5)  # a constant cost dominates at the smallest size
    rows = [("a", "images", *row) for row in zip(sizes, seconds, [1.0, 1.0, 1.0, 1.5], strict=True)]
    rows += [("a", "landmarks", 5, 3.0, 1.0), ("a", "landmarks", 50, 3.0, 0.5), ("b", "images", 10, 1.0, 1.0)]
    table = pd.DataFrame(rows, columns=["step", "variable", "size", "seconds", "added_memory_gb"])
    growth = tables.growth_of(table.sample(frac=1, random_state=0)).set_index("variable")
    assert set(growth.index) == {"images", "landmarks"}  # a single size shows no growth
    assert growth.exponent["images"] == pytest.approx(1.5)
    assert growth.exponent["landmarks"] == pytest.approx(0)
    assert growth.bytes_each["images"] == pytest.approx(0.5e9 / 9990)
    assert (growth.smallest["images"], growth.largest["images"]) == (10, 10_000)


def test_a_stand_in_for_a_model_that_cannot_be_downloaded(monkeypatch):
    def offline(name):
        raise ConnectionError(f"could not download {name}")

    monkeypatch.setattr(trials.registry, "fetch", offline)
    with pytest.warns(
        UserWarning, match="could not download 5a1a; using the experimental map beta-galactosidase"
    ):
        assert trials.obtainable("5a1a") == "beta-galactosidase"
    assert trials.obtainable("5j0n") == "5j0n"  # loading it reports the error


def test_maps_of_better_orientations_resolve_more():
    density, true = phantom(size=24), random_rotations(200, rng=0)
    kinds = {"true": true, "random": random_rotations(200, rng=1), "turned": true * Rotation.random(rng=2)}
    maps, rows = trials.measure_maps(density, 32, kinds)
    assert maps["true"].data.shape == (32, 32, 32)
    found = {row["orientations"]: row["value"] for row in rows if row["quantity"] == "resolution_angstrom"}
    assert found["turned"] == pytest.approx(found["true"], rel=0.02)  # the frame is aligned
    assert found["random"] > 3 * found["true"]


def test_a_search_that_fails_has_one_row():
    def search(stack):
        raise np.linalg.LinAlgError

    (row,) = trials.measure_method(search, None, refined=True, seed=0, method="common lines")
    assert row == tables.measurement("failed", 1, refined=0, method="common lines")


def test_a_method_is_measured_before_and_after_refinement(monkeypatch):
    true = random_rotations(20, rng=0)
    turned = true * Rotation.from_rotvec([[0, 0, 0.5]] * 10 + [[0, 0, 0]] * 10)
    stack = SimpleNamespace(rotations=true)
    monkeypatch.setattr(trials, "refine", lambda *_, **__: SimpleNamespace(rotations=true))
    rows = trials.measure_method(lambda _: turned, stack, refined=True, seed=0, image_count=20)
    table = pd.DataFrame(rows).pivot_table("value", "refined", "quantity")
    assert table.pose_error_rad[0] == pytest.approx(0.25, abs=0.02)
    assert table.pose_error_rad[1] < 1e-6
    assert table.near_fraction.tolist() == [1.0, 1.0]
    assert 0 < table.seconds[0] < table.seconds[1]  # of both steps
