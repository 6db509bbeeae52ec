"""Figures: files, colours, and the numbers that stand in them."""

import re

import numpy as np
import pandas as pd
import pytest

from boltzmed.reports.figures import (
    METHOD_COLOURS,
    REFERENCE_COLOUR,
    colour_of,
    draw_agreement,
    draw_pairs,
    draw_sizes,
    limits_of_agreement,
    save_figure,
)


def test_limits_of_agreement_by_hand():
    first, second = np.array([0.5, 0.5, 0.5]), np.array([0.4, 0.5, 0.6])
    assert limits_of_agreement(first, second) == {
        "upper limit": pytest.approx(0.196),
        "mean": pytest.approx(0.0),
        "lower limit": pytest.approx(-0.196),
    }
    assert limits_of_agreement(first[:1], second[:1]) == pytest.approx(
        {"upper limit": -0.1, "mean": -0.1, "lower limit": -0.1}
    )


def test_colours_are_okabe_and_itos_and_each_methods_own():
    palette = {"#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
    assert {*METHOD_COLOURS, REFERENCE_COLOUR} == palette
    assert len({colour_of("abcdef", name) for name in "abcdef"}) == 6


@pytest.fixture
def scores():
    generator = np.random.default_rng(0)
    return {name: generator.random(50) for name in ("a", "costs $5 $x", "<c>")}


def test_the_same_figure_is_the_same_file_with_its_numbers(scores, tmp_path):
    draws = [
        save_figure(draw_agreement(scores, score="Dice"), tmp_path / f"{n}" / "figure")
        for n in range(2)
    ]
    assert draws[0] == draws[1] == (tmp_path / "0" / "figure.svg").read_bytes()
    assert b"<dc:date>" not in draws[0]
    assert (tmp_path / "0" / "figure.png").read_bytes()[:4] == b"\x89PNG"
    figure = draw_agreement(scores, score="Dice")
    limits = limits_of_agreement(scores["a"], scores["<c>"])
    told = [text.get_text() for text in figure.axes[1].texts]
    assert told == [f"{name} {value:+.3f}" for name, value in limits.items()]


def test_pairs_count_who_is_better():
    titles = [
        ax.get_title()
        for ax in draw_pairs(
            {"a": np.array([0.1, 0.5, 0.9]), "b": np.array([0.2, 0.5, 0.95])}, score="Dice"
        ).axes
    ]
    assert titles == ["b better 2,\nworse 0, equal 1"]
    many = np.linspace(0, 1, 5000)
    assert (
        len(draw_pairs({"a": many, "b": many[::-1]}, score="Dice").axes) == 2
    )  # counted in hexagons, with their scale


def test_sizes_have_a_panel_a_data_set_and_a_marker_a_method():
    rows = [
        (dataset, stratum, method, 0.5, 0.4, high, 10)
        for dataset in ("x", "y", "z")
        for stratum, high in (("<1 %", 0.7), ("≥1 %", np.nan))
        for method in ("a", "b")
    ]
    cells = pd.DataFrame(rows, columns=["dataset", "stratum", "method", "mean", "low", "high", "n"])
    words = {"strata": ["<0.1 %", "<1 %", "≥1 %"], "score": "Dice", "size": "area"}
    figure = draw_sizes(cells, **words)
    drawn = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title() for ax in drawn] == ["x", "y", "z"]
    assert [text.get_text() for text in drawn[0].get_xticklabels()] == ["<1 %\nn=10", "≥1 %\nn=10"]
    fewer = cells["stratum"].eq("<1 %") & cells["method"].eq("b")
    uneven = cells.assign(n=np.where(fewer, 8, 10))[~(fewer & cells["dataset"].eq("y"))]
    first, second, *_ = draw_sizes(uneven, **words).axes
    ticks = [[text.get_text() for text in ax.get_xticklabels()] for ax in (first, second)]
    assert ticks == [["<1 %\nn=10\n8", "≥1 %\nn=10"], ["<1 %\nn=10\n0", "≥1 %\nn=10"]]
    alone, *_ = draw_sizes(uneven[uneven["method"].eq("a")].iloc[:1], **words).axes
    assert alone.get_xlim() == (-0.5, 0.5) and first.get_xlim() == (-0.5, 1.5)
    backwards = cells.sort_values("method")[
        lambda rows: rows["stratum"].eq("≥1 %") | rows["method"].eq("b")
    ]
    backwards = draw_sizes(backwards, **words).axes[0]
    assert [text.get_text() for text in backwards.get_xticklabels()] == [
        "<1 %\nn=0\n10",
        "≥1 %\nn=10",
    ]
    bars = drawn[0].containers[0][2][0].get_segments()
    assert bars[0][:, 1].tolist() == pytest.approx([0.4, 0.7])
    assert (
        len(
            {
                line.get_marker()
                for line in drawn[0].lines
                if re.match(r"[os]", str(line.get_marker()))
            }
        )
        == 2
    )
