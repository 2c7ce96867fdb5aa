"""Commands from particle images to orientations: distance estimation and orientation recovery."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoem.cli import options, shared
from cryoem.cli.shared import NOTHING_WRITTEN, Answer, command

if TYPE_CHECKING:
    import numpy as np

    from cryoem.particles.files import ParticleFile


@command(afterwards=NOTHING_WRITTEN, on_device=True)
def distances(
    particles: options.Particles,
    encoder: Annotated[
        Path, typer.Option(help="Trained network (.weights.h5), from `cryoem train` or from a run.")
    ],
    out: options.Out,
    *,
    landmarks: Annotated[
        int | None,
        typer.Option(
            help="Estimate only the distances to this many landmark images; for very large data sets."
        ),
    ] = None,
    seed: options.Seed = 0,
    opening: options.Opening,
    leave_out_outliers: options.LeaveOutOutliers = False,
    as_stack: options.AsStack = False,
    workers: options.Workers = 1,
    scheduler: options.Scheduler = None,
    force: options.Force = False,
) -> Answer:
    """Estimate the distances between the orientations of images.

    The network must have been trained for this particle, on images with the same field of view. If the particle file
    contains CTF parameters, the images are phase-flipped first. If the network estimates shifts, they are also saved.

    \b
    Example:
      cryoem distances particles.star --encoder encoder.weights.h5 --out distances.h5
    """
    from cryoem.files.arrays import save_arrays
    from cryoem.files.reading import sha256_of

    shared.new_file(out, ".h5", force=force, inputs=(particles, encoder))
    opened = opening.open(particles, as_stack=as_stack)
    shared.refuse_input(out, opened.paths)
    # a folder has no checksum
    particles_sha256 = sha256_of(opened.path) if opened.path.is_file() else None
    opened, rows = shared.check_images(opened, leave_out_outliers=leave_out_outliers)
    # load TensorFlow only after the particle file has been opened and checked
    from cryoem.distances.prediction import estimate_distances
    from cryoem.distances.trained import load_encoder

    trained = load_encoder(encoder)
    sharing = {"workers": workers, "scheduler": scheduler}
    with shared.shared_work("reading", len(opened), **sharing) as (map_blocks, done):
        found = estimate_distances(
            opened, trained, landmarks=landmarks, rng=seed, map_blocks=map_blocks, callback=done
        )
    parameters = {
        "images": len(opened),
        "image_size_px": opened.image_size,
        "pixel_size_angstrom": opened.pixel_size_angstrom,
        "encoder": asdict(trained.settings),
        "particles_sha256": particles_sha256,
        "encoder_sha256": sha256_of(encoder),
        "symmetry": trained.settings.symmetry,
        "landmarks": landmarks,
        "seed": seed,
    }
    shape, which = "(n, n) estimated geodesic distances", f"between {len(opened):,} images"
    arrays = {}
    if found.landmarks is not None:
        shape = "(n, m) estimated geodesic distances to landmarks"
        which = f"from {len(opened):,} images to {landmarks:,} landmarks"
        arrays["landmarks"] = (found.landmarks, "1", "(m,) zero-based indices of the landmarks")
    arrays["distances"] = (found.distances, "rad", shape)
    arrays["shifts"] = (found.shifts_px, "px", "estimated (x, y) displacement of the particle")
    if leave_out_outliers:
        arrays["rows"] = (rows, "1", "(n,) zero-based indices of the images in the particle file")
    save_arrays(out, arrays, parameters=parameters)
    return Answer(f"distances {which}: {out}", {"distances": out, **parameters})


@command(afterwards=NOTHING_WRITTEN, on_device=True)
def recover(
    distances: Annotated[
        Path, typer.Argument(metavar="DISTANCES", help="File from `cryoem distances` or from a run.")
    ],
    out: options.Out,
    *,
    particles: Annotated[
        Path | None,
        typer.Option(
            "--particles", help="Particles from which the distances were estimated; used to find the gauge."
        ),
    ] = None,
    symmetry: Annotated[
        str | None, typer.Option(help="Point group of the particle; by default that of the network.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="Recovery method: spectral+gauss_newton, spectral, sgd or published.")
    ] = "spectral+gauss_newton",
    landmarks: Annotated[
        int | None,
        typer.Option(help="Use only the distances to this many landmark images; for very large data sets."),
    ] = None,
    seed: options.Seed = 0,
    opening: options.Opening,
    force: options.Force = False,
) -> Answer:
    """Recover the orientations of images from their distances.

    Distances determine the orientations R only up to the gauge: transposition, and R -> A R B with rotations A and B
    that are common to all images. With --particles, the transposition and A are determined from common lines between at
    most 2,000 of the images, and the output can be a table (.star, .cs). B (the frame of the particle) and the
    handedness remain arbitrary. Without --particles, the output is an array file (.h5) in an arbitrary gauge, which
    cannot be used to reconstruct a map.

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

    as_table = out.suffix.lower() in (".star", ".cs")
    if particles is None and as_table:
        raise typer.BadParameter(
            "a table requires --particles, because it lists the images", param_hint="--out"
        )
    shared.new_file(
        out, ".star", ".cs", ".h5", force=force, inputs=[distances, *([particles] if particles else [])]
    )
    matrix, shifts, stored, rows, parameters = _read(distances)
    symmetry = symmetry or parameters.get("symmetry", "C1")
    if stored is not None and landmarks is not None:
        raise typer.BadParameter(f"{distances} already has {len(stored)} landmarks", param_hint="--landmarks")
    opened = None
    if particles is not None:
        # the command that estimated the distances has warned about maps
        opened = opening.open(particles, as_stack=True)
        opened = _same_particles(opened, rows, distances, len(matrix), parameters.get("particles_sha256"))
        if as_table:
            shared.check_pose_table(out, opened, force=force)
        shared.refuse_input(out, opened.paths)
    rng = np.random.default_rng(seed)
    with shared.progress("recovering orientations and fixing the gauge", 2, unit="step") as done:
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
    if as_table:
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
        text += f"\ncommon-line agreement {score:.3f}"
    return Answer(text, values)


def _read(path: Path) -> tuple:
    """Read distances, (n, 2) shifts, landmark indices, indices of the images in the particle file, and parameters.

    The distances are (n, n) with no landmarks (None), or (n, m) with (m,) landmark indices. The indices of the images
    are None if no image was left out.
    """
    import numpy as np

    from cryoem.files.arrays import load_arrays, stored_parameters

    arrays = load_arrays(path)
    if "distances" not in arrays:
        raise ValueError(f"{path} has no dataset 'distances'; it has {', '.join(arrays)}")
    matrix, landmarks = arrays["distances"], arrays.get("landmarks")
    if landmarks is None and (matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]):
        raise ValueError(
            f"{path}: dataset 'distances' must be a square (n, n) matrix, got shape {matrix.shape}"
        )
    shifts = arrays.get("shifts", np.zeros((len(matrix), 2)))
    return matrix, shifts, landmarks, arrays.get("rows"), stored_parameters(path)


def _same_particles(
    opened: ParticleFile, rows: np.ndarray | None, distances: Path, count: int, sha256: str | None
) -> ParticleFile:
    """Return the particles of the given rows, or raise a ValueError if the distances were not estimated from them."""
    from cryoem.files.reading import sha256_of

    if rows is not None and rows.max() < len(opened):
        opened = opened[rows]
    if len(opened) != count:
        raise ValueError(f"{opened.path} has {len(opened)} images, but {distances} is for {count} images")
    if sha256 not in (None, found := sha256_of(opened.path)):
        raise ValueError(
            f"{opened.path} is not the file from which {distances} was computed: "
            f"its sha256 is {found}, not {sha256}"
        )
    return opened
