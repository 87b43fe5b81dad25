"""Descriptors of molecules: properties and counts of groups that RDKit computes, kept in a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contrastive.data.processes import guarded_map, num_cores
from contrastive.data.rdkit_cache import cache_file, import_rdkit, load_tensors, save_tensors
from contrastive.report import track
from encoders.molecules import read_molecule

_PROPERTIES = """
    MolLogP MolMR TPSA LabuteASA MolWt HeavyAtomCount NumValenceElectrons FractionCSP3 NumHDonors
    NumHAcceptors NHOHCount NOCount NumHeteroatoms NumRotatableBonds NumAmideBonds NumAtomStereoCenters
    NumSpiroAtoms NumBridgeheadAtoms MaxPartialCharge MinPartialCharge MaxAbsPartialCharge
    MinAbsPartialCharge RingCount NumHeterocycles NumAromaticRings NumAromaticCarbocycles
    NumAromaticHeterocycles NumAliphaticRings NumAliphaticCarbocycles NumAliphaticHeterocycles
    NumSaturatedRings NumSaturatedCarbocycles NumSaturatedHeterocycles HallKierAlpha Kappa1 Kappa2
    Kappa3 Phi Chi0 Chi1 Chi0n Chi1n Chi2n Chi3n Chi4n Chi0v Chi1v Chi2v Chi3v Chi4v
"""
_SURFACES = {"PEOE_VSA": 14, "SMR_VSA": 10, "SlogP_VSA": 12, "EState_VSA": 11, "VSA_EState": 10}
_GROUPS = """
    Al_COO Al_OH Al_OH_noTert ArN Ar_COO Ar_N Ar_NH Ar_OH COO COO2 C_O C_O_noCOO C_S HOCCN Imine NH0 NH1
    NH2 N_O Ndealkylation1 Ndealkylation2 Nhpyrrole SH aldehyde alkyl_carbamate alkyl_halide
    allylic_oxid amide amidine aniline aryl_methyl azide azo barbitur benzene benzodiazepine bicyclic
    diazo dihydropyridine epoxide ester ether furan guanido halogen hdrzine hdrzone imidazole imide
    isocyan isothiocyan ketone ketone_Topliss lactam lactone methoxy morpholine nitrile nitro nitro_arom
    nitro_arom_nonortho nitroso oxazole oxime para_hydroxylation phenol phenol_noOrthoHbond phos_acid
    phos_ester piperdine piperzine priamide prisulfonamd pyridine quatN sulfide sulfonamd sulfone
    term_acetylene tetrazole thiazole thiocyan thiophene unbrch_alkane urea
"""

# RDKit's own names. Left out are those that take longest: QED, BCUT, Ipc, BertzCT, the extreme E-states.
DESCRIPTORS: tuple[str, ...] = (
    *_PROPERTIES.split(),
    *(f"{family}{i}" for family, count in _SURFACES.items() for i in range(1, count + 1)),
    *(f"fr_{group}" for group in _GROUPS.split()),
)


def read_descriptors(
    smiles: Sequence[str],
    *,
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
    time_limit: float = 10.0,
) -> Tensor:
    """The `DESCRIPTORS` of molecules: size, polarity, lipophilicity, charges, rings, functional groups.

    Args:
        smiles: of molecules that RDKit reads.
        cache_dir: where they are kept, by a hash of the SMILES and of what is computed; None is
            ``$XDG_CACHE_HOME/contrastive`` or ``~/.cache/contrastive``.
        num_workers: processes; None takes the cores there are.
        time_limit: seconds of the processor that one molecule may take.

    Returns:
        ``(N, len(DESCRIPTORS))`` float32 in RDKit's units; NaN where RDKit has no number, as for charges
        of a metal, and for a molecule that took too long.

    Raises:
        ContrastiveError: RDKit is missing, or the cache cannot be written.
    """
    file = cache_file(cache_dir, "descriptors", smiles, [list(DESCRIPTORS), time_limit])
    if (cached := load_tensors(file, ["descriptors"])) is not None:
        return cached["descriptors"]
    values = np.full((len(smiles), len(DESCRIPTORS)), np.nan, np.float32)
    chunks = guarded_map(
        _descriptors, smiles, num_workers=num_workers or num_cores(), time_limit=time_limit, chunk_size=256
    )
    for start, chunk in track(chunks, "Computing descriptors", -(-len(smiles) // 256)):
        for i, row in enumerate(chunk, start):
            if not isinstance(row, str):  # a Failure leaves the row of NaN
                values[i] = row
    descriptors = torch.from_numpy(values)
    save_tensors(file, {"descriptors": descriptors})
    return descriptors


def standardised(descriptors: Tensor, *, limit: float = 5.0) -> Tensor:
    """Each column with mean 0 and deviation 1 over the molecules, cut at ± ``limit``; NaN becomes 0.

    Counts of rare groups have long tails, which without the cut would outweigh everything else.
    """
    known = ~descriptors.isnan()
    count = known.sum(0).clamp(min=1)
    filled = descriptors.nan_to_num(0.0).double()
    mean = filled.sum(0) / count
    centred = (filled - mean).masked_fill(~known, 0.0)
    std = (centred.square().sum(0) / count).sqrt().clamp(min=1e-6)
    return (centred / std).clamp(-limit, limit).float()


def _descriptors(smiles: str) -> np.ndarray:
    """One row; runs in a worker."""
    chem = import_rdkit()
    from rdkit.Chem import Descriptors

    functions: dict[str, Any] = dict(Descriptors.descList)  # type: ignore[attr-defined]
    molecule = read_molecule(chem, smiles)
    row = np.full(len(DESCRIPTORS), np.nan, np.float32)
    for i, name in enumerate(DESCRIPTORS if molecule is not None else ()):
        try:
            row[i] = functions[name](molecule)
        except Exception:  # one descriptor that RDKit trips over must not cost the others
            continue
    row[~np.isfinite(row)] = np.nan
    return row
