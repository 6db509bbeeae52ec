"""Prepare a slice cache from a publisher's files.

A cache holds ``cases/*.safetensors``, ``index.csv``, ``manifest.json`` and a copy of the card. The
work can be stopped at any moment: a case file appears whole or not at all, and the manifest only at
the end, so that a cache without one is unfinished. The next run keeps the case files whose source
and recipe have not changed. The same source gives the same cache, bit by bit.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from boltzmed.cards import PROTOCOLS, DatasetCard, card_path, load_card
from boltzmed.data.case_file import FORMAT, SUFFIX, CaseFile, write_case
from boltzmed.data.index import MeasuredCase, build_index
from boltzmed.data.layouts import list_source_cases, read_source_case
from boltzmed.data.layouts.case import SourceCase
from boltzmed.data.splits import Membership, assign_parts, count_parts
from boltzmed.errors import InputError, OutputError
from boltzmed.files import check_writable, final_name, locked_folder, whole_file
from boltzmed.transforms.slices import PLANES

MANIFEST = "manifest.json"
INDEX = "index.csv"
CASES = "cases"
_VERSIONS_OF = ("boltzmed", "monai", "nibabel", "numpy", "pydicom", "safetensors")
_LOCK_WAIT_S = 10.0
_PARENT_CHECK_S = 0.2


@dataclass(frozen=True)
class Preparation:
    """What ``prepare_cache`` did.

    Attributes:
        cache: the folder.
        written: names of the cases whose files were made now, sorted.
        kept: names of the cases whose files were still up to date, sorted.
        failed: case -> why it is not in the cache. A file that an earlier run made of it stays,
            unlisted, until the source can be read again.
        parts: part -> (patients, cases), of the cases in the cache.
        rows: number of (slice, target) rows that the protocol uses.
    """

    cache: Path
    written: tuple[str, ...]
    kept: tuple[str, ...]
    failed: dict[str, str]
    parts: dict[str, tuple[int, int]]
    rows: int


@dataclass(frozen=True)
class _Recipe:
    """What decides a case file besides its source; passed to every worker."""

    card: Path
    source: Path
    cases: Path
    plane: str
    checksum: str


class _Outcome(NamedTuple):
    """What became of one case: "written", "kept", or "failed" with the reason."""

    case: str
    state: str
    reason: str = ""


def prepare_cache(
    card: str | Path,
    source: str | Path,
    cache: str | Path,
    *,
    protocol: str | None = None,
    plane: str = "axial",
    workers: int = 1,
) -> Preparation:
    """Write or complete the slice cache of a data set.

    Args:
        card: name of a card, or a .yaml of one's own.
        source: the publisher's folder; or a .csv or .json that lists image and label files.
        cache: new folder, or one that an earlier run of the same card made.
        protocol: ``volume`` or ``biomedparse`` (``boltzmed.data.index``); the card's own by
            default.
        plane: how slices are cut (``SlicePlan``); ``array`` gives the published benchmark's pose.
        workers: processes; each holds one volume at a time.

    Raises:
        ValueError: the card, source or settings are unusable, another run is at work on this cache,
            or it belongs to another card or holds cases that the source no longer has. What single
            cases lack is reported instead.
    """
    card_file = card_path(card)
    facts = load_card(card_file)
    source, cache = Path(source), Path(cache)
    protocol = protocol or facts.protocol
    _check_settings(source, protocol, plane, workers)
    cases = list_source_cases(source, facts)
    members = assign_parts(cases, facts)
    check_writable(cache)
    with locked_folder(cache, command="boltzmed prepare", wait_s=_LOCK_WAIT_S):
        _check_cache(cache, facts, plane, {case.case for case in cases})
        # Without its manifest a cache counts as unfinished, which it is from here on.
        (cache / MANIFEST).unlink(missing_ok=True)
        recipe = _Recipe(card_file, source, cache / CASES, plane, _recipe_checksum(facts, plane))
        readable = []
        failed = {}
        for case in cases:
            if case.problem is None:
                readable.append(case)
            else:
                failed[case.case] = case.problem
        written = []
        kept = []
        _remove_temporaries(cache)
        for outcome in _run(readable, recipe, workers):
            if outcome.state == "failed":
                failed[outcome.case] = outcome.reason
            elif outcome.state == "kept":
                kept.append(outcome.case)
            else:
                written.append(outcome.case)
        _remove_temporaries(cache)
        failed = dict(sorted(failed.items()))
        members = {case: members[case] for case in sorted(written + kept)}
        rows = _write_tables(cache, facts, card_file, protocol, plane, members, failed)
    return Preparation(
        cache=cache,
        written=tuple(sorted(written)),
        kept=tuple(sorted(kept)),
        failed=failed,
        parts=count_parts(members),
        rows=rows,
    )


def _check_settings(source: Path, protocol: str, plane: str, workers: int) -> None:
    for name, value, known in (("protocol", protocol, PROTOCOLS), ("plane", plane, PLANES)):
        if value not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, received {value!r}")
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, received {workers}")
    if not source.exists():
        raise ValueError(
            f"{source}: expected the data set's folder, or a .csv or .json of its files; found"
            " nothing"
        )


def _run(cases: Sequence[SourceCase], recipe: _Recipe, workers: int) -> Iterator[_Outcome]:
    """Prepare the cases in this process or in several; a worker has one case at a time."""
    with tqdm(total=len(cases), desc="prepare", unit="case", disable=None) as progress:
        if workers == 1:
            for case in cases:
                yield _prepare_case(case, recipe)
                progress.update()
            return
        # Spawned, not forked: a fork would copy torch's threads in whatever state they are.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),)
        )
        try:
            jobs = [pool.submit(_prepare_case, case, recipe) for case in cases]
            for job in as_completed(jobs):
                yield job.result()
                progress.update()
        except BrokenProcessPool as error:
            raise InputError(
                "prepare: expected its workers to live, one was killed (for lack of memory, most"
                " likely); what is done is kept: run the same command again with fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(parent: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it

    def leave_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_S)
        os._exit(1)

    # A killed parent cannot stop its workers, and they must not write into a cache that the next
    # run works on.
    threading.Thread(target=leave_with_parent, daemon=True).start()


def _prepare_case(case: SourceCase, recipe: _Recipe) -> _Outcome:
    """Write one case file unless it is up to date."""
    path = recipe.cases / f"{case.case}{SUFFIX}"
    try:
        made_from = {
            "recipe": recipe.checksum,
            "image_sha256": _checksum(case.image),
            "label_sha256": _checksum(case.label),
        }
        if path.is_file() and _is_made_from(path, made_from):
            return _Outcome(case.case, "kept")
        card = load_card(recipe.card)
        volume = read_source_case(case, card, recipe.source)
        write_case(
            path,
            case.case,
            volume,
            plane=recipe.plane,
            percentiles=card.modality == "MR" and volume.window is None,
            made_from=made_from,
        )
    except OSError as error:
        reason = f"cannot be read ({error.strerror or type(error).__name__})"
    except MemoryError:
        reason = "expected it to fit in memory, it did not; run with fewer --workers"
    except OutputError:  # a full disk concerns every case
        raise
    except ValueError as error:
        reason = str(error)
    else:
        return _Outcome(case.case, "written")
    if not reason.startswith(f"case {case.case}"):
        reason = f"case {case.case}: {reason}"
    return _Outcome(case.case, "failed", reason)


def _is_made_from(path: Path, made_from: dict[str, str]) -> bool:
    try:
        return CaseFile(path).facts.made_from == made_from
    except InputError:
        return False


def _checksum(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of files with their names, and of folders by their files' content.

    The name of a file counts since that of a mask says what it shows.
    """
    whole = hashlib.sha256()
    for path in paths:
        if path.is_dir():
            files = sorted(path.rglob("*"))
        else:
            files = [path]
            whole.update(path.name.encode(errors="surrogateescape"))
        for file in files:
            if file.is_file():
                with open(file, "rb") as stream:
                    whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def _recipe_checksum(card: DatasetCard, plane: str) -> str:
    targets = {name: target.labels for name, target in card.targets.items()}
    facts = [FORMAT, plane, card.modality, card.layout, sorted(card.labels.items()), targets]
    if card.layout.get("reader") == "biomedparse":
        # The names of its files say what they show, by any of these words.
        for target in card.targets.values():
            facts.append(sorted({*target.phrasings, *target.published_names}))
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _check_cache(cache: Path, card: DatasetCard, plane: str, names: set[str]) -> None:
    """Refuse to mix data sets or poses in one cache, or to forget cases that it holds."""
    if (cache / MANIFEST).is_file():
        _check_manifest(cache, card, plane)
    else:
        # A run that was stopped may have left any of these.
        expected = {CASES, INDEX, f"{card.name}.yaml"}
        present = {file.name for file in cache.iterdir() if not file.name.startswith(".")}
        if not present <= expected:
            raise ValueError(
                f"{cache}: expected a new folder or a cache, received one with other files; choose"
                " another --cache"
            )
    cached = {file.name.removesuffix(SUFFIX) for file in _case_files(cache)}
    vanished = sorted(cached - names)
    if vanished:
        raise ValueError(
            f"{cache}: holds {len(vanished)} cases that the source does not have, {vanished[0]} for"
            " one; choose another --cache, or delete this one if the source has really changed"
        )


def _check_manifest(cache: Path, card: DatasetCard, plane: str) -> None:
    try:
        earlier = dict(json.loads((cache / MANIFEST).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{cache}: expected a cache's {MANIFEST}, received another file of that name; choose"
            " another --cache"
        ) from error
    for what, now in (("card", card.name), ("plane", plane)):
        if earlier.get(what) != now:
            raise ValueError(
                f"{cache}: expected a cache of {what} {now}, received one of {earlier.get(what)};"
                " choose another --cache"
            )


def _case_files(cache: Path) -> list[Path]:
    return sorted((cache / CASES).glob(f"[!.]*{SUFFIX}"))


def _remove_temporaries(cache: Path) -> None:
    """Remove what a killed run left half-written; see ``whole_file``."""
    for file in (*cache.glob(".*"), *(cache / CASES).glob(".*")):
        if final_name(file.name) is not None:
            file.unlink(missing_ok=True)


def _write_tables(
    cache: Path,
    card: DatasetCard,
    card_file: Path,
    protocol: str,
    plane: str,
    members: dict[str, Membership],
    failed: dict[str, str],
) -> int:
    """Write index, card and, last, the manifest; return the number of rows in use."""
    measured = []
    cases = []
    for name, member in members.items():
        file = CaseFile(cache / CASES / f"{name}{SUFFIX}")
        measured.append(MeasuredCase(file.facts, file.pixels))
        cases.append(
            {
                "case": name,
                "patient": member.patient,
                "split": member.part,
                "shape": file.facts.shape,
                "spacing_mm": file.facts.spacing_mm,
                "image_sha256": file.facts.made_from["image_sha256"],
                "label_sha256": file.facts.made_from["label_sha256"],
            }
        )
    index = build_index(measured, members, card, protocol)
    with whole_file(cache / INDEX) as temporary:
        index.to_csv(temporary, index=False)
    with whole_file(cache / f"{card.name}.yaml") as temporary:
        shutil.copyfile(card_file, temporary)
    manifest = {
        "format": FORMAT,
        "card": card.name,
        "card_sha256": hashlib.sha256(card_file.read_bytes()).hexdigest(),
        "protocol": protocol,
        "plane": plane,
        "versions": {name: version(name) for name in _VERSIONS_OF},
        "index_sha256": hashlib.sha256((cache / INDEX).read_bytes()).hexdigest(),
        "cases": cases,
        "failed": [{"case": name, "reason": reason} for name, reason in failed.items()],
    }
    with whole_file(cache / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return int(index["used"].sum())
