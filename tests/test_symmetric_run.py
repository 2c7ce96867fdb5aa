"""A symmetric particle goes through all phases at toy size, over the whole sphere."""

from __future__ import annotations

from cryoem import pipeline
from cryoem.pipeline.records import read_record, run_folder


def test_a_d2_particle_goes_through_all_phases():
    pipeline.run(profile="toy", map_name="phantom-D2", run="toy-D2", overrides={"symmetry": "D2"})
    distances, orientations, made = (
        read_record(run_folder("toy-D2") / name)["numbers"] for name in list(pipeline.PHASES)[1:]
    )
    assert distances["distance_error_rad"] < 0.2
    assert orientations["pose_error_rad"] < 0.15
    assert orientations["common_line_agreement_of_runner_up"] is None
    assert made["refined_pose_error_rad"] < 0.05
