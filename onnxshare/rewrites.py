"""The package `rewrites`, under the name that is documented: `onnxshare.rewrites is rewrites`."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import TYPE_CHECKING, Any

import rewrites

if TYPE_CHECKING:
    from rewrites import *  # noqa: F403


class _Alias(MetaPathFinder, Loader):
    """Finds `onnxshare.rewrites.share` as `rewrites.share`, so that no module is loaded twice."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        alias = fullname.startswith(f"{__name__}.")
        return spec_from_loader(fullname, self) if alias else None

    def exec_module(self, module: ModuleType) -> None:
        real = module.__name__.removeprefix("onnxshare.")
        sys.modules[module.__name__] = import_module(real)


sys.meta_path.insert(0, _Alias())
sys.modules[__name__] = rewrites
