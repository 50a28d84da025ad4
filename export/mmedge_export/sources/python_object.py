"""What ``file.py:name`` or ``package.module:name`` names becomes the Python object."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmedge.errors import ExportError
from mmedge_export.install import installed, remedy
from mmedge_export.sources.user_code import described

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["load_attribute", "load_object"]

_FORMS = (
    "path/to/file.py:factory or package.module:factory; a factory is a function without arguments "
    "that returns a mmedge_export.Model (or a Model itself)"
)


def load_object(spec: str) -> Any:  # noqa: ANN401
    """What the factory of ``spec`` makes, or what ``spec`` names where that is no factory.

    Args:
        spec: ``path/to/file.py:factory``, ``package.module:factory`` or ``zoo:NAME``.

    Raises:
        ExportError: there is no such thing, or it raised.
    """
    place, _, name = spec.rpartition(":")
    if place == "zoo" and name:
        from mmedge_export.zoo import factory

        with installed(spec):
            return factory(name)
    return _call(load_attribute(spec), spec)


def load_attribute(spec: str, forms: str = _FORMS, example: str = "factory") -> Any:  # noqa: ANN401
    """What ``file.py:name`` or ``package.module:name`` names, as it is.

    Args:
        spec: one of these forms.
        forms: what may stand there, for a message.
        example: name of a thing in a file, for a message.

    Raises:
        ExportError: there is no such thing, or importing it raised.
    """
    if spec.endswith(".py"):
        raise ExportError(
            f"{spec!r} names no source; name what is meant in it, as in {spec}:{example}; "
            f"expected {forms}"
        )
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise ExportError(f"{spec!r} names no source; expected {forms}")
    if place.endswith(".py") and not Path(place).is_file():
        raise ExportError(f"no such file: {place}; expected {forms}")
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    if not hasattr(module, name):
        names = [
            key
            for key, value in vars(module).items()
            if callable(value)
            and not key.startswith("_")
            and getattr(value, "__module__", "") == module.__name__
        ]
        raise ExportError(
            f"{place} has no {name!r}; it defines {', '.join(names) or 'no function'}"
        )
    return getattr(module, name)


def _call(result: Any, spec: str) -> Any:  # noqa: ANN401
    if callable(result):
        try:
            result = result()
        except ExportError:
            raise
        except ImportError as error:
            raise ExportError(f"{spec} fails: {error}: {remedy(error)}") from error
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            raise ExportError(
                f"{spec} raised {described(error)}; --debug shows the traceback"
            ) from error
    return result


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ExportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    earlier_module = sys.modules.get(path.stem)
    # torch and dataclasses look classes up by their module's name.
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # whatever the user's code raises, Ctrl-C too
        todo = remedy(error) if isinstance(error, ImportError) else "--debug shows the traceback"
        if earlier_module is None:
            del sys.modules[path.stem]
        else:
            sys.modules[path.stem] = earlier_module
        if not isinstance(error, Exception | SystemExit):
            raise
        raise ExportError(f"{path} cannot be imported: {described(error)}; {todo}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):  # one that the module itself imports
            raise ExportError(
                f"{name} cannot be imported: it needs {error.name}, which is not installed: "
                f"{remedy(error)}"
            ) from error
        file = Path(f"{name.replace('.', '/')}.py")
        hint = f"for the file that lies here give {file}:NAME" if file.is_file() else ""
        raise ExportError(
            f"no module named {error.name!r} is installed; {hint or f'expected {_FORMS}'}"
        ) from error
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise ExportError(
            f"{name} cannot be imported: {described(error)}; --debug shows the traceback"
        ) from error
