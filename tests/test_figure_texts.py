"""What the text of notebook 5.3 says is in the stored tables."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from cryoem import experiments
from cryoem.experiments import tables
from cryoem.files import notebooks_folder

RESULTS = notebooks_folder() / "5-paper-figures" / "results"


def test_what_is_said_about_noise_is_in_the_table():
    table = experiments.read_table(RESULTS, "strong-noise")

    def of(quantity, **conditions):
        return tables.select(table, quantity, **conditions).value

    assert of("near_fraction")[table.noise_variance <= 64].min() > 0.985
    assert of("near_fraction", noise_variance=100).between(0.915, 0.945).all()
    assert of("near_fraction", noise_variance=144, images=1650).between(0.74, 0.76).all()
    assert of("near_fraction", noise_variance=144, images=10_000).between(0.79, 0.80).all()
    assert of("agreement", noise_variance=144).to_numpy() == pytest.approx(1 / 3)
    assert of("agreement")[table.noise_variance <= 100].min() > 0.66


def test_what_is_said_about_unseen_particles_is_in_the_table():
    table = pd.read_csv(RESULTS / "generalisation.csv")
    table = table[table.refined.fillna(1) == 1]  # refined orientations only
    table["trained"] = table.trained_on.where(table.trained_on == table.test_map, "others")
    table = table.set_index(["trained", "test_map", "training_count", "epochs"]).sort_index()

    def of(quantity, trained="others"):
        return table[table.quantity == quantity].value[trained]

    tested = ["5j0n", "1ncb", "beta-galactosidase"]
    own = pd.concat([of("distance_error_rad", name) for name in tested])
    assert len(own) == 3
    assert own.between(0.025, 0.065).all()
    unseen, constant = of("distance_error_rad"), of("chance_rad")
    assert len(unseen) == 3 * 7 + 3 * 2
    assert (unseen > 0.9 * constant).all()
    few = unseen.index.get_level_values("training_count") <= 2
    assert (unseen[few] > constant[few]).all()
    trained = table[(table.quantity == "trained_error_rad") & (table.trained_on == "other particles")]
    trained = trained.value.reset_index(["trained", "test_map"], drop=True).sort_index()
    assert trained.xs(24, level="epochs").is_monotonic_increasing
    assert trained[64, 96] < 0.5 * trained[64, 24]
    assert (unseen.xs((64, 96), level=(1, 2)) > unseen.xs((64, 24), level=(1, 2))).all()
    near = of("neighbour_distance_rad")[["5j0n", "1ncb"]]
    assert near[near.index.get_level_values("training_count") >= 8].between(1, 1.3).all()
    start = of("near_fraction")[of("near_fraction").index.get_level_values("training_count") > 0]
    assert start.max() < 0.52
    bias = table[(table.quantity == "distance_bias_rad") & (table.trained_on == "other particles")]
    far = bias[bias.true_distance_rad > 0.95].xs((64, 24), level=("training_count", "epochs"))
    estimated = (far.true_distance_rad + far.value).groupby("test_map")
    assert (estimated.max() - estimated.min()).max() < 0.7
    searched = table[(table.trained_on == "no particle") & (table.quantity == "near_fraction")].value
    assert list(searched) == [1, 1, 1]


def test_what_is_said_about_learning_is_in_the_table():
    table = pd.read_csv(RESULTS / "methods.csv")
    errors = table[(table.quantity == "pose_error_rad") & (table.image_count == 1650)]
    errors = errors.pivot_table("value", ["refined", "noise_variance"], "method")
    limits = table[(table.quantity == "limit_rad") & (table.image_count == 1650)]
    limits = limits.set_index("noise_variance").value
    learned, matched = (errors[name] for name in ("learned distances, known map", "projection matching"))
    assert list(limits.index) == [0, 1, 4, 16, 64]
    assert errors.shape == (10, 4)
    assert not errors.isna().any(axis=None)
    assert (errors.min(axis=1).loc[0] > limits).all()
    assert (errors.min(axis=1).loc[1] > limits).all()
    assert (learned.loc[0, [0, 1, 4]] < 0.7 * matched.loc[0, [0, 1, 4]]).all()  # before refinement
    assert (errors.loc[1].loc[[1, 4]].max(axis=1) < 1.02 * errors.loc[1].loc[[1, 4]].min(axis=1)).all()
    assert learned.loc[0, 64] > 2 * matched.loc[0, 64]
    assert (learned.loc[1, [16, 64]] > errors["ab initio"].loc[1, [16, 64]]).all()
    readme = (notebooks_folder().parent / "README.md").read_text(encoding="utf-8")
    assert f"have an error of {limits[16]:.3f} rad" in " ".join(readme.split())
    for method in errors:
        (quoted,) = re.findall(rf"^\| {method} \| .* \| (\S+) rad \| (\S+) rad \|$", readme, re.MULTILINE)
        assert quoted == tuple(f"{errors[method].loc[done, 16]:.3f}" for done in (0, 1))
