"""Damaged files: each is an error that names the file and what is wrong with it, soon and without much memory."""

from __future__ import annotations

import importlib
from collections import Counter

import pytest
from damage.case import KINDS, Case
from damage.measure import complaint, outcomes

FAMILIES = ("mrc", "tables", "models", "arrays", "networks", "pictures")
FEWEST = 300


def of_family(family: str) -> list[Case]:
    return list(importlib.import_module(f"damage.{family}").cases())


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[Case]]:
    """All damaged files by family."""
    return {family: of_family(family) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_damage_is_an_error_that_names_file_and_field(corpus, family, tmp_path):
    cases = corpus[family]
    complaints = {}
    for reader in sorted({case.reader for case in cases}):
        of_reader = [case for case in cases if case.reader == reader]
        found = outcomes(of_reader, tmp_path)
        complaints |= {str(case): why for case in of_reader if (why := complaint(case, found[case.name]))}
    assert not complaints, "\n".join(f"{name}: {why}" for name, why in complaints.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_damaged_was_whole(family, tmp_path):
    """Else every change of it would be refused, whatever the readers do."""
    whole = list(importlib.import_module(f"damage.{family}").whole())
    found = outcomes(whole, tmp_path)
    assert {case.reader for case in whole} == {case.reader for case in of_family(family)}
    errors = {name: outcome.text for name, outcome in found.items() if outcome.error}
    assert not errors
    warned = {name: outcome.warnings for name, outcome in found.items() if outcome.warnings}
    assert not warned


def test_the_corpus_is_large_and_covers_every_kind_of_damage(corpus):
    cases = [case for family in corpus.values() for case in family]
    assert len(cases) >= FEWEST
    names = Counter(map(str, cases))
    assert [name for name, count in names.items() if count > 1] == []
    kinds = Counter(case.kind for case in cases)
    assert set(kinds) == set(KINDS)
    assert min(kinds[kind] for kind in KINDS) >= 5
    contents = Counter((case.reader, content) for case in cases if (content := content_of(case)) is not None)
    assert max(contents.values()) == 1, "the same file twice"


def content_of(case: Case) -> bytes | None:
    """The bytes of a case of one file."""
    return case.content
