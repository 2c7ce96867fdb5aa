"""Density of atomic models: form factors, axes, centres, and what counts as an atom."""

import gemmi
import numpy as np
import pytest
from scipy import ndimage
from small_maps import centre_position

from cryoem import volumes


def structure_of(atoms):
    """Return a gemmi structure with the given (element, x, y, z) atoms."""
    structure, model, chain, residue = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A"), gemmi.Residue()
    residue.name = "UNK"
    for element, *position in atoms:
        atom = gemmi.Atom()
        atom.name, atom.element, atom.pos, atom.b_iso = (
            element,
            gemmi.Element(element),
            gemmi.Position(*position),
            77.0,
        )
        residue.add_atom(atom)
    chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    return structure


def test_density_of_one_atom_is_its_form_factor_transformed():
    position = (10.3, -4.1, 7.7)
    density_map = volumes.density_from_model(
        structure_of([("C", *position)]),
        voxel_size_angstrom=1.5,
        resolution_angstrom=6.0,
        box_size=(20, 21, 22),
    )
    # f(s) = sum a exp(-b s^2 / 4), blurred by exp(-B s^2 / 4) with B = 4 resolution^2, in real space
    form_factor = gemmi.Element("C").c4322
    axes = np.ix_(*(1.5 * (np.arange(n) - n // 2) for n in (20, 21, 22)))
    r_squared = sum(axis**2 for axis in axes)
    expected = sum(
        a * (4 * np.pi / (b + 4 * 6.0**2)) ** 1.5 * np.exp(-4 * np.pi**2 * r_squared / (b + 4 * 6.0**2))
        for a, b in zip(form_factor.a, form_factor.b, strict=True)
    )
    np.testing.assert_allclose(density_map.data, expected, atol=1e-4 * expected.max())
    np.testing.assert_allclose(centre_position(density_map), position, atol=1e-5)
    assert density_map.data.sum() * 1.5**3 == pytest.approx(sum(form_factor.a), rel=1e-3)


@pytest.mark.parametrize("box_size", [None, 30, 31, (30, 31, 36)])
def test_centre_of_mass_of_a_model_is_the_centre_voxel(box_size):
    rng = np.random.default_rng(0)
    atoms = [(element, *rng.uniform(0, 30, 3)) for element in ["C"] * 50 + ["P"] * 10 + ["O"] * 20 + ["H"]]
    structure = structure_of(atoms)
    density_map = volumes.density_from_model(
        structure, voxel_size_angstrom=2.0, resolution_angstrom=8.0, box_size=box_size
    )
    assert structure[0].count_atom_sites() == len(atoms)  # the argument still has its hydrogens
    centre = [n // 2 for n in density_map.data.shape]
    np.testing.assert_allclose(ndimage.center_of_mass(density_map.data), centre, atol=1e-3)
    assert density_map.data[0].max() < 1e-3 * density_map.data.max()


def test_axes_of_the_map_are_those_of_the_model():
    atoms = [("C", 0, 0, 0), ("C", 0, 0, 0), ("C", 0, 0, 0), ("C", 30, 18, 6)]
    density_map = volumes.density_from_model(
        structure_of(atoms), voxel_size_angstrom=1.5, resolution_angstrom=4.0
    )
    far_corner = (np.array([30, 18, 6]) - density_map.origin) / 1.5
    z, y, x = np.rint(far_corner[::-1]).astype(int)
    near_far_corner = density_map.data[z - 2 : z + 3, y - 2 : y + 3, x - 2 : x + 3]
    assert near_far_corner.max() == pytest.approx(density_map.data.max() / 3, rel=0.1)


def test_waters_hydrogens_and_later_models_do_not_count(tmp_path):
    lines = ["ATOM      1  CA  ALA A   1       0.000   0.000   0.000  1.00 20.00           C"]
    water = "HETATM    3  O   HOH A   2       9.000   0.000   0.000  1.00 20.00           O"
    hydrogen = "ATOM      2  HA  ALA A   1       1.000   0.000   0.000  1.00 20.00           H"
    other_model = [
        "MODEL        2",
        lines[0].replace("   0.000   0.000   0.000", "  50.000   0.000   0.000"),
        "ENDMDL",
    ]
    (tmp_path / "plain.pdb").write_text("\n".join([*lines, "END\n"]))
    (tmp_path / "full.pdb").write_text(
        "\n".join(["MODEL        1", *lines, hydrogen, water, "ENDMDL", *other_model])
    )
    settings = {"voxel_size_angstrom": 2.0, "resolution_angstrom": 6.0, "box_size": 24}
    plain = volumes.density_from_model(tmp_path / "plain.pdb", **settings)
    with pytest.warns(UserWarning, match=r"full\.pdb has 2 models; using only the first"):
        full = volumes.density_from_model(tmp_path / "full.pdb", **settings)
    np.testing.assert_array_equal(full.data, plain.data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"voxel_size_angstrom": 0.0}, "voxel_size_angstrom must be a positive number, got 0.0"),
        (
            {"resolution_angstrom": 3.0},
            "resolution_angstrom must be at least twice the voxel size of 2.0 angstrom, got 3.0",
        ),
        ({"box_size": 8}, "box_size must be at least 1 x 1 x 21 voxels .* got 8"),
        ({"box_size": (8, 8)}, "box_size must be one or three positive integers"),
        ({"voxel_size_angstrom": 1e-3}, "voxel_size_angstrom is too small: 0.001 requires"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
    structure = structure_of([("C", 0, 0, 0), ("C", 40, 0, 0)])
    with pytest.raises(ValueError, match=message):
        volumes.density_from_model(
            structure, **{"voxel_size_angstrom": 2.0, "resolution_angstrom": 8.0} | arguments
        )


LIGAND = "data_ATP\n_chem_comp.id ATP\n_chem_comp_atom.atom_id C1\n"
ATOM = "ATOM      1  CA  ALA A   1       0.000   0.000   0.000  1.00 20.00           C\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.cif", "", "is not an atomic model in mmCIF or PDB format: it is empty$"),
        ("empty.pdb", "", "is not an atomic model in mmCIF or PDB format: it is empty$"),
        ("text.cif", "hello", "PDB format: it has no atoms .no data_ block, and no ATOM or HETATM records.$"),
        ("page.cif", "\n<!DOCTYPE html>\n<p>404</p>\n", r"format: it is a web page \(HTML\)$"),
        ("page.pdb", "<html><body>404</body></html>", r"format: it is a web page \(HTML\)$"),
        (
            "pointer.cif",
            "version https://git-lfs.github.com/spec/v1\n",
            "it is a Git LFS pointer, not the file",
        ),
        ("ligand.cif", LIGAND, "it describes a ligand or residue .chemical component., not the atoms"),
        (
            "factors.cif",
            "data_r1abcsf\n_refln.index_h 1\n",
            "it contains structure factors .reflections., but",
        ),
        ("crystal.cif", "data_x\n_atom_site_fract_x 0.5\n", "it has the fractional coordinates of a crystal"),
        (
            "cut.cif",
            "data_x\nloop_\n_atom_site.id\n_atom_site.Cartn_x\n1 2 3\n",
            r"cut\.cif is damaged: line \d+: ",
        ),
        (
            "crude.pdb",
            ATOM.replace("1.00 20", "high 20") + "END\n",
            "occupancies must be numbers, got .* in line 1",
        ),
    ],
)
def test_a_file_without_atoms_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        volumes.density_from_model(tmp_path / name, voxel_size_angstrom=2.0, resolution_angstrom=6.0)
    assert name in str(raised.value)
    with pytest.raises(FileNotFoundError, match=r"no atomic model at .*absent\.cif"):
        volumes.density_from_model(tmp_path / "absent.cif", voxel_size_angstrom=2.0, resolution_angstrom=6.0)


def test_columns_and_data_blocks_of_mmcif(tmp_path):
    structure = gemmi.read_pdb_string(ATOM + "END\n")
    structure.setup_entities()
    whole = structure.make_mmcif_document().as_string()
    settings = {"voxel_size_angstrom": 2.0, "resolution_angstrom": 6.0}
    for column, words in (
        ("type_symbol", "element symbols"),
        ("Cartn_x", "coordinates"),
        ("Cartn_z", "coordinates"),
    ):
        (tmp_path / "a.cif").write_text(whole.replace(f"_atom_site.{column}", "_atom_site.other"))
        message = rf"a\.cif has no {words} \(_atom_site\.{column}\), which are required$"
        with pytest.raises(ValueError, match=message):
            volumes.density_from_model(tmp_path / "a.cif", **settings)
    (tmp_path / "a.cif").write_text(whole)
    expected = volumes.density_from_model(tmp_path / "a.cif", **settings)
    (tmp_path / "two.cif").write_text(whole + whole.replace(whole.split()[0], "data_second", 1))
    with pytest.warns(UserWarning, match=r"two\.cif has 2 data blocks with atoms; using only the first$"):
        found = volumes.density_from_model(tmp_path / "two.cif", **settings)
    np.testing.assert_array_equal(found.data, expected.data)


@pytest.mark.parametrize("name", ["1u19.cif.gz", "4upy.pdb.gz"])
def test_real_models_become_density_in_empty_solvent(real_data, name):
    density_map = volumes.density_from_model(
        real_data / "models" / name, voxel_size_angstrom=4.0, resolution_angstrom=8.0
    )
    centre = [n // 2 for n in density_map.data.shape]
    np.testing.assert_allclose(ndimage.center_of_mass(density_map.data), centre, atol=0.02)
    shell = np.ones(density_map.data.shape, bool)
    shell[1:-1, 1:-1, 1:-1] = False
    assert density_map.data[shell].mean() < 1e-4 * density_map.data.max()
    assert density_map.data.min() >= 0


def test_a_pdb_file_without_end_and_unknown_elements_are_warnings(tmp_path):
    atom = "ATOM  {0:5d}  {1:<2s}  ALA A{0:4d}    {2:8.3f}   0.000   0.000  1.00 20.00          {1:>2s}\n"
    whole = atom.format(1, "C", 0.0) + atom.format(2, "N", 3.0)
    settings = {"voxel_size_angstrom": 2.0, "resolution_angstrom": 6.0, "box_size": 24}
    (tmp_path / "whole.pdb").write_text(whole + "END\n")
    expected = volumes.density_from_model(tmp_path / "whole.pdb", **settings).data
    for name, text, message in (
        ("cut.pdb", whole, "cut.pdb has no END record; atoms may be missing"),
        (
            "odd.pdb",
            whole + atom.format(3, "X", 9.0) + "END\n",
            r"odd.pdb: omitting atoms of unknown element \(1 of 3 atoms\)",
        ),
    ):
        (tmp_path / name).write_text(text)
        with pytest.warns(UserWarning, match=message):
            found = volumes.density_from_model(tmp_path / name, **settings).data
        np.testing.assert_array_equal(found, expected)


# --- what programs and older files write


SETTINGS = {"voxel_size_angstrom": 2.0, "resolution_angstrom": 6.0, "box_size": 24}
BACKBONE = (("N", -3.0), ("CA", 0.0), ("C", 3.0), ("O", 6.0))


def pdb_of(*, occupancy="  1.00", tails=None):
    """Return a PDB file of four atoms with the given columns 55 to 60 and 73 to 80."""
    lines = [
        f"ATOM  {i:5d}  {name:<2s}  ALA A   1    {x:8.3f}   0.000   0.000{occupancy} 20.00      "
        + (f"    {name[0]:>2s}" if tails is None else tails[i])
        for i, (name, x) in enumerate(BACKBONE)
    ]
    return "\n".join([*lines, "END\n"])


def density_of_text(folder, text, name="a.pdb"):
    (folder / name).write_text(text)
    return volumes.density_from_model(folder / name, **SETTINGS).data


@pytest.mark.parametrize(
    "tails",
    [
        [f"1ABC{i:4d}" for i in range(96, 100)],  # identifier and line number, before 1996
        [f"9LPR{i:4d}" for i in range(1234, 1238)],
        ["MOLECULE"] * 4,  # CU is copper
        ["PROTATOM"] * 4,
        ["ABCDEFGH"] * 4,
        ["PROT    "] * 4,  # a segment
        [""] * 4,
    ],
    ids=str,
)
def test_text_in_columns_73_to_80_does_not_become_elements(tmp_path, tails):
    expected = density_of_text(tmp_path, pdb_of())
    np.testing.assert_array_equal(density_of_text(tmp_path, pdb_of(tails=tails)), expected)


def test_elements_and_charges_of_the_current_format_are_used(tmp_path):
    calcium = pdb_of().replace("  CA  ALA", " CA    CA").replace("           C\n", "          CA2+\n", 1)
    assert density_of_text(tmp_path, calcium).max() > 2 * density_of_text(tmp_path, pdb_of()).max()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (pdb_of(occupancy="  0.00"), "has only occupancies of 0; taking them as 1"),
        (pdb_of(occupancy="      "), "has no occupancy for 4 atoms; taking their occupancies as 1"),
        (
            pdb_of().replace("  1.00", "      ", 2),
            "has no occupancy for 2 atoms; taking their occupancies as 1",
        ),
    ],
)
def test_occupancies_that_are_0_or_blank_are_taken_as_1(tmp_path, text, message):
    expected = density_of_text(tmp_path, pdb_of())
    with pytest.warns(UserWarning, match=rf"a\.pdb {message}"):
        found = density_of_text(tmp_path, text)
    np.testing.assert_array_equal(found, expected)


def test_unknown_occupancies_in_mmcif_are_taken_as_1(tmp_path):
    structure = gemmi.read_pdb_string(pdb_of())
    structure.setup_entities()
    text = structure.make_mmcif_document().as_string()
    assert " 1 20 " in text
    for name in ("a.cif", "named-like-the-other.pdb"):
        expected = density_of_text(tmp_path, text, name)
        with pytest.warns(UserWarning, match=r"has no occupancy for 4 atoms"):
            found = density_of_text(tmp_path, text.replace(" 1 20 ", " ? 20 "), name)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("residues", [("ALA", "ALA"), ("ALA", "SER")], ids=["same residue", "two residues"])
def test_alternate_locations_share_one_atom(tmp_path, residues):
    """Two locations of one atom have the same weight together as the atom in one location."""

    def two_of(first, second):
        lines = [
            f"ATOM      {i}  CA {label}{residue} A   1       0.000   0.000   0.000  {occupancy:.2f} 20.00           C"
            for i, (label, residue, occupancy) in enumerate(zip("AB", residues, (first, second), strict=True))
        ]
        other = "ATOM      9  CA  ALA A   2       8.000   0.000   0.000  1.00 20.00           C"
        return "\n".join([*lines, other, "END\n"])

    single = density_of_text(tmp_path, two_of(1.0, 0.0))
    np.testing.assert_allclose(density_of_text(tmp_path, two_of(0.7, 0.3)), single, atol=1e-6)
    with pytest.warns(
        UserWarning, match=r"a\.pdb: the occupancies of the alternate locations of 1 atoms add up to"
    ):
        found = density_of_text(tmp_path, two_of(1.0, 1.0))
    np.testing.assert_allclose(found, single, atol=1e-6)
