"""Import a policy's module of lerobot alone, without what lerobot trains and records with.

``lerobot.policies`` imports every policy, and with them data sets, robots and trainers. A policy
that is read needs none of these, and some of them do not import beside transformers 5 or a newer
torch. While the module of one policy is imported, stand-ins take their place.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mmedge.errors import ExportError
from mmedge_export.install import remedy
from mmedge_export.noise import quiet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["NOT_NEEDED", "import_policy", "stand_ins"]

#: What the policies import and do not use when they run.
NOT_NEEDED = (
    "accelerate",
    "datasets",
    "lerobot.configs.train",
    "lerobot.datasets",
    "lerobot.optim",
    "lerobot.processor",
)

_POLICIES = "lerobot.policies"


def import_policy(kind: str) -> Any:  # noqa: ANN401 - lerobot is not imported here
    """The class of a policy of lerobot.

    Args:
        kind: its name, as ``type`` in config.json.

    Raises:
        ExportError: lerobot is not installed, or the module does not import.
    """
    name = f"{_POLICIES}.{kind}.modeling_{kind}"
    try:
        with stand_ins(NOT_NEEDED), quiet():
            module = importlib.import_module(name)
    except ImportError as error:
        raise ExportError(f"lerobot: needs {error.name}: {remedy(error)}") from error
    except Exception as error:  # whatever foreign packages raise that do not fit each other
        raise ExportError(
            f"{name} cannot be imported: {type(error).__name__}: {error}; a torchvision that was "
            "built for another torch is the usual cause: install the one for this torch"
        ) from error
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and getattr(value, "name", None) == kind
    )


@contextlib.contextmanager
def stand_ins(names: Sequence[str]) -> Iterator[None]:
    """Let modules of these names, and modules in them, be imported as empty ones.

    Only those that are not imported yet, and of other packages than lerobot only those that are not
    installed. They are gone when the context ends, so that whoever imports them later gets the real
    ones. ``lerobot.policies`` is a package without content of its own meanwhile.
    """
    # These look for packages by themselves, and would find stand-ins.
    for library in ("transformers", "diffusers.schedulers"):
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    lerobot = importlib.import_module("lerobot")
    finder = _StandIns(
        [n for n in names if n.startswith("lerobot.") or importlib.util.find_spec(n) is None],
        [f"{path}/policies" for path in lerobot.__path__],
    )
    sys.meta_path.insert(0, finder)
    try:
        importlib.import_module(_POLICIES)  # packages in it look for it by name
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in finder.imported:
            sys.modules.pop(name, None)


class _StandIns(MetaPathFinder, Loader):
    """Finds and makes the modules."""

    def __init__(self, names: Sequence[str], policies: list[str]) -> None:
        self._names, self._policies = names, policies
        self.imported: list[str] = []

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        """A spec for the names; None for all others."""
        if fullname != _POLICIES and not any(
            fullname == name or fullname.startswith(f"{name}.") for name in self._names
        ):
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """A module that has a class of any name that is asked for."""
        self.imported.append(spec.name)
        return ModuleType(spec.name) if spec.name == _POLICIES else _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Submodules of the policies are the real ones."""
        if module.__name__ == _POLICIES:
            module.__path__ = self._policies


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})
