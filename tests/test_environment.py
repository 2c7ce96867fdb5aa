"""The repository agrees with itself: what is installed, imported, called, linked, cited and committed."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import cryoem

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
CARD = {"tensorflow", "tensorflow-graphics", "numpy", "astra-toolbox", "plotly", "jupyterlab"}
HEAVY = ("tensorflow", "keras", "tensorflow_graphics", "astra", "plotly", "papermill", "numba")
DISTRIBUTION_OF = {
    "astra": "astra-toolbox",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
    "google": "protobuf",
}
MARKDOWN = sorted(
    [
        *ROOT.glob("*.md"),
        ROOT / "data" / "README.md",
        *(ROOT / "docs").glob("**/*.md"),
        *ROOT.glob("benchmarks/*.md"),
    ]
)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def conda_dependencies() -> tuple[list[str], list[str]]:
    """Conda's own and pip's lines of environment.yml."""
    dependencies = yaml.safe_load(read("environment.yml"))["dependencies"]
    (pip,) = (entry["pip"] for entry in dependencies if isinstance(entry, dict))
    return [entry for entry in dependencies if isinstance(entry, str)], pip


def installed_by(extras: set[str]) -> set[str]:
    """Names of the direct dependencies of ``pip install .[extras]``; an extra may name others of the project."""
    names: set[str] = set()
    requirements = [Requirement(text) for text in PROJECT["dependencies"]]
    for extra in extras:
        requirements += [Requirement(text) for text in PROJECT["optional-dependencies"][extra]]
    for requirement in requirements:
        if requirement.name == PROJECT["name"]:
            names |= installed_by(requirement.extras)
        else:
            names.add(canonicalize_name(requirement.name))
    return names


def recipe(target: str) -> list[str]:
    """Commands of a Makefile target."""
    match = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)
    assert match, f"the Makefile has no target {target}"
    return [line.strip() for line in match.group(1).splitlines()]


def test_conda_installs_the_project_itself_and_nothing_else():
    conda, pip = conda_dependencies()
    assert [re.split("[=<>]", entry)[0] for entry in conda] == ["python", "pip"]
    assert len(pip) == 1
    assert re.fullmatch(r"-e \.\[[a-z,]+\]", pip[0])


def test_conda_and_pip_give_the_whole_set():
    _, (line,) = conda_dependencies()
    extras = set(re.search(r"\[(.*)\]", line).group(1).split(","))
    made = re.search(r"^EXTRAS = (.*)$", read("Makefile"), re.MULTILINE).group(1)
    assert extras == set(made.split(","))
    assert installed_by(extras) >= CARD
    assert installed_by({"gpu"}) >= CARD
    assert not any("and-cuda" in text for extra in extras for text in PROJECT["optional-dependencies"][extra])


def test_conda_and_pip_agree_on_python():
    conda, _ = conda_dependencies()
    version = next(entry.partition("=")[2] for entry in conda if entry.startswith("python="))
    supported = SpecifierSet(PROJECT["requires-python"])
    assert version in supported
    minor = int(version.partition(".")[2])
    assert f"3.{minor - 1}" not in supported
    assert f"3.{minor + 1}" not in supported
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py3{minor}"


def test_version_is_that_of_the_package():
    assert PROJECT["dynamic"] == ["version"]
    assert (ROOT / PYPROJECT["tool"]["hatch"]["version"]["path"]).samefile(cryoem.__file__)
    assert re.fullmatch(r"\d+\.\d+\.\d+", cryoem.__version__)


def test_every_import_of_the_package_is_a_direct_dependency():
    allowed = installed_by({"gpu", "baselines"})
    missing = {}
    for path in sorted((ROOT / "cryoem").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            else:
                continue
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"cryoem"}:
                if canonicalize_name(DISTRIBUTION_OF.get(top, top)) not in allowed:
                    missing[top] = str(path.relative_to(ROOT))
    assert not missing


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, cryoem; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"


def test_readme_makefile_and_ci_call_the_same_tests():
    assert re.search(r"^make test\b", read("README.md"), re.MULTILINE)
    commands = [line.split("#")[0] for line in read(".ci/run").splitlines()]
    assert any(re.match(r"\s*make test\b", line) for line in commands)
    assert any(re.match(r"\s*make lint\b", line) for line in commands)
    assert recipe("test") == ["$(BIN)/python -m pytest $(ARGS)"]
    assert recipe("lint") == ["$(BIN)/ruff check .", "$(BIN)/ruff format --check ."]


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_resolve(path: Path):
    prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(<?([^)\s>]+)", prose) + re.findall(r"(?:src|href)=\"([^\"]+)\"", prose)
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    broken = [target for target in local if not points_somewhere(path, target)]
    assert not broken


def points_somewhere(path: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    found = path.parent / name if name else path
    if not found.exists():
        return False
    if not anchor or found.suffix != ".md":
        return True
    headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
    return anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_citation_names_both_papers():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["license"] == PROJECT["license"]
    papers = {entry["identifiers"][0]["value"]: entry for entry in citation["references"]}
    assert set(papers) == {"arXiv:2104.06237", "arXiv:2205.11829"}
    families = {
        arxiv: [author["family-names"] for author in entry["authors"]] for arxiv, entry in papers.items()
    }
    assert families["arXiv:2104.06237"] == ["Banjac", "Donati", "Defferrard"]
    assert families["arXiv:2205.11829"] == ["Chen", "Feng", "Shen"]
    for entry in papers.values():
        assert entry["title"] in " ".join(read("README.md").split())


def test_notebooks_are_committed_without_outputs():
    notebooks = sorted(
        path for path in ROOT.glob("notebooks/**/*.ipynb") if ".ipynb_checkpoints" not in path.parts
    )
    dirty = []
    for path in notebooks:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        if any(cell.get("outputs") or cell.get("execution_count") for cell in cells):
            dirty.append(path.relative_to(ROOT).as_posix())
    assert not dirty


@pytest.mark.parametrize(
    ("row", "quantity"),
    [
        ("E_OR, error of the recovered orientations", "E_OR"),
        ("pose error, gauge from the images", "pose error, gauge from the images"),
        ("resolution with these orientations, FSC 0.5, clean images", "FSC 0.5, clean images"),
        ("pose error after refinement", "pose error, refined"),
        ("resolution between half-maps refined apart, masked, 0.143", "half-maps 0.143, masked"),
        ("training", "training"),
    ],
)
def test_the_readme_quotes_the_benchmarks(row, quantity):
    (cells,) = re.findall(rf"^\| {re.escape(row)} \| ([^|]+) \| ([^|]+) \|", read("README.md"), re.MULTILINE)
    sections = re.findall(
        r"^### 5j0n, noise variance (0|16), 1650 images(.*?)(?=^###|\Z)",
        read("docs/benchmarks.md"),
        re.M | re.S,
    )
    assert [noise for noise, _ in sections] == ["0", "16"]
    for quoted, (_, section) in zip(cells, sections, strict=True):
        (measured,) = re.findall(rf"^\| {re.escape(quantity)} +\|[^|]+\| ([0-9.]+)", section, re.MULTILINE)
        number = re.match(r"[0-9.]+", quoted).group()
        decimals = len(number.partition(".")[2])
        assert number == f"{float(measured):.{decimals}f}"


@pytest.mark.parametrize(
    ("row", "section"),
    [
        ("particles up to 5 px off the middle", "5j0n (+-5 px), noise variance 16,"),
        ("off the middle and through the contrast transfer", "5j0n (+-5 px, CTF), noise variance 16,"),
        ("D2 over the whole sphere: beta-galactosidase", "beta-galactosidase (D2), noise variance 16,"),
    ],
)
def test_the_readme_quotes_the_benchmarks_of_real_particles(row, section):
    (cells,) = re.findall(rf"^\| {re.escape(row)}[^|]*\| (.+) \|$", read("README.md"), re.MULTILINE)
    (table,) = re.findall(
        rf"^### {re.escape(section)}(.*?)(?=^###|\Z)", read("docs/benchmarks.md"), re.M | re.S
    )
    quantities = (
        "E_OR",
        "pose error, refined",
        "FSC 0.5, refined, the images given",
        "FSC 0.5, true orientations",
    )
    quoted = re.findall(r"([0-9.]+) (rad|Å)", cells)
    assert len(quoted) == len(quantities)
    for (number, unit), quantity in zip(quoted, quantities, strict=True):
        (measured,) = re.findall(
            rf"^\| {re.escape(quantity)} +\|[^|]+\| ([0-9.]+) {unit}", table, re.MULTILINE
        )
        assert number == f"{float(measured):.{len(number.partition('.')[2])}f}"


@pytest.mark.parametrize(
    ("row", "section", "ours", "theirs"),
    [
        ("project 5j0n, 116 px", "5j0n, projections of 116 px", "cryoem", "ASPIRE"),
        ("a map of 1,650 images with noise", "5j0n, noise variance 16, a map of", "cryoem", "ASPIRE"),
        (
            "1,650 orientations from noisy distances",
            "1650 orientations, all pairs, errors of 0.2 rad",
            "cryoem, spectral+refine",
            "stochastic, 1,",
        ),
        (
            "pairs in training, published encoder",
            "Training the published encoder, 116 px",
            "all pairs of a batch | 512 ",
            "pair-wise",
        ),
    ],
)
def test_the_readme_quotes_the_speed_beside_peers(row, section, ours, theirs):
    (cells,) = re.findall(rf"^\| {re.escape(row)} \| (.+) \|$", read("README.md"), re.MULTILINE)
    (table,) = re.findall(
        rf"^### {re.escape(section)}(.*?)(?=^#|\Z)", read("docs/benchmarks.md"), re.M | re.S
    )
    table = re.sub(" +", " ", table)
    (ours,), (theirs,) = (
        re.findall(rf"^\| {re.escape(method)}.*$", table, re.MULTILINE) for method in (ours, theirs)
    )
    here, beside, ratio = cells.split(" | ")
    for quoted, measured in ((here, ours), (beside.rpartition(", ")[2].rpartition("after ")[2], theirs)):
        assert quoted.removesuffix(" pairs/s") in measured
    assert ratio in ours + theirs


def test_the_readme_quotes_the_alignment_benchmark():
    measured = json.loads(read("notebooks/4-udl-alignment/fourteen-sets.json"))
    rows = re.findall(r"^\| (\d-(?:noise|ssnr)) \| (.*) \|$", read("README.md"), re.MULTILINE)
    assert len(rows) == 3
    for name, cells in rows:
        columns = ("pair", "udl", "template", "judl", "template_aligned", "aligned")
        expected = [measured[name][key] for key in columns]
        assert cells.split(" | ") == [f"{error:.2f}°" for error in expected]
