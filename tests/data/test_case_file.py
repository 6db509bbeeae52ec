"""A case file returns what was put in, in the network's pose; a broken one says so in one line."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from safetensors.numpy import load_file, save_file

from boltzmed.data.case_file import FORMAT, CaseFile, write_case
from boltzmed.data.layouts.case import LabelledVolume
from boltzmed.errors import InputError
from boltzmed.transforms.slices import PLANES, SlicePlan
from boltzmed.transforms.window import measure_percentiles

SHAPE = (7, 6, 5)
VALUES = {"organ": (1, 2), "lesion": (2,), "nothing": ()}
MADE_FROM = {"image_sha256": "aa", "label_sha256": "bb", "recipe": "cc"}


def turn(degrees: float, axis: int) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotation = np.eye(4)
    one, other = [k for k in range(3) if k != axis]
    rotation[one, one] = rotation[other, other] = c
    rotation[one, other], rotation[other, one] = -s, s
    return rotation


LPS = np.diag([-0.7, -0.8, 2.5, 1.0])
LPS[:3, 3] = 80.25, 90.5, -100.75
AFFINES = {
    "LPS": LPS,
    "RAS": np.diag([0.7, 0.8, 2.5, 1.0]),
    "LAI": np.diag([-0.7, 0.8, -2.5, 1.0]),
    "permuted": LPS[:, [2, 0, 1, 3]],  # slices run along the first array axis
    "oblique": turn(25, 0) @ turn(-15, 2) @ LPS,
    "sheared": LPS @ np.array([[1, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
}


def make_labels() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 2:5, 1:3] = 1
    labels[2, 3, 2] = 2
    labels[5, 5, 0] = 9  # of the card's labels, but of no target
    return labels


def make_volume(
    voxels: Any, affine: np.ndarray = LPS, labels: Any = None, **facts: Any
) -> LabelledVolume:
    voxels = np.asarray(voxels, np.float32)
    image = MetaTensor(
        torch.from_numpy(voxels.copy())[None], affine=torch.from_numpy(affine.copy())
    )
    labels = make_labels() if labels is None else labels
    return LabelledVolume(image, labels, **{"values": VALUES, **facts})


def hu() -> np.ndarray:
    """All voxels different."""
    return (np.arange(7 * 6 * 5).reshape(SHAPE) * 9 - 1000).astype(np.float32)


def write(
    path: Path, volume: LabelledVolume, *, plane: str = "axial", percentiles: bool = False
) -> CaseFile:
    write_case(path, path.stem, volume, plane=plane, percentiles=percentiles, made_from=MADE_FROM)
    return CaseFile(path)


def stack(file: CaseFile) -> tuple[np.ndarray, np.ndarray]:
    count = file.facts.shape[0]
    images = [file.image_at(k) for k in range(count)]
    return np.stack(images), np.stack([file.labels_at(k) for k in range(count)])


FRACTIONS, HUGE = hu() / 7, hu() * 1.7e6 / hu().max()


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize(
    ("voxels", "dtype"),
    [(hu(), np.int16), (FRACTIONS, np.float32), (HUGE, np.float32)],
    ids=["ct", "fractions", "huge"],
)
def test_what_is_written_is_the_cut_volume(tmp_path, plane, name, voxels, dtype):
    affine = AFFINES[name]
    file = write(tmp_path / "c.safetensors", make_volume(voxels, affine), plane=plane)
    plan = SlicePlan.from_affine(affine, SHAPE, plane)
    images, labels = stack(file)
    assert images.dtype == dtype and labels.dtype == np.uint8
    assert np.array_equal(images, plan.cut(voxels)) and np.array_equal(
        labels, plan.cut(make_labels())
    )
    assert (
        file.facts.shape == (plan.count, *plan.slice_shape) == images.shape
        and file.facts.plane == plane
    )
    # A voxel lies where it did: every one has another value, which says which it was.
    for place in ((0, 0, 0), (1, 2, 3), tuple(size - 1 for size in images.shape)):
        index = np.argwhere(voxels == images[place])
        assert len(index) == 1
        expected = affine @ [*index[0], 1]
        np.testing.assert_allclose(
            np.array(file.facts.affine_ras) @ [*place, 1], expected, atol=1e-9
        )
    sizes = {0.7: 0, 0.8: 1, 2.5: 2}
    if name != "sheared":
        assert sorted(np.round(file.facts.spacing_mm, 9)) == sorted(sizes)


def test_pixels_count_each_label_on_each_slice(tmp_path):
    file = write(tmp_path / "c.safetensors", make_volume(hu()))
    assert file.facts.label_values == (1, 2) and file.facts.targets == VALUES
    assert (
        file.pixels.tolist() == [[0, 0], [9, 0], [8, 1], [0, 0], [0, 0]]
        and file.pixels.dtype == np.int32
    )


def test_a_volume_of_which_no_target_is_known(tmp_path):
    file = write(tmp_path / "c.safetensors", make_volume(hu(), values={}))
    assert file.facts.targets == {} and file.pixels.shape == (5, 0)


def test_facts_come_back_as_they_were(tmp_path):
    findings = [{"nodule": 1, "readers": 3, "malignancy": [3, 4.5, None]}]
    file = write(tmp_path / "lüng 7.safetensors", make_volume(hu(), findings=findings))
    facts = file.facts
    assert (facts.case, facts.format, facts.findings, facts.made_from) == (
        "lüng 7",
        FORMAT,
        findings,
        MADE_FROM,
    )
    assert facts.window is None and facts.percentiles is None


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (-32768, np.int16),
        (32767, np.int16),
        (32768, np.float32),
        (-32769, np.float32),
        (0.5, np.float32),
        (1.7e6, np.float32),
        (1e-30, np.float32),
        (16777216, np.float32),
    ],
)
def test_int16_is_used_where_it_loses_nothing(tmp_path, value, dtype):
    voxels = hu()
    voxels[6, 5, 4] = value
    images, _ = stack(write(tmp_path / "c.safetensors", make_volume(voxels)))
    assert images.dtype == dtype
    assert np.array_equal(images, SlicePlan.from_affine(LPS, SHAPE).cut(voxels))


@settings(max_examples=50, deadline=None)
@given(
    voxels=st.lists(
        st.floats(-40000, 40000, width=32) | st.integers(-33000, 33000), min_size=8, max_size=8
    ),
    name=st.sampled_from(sorted(AFFINES)),
)
def test_any_voxels_survive(tmp_path_factory, voxels, name):
    volume = np.array(voxels, np.float32).reshape(2, 2, 2)
    file = write(
        tmp_path_factory.getbasetemp() / "any.safetensors",
        make_volume(volume, AFFINES[name], np.zeros((2, 2, 2), np.uint8)),
    )
    assert np.array_equal(
        stack(file)[0], SlicePlan.from_affine(AFFINES[name], (2, 2, 2)).cut(volume)
    )


def test_the_same_input_gives_the_same_bytes(tmp_path):
    written = []
    for name in ("one", "other"):
        folder = tmp_path / name
        # The order of mappings, and of the axes in memory, is nobody's business.
        values = VALUES if name == "one" else dict(reversed(VALUES.items()))
        voxels = hu() if name == "one" else np.asfortranarray(hu())
        made_from = MADE_FROM if name == "one" else dict(reversed(MADE_FROM.items()))
        volume = make_volume(voxels, values=values, findings=[{"a": 1}])
        path = folder / "case.safetensors"
        write_case(path, "case", volume, plane="axial", percentiles=True, made_from=made_from)
        written.append(hashlib.sha256(path.read_bytes()).hexdigest())
    assert written[0] == written[1]


def test_a_file_can_be_read_by_those_who_may_read_its_neighbours(tmp_path):
    write(tmp_path / "c.safetensors", make_volume(hu()))
    (tmp_path / "neighbour").touch()
    assert (tmp_path / "c.safetensors").stat().st_mode == (tmp_path / "neighbour").stat().st_mode


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "c.safetensors"
    old = write(path, make_volume(hu()))
    new = write(path, make_volume(hu() + 1))
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]
    # Whoever has the old one open goes on reading it.
    assert np.array_equal(old.image_at(2) + 1, new.image_at(2))


def test_slices_are_copies(tmp_path):
    file = write(tmp_path / "c.safetensors", make_volume(hu()))
    first = file.image_at(1)
    first += 1
    labels = file.labels_at(1)
    labels[:] = 0
    assert np.array_equal(file.image_at(1) + 1, first) and file.labels_at(1).any()


class TestPercentiles:
    @pytest.mark.parametrize("name", AFFINES)
    @pytest.mark.parametrize("voxels", [hu(), FRACTIONS, HUGE], ids=["whole", "fractions", "huge"])
    def test_they_are_the_volumes(self, tmp_path, name, voxels):
        file = write(
            tmp_path / "c.safetensors", make_volume(voxels, AFFINES[name]), percentiles=True
        )
        assert file.facts.percentiles == measure_percentiles(voxels)
        assert file.facts.percentiles == pytest.approx(
            np.percentile(voxels[voxels > 0], (0.5, 99.5))
        )

    def test_without_a_voxel_above_zero(self, tmp_path):
        file = write(tmp_path / "c.safetensors", make_volume(-np.abs(hu())), percentiles=True)
        assert file.facts.percentiles == (0.0, 0.0)


def test_pictures_have_a_window_and_no_spacing(tmp_path):
    pictures = np.arange(48, dtype=np.float32).reshape(8, 6, 1)
    labels = np.zeros((8, 6, 1), np.uint8)
    volume = make_volume(
        pictures, np.diag([-1.0, -1, 1, 1]), labels, window=(0.0, 255.0), has_spacing=False
    )
    file = write(tmp_path / "c.safetensors", volume)
    assert (
        file.facts.window == (0.0, 255.0)
        and file.facts.spacing_mm is None
        and file.facts.percentiles is None
    )
    assert np.array_equal(file.image_at(0), pictures[..., 0].T)


def rewrite(path: Path, **facts: Any) -> None:
    """The same tensors, other facts."""
    with open(path, "rb") as stream:
        header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
    content = {**json.loads(header["__metadata__"]["boltzmed"]), **facts}
    content = {name: value for name, value in content.items() if value != "gone"}
    tensors = {name: np.array(array) for name, array in load_file(path).items()}
    save_file(tensors, path, {"boltzmed": json.dumps(content)})


class TestBroken:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        write(tmp_path / "c.safetensors", make_volume(hu()))
        return tmp_path / "c.safetensors"

    def refuse(
        self,
        path: Path,
        words: str = "expected a whole case file of a slice cache, received one that does not read",
    ):
        with pytest.raises(InputError) as caught:
            CaseFile(path)
        line = str(caught.value)
        assert (
            line.startswith(f"{path.name}: {words}")
            and "\n" not in line
            and str(path.parent) not in line
        )

    @pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, 0.5, 0.9, -1])
    def test_a_truncated_file(self, path, kept):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
        self.refuse(path)

    def test_more_bytes_than_there_should_be(self, path):
        path.write_bytes(path.read_bytes() + b"\0" * 8)
        self.refuse(path)

    @pytest.mark.parametrize(
        "content",
        [
            b"garbage",
            b"\0" * 1000,
            b"\xff" * 1000,
            b"PK\x03\x04" + b"z" * 500,
            struct.pack("<Q", 4) + b"[1]\n",
        ],
    )
    def test_garbage(self, path, content):
        path.write_bytes(content)
        self.refuse(path)

    def test_a_missing_file_and_a_folder(self, path):
        self.refuse(path.with_name("gone.safetensors"))
        path.with_name("folder.safetensors").mkdir()
        self.refuse(path.with_name("folder.safetensors"))

    def test_safetensors_of_others(self, path):
        tensors = load_file(path)
        for metadata in (
            None,
            {"format": "pt"},
            {"boltzmed": "{"},
            {"boltzmed": "[1]"},
            {"boltzmed": "{}"},
        ):
            save_file(tensors, path, metadata)
            self.refuse(path)

    def test_facts_or_tensors_that_lack(self, path):
        original = path.read_bytes()
        for name in ("shape", "targets", "made_from", "window", "label_values"):
            path.write_bytes(original)
            rewrite(path, **{name: "gone"})
            self.refuse(path)
        for name in ("image", "labels", "pixels"):
            path.write_bytes(original)
            with open(path, "rb") as stream:
                header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
            tensors = {key: array for key, array in load_file(path).items() if key != name}
            save_file(tensors, path, header["__metadata__"])
            self.refuse(path)

    @pytest.mark.parametrize("number", [0, FORMAT + 1, "1", None])
    def test_another_format(self, path, number):
        rewrite(path, format=number)
        self.refuse(
            path, f"expected a case file of format {FORMAT}, received {number}; prepare again"
        )
