"""The machine stamp of MRC files, which says in which byte order they are."""

from __future__ import annotations

from pathlib import Path

BYTE_ORDERS = {b"\x44\x44": "<", b"\x44\x41": "<", b"\x11\x11": ">"}  # others say nothing


def check_machine_stamp(path: Path, header, byte_order: str) -> None:
    """Raise a ValueError where the stamp of a header says another byte order (``"<"`` or ``">"``) than it was read in.

    Source: MRC2014, Cheng et al., J. Struct. Biol. 192 (2015) 146, word 54 of the header.
    """
    stamp = bytes(header["machst"])[:2]
    if BYTE_ORDERS.get(stamp, byte_order) != byte_order:
        raise ValueError(
            f"{path} must be in the byte order of its machine stamp, {stamp.hex(' ')}, "
            "got a header that makes sense in the other order alone"
        )
