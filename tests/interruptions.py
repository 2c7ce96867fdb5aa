"""Interruptions at a chosen point."""

from __future__ import annotations

import shutil


class Interrupted(Exception):
    """Exception that stops a step in a test."""


def interrupt():
    raise Interrupted


def fail_at_call(number: int):
    """Return an ``os.replace`` whose n-th call is interrupted before it does anything."""
    calls = []

    def replace_file(source, target):
        calls.append(target)
        if len(calls) == number:
            interrupt()
        shutil.move(source, target)

    return replace_file
