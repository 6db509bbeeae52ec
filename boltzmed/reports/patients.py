"""Whose cases the rows of tables are: a patient for each case, the same in every table."""

from __future__ import annotations

import re

import pandas as pd

from boltzmed.cards import DatasetCard, list_cards, load_card
from boltzmed.results import compile_patient_pattern, match_patient

_ALONE = "each case as its own patient: no column, card or --patient-pattern says otherwise"


def assign_patients(rows: pd.DataFrame, pattern: str | None = None) -> tuple[pd.Series, list[str]]:
    """Return each row's patient, one for all rows of a case, and notes on where the patients of a
    data set come from.

    The patient is what the column `patient` of any table says of the case; else what the pattern
    finds in the case's name; else what the card of the data set's name finds; else the case is a
    patient of its own. A column that repeats the case's name says nothing.

    Args:
        rows: With the columns dataset, case, patient ("" where a table does not say), file and
            line.
        pattern: Regular expression on the case; its first group, or the whole match, is the
            patient.

    Raises:
        ValueError: A pattern that is none, or tables that name two patients for one case.
    """
    expression = compile_patient_pattern(pattern)
    said = _read_column(rows)
    found: dict[tuple[str, str], str] = {}
    notes = []
    for dataset, cases in rows.groupby("dataset", sort=False)["case"].unique().items():
        card = find_card(str(dataset))
        patients: dict[str, set[str]] = {}
        overruled = 0
        for case in cases:
            by_pattern = match_patient(expression, case)
            patient, source = said.get((str(dataset), case)), "the column patient"
            if patient is None:
                patient, source = by_pattern, "--patient-pattern"
            else:
                overruled += by_pattern not in (None, patient)
            if patient is None and card is not None:
                patient, source = card.cases.find_patient(case), f"card {card.name}"
            if patient is None:
                patient, source = case, _ALONE
            found[str(dataset), case] = patient
            patients.setdefault(source, set()).add(patient)
        notes += [
            f"{dataset}: {len(names)} patient{'s' if len(names) != 1 else ''}, by {source}"
            for source, names in patients.items()
        ]
        if overruled:
            notes.append(
                f"{dataset}: --patient-pattern finds another patient for {overruled} of"
                f" {len(cases)} cases than the column patient, which stands; empty that column to"
                " go by the pattern"
            )
    pairs = zip(rows["dataset"], rows["case"], strict=True)
    return (
        pd.Series([found[str(dataset), case] for dataset, case in pairs], index=rows.index),
        notes,
    )


def _read_column(rows: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(data set, case) -> what tables say is its patient."""
    says = rows["patient"].ne("") & rows["patient"].ne(rows["case"])
    named = rows[says].drop_duplicates(["dataset", "case", "patient"])
    twice = named.duplicated(["dataset", "case"])
    if twice.any():
        second = named[twice].iloc[0]
        first = named[
            named["dataset"].eq(second["dataset"]) & named["case"].eq(second["case"])
        ].iloc[0]
        raise ValueError(
            f"{second['file']}: line {second['line']}: expected one patient for case"
            f" {second['case']} of {second['dataset']}, got {second['patient']!r} here and"
            f" {first['patient']!r} in {first['file']}: line {first['line']}; correct one, or empty"
            " the column patient of one table"
        )
    pairs = zip(named["dataset"].astype(str), named["case"], strict=True)
    return dict(zip(pairs, named["patient"], strict=True))


def find_card(dataset: str) -> DatasetCard | None:
    """Return the card of a table's data set, None if there is none of its name."""
    # The published tables write AMOS22-CT and AMOS22-MRI for the cards amos22_ct and amos22_mr.
    name = re.sub("_mri$", "_mr", re.sub(r"[-\s]+", "_", dataset.strip().lower()))
    return load_card(name) if name in list_cards() else None
