"""Damaged files: each is an error that names the file and what is wrong with it, soon and without much memory."""

from __future__ import annotations

import importlib
import sys
from collections import Counter

import pytest
from damage.case import KINDS, Case, file_case
from damage.measure import complaint, outcomes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited and measured as on Linux")

FAMILIES = ("mrc", "tables", "models", "arrays", "networks", "pictures")
FEWEST = 300


def of_family(family: str) -> list[Case]:
    return list(importlib.import_module(f"damage.{family}").cases())


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[Case]]:
    """All damaged files by family."""
    return {family: of_family(family) for family in FAMILIES}


def test_readers_that_misbehave_are_noticed(tmp_path):
    deeds = ("dies", "hungry", "hangs", "busy", "silent")
    cases = [file_case(deed, "misbehaving", "wrong value", deed, b"", "nothing") for deed in deeds]
    found = outcomes(cases, tmp_path, patience_seconds=8.0)
    complaints = {case.name: complaint(case, found[str(case)]) for case in cases}
    assert complaints["silent"] is None
    assert complaints["dies"].startswith("raised died")
    assert complaints["hungry"].startswith("raised MemoryError")
    assert complaints["hangs"].startswith("raised hung")
    assert complaints["busy"].startswith("took ")
    whole = list(importlib.import_module("damage.mrc").whole())[:1]
    assert complaint(whole[0], outcomes(whole, tmp_path / "whole")[str(whole[0])]).startswith(
        "was read without an error"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_damage_is_an_error_that_names_file_and_field(corpus, family, tmp_path):
    found = outcomes(corpus[family], tmp_path)
    complaints = {str(case): why for case in corpus[family] if (why := complaint(case, found[str(case)]))}
    assert not complaints, "\n".join(f"{name}: {why}" for name, why in complaints.items())


def test_what_is_damaged_was_whole(corpus, tmp_path):
    """Else every change of it would be refused, whatever the readers do."""
    whole = [case for family in FAMILIES for case in importlib.import_module(f"damage.{family}").whole()]
    assert {case.reader for case in whole} == {case.reader for cases in corpus.values() for case in cases}
    found = outcomes(whole, tmp_path, memory_bytes=4_000_000_000)  # of which TensorFlow's threads take most
    assert {name: outcome.text for name, outcome in found.items() if outcome.error} == {}
    assert {name: outcome.warnings for name, outcome in found.items() if outcome.warnings} == {}


def test_the_corpus_is_large_and_covers_every_kind_of_damage(corpus):
    cases = [case for family in corpus.values() for case in family]
    assert len(cases) >= FEWEST
    names = Counter(map(str, cases))
    assert [name for name, count in names.items() if count > 1] == []
    kinds = Counter(case.kind for case in cases)
    assert set(kinds) == set(KINDS)
    assert min(kinds[kind] for kind in KINDS) >= 5
    contents = Counter((case.reader, case.blames, case.content) for case in cases if case.content is not None)
    assert [key[:2] for key, count in contents.items() if count > 1] == [], "the same file twice"
