"""Where the package's own YAML resources lie: the bundles and the dataset cards.

A wheel carries `bundles/` and `datasets/` inside the package (`package_dir` in setup.cfg); an
editable install and a plain checkout have them beside it. Everything that opens one of them asks
here.
"""

from __future__ import annotations

from pathlib import Path

RESOURCE_KINDS = ("bundles", "datasets")


def resource_folder(kind: str) -> Path:
    """Finds a folder of resources, first inside the installed package, then beside the checkout.

    Args:
        kind: "bundles" or "datasets".

    Returns:
        The absolute path of an existing folder.

    Raises:
        ValueError: the kind is unknown, or neither place has the folder (a broken installation).
    """
    if kind not in RESOURCE_KINDS:
        raise ValueError(
            f"resource folder: expected one of {', '.join(RESOURCE_KINDS)}, got {kind!r}"
        )
    package = Path(__file__).resolve().parent
    for folder in (package / kind, package.parent / kind):
        if folder.is_dir():
            return folder
    raise ValueError(
        f"{kind}: neither the installed package nor its checkout has this folder; reinstall"
        " boltzmed"
    )
