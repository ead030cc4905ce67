"""Outputs of programs, as small as they are read, of steps that converged and of steps that did not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from mlpot.units import BOHR

# One tuple a step: energy in the program's unit, and whether its self-consistency converged.
Steps = Sequence[tuple[float, bool]]


def gaussian(steps: Steps, *, end: str = " Normal termination of Gaussian 16") -> str:
    rule = " " + "-" * 69
    lines = [" Entering Gaussian System, Link 0=g16", " # pbe/sto-3g force"]
    for k, (energy, converged) in enumerate(steps):
        lines += [
            "                          Input orientation:",
            rule,
            " Center     Atomic",
            " Number     Number",
            rule,
        ]
        lines += [f"      {a + 1}          1           0        0.000000    0.000000    {z:.6f}"
                  for a, z in enumerate((0.0, 0.75 + 0.01 * k))]  # fmt: skip
        lines += [rule] + ([] if converged else [" >>>>>>>>>> Convergence criterion not met."])
        lines += [f" SCF Done:  E(RPBE) =  {energy:.9f}     A.U. after   {7 if converged else 129} cycles"]
        lines += [rule.replace("-", "*"), " Center     Atomic                   Forces (Hartrees/Bohr)"]
        lines += [" Number     Number              X              Y              Z", rule]
        lines += [
            f"      {a}        1           0.000000000    0.000000000    {f}" for a, f in ((1, 0.01), (2, -0.01))
        ]
        lines += [rule]
    return "\n".join([*lines, end, ""])


def vasprun(steps: Steps, *, nelm: int = 4) -> str:
    cell = '<crystal><varray name="basis"><v> 5 0 0 </v><v> 0 5 0 </v><v> 0 0 5 </v></varray></crystal>'
    place = '<varray name="positions"><v> 0.1 0.2 0.3 </v></varray>'
    lines = [
        '<?xml version="1.0" encoding="ISO-8859-1"?>', "<modeling>",
        '<kpoints><varray name="kpointlist"><v> 0 0 0 </v></varray>',
        '<varray name="weights"><v> 1 </v></varray></kpoints>',
        "<parameters>", '<separator name="electronic">', f'  <i type="int" name="NELM">     {nelm}</i>',
        "</separator></parameters>", "<atominfo><atoms> 1 </atoms><types> 1 </types>",
        '<array name="atoms"><set><rc><c>He</c><c> 1</c></rc></set></array></atominfo>',
        f'<structure name="initialpos">{cell}{place}</structure>',
    ]  # fmt: skip
    for energy, converged in steps:
        energies = "".join(
            f'<i name="{name}"> {energy} </i>' for name in ("e_fr_energy", "e_wo_entrp", "e_0_energy")
        )
        lines += ["<calculation>"]
        lines += [f"  <scstep><energy>{energies}</energy></scstep>"] * (nelm - 1 if converged else nelm)
        lines += [f"<structure>{cell}{place}</structure>", '<varray name="forces"><v> 0.1 -0.2 0.3 </v></varray>']
        lines += [f"<energy>{energies}</energy>", "</calculation>"]
    return "\n".join([*lines, "</modeling>", ""])


def outcar(steps: Steps, *, nelm: int = 4) -> str:
    lines = [
        " POTCAR:    PAW_PBE He 05Jan2001", " POTCAR:    PAW_PBE He 05Jan2001",
        "   ions per type =               1",
        f"   NELM   =      {nelm};   NELMIN=  2; NELMDL= -5     # of ELM steps ",
        "   ISPIN  =      1    spin polarized",
    ]  # fmt: skip
    for k, (energy, converged) in enumerate(steps):
        for step in range(1, nelm if converged else nelm + 1):
            lines += [
                f"--------------------------------------- Iteration {k + 1:6d}({step:4d})  -----------------"
            ]
        # VASP ends the last step that it allows with these words, whether or not they are true.
        lines += ["------------------------ aborting loop because EDIFF is reached ----------------------"]
        lines += ["      direct lattice vectors                 reciprocal lattice vectors"]
        lines += ["     5.0  0.0  0.0     0.2  0.0  0.0", "     0.0  5.0  0.0     0.0  0.2  0.0"]
        lines += ["     0.0  0.0  5.0     0.0  0.0  0.2", ""]
        lines += [" POSITION                                       TOTAL-FORCE (eV/Angst)", " " + "-" * 83]
        lines += [
            "      0.50000      1.00000      1.50000         0.100000     -0.200000      0.300000",
            " " + "-" * 83,
        ]
        lines += ["", "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)", "  " + "-" * 51]
        lines += [f"  free  energy   TOTEN  =  {energy:16.8f} eV", ""]
        lines += [f"  energy  without entropy={energy:16.8f}  energy(sigma->0) ={energy:16.8f}", ""]
    return "\n".join([*lines, ""])


def espresso(steps: Steps) -> str:
    lines = [
        "     Program PWSCF v.7.2 starts on  1Jan2024", "     number of atoms/cell      =            1",
        "     number of atomic types    =            1",
        "     celldm(1)=  10.000000  celldm(2)=   0.000000  celldm(3)=   0.000000",
        "     crystal axes: (cart. coord. in units of alat)",
        "               a(1) = (   1.000000   0.000000   0.000000 )",
        "               a(2) = (   0.000000   1.000000   0.000000 )",
        "               a(3) = (   0.000000   0.000000   1.000000 )",
        "     site n.     atom                  positions (alat units)",
        "         1           He  tau(   1) = (   0.1000000   0.0000000   0.0000000  )",
    ]  # fmt: skip
    for k, (energy, converged) in enumerate(steps):
        if k:
            lines += ["ATOMIC_POSITIONS (angstrom)", f"He   {0.5 + 0.01 * k:.4f} 0.0 0.0", ""]
        lines += [f"!    total energy              = {energy:16.8f} Ry"]
        lines += ["     convergence has been achieved in   7 iterations" if converged
                  else "     convergence NOT achieved after 100 iterations: stopping"]  # fmt: skip
        lines += ["     Forces acting on atoms (cartesian axes, Ry/au):", ""]
        lines += ["     atom    1 type  1   force =     0.00100000    0.00000000    0.00000000", ""]
    return "\n".join([*lines, "   JOB DONE.", ""])


def orca(steps: Steps) -> str:
    lines = ["                                 * O   R   C   A *"]
    for k, (energy, converged) in enumerate(steps):
        if k:
            lines += ["          *           ORCA GEOMETRY RELAXATION STEP           *"]
        lines += ["CARTESIAN COORDINATES (ANGSTROEM)", "---------------------------------"]
        lines += [
            "  H      0.000000    0.000000    0.000000",
            f"  H      0.000000    0.000000    {0.75 + 0.01 * k:.6f}",
        ]
        lines += ["", "Number of atoms                             ...      2"]
        told = "" if converged else "   (SCF not fully converged!)"
        lines += ["-------------------------   --------------------"]
        lines += [
            f"FINAL SINGLE POINT ENERGY   {energy:18.12f}{told}",
            "-------------------------   --------------------",
        ]
        lines += [
            "                        ORCA SCF GRADIENT CALCULATION",
            "CARTESIAN GRADIENT",
            "------------------",
            "",
        ]
        lines += [
            "   1   H   :    0.000000    0.000000   -0.010000",
            "   2   H   :    0.000000    0.000000    0.010000",
        ]
    return "\n".join([*lines, "                             ****ORCA TERMINATED NORMALLY****", ""])


def aims(steps: Steps, *, whole: bool = True) -> str:
    """Molecular dynamics."""
    lines = ["          Invoking FHI-aims ...", "  | Number of atoms                   :        2"]
    lines += ["  | Number of Kohn-Sham states (occupied + empty):        5"]
    lines += ["  | Number of electrons in system  :        2.000 electrons"]
    lines += ["  The structure contains        2 atoms,  and a total of          2.000 electrons."]
    lines += ["  Molecular dynamics time step = 0.001 ps", "  Input geometry:", "  | No unit cell requested.", ""]
    lines += [
        "  | Number of spin channels           :        1",
        "  Atomic structure:",
        "  |       Atom                x [A]",
    ]
    lines += ["  |    1: Species H            0.0 0.0 0.0", "  |    2: Species H            0.0 0.0 0.75"]
    lines += ["  Convergence of self-consistency"]
    for k, (energy, converged) in enumerate(steps):
        lines += ["          Begin self-consistency loop: " + ("Re-initialization." if k else "Initialization.")]
        lines += ["          Begin self-consistency iteration #    1"]
        lines += ["  Self-consistency cycle converged." if converged
                  else "  ** WARNING! SELF-CONSISTENCY CYCLE DID NOT CONVERGE"]  # fmt: skip
        lines += [
            "  Energy and forces in a compact form:",
            f"  | Total energy uncorrected      :        {energy:.14E} eV",
        ]
        lines += [f"  | Total energy corrected        :        {energy:.14E} eV"]
        lines += [f"  | Electronic free energy        :        {energy:.14E} eV"]
        lines += ["  Total atomic forces (unitary forces cleaned) [eV/Ang]:"]
        lines += ["  |    1          0.1 0.0 0.0", "  |    2         -0.1 0.0 0.0"]
        lines += ["  Atomic structure (and velocities) as used in the preceding time step:"]
        lines += ["                            x [A]             y [A]             z [A]"]
        for z in (0.0, 0.75 + 0.01 * k):
            lines += [f"            atom         0.0   0.0   {z:.4f}  H", "        velocity         0.0 0.0 0.0"]
    return "\n".join([*lines, *(["          Have a nice day."] if whole else []), ""])


def nwchem(
    steps: Steps, *, end: str = " Total times  cpu:        0.4s     wall:        0.4s", forces: bool = True
) -> str:
    lines = ["             Northwest Computational Chemistry Package (NWChem) 7.0.0"]
    for k, (energy, converged) in enumerate(steps):
        places = (0.0, 0.75 + 0.01 * k)
        lines += [
            '                             Geometry "geometry" -> ""', "", "",
            " Output coordinates in angstroms (scale by  1.889725989 to convert to a.u.)", "",
            "  No.       Tag          Charge          X              Y              Z",
            " ---- ---------------- ---------- -------------- -------------- --------------",
        ]  # fmt: skip
        lines += [f"    {a + 1} H                    1.0000     0.00000000     0.00000000     {z:.8f}"
                  for a, z in enumerate(places)]  # fmt: skip
        lines += ["", "                                 NWChem DFT Module", "          Charge           :     0"]
        lines += ["          Spin multiplicity:     1"]
        lines += [] if converged else ["  Calculation failed to converge"]
        lines += [f"         Total DFT energy =   {energy:17.12f}", "      One electron energy =      -2.5", ""]
        if forces:
            lines += ["                         DFT ENERGY GRADIENTS", "", "    atom               coordinates"]
            lines += ["                 x          y          z           x          y          z"]
            lines += [f"   {a + 1} H       0.000000   0.000000   {z / BOHR:.6f}    0.000000   0.000000  {g:.6f}"
                      for a, (z, g) in enumerate(zip(places, (-0.01, 0.01), strict=True))]  # fmt: skip
            lines += [""]
    return "\n".join([*lines, end, ""])


def gamess(steps: Steps, *, end: str = " EXECUTION OF GAMESS TERMINATED NORMALLY") -> str:
    """An optimization."""
    lines = ["         *         GAMESS VERSION = 30 SEP 2021 (R2)          *", " CHARGE OF MOLECULE  =    0"]
    lines += [
        " ATOM      ATOMIC                      COORDINATES (BOHR)",
        "           CHARGE         X          Y        Z",
    ]
    lines += [f" H           1.0     0.0000000000        0.0000000000        {z / BOHR:.10f}" for z in (0.0, 0.75)]
    for k, (energy, converged) in enumerate(steps):
        lines += ["", f"          BEGINNING GEOMETRY SEARCH POINT NSERCH= {k:3d} ...", ""]
        lines += [" COORDINATES OF ALL ATOMS ARE (ANGS)", "   ATOM   CHARGE       X              Y              Z"]
        lines += [" ------------------------------------------------------------"]
        lines += [f" H           1.0   0.0000000000   0.0000000000   {z:.10f}" for z in (0.0, 0.75 + 0.01 * k)]
        lines += ["", *([] if converged else [" SCF IS UNCONVERGED, TOO MANY ITERATIONS"])]
        lines += [f" FINAL R-B3LYP ENERGY IS     {energy:.10f} AFTER  16 ITERATIONS", ""]
        lines += [
            "                         GRADIENT OF THE ENERGY",
            "                         ----------------------",
            "",
        ]
        lines += [" UNITS ARE HARTREE/BOHR    E'X               E'Y               E'Z"]
        lines += [
            f"    {a} H                0.000000000       0.000000000      {g:.9f}"
            for a, g in ((1, -0.01), (2, 0.01))
        ]
    return "\n".join([*lines, "", end, ""])


FIRST = {"gaussian-out": -31.5, "orca-output": -31.5, "espresso-out": -5.5, "vasp-xml": -4.0, "vasp-out": -4.0,
         "aims-output": -31.5, "nwchem-out": -1.1, "gamess-us-out": -1.1}  # fmt: skip
WRITERS = {"gaussian-out": gaussian, "orca-output": orca, "espresso-out": espresso, "vasp-xml": vasprun,
           "vasp-out": outcar, "aims-output": aims, "nwchem-out": nwchem, "gamess-us-out": gamess}  # fmt: skip


def steps_of(first: float, converged: Sequence[bool]) -> Steps:
    """Steps of different energies."""
    steps = [(first + 0.001 * k, good) for k, good in enumerate(converged)]
    assert all(a[0] != b[0] for a, b in pairwise(steps))
    return steps
