"""The contact sheet: the right slice in each panel, colours where masks are, small targets
magnified.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.image import imread

from boltzmed.reports.contact_sheet import Panel, draw_contact_sheet

SHAPE = (5, 60, 80)  # slices, rows, columns


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved while the test runs."""
    saved: list[Any] = []
    save = matplotlib.figure.Figure.savefig

    def keep(figure: Any, *arguments: Any, **options: Any) -> None:
        saved.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return saved


def box(index: int, rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[index, rows, columns] = 1
    return mask


LARGE = box(3, slice(10, 50), slice(20, 40)) | box(
    1, slice(10, 20), slice(20, 30)
)  # largest on slice 3
SMALL = box(2, slice(30, 34), slice(50, 54))
NOTHING = np.zeros(SHAPE, np.uint8)


def make_panel(**options: Any) -> Panel:
    image = np.broadcast_to(np.arange(5.0)[:, None, None], SHAPE)  # slice k is k throughout
    values = {
        "title": "liver",
        "image": image,
        "window": (0.0, 8.0),
        "prediction": NOTHING,
        "reference": None,
    }
    return Panel(**{**values, "pixel_mm": (1.0, 1.0), **options})


def shown_slice(axes: Any) -> int:
    values = np.unique(axes.images[0].get_array())
    assert len(values) == 1
    return int(values[0])


def draw(panels: list[Panel], path: Path) -> np.ndarray:
    """Pixels (H,W,3), 0 to 1."""
    draw_contact_sheet(panels, path, title="sheet")
    return imread(path)[..., :3]


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (SMALL, LARGE, 3),  # the reference decides
        (LARGE, NOTHING, 3),  # without one, the prediction
        (LARGE, None, 3),
        (NOTHING, None, 2),  # without either, the middle
        (NOTHING, NOTHING, 2),
    ],
)
def test_a_panel_shows_the_slice_where_its_target_is_largest(
    tmp_path, figures, prediction, reference, expected
):
    draw([make_panel(prediction=prediction, reference=reference)], tmp_path / "sheet.png")
    axes = figures[0].axes[0]
    assert shown_slice(axes) == expected
    assert axes.get_title() == f"liver\nslice {expected}"


@pytest.mark.parametrize(
    ("count", "lines", "columns"), [(1, 1, 1), (3, 1, 3), (4, 1, 4), (5, 2, 4)]
)
def test_panels_stand_in_rows_of_four(tmp_path, figures, count, lines, columns):
    panels = [make_panel(title=f"prompt {number}", note="a note") for number in range(count)]
    draw(panels, tmp_path / "sheet.png")
    axes = figures[0].axes
    assert axes[0].get_gridspec().get_geometry() == (lines, columns)
    titles = [f"prompt {number}\na note" for number in range(count)]
    assert [one.get_title() for one in axes] == titles + [""] * (lines * columns - count)
    assert [len(one.images) for one in axes] == [1] * count + [0] * (lines * columns - count)
    assert figures[0].get_suptitle() == "sheet"


def test_colours_lie_where_the_masks_are(tmp_path):
    def count_coloured(**masks: Any) -> tuple[int, int]:
        """Pixels that are blue, and those that are yellow; the legend has neither colour."""
        red, _, blue = np.moveaxis(draw([make_panel(**masks)], tmp_path / "sheet.png"), -1, 0)
        return int((blue > red + 0.2).sum()), int((red > blue + 0.3).sum())

    assert count_coloured() == (0, 0)
    filled, outlined = count_coloured(prediction=LARGE)
    assert filled > 0 and outlined == 0
    assert count_coloured(prediction=LARGE, reference=NOTHING) == (filled, 0)
    blue, yellow = count_coloured(reference=LARGE)
    assert blue == 0 and 0 < yellow < filled / 4  # a line around it
    # Half the area, half the blue.
    half = box(3, slice(10, 50), slice(20, 30))
    assert count_coloured(prediction=half)[0] == pytest.approx(filled / 2, rel=0.1)


def test_the_window_runs_from_black_to_white(tmp_path, figures):
    draw([make_panel(window=(-150.0, 250.0))], tmp_path / "sheet.png")
    image = figures[0].axes[0].images[0]
    assert image.get_clim() == (-150, 250) and image.get_cmap().name == "gray"


def test_pixels_keep_their_shape(tmp_path, figures):
    draw([make_panel(pixel_mm=(3.0, 0.75), prediction=SMALL)], tmp_path / "sheet.png")
    panel = figures[0].axes[0]
    assert [axes.get_aspect() for axes in (panel, *panel.child_axes)] == [4.0, 4.0]


def test_small_targets_are_magnified_around_their_centre(tmp_path, figures):
    draw(
        [make_panel(reference=SMALL), make_panel(reference=LARGE), make_panel()],
        tmp_path / "sheet.png",
    )
    small, large, empty = figures[0].axes[:3]
    assert len(small.child_axes) == 1 and not large.child_axes and not empty.child_axes
    inset = small.child_axes[0]
    assert shown_slice(inset) == 2
    left, right = inset.get_xlim()
    bottom, top = inset.get_ylim()
    assert ((left + right) / 2, (bottom + top) / 2) == (51.5, 31.5)
    assert left < right and top < bottom  # rows run downwards, as in the panel
    assert right - left < 80 / 2


def test_the_file_is_a_png_whatever_its_name(tmp_path):
    draw_contact_sheet([make_panel()], tmp_path / "sheet.dat", title="sheet")
    assert (tmp_path / "sheet.dat").read_bytes().startswith(b"\x89PNG\r\n")
