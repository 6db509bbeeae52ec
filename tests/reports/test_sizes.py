"""Object sizes from a table of results: the paper's Table 9, and what a table may get wrong."""

from pathlib import Path

import pandas as pd
import pytest

from boltzmed.cli import main
from boltzmed.reports.sizes import read_object_sizes, size_histogram, size_statistics
from boltzmed.reports.tables import format_table
from boltzmed.strata import AREA_BINS

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "results"

# Table 9 of the paper: area mean, median, min and max in percent, support.
TABLE_9 = {
    "LIDC-IDRI": {"nodule": "0.059 0.029 0.002 0.802 1733"},
    "MSD-Pancreas": {
        "tumor": "0.629 0.295 0.018 5.106 575",
        "pancreas": "0.567 0.465 0.029 2.431 1635",
    },
    "MSD-HepaticVessel": {
        "tumor": "0.535 0.281 0.005 3.652 918",
        "vessel": "0.211 0.178 0.017 0.878 2204",
    },
    "AMOS22-CT": {
        "adrenal gland": "0.185 0.169 0.037 0.503 420",
        "esophagus": "0.142 0.102 0.018 1.189 1964",
        "postcava": "0.237 0.218 0.034 0.751 4105",
        "spleen": "1.952 1.752 0.142 6.587 1587",
        "right adrenal gland": "0.087 0.073 0.010 0.304 571",
        "left kidney": "1.194 1.206 0.065 2.649 1776",
        "kidney": "2.509 2.473 0.334 4.798 1465",
        "duodenum": "0.497 0.425 0.036 2.816 1677",
        "bladder": "2.216 1.780 0.161 7.851 864",
        "gallbladder": "0.664 0.490 0.035 2.946 712",
        "liver": "7.896 7.285 0.694 21.498 4648",
        "right kidney": "1.171 1.191 0.052 2.295 1649",
        "left adrenal gland": "0.091 0.082 0.004 0.279 635",
        "pancreas": "0.818 0.653 0.071 3.016 1345",
        "stomach": "3.222 2.724 0.165 11.275 1837",
        "aorta": "0.433 0.281 0.051 3.957 4409",
    },
}


@pytest.mark.parametrize("dataset", TABLE_9)
def test_published_results_reproduce_table_9(dataset, capsys):
    path = PUBLISHED / f"{dataset}.csv.gz"
    if not path.is_file():
        pytest.skip(f"{path.name}: the published per-image results are not on this machine")
    assert main(["stats", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "Dataset" and lines[0].endswith("Support")
    expected = {f"{dataset} {target} {numbers}" for target, numbers in TABLE_9[dataset].items()}
    assert {" ".join(line.split()) for line in lines[2 : 2 + len(expected)]} == expected
    assert lines[2 + len(expected)] == ""


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_an_object_counts_once_however_many_methods_scored_it(tmp_path):
    table = write(
        tmp_path / "results.csv",
        "method,dataset,case,target,dice,area_fraction",
        "a,set,1,liver,0.5,0.02",
        "a,set,2,liver,0.5,0.04",
        "b,set,1,liver,0.6,0.02",
        "b,set,2,liver,,0.04",
        "a,set,1,NA,0.1,0.0005",
        "a,other,1,liver,0.1,0.10",
        "a,other,3,liver,0.1,",
        "a,other,4,liver,0.1,0",
    )
    objects = read_object_sizes(table)
    assert len(objects) == 4
    statistics = size_statistics(objects).values.tolist()
    assert statistics == [
        [
            "set",
            "liver",
            pytest.approx(3.0),
            pytest.approx(3.0),
            pytest.approx(2.0),
            pytest.approx(4.0),
            2,
        ],
        ["set", "NA", *[pytest.approx(0.05)] * 4, 1],
        ["other", "liver", *[pytest.approx(10.0)] * 4, 1],
    ]
    histogram = size_histogram(objects)
    assert list(histogram.columns) == ["Dataset", "Object type", *AREA_BINS]
    assert histogram.values.tolist() == [
        ["set", "liver", 0, 0, 0, 2, 0],
        ["set", "NA", 0, 1, 0, 0, 0],
        ["other", "liver", 0, 0, 0, 0, 1],
    ]


def test_rounded_areas_are_one(tmp_path):
    lines = [
        "method,dataset,case,target,dice,area_fraction",
        "a,s,1,liver,0.5,0.02",
        "b,s,1,liver,0.5,0.0201",
    ]
    objects = read_object_sizes(write(tmp_path / "r.csv", *lines))
    assert objects["area_fraction"].tolist() == [0.02]
    with pytest.raises(ValueError, match="line 4: another area_fraction of liver in case 1"):
        read_object_sizes(write(tmp_path / "r.csv", *lines, "c,s,1,liver,0.5,0.021"))


def test_slices_are_objects_and_volumes_are_not(tmp_path):
    table = write(
        tmp_path / "results.csv",
        "dataset,case,level,axis,slice_index,target,area_fraction",
        "set,1,slice,axial,4,liver,0.02",
        "set,1,slice,axial,5,liver,0.03",
        "set,1,slice,coronal,5,liver,0.01",
        "set,1,volume,,,liver,0.03",
    )
    assert size_statistics(read_object_sizes(table))["Support"].tolist() == [3]


def test_text_stands_left_and_numbers_right():
    table = pd.DataFrame({"name": ["a", "long one"], "n": [10, 2], "x": [0.5, 12.25]})
    assert format_table(table).splitlines() == [
        "name       n       x",
        "--------------------",
        "a         10   0.500",
        "long one   2  12.250",
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["case,target"], "missing: dataset, area_fraction"),
        (
            ["dataset,case,target,area_fraction", "s,1,liver,2.5"],
            "line 2: area_fraction: expected 0 to 1, got 2.5",
        ),
        (
            ["dataset,case,target,area_fraction", "s,1,liver,big"],
            "line 2: area_fraction: expected 0 to 1, got big",
        ),
        (
            ["dataset,case,target,area_fraction", "s,1,liver,0.1", "s,1,liver,0.2"],
            "line 3: another area_fraction of liver in case 1",
        ),
        ([""], "the file is empty"),
        (
            ["dataset,case,target,area_fraction"],
            "expected rows below the columns' names, found none",
        ),
        (["dataset,case,target,area_fraction", "s,1,liver,0"], "no object"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(lines, message, tmp_path, capsys):
    table = write(tmp_path / "results.csv", *lines)
    assert main(["stats", str(table)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"boltzmed: {table}: ") and message in error and error.count("\n") == 1


def test_what_is_printed_is_saved_where_asked(tmp_path, capsys):
    table = write(
        tmp_path / "results.csv",
        "dataset,case,target,area_fraction",
        "s,1,liver,0.02",
        "s,2,liver,0.0005",
    )
    assert main(["stats", str(table), "--output", str(tmp_path / "sizes")]) == 0
    assert "liver" in capsys.readouterr().out
    statistics = pd.read_csv(tmp_path / "sizes" / "size_statistics.csv")
    assert statistics.values.tolist() == [
        ["s", "liver", pytest.approx(1.025), pytest.approx(1.025), 0.05, 2.0, 2]
    ]
    assert pd.read_csv(tmp_path / "sizes" / "size_histogram.csv")[
        list(AREA_BINS)
    ].values.tolist() == [[0, 1, 0, 1, 0]]
    assert main(["stats", str(tmp_path / "absent.csv")]) == 2
    assert "cannot be read: No such file" in capsys.readouterr().err


INDEX = [
    "dataset,case,patient,split,slice_index,target,window,pixels,area_fraction,volume_mm3,used",
    "set,007,p,train,1,liver,abdomen,40,0.04,120,1",
    "set,007,p,train,1,liver,liver,40,0.04,120,1",
    "set,007,p,train,2,liver,abdomen,3,0.003,120,0",
    "set,007,p,train,2,liver,liver,3,0.003,120,0",
    "set,7,q,test,1,liver,abdomen,20,0.02,,1",
    "set,7,q,test,1,NA,abdomen,1,0.0005,,1",
]


def test_a_caches_used_rows_are_objects_in_each_window(tmp_path):
    write(tmp_path / "index.csv", *INDEX)
    write(tmp_path / "manifest.json", "{}")
    objects = read_object_sizes(tmp_path)
    # The same object in two windows is two, as published; case 007 is not case 7; what the protocol
    # drops is none.
    assert objects[["case", "slice_index", "window", "target"]].values.tolist() == [
        ["007", 1, "abdomen", "liver"],
        ["007", 1, "liver", "liver"],
        ["7", 1, "abdomen", "liver"],
        ["7", 1, "abdomen", "NA"],
    ]
    assert size_statistics(objects).values.tolist() == [
        [
            "set",
            "liver",
            pytest.approx(10 / 3),
            pytest.approx(4.0),
            pytest.approx(2.0),
            pytest.approx(4.0),
            3,
        ],
        ["set", "NA", *[pytest.approx(0.05)] * 4, 1],
    ]
    assert size_histogram(objects).values.tolist() == [
        ["set", "liver", 0, 0, 0, 3, 0],
        ["set", "NA", 0, 1, 0, 0, 0],
    ]


def test_a_cache_is_named_by_its_folder(tmp_path, capsys):
    write(tmp_path / "index.csv", *INDEX)
    write(tmp_path / "manifest.json", "{}")
    assert main(["stats", str(tmp_path), "--output", str(tmp_path / "sizes")]) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == [
        "set",
        "liver",
        "3.333",
        "4.000",
        "2.000",
        "4.000",
        "3",
    ]
    assert sorted(path.name for path in (tmp_path / "sizes").iterdir()) == [
        "size_histogram.csv",
        "size_statistics.csv",
    ]


def test_an_unfinished_or_empty_cache_is_refused_in_one_line(tmp_path, capsys):
    write(tmp_path / "index.csv", *INDEX)
    assert main(["stats", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert (
        error
        == f"boltzmed: {tmp_path}: expected a finished slice cache, found no manifest.json; run"
        " boltzmed prepare\n"
    )
    write(tmp_path / "manifest.json", "{}")
    for lines, message in (
        (INDEX[:1], "expected rows below the columns' names, found none"),
        (INDEX[:1] + INDEX[3:5], "no object with an area"),
    ):
        write(tmp_path / "index.csv", *lines)
        assert main(["stats", str(tmp_path)]) == 2
        assert capsys.readouterr().err == f"boltzmed: {tmp_path / 'index.csv'}: {message}\n"
