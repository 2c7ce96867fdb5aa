"""A command that is interrupted while it writes leaves no file."""

import signal
import subprocess
import sys

import pytest

SLOW_WRITING = """
import signal, sys, time
from cryoem import cli
from cryoem.particles import StackWriter

def slow(self, images):
    print("writing", flush=True, file=sys.__stdout__)
    for _ in range(600):  # a signal that another thread receives does not interrupt one long sleep
        time.sleep(0.1)

StackWriter.write = slow
signal.signal(signal.SIGINT, signal.default_int_handler)  # the process that runs the tests may ignore it
sys.argv = ["cryoem", *sys.argv[1:]]
cli.app()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_step_leaves_no_file(tmp_path, number):
    command = [sys.executable, "-c", SLOW_WRITING, "project", "phantom", "-n", "4", "--image-size", "48"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "--out", tmp_path / "a.star"], **options) as process:
        assert process.stdout.readline() == "writing\n"
        assert len(list(tmp_path.iterdir())) == 2  # the table and the stack, under temporary names
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (128 + number, "")
    assert stderr.endswith("nothing was written; rerun the command to start over\n")
    assert list(tmp_path.iterdir()) == []
