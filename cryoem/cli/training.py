"""The command that trains a network on projections of a map."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Annotated

import typer

from cryoem.cli import options, shared
from cryoem.cli.shared import Answer, command

USUAL_ERROR_RAD = 0.25  # as in notebook 1
SUFFIX = ".weights.h5"


@command(afterwards="completed epochs are kept; the same command resumes it", on_device=True)
def train(
    map_name: Annotated[
        str,
        typer.Option(
            "--map",
            help="Map of the particle: phantom, a registry name such as 5j0n, a PDB or EMDB id, or the path of a map.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Output file for the network (.weights.h5); a .json file of the same name has its settings.",
        ),
    ],
    *,
    settings: options.RunSettings,
    opening: options.Opening,
    leave_out_outliers: options.LeaveOutOutliers = False,
    force: options.Force = False,
) -> Answer:
    """Train the network that estimates distances between the orientations of images.

    The network is trained on simulated projections of the map, as in phase 1 of `cryoem run`. With --particles, the
    projections have the size, pixel size, CTF and noise of these particles, and are off-centre by up to 7 % of the
    image width (--set shift_limit_px changes this). The map must show the same particle; a low resolution suffices.

    A checkpoint is stored after every epoch in a folder next to the output (encoder.checkpoints for
    encoder.weights.h5). The folder is removed when training is complete.

    \b
    Example:
      cryoem train --map 5j0n --noise-variance 16 --out encoder.weights.h5
      cryoem train --map initial.mrc --particles job.star --out encoder.weights.h5
    """
    import numpy as np

    from cryoem.contrast import ContrastTransfer
    from cryoem.orientations.symmetry_axes import align_symmetry, describe_symmetry_doubt
    from cryoem.particles.conditions import ImagingConditions
    from cryoem.particles.stack import calibrate
    from cryoem.runs.profiles import DistanceSettings, get_profile
    from cryoem.volumes import loading
    from cryoem.volumes.density import enclosing_image_size

    shared.new_file(out, SUFFIX, force=force, inputs=(Path(map_name),))
    stem = out.name.removesuffix(SUFFIX)
    shared.new_file(out.with_name(f"{stem}.json"), ".json", force=force)
    overrides = settings.overrides(opening, leave_out_outliers=leave_out_outliers)
    unused = overrides.keys() - (DistanceSettings.model_fields.keys() - {"n_particles", "n_test", "map_name"})
    if unused:
        raise typer.BadParameter(f"{min(unused)} has no effect on the training", param_hint="--set")
    if settings.particles is not None and "noise_variance" in overrides:
        raise typer.BadParameter(
            "applies only to simulated particles; that of --particles is measured",
            param_hint="--noise-variance",
        )
    wanted = get_profile(settings.profile, map_name=map_name, **overrides)
    noise_variance, image_size, voxel = wanted.noise_variance, wanted.image_size, wanted.voxel_size_angstrom
    ctf, agreement = ContrastTransfer() if wanted.ctf else None, None
    if wanted.particles is None:
        density = loading.load(wanted.map_name, voxel_size_angstrom=voxel, as_map=wanted.as_map)
    else:
        opened, _ = shared.check_images(
            opening.open(settings.particles, as_stack=wanted.as_stack),
            leave_out_outliers=wanted.leave_out_outliers,
        )
        image_size, ctf = opened.image_size, opened.ctf
        density = loading.load(
            wanted.map_name, voxel_size_angstrom=opened.pixel_size_angstrom, as_map=wanted.as_map
        )
        found = calibrate(opened, density, coverage=wanted.coverage, rng=wanted.seed)
        noise_variance, agreement = found.noise_variance, found.agreement
    density, correlation = align_symmetry(density, wanted.symmetry)
    if doubt := describe_symmetry_doubt(density, wanted.symmetry, correlation):
        warnings.warn(doubt, UserWarning, stacklevel=2)
    image_size = image_size or enclosing_image_size(density)
    shift_limit_px = wanted.shift_limit_of(image_size)
    imaging = ImagingConditions(
        image_size=image_size,
        noise_variance=noise_variance,
        shift_limit_px=shift_limit_px,
        coverage=wanted.coverage,
        ctf=ctf,
    )
    # load TensorFlow only after the inputs have been checked
    from cryoem.distances.trained import EncoderSettings, save_encoder
    from cryoem.experiments.trials import learn_distances
    from cryoem.training import TrainingSchedule, keras

    encoder_settings = EncoderSettings(
        image_size=min(wanted.network_image_size, imaging.image_size),
        architecture=wanted.architecture,
        channels=wanted.channels,
        feature_distance=wanted.feature_distance,
        symmetry=wanted.symmetry,
        with_shifts=shift_limit_px > 0,
    )
    checkpoints = out.with_name(f"{stem}.checkpoints")
    with shared.progress("training", wanted.training_epochs, unit="epoch") as done:
        trial = learn_distances(
            density,
            imaging,
            encoder_settings,
            epochs=TrainingSchedule(
                wanted.training_epochs, patience=wanted.patience_epochs, seconds=wanted.training_seconds
            ),
            steps_per_epoch=wanted.steps_per_epoch,
            batch_size=wanted.batch_size,
            n_validation=wanted.n_validation,
            seed=wanted.seed,
            checkpoints=checkpoints,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _: done(epoch + 1))],
        )
    save_encoder(out, trial.encoder)
    shutil.rmtree(checkpoints)
    epochs, error = len(trial.history["loss"]), trial.history["val_distance_error_rad"][-1]
    values = {
        "encoder": out,
        "epochs": epochs,
        "steps": trial.history["step"][-1],
        "seconds": trial.training_seconds,
        "distance_error_rad": error,
        "image_size_px": imaging.image_size,
        "pixel_size_angstrom": density.voxel_size_angstrom,
        "noise_variance": noise_variance,
        "agreement_of_mean_images": agreement,
        "seed": wanted.seed,
    }
    text = f"{epochs} epochs in {trial.training_seconds:.0f} s: {out}\n"
    if agreement is not None:
        text += f"particles: noise variance {noise_variance:.3g}, "
        text += f"correlation of their mean image with the mean projection of the map {agreement:.2f}\n"
    text += (
        f"mean error of the distances between simulated images: {error:.3f} rad ({np.rad2deg(error):.1f}°)"
    )
    if error > USUAL_ERROR_RAD:
        text += f"; it is usually below {USUAL_ERROR_RAD} rad, so train for more epochs (--set training_epochs=...)"
    return Answer(text, values)
