"""Processes that are killed with the one that started them; executed as a file, start such a kernel.

It is a file, not a module to run, so that the system is asked before anything else is loaded.  ipykernel itself only
looks every second whether its parent is still there, and not at all while compiled code runs.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def die_with_parent(parent: int) -> None:
    """Ask the system to kill this process when ``parent`` ends, however it ends; exit where it has ended already."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this one has ended")


if __name__ == "__main__":
    die_with_parent(int(os.environ["JPY_PARENT_PID"]))
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()
