"""Commands from particle images to orientations: learned distances, and what they say of how images are turned."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoem.cli.endings import NOTHING_WRITTEN, Answer, ends_in_order
from cryoem.cli.options import (
    Datadir,
    Force,
    OpticsGroup,
    Out,
    Particles,
    PixelSize,
    Scheduler,
    Seed,
    Workers,
    new_file,
)
from cryoem.cli.progress import progress

if TYPE_CHECKING:
    import numpy as np
    from scipy.spatial.transform import Rotation

    from cryoem.particles import ParticleFile


@ends_in_order(afterwards=NOTHING_WRITTEN, on_device=True)
def distances(
    particles: Particles,
    encoder: Annotated[Path, typer.Option(help="Trained network, such as the encoder.weights.h5 of a run.")],
    out: Out,
    landmarks: Annotated[
        int | None,
        typer.Option(help="Distances to so many images only, which cover all orientations; for many images."),
    ] = None,
    seed: Seed = 0,
    pixel_size: PixelSize = None,
    datadir: Datadir = None,
    optics_group: OpticsGroup = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    force: Force = False,
) -> Answer:
    """Estimate the distances between the orientations of images.

    The network must have been trained for this particle, with as much space around it as these images show.  Phases
    are flipped where the file knows the contrast transfer; where the network finds shifts, they are saved, too.

    \b
    Example:
      cryoem distances particles.star --encoder encoder.weights.h5 --out distances.h5
    """
    from cryoem.blockwise import learned_distances
    from cryoem.distributed import client_of
    from cryoem.particles import open_particles
    from cryoem.pipeline import save_arrays
    from cryoem.pipeline.inputs import sha256_of

    new_file(out, ".h5", force=force, inputs=(particles, encoder))
    opened = open_particles(
        particles, pixel_size_angstrom=pixel_size, datadir=datadir, optics_group=optics_group
    )
    from cryoem.siamese import load_encoder  # TensorFlow, once it is known that there is something to read

    network, settings = load_encoder(encoder)
    with client_of(workers, scheduler=scheduler) as client, progress("reading", len(opened)) as done:
        found = learned_distances(
            opened, network, settings, landmarks=landmarks, rng=seed, client=client, callback=done
        )
    made_of = {
        "images": len(opened),
        "image_size_px": opened.image_size,
        "pixel_size_angstrom": opened.pixel_size_angstrom,
        "encoder": asdict(settings),
        "particles_sha256": sha256_of(opened.path),
        "encoder_sha256": sha256_of(encoder),
        "symmetry": settings.symmetry,
        "landmarks": landmarks,
        "seed": seed,
    }
    arrays = {
        "distances": (found.distances, "rad", "(n, n) estimated geodesic distances"),
        "shifts": (found.shifts_px, "px", "found (x, y) displacement of the particle"),
    }
    which = f"between {len(opened):,} images"
    if found.landmarks is not None:
        arrays["distances"] = (found.distances, "rad", "(n, m) estimated geodesic distances to landmarks")
        arrays["landmarks"] = (found.landmarks, "1", "(m,) numbers of the landmarks, from 0")
        which = f"of {len(opened):,} images to {landmarks:,} of them"
    save_arrays(out, arrays, parameters=made_of)
    return Answer(f"distances {which}: {out}", {"distances": out, **made_of})


@ends_in_order(afterwards=NOTHING_WRITTEN, on_device=True)
def recover(
    distances: Annotated[
        Path, typer.Argument(metavar="DISTANCES", help="File that `cryoem distances` or a run made.")
    ],
    out: Out,
    particles: Annotated[
        Path | None,
        typer.Option("--particles", help="The images that the distances are between; they fix the gauge."),
    ] = None,
    symmetry: Annotated[
        str | None, typer.Option(help="Point group of the particle; the network's by default.")
    ] = None,
    method: Annotated[str, typer.Option(help="spectral+refine, spectral or sgd.")] = "spectral+refine",
    landmarks: Annotated[
        int | None, typer.Option(help="Use the distances to so many images only, for many images.")
    ] = None,
    seed: Seed = 0,
    pixel_size: PixelSize = None,
    datadir: Datadir = None,
    optics_group: OpticsGroup = None,
    force: Force = False,
) -> Answer:
    """Recover the orientations of images from their distances.

    With the images, of which 2,000 at the most are looked at, common lines settle what distances leave open, and a
    STAR file can name them with their orientations.  Without them orientations are arrays (.h5) in a gauge of their
    own, of which no map can be made.

    \b
    Example:
      cryoem recover distances.h5 --particles particles.star --out orientations.star
    """
    import numpy as np

    from cryoem.blockwise import fix_gauge_of
    from cryoem.particles import open_particles
    from cryoem.pipeline.inputs import sha256_of
    from cryoem.recovery import recover_orientations

    if particles is None and out.suffix.lower() == ".star":
        raise typer.BadParameter("a STAR file needs --particles, which it names", param_hint="--out")
    new_file(
        out, ".star", ".h5", force=force, inputs=(distances, *([] if particles is None else [particles]))
    )
    matrix, shifts, numbers, made_of = _read(distances)
    symmetry = symmetry or made_of.get("symmetry", "C1")
    if numbers is not None and landmarks is not None:
        raise typer.BadParameter(f"{distances} holds its own {len(numbers)}", param_hint="--landmarks")
    opened = None
    if particles is not None:
        opened = open_particles(
            particles, pixel_size_angstrom=pixel_size, datadir=datadir, optics_group=optics_group
        )
        if len(opened) != len(matrix):
            raise ValueError(
                f"{particles} must hold the {len(matrix)} images of {distances}, got {len(opened)}"
            )
        expected, found = made_of.get("particles_sha256"), sha256_of(opened.path)
        if expected not in (None, found):
            raise ValueError(
                f"{particles} must be the file that {distances} was made of, with sha256 {expected}, got {found}"
            )
    rng = np.random.default_rng(seed)
    with progress("recovering, then fixing the gauge", 2, unit="step") as done:
        recovery = recover_orientations(
            matrix,
            method=method,
            symmetry=symmetry,
            landmarks=landmarks if numbers is None else numbers,
            rng=rng,
        )
        done(1)
        rotations, score = recovery.rotations, None
        if opened is not None:
            moved = shifts if shifts.any() else None
            gauge = fix_gauge_of(opened, rotations, shifts_px=moved, symmetry=symmetry, rng=rng)
            rotations, score = gauge.rotations, gauge.score
        done(2)
    loss = float(recovery.losses[-1])
    values = {
        "orientations": out,
        "images": len(matrix),
        "symmetry": symmetry,
        "recovery_loss_rad2": loss,
        "common_line_agreement": score,
    }
    made_of = {"symmetry": symmetry, "method": method, "landmarks": landmarks, "seed": seed}
    _write(out, opened, rotations, shifts, {"distances_sha256": sha256_of(distances), **made_of})
    lines = [f"{len(matrix):,} orientations, recovery loss {loss:.4g} rad²: {out}"]
    if score is not None:
        lines.append(f"agreement along common lines {score:.3f}")
    return Answer("\n".join(lines), values)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, dict]:
    """Distances (n, n), shifts (n, 2), which are zero where none were looked for, the numbers of the landmarks where
    distances are (n, m), to these, and what they were made of.
    """
    import numpy as np

    from cryoem.pipeline import load_arrays
    from cryoem.pipeline.artefacts import stored_parameters

    arrays = load_arrays(path)
    if "distances" not in arrays:
        raise ValueError(f"{path} must hold the dataset 'distances', it holds {', '.join(arrays)}")
    distances = arrays["distances"]
    landmarks = arrays.get("landmarks")
    if landmarks is None and (distances.ndim != 2 or distances.shape[0] != distances.shape[1]):
        raise ValueError(f"{path} must hold distances as a square (n, n) matrix, got shape {distances.shape}")
    return (
        distances,
        arrays.get("shifts", np.zeros((len(distances), 2))),
        landmarks,
        stored_parameters(path),
    )


def _write(
    out: Path, particles: ParticleFile | None, rotations: Rotation, shifts: np.ndarray, parameters: dict
) -> None:
    from cryoem.particles import write_poses
    from cryoem.pipeline import save_arrays

    if out.suffix.lower() == ".star":
        write_poses(out, particles, rotations, shifts)
        return
    gauge = "any gauge" if particles is None else "gauge from the images"
    save_arrays(
        out,
        {
            "quaternions": (rotations.as_quat(), "1", f"recovered orientations, xyzw, {gauge}"),
            "shifts": (shifts, "px", "found (x, y) displacement of the particle"),
        },
        parameters=parameters,
    )
