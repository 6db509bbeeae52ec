"""Lets torchvision load beside a torch it was not built for; import it before timm or open_clip.

The registry's torchvision carries operators compiled for CUDA. Beside a CPU build of torch they
don't load, and ``import torchvision`` ends with "operator torchvision::nms does not exist" while it
registers their meta kernels. timm and open_clip import torchvision at their top but nothing here
uses its compiled operators, so an empty stand-in for the module that registers them is enough.
Where the builds match, the first import succeeds and nothing is changed.
"""

from __future__ import annotations

import importlib
import sys
import types

_REGISTRATION = "torchvision._meta_registrations"


def import_torchvision() -> types.ModuleType:
    """Import torchvision, without its compiled operators where they don't fit the installed torch.

    Raises:
        ImportError, RuntimeError: torchvision is missing, or fails for another reason than its
            operators.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error) or "does not exist" not in str(error):
            raise
    # What the failed import left half-loaded would be taken for loaded.
    for name in list(sys.modules):
        if name == "torchvision" or name.startswith("torchvision."):
            del sys.modules[name]
    sys.modules[_REGISTRATION] = types.ModuleType(_REGISTRATION)
    return importlib.import_module("torchvision")


import_torchvision()
