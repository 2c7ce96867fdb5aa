"""Check a particle file before it is used: what was read, outliers, and how its poses and CTF are interpreted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cryoem import plots
from cryoem.contrast import Optics
from cryoem.images import correct_images, downsample
from cryoem.particles.files import ParticleFile
from cryoem.particles.outliers import check_images, describe_repeats, name_first
from cryoem.particles.stack import fit_ctf_power
from cryoem.reconstruction.misreadings import defocus_units
from cryoem.reconstruction.pose_checks import PoseCheck, check_poses
from cryoem.reconstruction.resolution import FSC, HALF_MAP_THRESHOLD
from cryoem.reconstruction.rounds import FOLDS
from cryoem.runs.report import embeddable, render_page

FEWEST, SMALLEST_PX = 4, 16  # images and width for which poses can be checked
SHOWN, SHOWN_PX, CENTRED_PX = 12, 128, 32  # images in the page and their largest widths
IN_SPECTRUM = 60  # images of similar defocus in the power spectrum
HAND = (
    "Projections do not determine the handedness of the map: with all tilts negated, or with all images "
    "rotated in plane by 180 degrees, the images would fit equally well."
)


@dataclass(frozen=True)
class Inspection:
    """Result of ``inspect_particles``.

    Attributes
    ----------
    facts : dict of str
        What was read, by name.
    findings : list of str
        What is wrong or doubtful, one sentence each. Empty if all is well.
    remarks : list of str
        What could not be checked or was noticed while reading, one sentence each.
    unusable, outliers : dict
        Reason for each unusable image and each outlier, by zero-based index.
    poses : PoseCheck or None
        Result of the comparison of readings. None if it was not possible.
    figures : list of (str, Figure)
        Captions and figures.
    """

    facts: dict[str, str]
    findings: list[str]
    remarks: list[str]
    unusable: dict[int, str]
    outliers: dict[int, str]
    poses: PoseCheck | None
    figures: list[tuple]

    @property
    def verdict(self) -> str:
        """One sentence that summarises the check."""
        if self.findings:
            count = len(self.findings)
            return "There is 1 finding." if count == 1 else f"There are {count} findings."
        if self.poses is None:
            return "No problem was found, but poses were not checked."
        return "All is well: the images confirm the poses as they are read."


def inspect_particles(
    particles: ParticleFile,
    *,
    figures: bool = True,
    rng: np.random.Generator | int | None = None,
    read: Callable[[int], None] | None = None,
    compared: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Inspect the images of a particle file, their optics and their poses.

    Parameters
    ----------
    particles : ParticleFile
        Particles. All images are read once to find outliers, and some again to check the poses.
    figures : bool
        Whether to make the figures. Default: True.
    rng : Generator or int, optional
        Random number generator or seed.
    read, compared : callable, optional
        Functions called with the number of images read so far, and with the numbers of readings compared so far and
        known so far.

    Returns
    -------
    Inspection

    Raises
    ------
    OSError
        If a stack cannot be read.
    """
    rng = np.random.default_rng(rng)
    pixels = check_images(particles, callback=read)
    unusable, outliers = pixels.unusable, pixels.outliers
    wrong: list[str] = []  # values in the table
    optics = _known(lambda: particles.optics, wrong) or Optics(particles.pixel_size_angstrom)
    poses, subset = _known(lambda: particles.poses, wrong), particles.random_subset
    facts = _facts(particles, optics, poses, subset)
    facts["unusable images"] = _named(particles, unusable)
    facts["outliers"] = _named(particles, outliers)
    findings = wrong + [
        f"{len(found)} of {len(particles)} images {verb}: {_named(particles, found)}"
        for found, verb in ((unusable, "cannot be used"), (outliers, "may be outliers"))
        if found
    ]
    findings += [
        text
        for text in (pixels.describe_scales(particles), *_table_findings(particles, optics, subset))
        if text
    ]
    remarks, check = [], None
    good = np.delete(np.arange(len(particles)), [*unusable, *outliers])
    if wrong:
        remarks.append("Poses are not checked while values in the table are wrong.")
    elif poses is None:
        remarks.append("There are no poses to check.")
        remarks += [
            f"Without poses, a {each.name} cannot be excluded: all values are small."
            for each in defocus_units(optics)
        ]
    elif len(good) < FEWEST or particles.image_size < SMALLEST_PX:
        remarks.append(
            f"The poses were not checked: this requires at least {FEWEST} usable images at least {SMALLEST_PX} px "
            f"wide, got {len(good)} images {particles.image_size} px wide."
        )
    else:
        check = check_poses(particles[good], poses[good], optics=optics[good], rng=rng, callback=compared)
        findings += _pose_findings(check)
        remarks += _pose_remarks(check)
    drawn = _figures(particles, optics, poses, good, check) if figures and len(good) else []
    return Inspection(facts, findings, remarks, unusable, outliers, check, drawn)


def render_inspection(inspection: Inspection, *, title: str, about: str) -> str:
    """Render an inspection as a self-contained HTML page."""
    return render_page(
        "check.html",
        title=title,
        about=about,
        verdict=inspection.verdict,
        well=not inspection.findings,
        findings=inspection.findings,
        remarks=inspection.remarks,
        facts=list(inspection.facts.items()),
        readings=readings_table(inspection.poses),
        figures=[
            embeddable(figure.to_json()) | {"caption": caption} for caption, figure in inspection.figures
        ],
    )


def readings_table(check: PoseCheck | None) -> list[tuple[str, str, str, str]]:
    """Return the name, log-likelihood, difference and half-map resolution of each reading, the best first."""
    if check is None:
        return []
    return [
        (
            each.name,
            f"{each.log_likelihood:.1f}",
            "" if each is check.readings[0] else f"{each.difference:+.1f} ({each.standard_errors:+.0f} SE)",
            "" if each.fsc is None else _resolution(each.fsc),
        )
        for each in sorted(check.readings, key=lambda each: -each.log_likelihood)
    ]


def _known(read: Callable, wrong: list[str]):
    """Return what a function reads from the table or, if it raises an error, None, and add the error to ``wrong``."""
    try:
        return read()
    except ValueError as error:
        wrong.append(str(error))
        return None


def _facts(particles: ParticleFile, optics, poses, subset) -> dict[str, str]:
    """Describe what was read."""
    n, pixel = len(particles), particles.pixel_size_angstrom
    stacks = len(particles.images.stacks)
    facts = {
        "images": f"{n:,} of {particles.image_size} px, from {stacks} stack{'s' if stacks > 1 else ''}",
        "format": particles.program or "stack without a table",
        "pixel size": f"{pixel:.6g} Å is used",
    }
    for source, sizes in particles.stated_pixel_sizes().items():
        if len(sizes):
            facts[f"pixel size, {source}"] = ", ".join(f"{size:.6g}" for size in np.unique(sizes)[:5]) + " Å"
    if particles.optics_groups is not None:
        facts["optics groups"] = str(len(particles.optics_groups))
    facts["CTF"] = "unknown"
    if optics.ctf is not None:
        ctf, defocus = optics.ctf, optics.isotropic().defocus_angstrom
        facts["CTF"] = (
            f"{ctf.voltage_kv:g} kV, Cs {ctf.spherical_aberration_mm:g} mm, amplitude contrast "
            f"{ctf.amplitude_contrast:g}, defocus {defocus.min():,.0f} to {defocus.max():,.0f} Å"
        )
        if optics.own_values:
            facts["own values of each image"] = ", ".join(optics.own_values)
    facts["poses"] = "unknown"
    if poses is not None:
        shifts = np.hypot(*poses.shifts_px.T)
        facts["poses"] = "orientations, no shifts"
        if shifts.any():
            facts["poses"] = (
                f"orientations, shifts up to {shifts.max():.3g} px ({shifts.max() * pixel:.3g} Å)"
            )
    facts["half-sets"] = "unknown"
    if subset is not None:
        facts["half-sets"] = " and ".join(f"{count:,}" for count in np.bincount(subset)) + " images"
    return facts


def _table_findings(particles: ParticleFile, optics: Optics, subset: np.ndarray | None) -> list[str]:
    """Return findings on defoci, repeated images and half-sets."""
    findings = []
    ctf = optics.ctf
    if (
        ctf is not None
        and ctf.spherical_aberration_mm
        and not (ctf.phase_shift_rad or optics.defocus_angstrom.any())
    ):
        findings.append(
            f"the defocus is 0 in all images, although the spherical aberration is {ctf.spherical_aberration_mm:g} mm, "
            "as if it was never estimated; estimate it, or remove the columns of the CTF"
        )
    if text := describe_repeats(particles):
        findings.append(text)
    if subset is not None and (counts := np.bincount(subset)).min() < FOLDS:
        findings.append(
            f"the half-sets have {counts[0]:,} and {counts[1]:,} images, too few for half-maps, which need at least "
            f"{FOLDS} each; divide the images evenly"
        )
    return findings


def _pose_findings(check: PoseCheck) -> list[str]:
    if not check.confirmed:
        return [
            f"no reading of the poses fits {check.images} images better than orientations that are assigned to the "
            "wrong images: there are too few images, they are too noisy, or the poses belong to other images"
        ]
    findings = []
    for each in check.right:
        # the difference of a second misreading alone is not that of both together
        measured = f" (log-likelihood {each.difference:+.1f} per image)" if each is check.right[0] else ""
        findings.append(f"{each.finding}{measured}")
    if check.dark:
        findings.append(
            f"the particles are dark (skewness of the density {check.skewness:.2f}): the contrast of the images or the "
            "sign of the CTF is inverted, which images cannot distinguish; invert the images"
        )
    return findings


def _pose_remarks(check: PoseCheck) -> list[str]:
    remarks = [HAND] if check.confirmed else []
    remarks += [
        f"Misreadings of {group} were not tried: {reason}." for group, reason in check.not_tried.items()
    ]
    if check.equal:
        names = ", ".join(each.name for each in check.equal)
        remarks.append(f"These images cannot distinguish the best reading from: {names}.")
    if check.confirmed and not check.dark and not check.bright:
        remarks.append(
            f"The sign of the density is uncertain (skewness {check.skewness:.2f}), and with it the contrast."
        )
    return remarks


def _named(particles: ParticleFile, found: dict[int, str]) -> str:
    """Name images as in the table, with the reason for each."""
    return name_first(dict(sorted(found.items())), particles.image_names.__getitem__) or "none"


def _resolution(fsc: FSC) -> str:
    resolution = fsc.resolution_or_none(HALF_MAP_THRESHOLD)
    return "none" if resolution is None else f"{resolution:.1f} Å"


def _figures(
    particles: ParticleFile, optics, poses, good: np.ndarray, check: PoseCheck | None
) -> list[tuple]:
    """Return the figures of the page with their captions."""
    shown = good[np.linspace(0, len(good) - 1, min(SHOWN, len(good))).astype(int)]
    size = min(particles.image_size, SHOWN_PX)
    pixel = particles.pixel_size_angstrom * particles.image_size / size
    images = downsample(np.asarray(particles[shown]), size)
    names = [str(index + 1) for index in shown]
    figures = [
        (
            "Images, evenly spaced in the file, with their numbers.",
            plots.projection_gallery(images, pixel_size_angstrom=pixel, titles=names),
        )
    ]
    if optics.ctf is not None:
        fit = fit_ctf_power(particles[good], optics[good], max_images=IN_SPECTRUM)
        pixel, name = particles.pixel_size_angstrom, "stated CTF and background"
        spectrum = plots.power_spectrum(*fit, pixel_size_angstrom=pixel, fit_name=name)
        caption = (
            f"Power spectrum of the {min(len(good), IN_SPECTRUM)} images whose defocus is nearest the median, and a "
            "fit of a smooth signal times the square of the stated CTF, on a smooth background. If the oscillations do "
            "not coincide, the defocus, the pixel size or the microscope's constants are wrong."
        )
        figures.append((caption, spectrum))
    if poses is not None:
        figures.append(("Viewing directions, as read.", plots.coverage_sphere(poses.rotations)))
    if check is None:
        return figures
    centred = correct_images(
        np.asarray(particles[shown]),
        optics=optics[shown],
        shifts_px=poses.shifts_px[shown],
        size=min(size, CENTRED_PX),
    )
    figures.append(
        (
            "The same images, phase-flipped, downsampled, and centred with their shifts as read. If the shifts are "
            "interpreted correctly, the particles are centred.",
            plots.projection_gallery(centred, titles=names),
        )
    )
    curves = [check.readings[0], *check.right, check.readings[-1]]
    curves = {
        each.name: (each.fsc.frequency, each.fsc.correlation) for each in curves if each.fsc is not None
    }
    if curves:
        caption = (
            f"Half-map FSC of {check.images} images, cropped in Fourier space, without a mask: as read, with what was "
            "found, and with the orientations of other images."
        )
        figures.append((caption, plots.fourier_shell_correlation(curves, thresholds=(HALF_MAP_THRESHOLD,))))
    if check.confirmed:
        voxel = check.map.voxel_size_angstrom
        caption = "Slices of the quick map, with the best reading."
        figures.append((caption, plots.density_slices(check.map.data, voxel_size_angstrom=voxel)))
    return figures
