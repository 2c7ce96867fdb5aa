"""Files that appear whole or not at all.  Folders: see the alignment of particle files, which makes one."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from cryoem.whole_files import cannot_write, whole_file, written_aside


def test_a_file_appears_when_its_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
        assert aside.parent == path.parent
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with whole_file(path) as first:
        first.write_text("first")
        with whole_file(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"


@pytest.mark.parametrize("writing", [whole_file, written_aside])
@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_what_goes_wrong_leaves_the_old_file(tmp_path, stop, writing):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def stopped_halfway():
        with writing(path) as aside:
            aside.write_text("half of it")
            raise stop

    with pytest.raises(stop):
        stopped_halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with (
        pytest.raises(OSError, match=r"^cannot write .*a\.txt: No such file or directory$"),
        whole_file(tmp_path / "a.txt"),
    ):
        pass


def test_a_missing_folder_is_named(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"^no folder .*nowhere to write a\.txt into$"),
        whole_file(tmp_path / "nowhere" / "a.txt"),
    ):
        pytest.fail("there is nowhere to write")


def test_a_failed_write_is_a_sentence_with_the_file():
    with (
        pytest.raises(OSError, match=r"^cannot write a\.txt: No space left on device$"),
        cannot_write("a.txt"),
    ):
        raise OSError(28, "No space left on device")


def test_what_a_killed_process_left_is_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = f".partial-{platform.node()}"
    left = tmp_path / f"{here}-{ended.pid}-0123abcd-a.txt"
    kept = {
        tmp_path / f"{here}-{os.getppid()}-0123abcd-a.txt",  # of a process that is there
        tmp_path / f".partial-elsewhere-{ended.pid}-0123abcd-a.txt",  # of another machine
        tmp_path / f"{here}-{ended.pid}-0123abcd-b.txt",  # of another file
    }
    for path in (left, *kept):
        path.touch()
    with whole_file(tmp_path / "a.txt") as aside:
        aside.write_text("whole")
    assert set(tmp_path.iterdir()) == {tmp_path / "a.txt", *kept}
