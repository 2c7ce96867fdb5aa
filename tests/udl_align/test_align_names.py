"""The names under which the tables of an alignment find their images, wherever the result lies."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from alignment_files import PIXEL, SIZE, no_reading
from typer.testing import CliRunner

from cryoem.cli import app
from cryoem.particles import open_particles, relion_tables, write_stack, write_star
from cryoem.udl import stacks


@pytest.mark.parametrize("what", ["out", "its parent"])
def test_the_result_may_lie_behind_a_link(what, stack_file, models, clean, tmp_path):
    real, link = tmp_path / "far" / "real", tmp_path / "link"
    real.mkdir(parents=True)
    link.symlink_to(real)
    out = link if what == "out" else link / "out"
    stacks.align_file(stack_file, out, model=models / "saved")
    assert link.is_symlink()
    star = open_particles(out / "aligned.star")
    np.testing.assert_array_equal(star.read(slice(None)), clean.images)


@pytest.fixture
def project(clean, tmp_path):
    """A RELION project: a stack, and a table in another folder that names it from the project's folder."""
    for folder in ("Extract/job1", "Select/job2"):
        (tmp_path / "project" / folder).mkdir(parents=True)
    stack = "Extract/job1/a.mrcs"
    write_stack(tmp_path / "project" / stack, clean.images, pixel_size_angstrom=PIXEL)
    names = [f"{number}@{stack}" for number in (3, 1, 2, 9, 30)]
    table, optics = relion_tables(
        names, np.zeros(5), np.zeros((5, 2)), pixel_size_angstrom=PIXEL, image_size=SIZE
    )
    write_star(tmp_path / "project" / "Select" / "job2" / "p.star", table, optics=optics)
    return tmp_path / "project", names


@pytest.mark.parametrize("out", ["Align/out", "../elsewhere/out"])
def test_a_table_keeps_its_names(out, project, models, clean, monkeypatch):
    folder, names = project
    monkeypatch.chdir(folder)
    stacks.align_file("Select/job2/p.star", out, model=models / "saved")
    for table in ("aligned.star", "aligned.xmd"):
        aligned = open_particles(Path(out) / table, pixel_size_angstrom=PIXEL)
        assert aligned.image_names == names
        np.testing.assert_array_equal(aligned.read(slice(None)), clean.images[[2, 0, 1, 8, 29]])
    monkeypatch.chdir("/")
    if out == "../elsewhere/out":
        with pytest.warns(
            UserWarning, match=r"aligned\.star names stacks as .* does, and Extract/job1/a\.mrcs is not"
        ):
            stacks.align_file(
                folder / "Select/job2/p.star", folder / "../elsewhere/again", model=models / "saved"
            )


def test_a_table_may_lie_apart_from_its_project(project, models, tmp_path, monkeypatch):
    folder, names = project
    table = shutil.copy(folder / "Select/job2/p.star", tmp_path)
    monkeypatch.chdir("/")
    arguments = ["align2d", table, "--model", str(models / "saved"), "--out", str(folder / "out")]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 1
    assert "p.star names the stack Extract/job1/a.mrcs, which is neither in" in refused.stderr
    assert CliRunner().invoke(app, [*arguments, "--datadir", str(folder)]).exit_code == 0
    assert open_particles(folder / "out" / "aligned.star").image_names == names


@pytest.mark.parametrize("name", ["p.mrcs", "sub/my p.mrcs", "sub/p.mrc", "../p.mrcs", "aligned.mrcs"])
def test_a_bare_stack_is_named_from_the_working_folder(name, models, clean, tmp_path, monkeypatch):
    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    monkeypatch.chdir(here)
    write_stack(name, clean.images, pixel_size_angstrom=PIXEL)
    stacks.align_file(name, "out", model=models / "saved")
    expected = {"../p.mrcs": f"{tmp_path}/p.mrcs", "aligned.mrcs": f"{here}/aligned.mrcs"}.get(name, name)
    form = ":mrcs" if name.endswith(".mrc") else ""
    for table in ("aligned.star", "aligned.xmd"):
        aligned = open_particles(Path("out") / table, pixel_size_angstrom=PIXEL)
        assert aligned.image_names == [f"{number:06d}@{expected}{form}" for number in range(1, 61)]
        np.testing.assert_array_equal(aligned.read(slice(None)), clean.images)


def test_a_stack_of_the_same_name_nearer_to_the_result_is_not_taken_for_it(
    models, clean, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    write_stack("p.mrcs", clean.images, pixel_size_angstrom=PIXEL)
    write_stack("run/p.mrcs", clean.images[::-1], pixel_size_angstrom=PIXEL)
    stacks.align_file("p.mrcs", "run/out", model=models / "saved")
    star = open_particles("run/out/aligned.star")
    np.testing.assert_array_equal(star.read(slice(None)), clean.images)


@pytest.mark.parametrize("name", ["a#b.mrcs", "it's.mrcs", "it's a.mrc", 'a"b.mrcs'])
def test_names_that_tables_cannot_hold_are_refused_before_any_training(name, clean, tmp_path, monkeypatch):
    monkeypatch.setattr(stacks, "_sample", no_reading)
    write_stack(tmp_path / name, clean.images, pixel_size_angstrom=PIXEL)
    with pytest.raises(
        ValueError, match=f"^image names of {re.escape(str(tmp_path / name))} must be without #"
    ):
        stacks.align_file(tmp_path / name, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [name]
