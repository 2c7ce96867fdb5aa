"""Interruptions at a chosen moment."""

from __future__ import annotations

import shutil


class Interrupted(Exception):
    """What stops a step in a test."""


def interrupt():
    raise Interrupted


def fail_at_call(number: int):
    """``os.replace`` that is interrupted at its n-th call, before it does anything."""
    calls = []

    def replace_file(source, target):
        calls.append(target)
        if len(calls) == number:
            interrupt()
        shutil.move(source, target)

    return replace_file
