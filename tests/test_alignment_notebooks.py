"""The notebooks of phase 4: their style, and their numbers at toy size."""

from __future__ import annotations

import json
import re

import nbformat
import pytest
from notebook_rules import assert_well_written, execute, outputs_of

from cryoem.files.reading import notebooks_folder

FOLDER = notebooks_folder() / "4-udl-alignment"
TOY = json.loads((FOLDER / "toy.json").read_text(encoding="utf-8"))  # the site also uses these sizes


def numbers(text: str) -> dict[str, float]:
    """Return the names and values of all printed "name: 1.23°", "name: 1.23 Å" and "name: 1.23 rad"."""
    return {name: float(value) for name, value in re.findall(r"(\S[^:\n]*): ([-\d.e]+)(?:°| Å| rad)", text)}


def check_synthetic(printed: str) -> None:
    errors = [float(value) for value in re.findall(r"iterated template: ([\d.]+)°", printed)]
    assert len(errors) == 3
    assert max(errors) < 3


def check_pairwise(printed: str) -> None:
    found = numbers(printed)
    error, correlation = (found[f"mean pairwise error, {name}"] for name in ("UDL", "correlation"))
    assert error < 1.2 * correlation  # for clean images
    losses = re.findall(r"before and after: ([\d.]+), ([\d.]+)", printed)
    assert len(losses) == 2  # from random weights, and of the published network
    assert all(float(after) < float(before) for before, after in losses)


def check_joint(printed: str) -> None:
    found = numbers(printed)
    assert "published JUDL" in found
    assert found["JUDL, aligned"] < found["JUDL network"] < 1.1 * found["iterated template"]


def check_natural(printed: str) -> None:
    errors = dict(re.findall(r"(\S+): UDL ([\d.]+)°", printed))
    (stn,) = re.findall(r"salt-and-pepper: .* transformer ([\d.]+)°", printed)
    assert set(errors) == {"salt-and-pepper"}
    assert float(errors["salt-and-pepper"]) < 1.1 * float(stn)


def check_stack(printed: str) -> None:
    found = numbers(printed)
    assert found["aligned"] <= 1.05 * found["true alignment"]
    assert found["aligned"] < found["before"]


def check_export(printed: str) -> None:
    found = numbers(printed)
    for form in ("saved", "exported"):
        assert found[f"{form}, largest difference"] < 1e-3


def check_classes(printed: str) -> None:
    found = numbers(printed)
    assert found["class averages"] < found["single template"]
    in_junk = dict(re.findall(r"(\w+), in junk classes: ([\d.]+) %", printed))
    assert float(in_junk["particle"]) <= 2
    assert float(in_junk["noise"]) >= 95


# each method compiles a different network for each noise level; labels are not checked
FEWER = {"4.4-natural-images": {"steps": {"udl": 40, "stn": 40, "published": 4}}}
CHECKS = {  # notebook -> check of its printed output, minimum number of figures
    "4.1-synthetic-particles": (check_synthetic, 3),
    "4.2-pairwise-udl": (check_pairwise, 3),
    "4.3-joint-judl": (check_joint, 3),
    "4.4-natural-images": (check_natural, 3),
    "4.5-your-own-stack": (check_stack, 3),
    "4.6-export-and-use-elsewhere": (check_export, 0),
    "4.7-two-dimensional-classes": (check_classes, 5),
}
EACH = pytest.mark.parametrize("name", CHECKS)


def test_each_notebook_is_tested():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(TOY) == set(CHECKS)


@EACH
def test_notebooks_are_well_written(name):
    cells = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells
    assert_well_written(cells, title=f"Phase {name[:3]}", parameters=TOY[name])


@pytest.mark.notebooks
@EACH
def test_notebooks_run_at_toy_size(name, tmp_path):
    printed, figures = outputs_of(
        execute(FOLDER / f"{name}.ipynb", tmp_path, **TOY[name] | FEWER.get(name, {}))
    )
    check, least = CHECKS[name]
    check(printed)
    assert len(figures) >= least
