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
    assert of("near_fraction", noise_variance=100).between(0.935, 0.955).all()
    assert of("near_fraction", noise_variance=144, images=1650).between(0.805, 0.815).all()
    assert of("near_fraction", noise_variance=144, images=10_000).between(0.825, 0.835).all()
    assert sorted(of("agreement", noise_variance=144)) == pytest.approx([1 / 3] * 3 + [2 / 3], abs=1e-3)
    assert (of("agreement")[table.noise_variance <= 100] == 1).all()


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
    searched, own = (errors[name] for name in ("ab initio", "learned distances, ab initio map"))
    before, after, noisy = errors.loc[0], errors.loc[1], [1, 4, 16, 64]
    assert (learned.loc[0] > 2 * searched.loc[0]).all()
    assert (own.loc[0] > 2 * searched.loc[0]).all()
    assert (before.min(axis=1) == matched.loc[0]).all()
    assert (searched.loc[0, noisy] < 1.2 * matched.loc[0, noisy]).all()
    assert own.loc[0, noisy].to_numpy() == pytest.approx(learned.loc[0, noisy].to_numpy(), rel=0.06)
    assert own.loc[0, 0] > 2 * learned.loc[0, 0]
    spread = after.max(axis=1) / after.min(axis=1)
    assert (spread[[1, 4, 16]] < 1.01).all()
    assert spread[64] < 1.1
    above = after.div(limits, axis=0).loc[[1, 4, 16]]
    assert above.min(axis=None) > 1.04
    assert above.max(axis=None) < 1.1
    far = table[(table.quantity == "near_fraction") & (table.image_count == 1650) & (table.refined == 1)]
    assert far[far.noise_variance == 64].value.between(1 - 0.009, 1 - 0.004).all()
    medians = table[
        (table.quantity == "pose_error_median_rad") & (table.image_count == 1650) & (table.refined == 1)
    ]
    medians = medians[medians.noise_variance == 64].value
    assert medians.max() < 1.02 * medians.min()
    clean = table[(table.quantity == "pose_error_rad") & (table.noise_variance == 0)]
    clean = clean.pivot_table("value", ["image_count", "method"], "refined").dropna()
    bounds = {100: (0.0009, 0.0011), 400: (0.00025, 0.00045), 1650: (0.00015, 0.00045)}
    assert sorted(set(clean.index.get_level_values("image_count"))) == list(bounds)
    for (count, method), row in clean.iterrows():
        assert bounds[count][0] < row[1] < bounds[count][1]
        assert (row[0] < row[1]) == (method == matched.name and count <= 400)
    lines = table[table.method.str.contains("common lines", na=False) & (table.quantity == "pose_error_rad")]
    refined = lines[lines.refined == 1].set_index(["noise_variance", "image_count"]).value
    assert refined[16, 400].item() == pytest.approx(0.03, abs=0.005)
    assert refined[64].min() > 1
    lines = lines[lines.refined == 0]
    others = table[(table.quantity == "pose_error_rad") & (table.refined == 0)]

    def of(name, noise, count):
        rows = others[
            (others.method == name) & (others.noise_variance == noise) & (others.image_count == count)
        ]
        return rows.value.item()

    for row in lines[lines.noise_variance <= 1].itertuples():
        errors_of = {
            name: of(name, row.noise_variance, row.image_count) for name in errors if name != own.name
        }
        least = {name for name, value in errors_of.items() if value > row.value}
        assert least == ({learned.name, searched.name} if row.noise_variance == 0 else set())
    assert (lines[lines.noise_variance >= 16].value > 1).all()
    readme = (notebooks_folder().parent / "README.md").read_text(encoding="utf-8")
    assert f"have an error of {limits[16]:.3f} rad" in " ".join(readme.split())
    for method in errors:
        (quoted,) = re.findall(rf"^\| {method} \| .* \| (\S+) rad \| (\S+) rad \|$", readme, re.MULTILINE)
        assert quoted == tuple(f"{errors[method].loc[done, 16]:.3f}" for done in (0, 1))
