"""The repository is consistent: dependencies, commands, links, citations and numbers quoted in the README."""

from __future__ import annotations

import ast
import csv
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
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CARD = {"tensorflow", "tensorflow-graphics", "numpy", "astra-toolbox", "plotly", "jupyterlab"}
HEAVY = ("tensorflow", "keras", "tensorflow_graphics", "astra", "plotly", "papermill", "numba")
DISTRIBUTION_OF = {
    "astra": "astra-toolbox",
    "google": "protobuf",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
}
UNIMPORTED = {"ipykernel", "jupyterlab", "tensorflow"}  # programs, and the Keras backend
MARKDOWN = sorted([*ROOT.glob("*.md"), ROOT / "data" / "README.md", *(ROOT / "docs").glob("*.md")])


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def installed_by(extras: set[str]) -> set[str]:
    """Return the direct dependencies of ``pip install .[extras]``, including those of nested extras."""
    names: set[str] = set()
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    for requirement in (Requirement(text) for texts in lists for text in texts):
        if requirement.name == PROJECT["name"]:
            names |= installed_by(requirement.extras)
        else:
            names.add(canonicalize_name(requirement.name))
    return names


def imported_by_the_package() -> dict[str, str]:
    """Return the distributions that the package imports, each with one of the modules that import it."""
    found = {}
    for path in sorted((ROOT / "cryoem").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"cryoem"}:
                found[canonicalize_name(DISTRIBUTION_OF.get(top, top))] = str(path.relative_to(ROOT))
    return found


def test_conda_and_make_install_the_same():
    dependencies = yaml.safe_load(read("environment.yml"))["dependencies"]
    *conda, pip = dependencies
    assert [re.split("[=<>]", entry)[0] for entry in conda] == ["python", "pip"]
    (line,) = pip["pip"]
    extras = set(re.fullmatch(r"-e \.\[([a-z,]+)\]", line).group(1).split(","))
    assert extras == set(re.search(r"^EXTRAS = (.*)$", read("Makefile"), re.MULTILINE).group(1).split(","))
    assert installed_by(extras) >= CARD
    assert installed_by({"gpu"}) >= CARD
    python = next(entry.partition("=")[2] for entry in conda if entry.startswith("python="))
    assert python in SpecifierSet(PROJECT["requires-python"])


def test_dependencies_are_those_that_the_package_imports():
    imported = imported_by_the_package()
    missing = imported.keys() - installed_by({"gpu", "baselines"})
    assert not {name: imported[name] for name in missing}
    assert installed_by(set()) - imported.keys() <= UNIMPORTED


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, cryoem; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"
    assert re.fullmatch(r"\d+\.\d+\.\d+", cryoem.__version__)


def test_make_targets_in_the_documentation_exist():
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    named = {
        target
        for path in MARKDOWN
        for target in re.findall(r"^(?:`|\| `)?make ([a-z]+)", path.read_text(), re.M)
    }
    assert {"demo", "lab"} <= named <= targets


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_resolve(path: Path):
    prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(<?([^)\s>]+)", prose)
    broken = [target for target in targets if not re.match(r"[a-z]+:", target) and not resolves(path, target)]
    assert not broken


def resolves(path: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    found = path.parent / name if name else path
    if not anchor or not found.exists():
        return found.exists()
    headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
    return anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_citation_names_both_papers():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["license"] == PROJECT["license"]
    papers = {entry["identifiers"][0]["value"]: entry for entry in citation["references"]}
    assert set(papers) == {"arXiv:2104.06237", "arXiv:2205.11829"}
    for entry in papers.values():
        assert entry["title"] in " ".join(read("README.md").split())


def test_notebooks_are_committed_without_outputs():
    paths = [path for path in ROOT.glob("notebooks/**/*.ipynb") if ".ipynb_checkpoints" not in path.parts]
    cells = {path.name: json.loads(path.read_text(encoding="utf-8"))["cells"] for path in paths}
    assert cells
    assert not [
        n for n, c in cells.items() if any(cell.get("outputs") or cell.get("execution_count") for cell in c)
    ]


# --- benchmark results quoted in the README


def readme_row(label: str) -> list[str]:
    """Return the cells after the label in the only row of the README that starts with it."""
    (cells,) = re.findall(rf"^\| {re.escape(label)}[^|]* \| (.+) \|$", read("README.md"), re.MULTILINE)
    return [cell.strip() for cell in cells.split(" | ")]


def results(name: str) -> dict[str, dict[str, str]]:
    """Return the rows of a stored table, keyed by their first cell."""
    lines = [line for line in read(f"benchmarks/results/{name}.csv").splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    return {next(iter(row.values())): row for row in rows}


def assert_rounded(quoted: str, measured: str) -> None:
    """Assert that the first number in a quotation is the first measured number, rounded."""
    number = re.match(r"[0-9.]+", quoted).group()
    assert number == f"{float(measured.split()[0]):.{len(number.partition('.')[2])}f}"


@pytest.mark.parametrize(
    "quantity",
    [
        "E_OR",
        "pose error, gauge from the images",
        "FSC 0.5, clean images",
        "pose error, refined",
        "half-map FSC 0.143, masked",
        "training",
    ],
)
def test_the_readme_quotes_the_main_results(quantity):
    for quoted, noise in zip(readme_row(quantity)[:2], (0, 16), strict=True):
        assert_rounded(quoted, results(f"end-to-end-5j0n-noise-{noise}")[quantity]["measured"])


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("5j0n, off-centre by up to 5 px", "5j0n-shifts"),
        ("5j0n with the same shifts", "5j0n-shifts-ctf"),
        ("beta-galactosidase, D2", "beta-galactosidase-D2"),
    ],
)
def test_the_readme_quotes_the_results_with_further_effects(label, name):
    measured = results(f"end-to-end-{name}-noise-16")
    e_or, refined, resolutions = readme_row(label)
    quoted = (e_or, refined, *resolutions.split(" / "))
    names = ("E_OR", "pose error, refined", "FSC 0.5, refined poses", "FSC 0.5, true orientations")
    for text, quantity in zip(quoted, names, strict=True):
        assert_rounded(text, measured[quantity]["measured"])


@pytest.mark.parametrize(
    ("label", "name", "ours", "theirs", "column"),
    [
        ("project 5j0n, 116 px", "projection", "cryoem", "ASPIRE", "rate"),
        ("reconstruct a map from 1,650 noisy images", "reconstruction-noise-16", "cryoem", "ASPIRE", "time"),
        (
            "recover 1,650 orientations from noisy distances",
            "recovery-speed",
            "cryoem, spectral+gauss_newton",
            "stochastic, 1,446,332 steps",
            "time",
        ),
    ],
)
def test_the_readme_quotes_the_speed(label, name, ours, theirs, column):
    here, other, ratio = readme_row(label)
    measured = results(name)
    assert here == measured[ours][column]
    assert other.endswith(f" {measured[theirs][column]}")
    assert ratio == measured[theirs]["speed-up of cryoem"]


def test_the_readme_quotes_the_training_rate():
    here, other, ratio = readme_row("train the published encoder on pairs")
    rows = list(csv.reader(read("benchmarks/results/training-published.csv").splitlines()[3:]))
    pair_wise, batch = rows[1], rows[-1]
    rate, speed_up = rows[0].index("pairs/s"), rows[0].index("speed-up over pair-wise")
    assert here == f"{batch[rate]} pairs/s"
    assert other.endswith(f" {pair_wise[rate]} pairs/s")
    assert ratio == batch[speed_up]


def test_the_readme_quotes_the_alignment():
    measured = json.loads(read("notebooks/4-udl-alignment/fourteen-sets.json"))
    columns = ("pair", "udl", "template", "judl", "template_aligned", "aligned")
    for name in ("1-noise", "4-ssnr", "7-ssnr"):
        assert readme_row(name) == [f"{measured[name][key]:.2f}°" for key in columns]
