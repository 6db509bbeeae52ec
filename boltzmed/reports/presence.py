"""Whether methods find what is there, and find nothing where nothing is: by data set and target."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from boltzmed.metrics.presence import sensitivity, specificity
from boltzmed.reports.scores import check_rules

_FALSE = {"false_positive_mm3": "false mm³", "false_lesions": "false components"}


def tabulate_presence(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Count where something was predicted, on volumes and slices that show the target and on those
    that do not.

    Each method stands over its own rows, those that say whether anything was predicted.

    Args:
        rows: Of `Scores`.
        methods: Which, in this order.

    Returns:
        A row per level, dataset, target and method: shown (rows that show the target), found (of
            them, with anything
        predicted), sensitivity; empty (rows that do not show it), kept_empty (of them, with nothing
        predicted), specificity; false_positive_mm3 and false_lesions, means over the empty ones,
        where tables have them, the latter where all lesions are of the same neighbours. Shares are
        0 … 1, NaN where there is no such row.
    """
    lines: list[dict] = []
    rows = rows[rows["prediction_empty"].notna()] if "prediction_empty" in rows else rows[:0]
    for level in ("volume", "slice"):
        of_level = rows[rows["level"].eq(level) & rows["method"].isin(methods)]
        columns = [name for name in _FALSE if name in of_level]
        try:
            check_rules(of_level[~of_level["shown"]], "predicted_lesions")
        except ValueError:
            columns = [name for name in columns if name != "false_lesions"]
        for (dataset, target), group in of_level.groupby(["dataset", "target"], sort=False):
            for method in methods:
                own = group[group["method"].eq(method)]
                shown, found = own["shown"].to_numpy(bool), ~own["prediction_empty"].to_numpy(bool)
                if len(own):
                    lines.append(
                        {
                            **{
                                "level": level,
                                "dataset": dataset,
                                "target": target,
                                "method": method,
                            },
                            **{"shown": int(shown.sum()), "found": int((shown & found).sum())},
                            "sensitivity": sensitivity(shown, found),
                            **{
                                "empty": int((~shown).sum()),
                                "kept_empty": int((~shown & ~found).sum()),
                            },
                            "specificity": specificity(shown, found),
                            **own[~shown][columns].mean().to_dict(),
                        }
                    )
    return pd.DataFrame(lines).astype({"sensitivity": float, "specificity": float} if lines else {})


def print_presence(presence: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return tables of text by their titles, for volumes and for slices; none where no table says
    what was empty.
    """
    tables = {}
    for level, lines in presence.groupby("level", sort=False) if len(presence) else ():
        text = lines[["dataset", "target", "method"]].copy()
        text["sensitivity"] = _show_shares(lines, "sensitivity", "found", "shown")
        text["specificity"] = _show_shares(lines, "specificity", "kept_empty", "empty")
        for column, words in _FALSE.items():
            if column in lines and lines[column].notna().any():
                means = lines[column]
                text[f"{words} per empty {level}"] = [
                    "–" if pd.isna(mean) else f"{mean:.2f}" for mean in means
                ]
        tables[f"Presence in {level}s, each method over its own"] = text
    return tables


def _show_shares(lines: pd.DataFrame, share: str, count: str, of: str) -> list[str]:
    cells = zip(lines[share], lines[count], lines[of], strict=True)
    return [
        "–" if pd.isna(value) else f"{100 * value:.2f} % ({part} of {n})"
        for value, part, n in cells
    ]
