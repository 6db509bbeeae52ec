"""The page in a browser: it opens from disk, runs nothing of what names hold, fetches nothing,
sorts, shows masks.
"""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from boltzmed.reports.page import Grid
from boltzmed.reports.pictures import CasePicture
from boltzmed.reports.viewer import embed_case, find_niivue

BLUE = (0, 114, 178)  # the first method's colour
YELLOW = (240, 228, 66)  # the reference's
NO_WEBGL = """
const real = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
  return kind.startsWith("webgl") ? null : real.call(this, kind, ...rest);
};
"""


@pytest.fixture
def opened(chromium, small_report):
    """Opens the page at a width, and says at the end whether anything went wrong on it."""
    contexts, wrong = [], []
    address = small_report.page.as_uri()

    def watch(request):
        if not request.url.startswith((address, "data:")):
            wrong.append(f"fetches {request.url}")

    def open_page(width=1280, script=None):
        context = chromium.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda message: wrong.append(message.text) if message.type == "error" else None,
        )
        page.on("request", watch)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def column(page, name):
    names = page.locator("#objects-table thead th").all_inner_texts()
    place = [re.sub(r"\s*[↕↑↓]", "", text) for text in names].index(name) + 1
    return page.locator(
        f"#objects-table tbody tr:not([hidden]) td:nth-child({place})"
    ).all_inner_texts()


def count_pixels(page, colour, *, within=40):
    """Pixels of the viewer near a colour: pure, or laid over the dark grey of the image."""
    picture = np.asarray(
        Image.open(io.BytesIO(page.locator("#viewer-stage").screenshot())).convert("RGB")
    ).astype(int)
    return int((np.abs(picture - colour).max(-1) < within).sum())


def open_viewer(page):
    page.click("#viewer [data-open-volume='0']")
    page.wait_for_selector("#viewer-panel[data-state=ready]", timeout=120_000)
    return page.locator("#viewer-panel").get_attribute("data-viewer")


def check_masks(page):
    """The first method's mask and the reference's outline show, and go when switched off."""
    page.locator("#viewer-opacity").fill("1")
    boxes = page.locator("#viewer-layers input")
    page.wait_for_timeout(200)
    assert count_pixels(page, BLUE) > 400 and count_pixels(page, YELLOW) > 200
    boxes.nth(1).uncheck()
    page.wait_for_timeout(200)
    assert count_pixels(page, BLUE) == 0 and count_pixels(page, YELLOW) > 200
    boxes.nth(0).uncheck()
    boxes.nth(1).check()
    page.wait_for_timeout(200)
    assert count_pixels(page, YELLOW) == 0 and count_pixels(page, BLUE) > 400
    page.locator("#viewer-slice").fill("0")  # the object begins two slices further up
    page.wait_for_timeout(200)
    assert count_pixels(page, BLUE) == 0


def test_the_table_sorts_and_filters_and_names_stay_text(opened, small_report):
    first, hostile = small_report.methods
    page = opened()
    assert page.title() == f"Dice: {first}, {hostile}"
    assert page.locator("h1").inner_text() == f"Dice: {first}, {hostile}"
    scores = [float(text) for text in column(page, hostile)]
    assert len(scores) == 9 and len(set(scores)) > 1
    heading = page.locator("#objects-table thead th").last
    heading.click()
    assert [float(text) for text in column(page, hostile)] == sorted(scores)
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.click()
    assert [float(text) for text in column(page, hostile)] == sorted(scores, reverse=True)
    page.fill("#objects-search", "case_2<B>")
    assert column(page, "case") == ["case_2<b>"] * 3
    page.fill("#objects-search", "")
    page.fill("#objects-most", "0")
    assert set(column(page, "case")) == {"case_1"}
    assert page.locator("#objects-count").inner_text() == "3 of 9 rows"


def test_a_phone_shows_it_without_scrolling_sideways(opened):
    page = opened(width=390)
    html = page.locator("html")
    assert html.evaluate("element => element.scrollWidth <= element.clientWidth")
    for picture in page.locator("img").all():
        assert picture.evaluate("element => element.complete && element.naturalWidth > 0")


@pytest.fixture
def niivue_page(opened):
    if find_niivue() is None:
        pytest.skip("no NiiVue is installed: pip install 'boltzmed[report]'")
    page = opened()
    if not page.evaluate("() => Boolean(document.createElement('canvas').getContext('webgl2'))"):
        pytest.skip("this browser has no WebGL2, not even in software")
    return page


def test_niivue_shows_the_masks(niivue_page):
    assert open_viewer(niivue_page) == "niivue", niivue_page.locator("#viewer-message").inner_text()
    check_masks(niivue_page)


@pytest.mark.parametrize("directions", [("A", "I", "L"), ("R", "I", "P"), ("I", "P", "L")])
def test_niivue_goes_through_slices_of_other_planes(niivue_page, directions):
    """The object is in slices 2 to 4 of 6: there it shows, at slice 0 it does not, whichever way
    they are counted.
    """
    reference = np.zeros((6, 48, 40), bool)
    reference[2:5, 10:26, 8:20] = True
    image = np.full(reference.shape, -500.0)
    picture = CasePicture(
        "t", image, (-1000, 1000), reference, {"a": reference}, (3, 1, 1), directions
    )
    case = embed_case(picture, {"reference": "#F0E442", "a": "#0072B2"}, slice_index=3, megabytes=1)
    niivue_page.evaluate(
        "text => { document.getElementById('volume-0').textContent = text; }", json.dumps(case)
    )
    assert open_viewer(niivue_page) == "niivue", niivue_page.locator("#viewer-message").inner_text()
    check_masks(niivue_page)


def test_of_cases_opened_in_haste_the_last_is_shown(niivue_page):
    """Each takes the place of the one before, whose drawing context is lost while it loads."""
    niivue_page.evaluate("""async () => {
            const buttons = document.querySelectorAll('[data-open-volume]');
            for (const [number, wait] of [[1, 0], [0, 20], [1, 150], [0, 300], [1, 50], [0, 0]]) {
                buttons[number].click();
                await new Promise((resolve) => setTimeout(resolve, wait));
            }
        }""")
    niivue_page.wait_for_selector("#viewer-panel[data-state=ready]", timeout=120_000)
    niivue_page.wait_for_timeout(2000)  # whatever the earlier ones still do
    assert niivue_page.locator("#viewer-panel").get_attribute("data-viewer") == "niivue"
    assert niivue_page.locator("#viewer-case").input_value() == "0"
    check_masks(niivue_page)


def test_without_webgl_single_slices_show_the_masks(opened):
    page = opened(script=NO_WEBGL)
    assert open_viewer(page) == "slices"
    assert "showing single slices" in page.locator("#viewer-message").inner_text()
    check_masks(page)


def test_the_page_holds_no_addresses_and_no_words_of_headers(small_report):
    html = small_report.page.read_text(encoding="utf-8")
    assert "<script>document" not in html and "case_2<b>" not in html
    html = re.sub("[A-Za-z0-9+/=]{200,}", "", html)  # what these hold is for test_viewer
    for private in ("DOE", "JANE", "Jane", "1970", "113619", str(small_report.folder)):
        assert private not in html
    assert not re.search('(src|href)="(?!data:|#)', html)
    assert "default-src &#39;none&#39;" in html


def test_numbers_stand_right():
    grid = Grid.of(
        pd.DataFrame({"Method": ["a", "b"], "x": ["50.0", "–"], "size": ["<1 %", "≥1 %"]})
    )
    assert grid.left == [True, False, True]
