"""Names of stacks in new tables, which lead to the same images from the folder of the table."""

import numpy as np
import pytest
from particle_files import (
    a_stack,
    digests,
    mrc,
    one_sentence,
    some_images,
    some_poses,
    star,
)

from cryoem.particles import writing
from cryoem.particles.opening import open_particles
from cryoem.particles.writing import write_particles, write_poses


def test_a_table_names_its_stacks_so_that_they_are_found_from_its_own_folder(tmp_path, monkeypatch):
    job, run = tmp_path / "job", tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    write_particles(job / "a.star", a_stack())
    (job / "Extract").mkdir()
    (job / "a.mrcs").rename(job / "Extract" / "b.mrcs")
    star(job / "c.star", [f"{number}@Extract/b.mrcs" for number in (3, 1)])
    monkeypatch.chdir(job)  # from where the names lead to the stack, but not for long
    given = open_particles("c.star")
    write_poses(run / "d.star", given, some_poses()[:2])
    write_poses(job / "e.star", given, some_poses()[:2])
    monkeypatch.chdir("/")
    found = open_particles(run / "d.star")
    assert found.image_names == [f"{number:06d}@{job}/Extract/b.mrcs" for number in (3, 1)]
    np.testing.assert_array_equal(found, given)
    assert open_particles(job / "e.star").image_names == ["3@Extract/b.mrcs", "1@Extract/b.mrcs"]
    # a stack that is found by the end of its name: only this package would find it again
    (job / "Extract" / "b.mrcs").rename(job / "b.mrcs")
    with pytest.warns(UserWarning, match="using the file with the same name"):
        given = open_particles(job / "c.star")
    write_poses(job / "f.star", given, some_poses()[:2])
    assert open_particles(job / "f.star").image_names == [f"{number:06d}@{job}/b.mrcs" for number in (3, 1)]


def test_a_path_that_tables_cannot_store_keeps_the_names_with_a_warning(tmp_path):
    job, run = tmp_path / "it's", tmp_path / "run"
    run.mkdir()
    write_particles(job / "a.star", a_stack())
    with pytest.warns(UserWarning, match=r"d\.star keeps the stack names of .*, but a\.mrcs cannot be found"):
        write_poses(run / "d.star", open_particles(job / "a.star"), some_poses())
    found = open_particles(run / "d.star", datadir=job)
    assert found.image_names[0] == "000001@a.mrcs"


def test_a_table_never_leads_to_another_stack_of_the_same_name(tmp_path):
    job, inside = tmp_path / "it's", tmp_path / "it's" / "run"
    inside.mkdir(parents=True)
    write_particles(job / "a.star", a_stack())
    mrc(tmp_path / "a.mrcs", some_images(seed=9))
    given, before = open_particles(job / "a.star"), digests(tmp_path)
    for check in (writing.stack_of_poses, lambda *of: write_poses(*of, some_poses())):
        with pytest.raises(
            ValueError, match=r"^b\.star cannot refer to .*, the name a\.mrcs leads to"
        ) as error:
            check(tmp_path / "b.star", given)
        one_sentence(error)
    assert digests(tmp_path) == before
    # the path relative to a folder above both has no quote
    (job / "Extract").mkdir()
    (job / "a.mrcs").rename(job / "Extract" / "a.mrcs")
    mrc(job / "a.mrcs", some_images(seed=9))
    given = open_particles(
        star(job / "c.star", [f"{n}@a.mrcs" for n in range(1, 6)]), datadir=job / "Extract"
    )
    write_poses(inside / "d.star", given, some_poses())
    found = open_particles(inside / "d.star")
    assert found.image_names[0] == "000001@Extract/a.mrcs"
    np.testing.assert_array_equal(found, given)
