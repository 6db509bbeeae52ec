"""Where the package's own YAML resources lie: the bundles and the dataset cards.

A wheel carries ``bundles/`` and ``datasets/`` inside the package (``package_dir`` in setup.cfg); an
editable install and a plain checkout have them beside it. Whatever opens one of them finds it by
`resource_folder`.
"""

from __future__ import annotations

from pathlib import Path

RESOURCE_KINDS = ("bundles", "datasets")


def resource_folder(kind: str) -> Path:
    """Return a folder of resources: that in the installed package, else that of the checkout.

    Args:
        kind: "bundles" or "datasets".

    Returns:
        The absolute path of an existing folder.

    Raises:
        ValueError: the kind is unknown, or neither place has the folder (a broken installation).
    """
    if kind not in RESOURCE_KINDS:
        raise ValueError(
            f"resource folder: expected one of {', '.join(RESOURCE_KINDS)}, received {kind!r}"
        )
    package = Path(__file__).resolve().parent
    for folder in (package / kind, package.parent / kind):
        if folder.is_dir():
            return folder
    raise ValueError(
        f"{kind}: expected this folder in the installed package or beside its checkout, received"
        " neither; reinstall boltzmed"
    )
