"""nnU-Net's own scores, `summary.json`, held against ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boltzmed.masks.dataset_json import read_json

SUMMARY_JSON = "summary.json"
DICE_TOLERANCE = 1e-4
"""A mask's Dice may differ by this much at most."""

Summary = Mapping[str, Mapping[frozenset[int], float | None]]
"""File name without its ending -> label values -> Dice, None where neither mask nor reference has
them.
"""


def read_summary(path: Path, ending: str) -> Summary:
    """Reads each case's Dice. nnU-Net writes the bare token `NaN` where TP + FP + FN = 0, and a
    region as "(1, 2)".

    Raises:
        ValueError: No JSON, of another form, the same prediction twice, or a Dice outside 0 to 1.
    """
    found: dict[str, dict[frozenset[int], float | None]] = {}
    content = read_json(path)
    try:
        for entry in content["metric_per_case"]:
            name = re.split(r"[\\/]", entry["prediction_file"])[-1].removesuffix(ending)
            if name in found:
                raise ValueError(f"{name} twice")
            found[name] = {
                _read_values(key): _read_dice(name, m["Dice"])
                for key, m in entry["metrics"].items()
            }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path}: expected metric_per_case with a Dice of 0 to 1 or NaN for each prediction,"
            f" found {what}; run nnUNetv2_evaluate_folder again"
        ) from error
    return found


def disagree(ours: float | None, theirs: float | None) -> bool:
    """Whether two Dice of one mask differ by more than `DICE_TOLERANCE`, or only one of them is
    defined.
    """
    if ours is None or theirs is None:
        return ours is not theirs
    return abs(ours - theirs) > DICE_TOLERANCE


def _read_values(key: str) -> frozenset[int]:
    if not re.fullmatch(r"\d+|\(\d+(, ?\d+)*,?\)", key):
        raise ValueError(f"the label {key!r}")
    return frozenset(map(int, re.findall(r"\d+", key)))


def _read_dice(name: str, value: Any) -> float | None:
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} for {name}")
    return float(value)
