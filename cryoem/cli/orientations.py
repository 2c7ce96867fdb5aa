"""Commands from particle images to orientations: learned distances, and their recovery."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoem.cli import options
from cryoem.cli.wrapper import NOTHING_WRITTEN, Answer, command

if TYPE_CHECKING:
    import numpy as np

    from cryoem.particles.particle_file import ParticleFile


@command(afterwards=NOTHING_WRITTEN, on_device=True)
def distances(
    particles: options.Particles,
    encoder: Annotated[Path, typer.Option(help="Trained network, such as encoder.weights.h5 of a run.")],
    out: options.Out,
    landmarks: Annotated[
        int | None,
        typer.Option(help="Compute only the distances to this number of images; for very large data sets."),
    ] = None,
    seed: options.Seed = 0,
    pixel_size: options.PixelSize = None,
    datadir: options.Datadir = None,
    optics_group: options.OpticsGroup = None,
    workers: options.Workers = 1,
    scheduler: options.Scheduler = None,
    force: options.Force = False,
) -> Answer:
    """Estimate the distances between the orientations of images.

    The network must be trained for this particle, with the same field of view as these images. Images are phase-flipped
    if the file has CTF parameters. If the network estimates shifts, they are saved too.

    \b
    Example:
      cryoem distances particles.star --encoder encoder.weights.h5 --out distances.h5
    """
    from cryoem.files.arrays import save_arrays
    from cryoem.files.reading import sha256_of
    from cryoem.particles.files import open_particles

    options.new_file(out, ".h5", force=force, inputs=(particles, encoder))
    opened = open_particles(
        particles, pixel_size_angstrom=pixel_size, datadir=datadir, optics_group=optics_group
    )
    # TensorFlow is loaded only once the particle file is known to be readable
    from cryoem.distances.prediction import estimate_distances
    from cryoem.distances.storage import load_encoder

    trained = load_encoder(encoder)
    sharing = {"workers": workers, "scheduler": scheduler}
    with options.shared_work("reading", len(opened), **sharing) as (map_blocks, done):
        found = estimate_distances(
            opened,
            trained,
            landmarks=landmarks,
            rng=seed,
            map_blocks=map_blocks,
            callback=done,
        )
    parameters = {
        "images": len(opened),
        "image_size_px": opened.image_size,
        "pixel_size_angstrom": opened.pixel_size_angstrom,
        "encoder": asdict(trained.settings),
        "particles_sha256": sha256_of(opened.path),
        "encoder_sha256": sha256_of(encoder),
        "symmetry": trained.settings.symmetry,
        "landmarks": landmarks,
        "seed": seed,
    }
    shape, which = "(n, n) estimated geodesic distances", f"between {len(opened):,} images"
    arrays = {}
    if found.landmarks is not None:
        shape = "(n, m) estimated geodesic distances to landmarks"
        which = f"of {len(opened):,} images to {landmarks:,} of them"
        arrays["landmarks"] = (found.landmarks, "1", "(m,) indices of the landmarks, from 0")
    arrays["distances"] = (found.distances, "rad", shape)
    arrays["shifts"] = (found.shifts_px, "px", "estimated (x, y) displacement of the particle")
    save_arrays(out, arrays, parameters=parameters)
    return Answer(f"distances {which}: {out}", {"distances": out, **parameters})


@command(afterwards=NOTHING_WRITTEN, on_device=True)
def recover(
    distances: Annotated[
        Path, typer.Argument(metavar="DISTANCES", help="File from `cryoem distances` or from a run.")
    ],
    out: options.Out,
    particles: Annotated[
        Path | None,
        typer.Option("--particles", help="Particles of these distances; used to determine the gauge."),
    ] = None,
    symmetry: Annotated[
        str | None, typer.Option(help="Point group of the particle; by default that of the network.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="spectral+gauss_newton, spectral or sgd.")
    ] = "spectral+gauss_newton",
    landmarks: Annotated[
        int | None,
        typer.Option(help="Use only the distances to this number of images; for very large data sets."),
    ] = None,
    seed: options.Seed = 0,
    pixel_size: options.PixelSize = None,
    datadir: options.Datadir = None,
    optics_group: options.OpticsGroup = None,
    force: options.Force = False,
) -> Answer:
    """Recover the orientations of images from their distances.

    Distances determine orientations R only up to the gauge: R -> A R B with rotations A and B common to all images, and
    transposition. With --particles, common lines between at most 2,000 of the images determine A and the transposition,
    and the output can be a STAR file; B is the arbitrary frame of the particle. Without --particles, the output is an
    array file (.h5) in an arbitrary gauge, from which no map can be reconstructed.

    \b
    Example:
      cryoem recover distances.h5 --particles particles.star --out orientations.star
    """
    import numpy as np

    from cryoem.files.arrays import save_arrays
    from cryoem.files.reading import sha256_of
    from cryoem.orientations.gauge import fix_gauge
    from cryoem.orientations.recovery import recover_orientations
    from cryoem.particles.writing import write_poses
    from cryoem.rotations import Poses

    as_star = out.suffix.lower() == ".star"
    if particles is None and as_star:
        raise typer.BadParameter("a STAR file needs --particles, whose images it lists", param_hint="--out")
    options.new_file(
        out, ".star", ".h5", force=force, inputs=[distances, *([particles] if particles else [])]
    )
    matrix, shifts, stored, parameters = _read(distances)
    symmetry = symmetry or parameters.get("symmetry", "C1")
    if stored is not None and landmarks is not None:
        raise typer.BadParameter(f"{distances} already has {len(stored)} landmarks", param_hint="--landmarks")
    opened = None
    if particles is not None:
        opening = {"pixel_size_angstrom": pixel_size, "datadir": datadir, "optics_group": optics_group}
        opened = _open_same(particles, opening, distances, len(matrix), parameters.get("particles_sha256"))
    rng = np.random.default_rng(seed)
    with options.progress("recovering, then fixing the gauge", 2, unit="step") as done:
        recovery = recover_orientations(
            matrix,
            method=method,
            symmetry=symmetry,
            landmarks=landmarks if stored is None else stored,
            rng=rng,
        )
        done(1)
        rotations, score = recovery.rotations, None
        if opened is not None:
            gauge = fix_gauge(
                opened, Poses(rotations, shifts), optics=opened.optics, symmetry=symmetry, rng=rng
            )
            rotations, score = gauge.rotations, gauge.score
        done(2)
    if as_star:
        write_poses(out, opened, Poses(rotations, shifts))
    else:
        gauge = "arbitrary gauge" if opened is None else "gauge from the images"
        arrays = {
            "quaternions": (rotations.as_quat(), "1", f"recovered orientations, xyzw, {gauge}"),
            "shifts": (shifts, "px", "estimated (x, y) displacement of the particle"),
        }
        parameters = {"symmetry": symmetry, "method": method, "landmarks": landmarks, "seed": seed}
        save_arrays(out, arrays, parameters={"distances_sha256": sha256_of(distances), **parameters})
    loss = float(recovery.losses[-1])
    values = {
        "orientations": out,
        "images": len(matrix),
        "symmetry": symmetry,
        "recovery_loss_rad2": loss,
        "common_line_agreement": score,
    }
    text = f"{len(matrix):,} orientations, recovery loss {loss:.4g} rad²: {out}"
    if score is not None:
        text += f"\nagreement along common lines {score:.3f}"
    return Answer(text, values)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, dict]:
    """Read distances (n, n), shifts (n, 2), indices (m,) of landmarks if distances are (n, m), and parameters."""
    import numpy as np

    from cryoem.files.arrays import load_arrays, stored_parameters

    arrays = load_arrays(path)
    if "distances" not in arrays:
        raise ValueError(f"{path} has no dataset 'distances'; it has {', '.join(arrays)}")
    matrix, landmarks = arrays["distances"], arrays.get("landmarks")
    if landmarks is None and (matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]):
        raise ValueError(f"{path} must have distances as a square (n, n) matrix, got shape {matrix.shape}")
    shifts = arrays.get("shifts", np.zeros((len(matrix), 2)))
    return matrix, shifts, landmarks, stored_parameters(path)


def _open_same(
    particles: Path, opening: dict, distances: Path, count: int, sha256: str | None
) -> ParticleFile:
    """Open the particles that ``count`` distances are from; a ValueError if they are not the same particles."""
    from cryoem.files.reading import sha256_of
    from cryoem.particles.files import open_particles

    opened = open_particles(particles, **opening)
    if len(opened) != count:
        raise ValueError(f"{particles} must have the {count} images of {distances}, got {len(opened)}")
    if sha256 not in (None, found := sha256_of(opened.path)):
        raise ValueError(
            f"{particles} is not the file that {distances} was computed from: "
            f"its sha256 must be {sha256}, got {found}"
        )
    return opened
