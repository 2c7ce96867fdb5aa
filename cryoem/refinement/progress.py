"""How far a refinement has come, as arrays: what it needs to go on with the same numbers as if it had not stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cryoem.refinement.poses import Poses, mean_poses

MEASURED = ("score", "moved_rad", "resolution_angstrom")


class Memory(Protocol):
    """Keeps named arrays; a new one takes the place of the old one, whole or not at all."""

    def load(self) -> Mapping[str, np.ndarray] | None:
        """What was saved last; None where nothing was."""

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep these, and no longer those before."""


@dataclass(frozen=True)
class Standing:
    """One set of n images between two rounds.

    ``poses`` (n, 6): the likeliest, as ``Poses.as_array`` has them; ``drawn`` (n, 6): those to make maps with;
    ``settled`` (k, n, 6): the likeliest of the rounds since they have settled; ``trusted``: the finest shell worth
    looking at; ``history``: one entry a round; ``ended``: whether there is no further round.

    Poses are arrays, because a ``Rotation`` that is made of its own quaternions may differ in the last bit.
    """

    poses: np.ndarray
    drawn: np.ndarray
    settled: np.ndarray
    trusted: int
    history: tuple[dict, ...]
    ended: bool

    @staticmethod
    def at_start(poses: Poses, *, trusted: int, ended: bool) -> Standing:
        """Before the first round."""
        array = poses.as_array()
        return Standing(array, array, np.empty((0, *array.shape)), trusted, (), ended)

    def outcome(self) -> Poses:
        """The likeliest poses, averaged over the rounds since they have settled."""
        several = [Poses.from_array(array) for array in self.settled]
        return mean_poses(several) if len(several) > 1 else Poses.from_array(self.poses)

    def as_arrays(self) -> dict[str, np.ndarray]:
        """All of it, in named arrays."""
        return {
            "poses": self.poses,
            "drawn": self.drawn,
            "settled": self.settled,
            "trusted": np.array(self.trusted),
            "ended": np.array(self.ended),
            "by_gradient": np.array([entry["kind"] == "gradient" for entry in self.history], bool),
            "measured": np.array([[entry[name] for name in MEASURED] for entry in self.history]).reshape(
                -1, 3
            ),
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> Standing:
        """What ``as_arrays`` made arrays of."""
        history = tuple(
            {"round": number, "kind": "gradient" if by_gradient else "search"}
            | dict(zip(MEASURED, map(float, measured), strict=True))
            for number, (by_gradient, measured) in enumerate(
                zip(arrays["by_gradient"], arrays["measured"], strict=True), start=1
            )
        )
        return Standing(
            *(arrays[name] for name in ("poses", "drawn", "settled")),
            trusted=int(arrays["trusted"]),
            history=history,
            ended=bool(arrays["ended"]),
        )


class Progress:
    """A whole refinement: how all images stand, then each half of them, and the random numbers that come next.

    ``order`` (n,): permutation of the images whose halves are refined apart, None before it is drawn.  With a
    ``memory``, what it keeps is taken up, and ``rng`` put where it was.  ``made_from``: what else makes the numbers.

    Raises
    ------
    ValueError : the memory is of a refinement of other images, with other settings or other random numbers.
    """

    def __init__(self, memory: Memory | None, rng: np.random.Generator, made_from: tuple):
        self._standings: list[Standing] = []
        self.order: np.ndarray | None = None
        self._memory, self._rng = memory, rng
        if memory is None:
            return
        self._made_from = _checksum((*made_from, _as_text(rng)))
        kept = memory.load()
        if kept is None:
            return
        if not np.array_equal(kept["made_from"], self._made_from):
            raise ValueError(
                "memory must be of a refinement of the same images with the same settings and random numbers, got one "
                f"of {len(kept['0.poses'])} images after {len(kept['0.measured'])} rounds; remove it to refine anew"
            )
        for index in range(int(kept["begun"])):
            prefix = f"{index}."
            some = {
                name.removeprefix(prefix): array for name, array in kept.items() if name.startswith(prefix)
            }
            self._standings.append(Standing.from_arrays(some))
        self.order = kept.get("order")
        rng.bit_generator.state = json.loads(kept["rng"].tobytes())

    def standing(self, index: int) -> Standing | None:
        """Of all images, 0, or of a half, 1 or 2; None before its first round."""
        return self._standings[index] if index < len(self._standings) else None

    def note(self, index: int, standing: Standing) -> None:
        """What another round has made of it."""
        self._standings[index:] = [standing]
        if self._memory is None:
            return
        arrays = {
            "made_from": self._made_from,
            "begun": np.array(len(self._standings)),
            "rng": np.frombuffer(_as_text(self._rng).encode(), np.uint8),
        }
        if self.order is not None:
            arrays["order"] = self.order
        for number, one in enumerate(self._standings):
            arrays |= {f"{number}.{name}": array for name, array in one.as_arrays().items()}
        self._memory.save(arrays)


def _as_text(rng: np.random.Generator) -> str:
    return json.dumps(rng.bit_generator.state, default=lambda array: array.tolist())


def _checksum(values: tuple) -> np.ndarray:
    """Of arrays, and of what a text says in full: (32,) uint8."""
    sha256 = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            sha256.update(f"{value.shape} {value.dtype}".encode())
            sha256.update(np.ascontiguousarray(value))
        else:
            sha256.update(repr(value).encode())
    return np.frombuffer(sha256.digest(), np.uint8)
