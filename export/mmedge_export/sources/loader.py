"""Which source a name is of; the sources are what entry points of ``mmedge.sources`` name."""

from __future__ import annotations

import warnings
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from mmedge.errors import ExportError
from mmedge_export.sources.contract import CONTRACT, with_contract
from mmedge_export.sources.settings import SETTINGS, merge, read_settings
from mmedge_export.sources.source import SourceOptions, flags

if TYPE_CHECKING:
    from mmedge_export.sources.source import Source, SourceDraft, SourceModel

__all__ = ["draft_source", "find_source", "load_source", "load_sources"]

#: Entry points of this group are classes of sources.
GROUP = "mmedge.sources"

#: Its form, ``NAME:NAME``, fits names of other sources too, so it is asked last.
_LAST = "factory"


def load_source(spec: str, options: SourceOptions | None = None) -> SourceModel:
    """Read the network that ``spec`` names.

    Args:
        spec: such as ``path/to/file.py:factory``, ``zoo:NAME`` or ``model.onnx``.
        options: what else is said of it.

    Raises:
        ExportError: no source takes it, or its source does not take an option or the network.
    """
    source, options, remarks = _prepared(spec, options)
    source_model = with_contract(source.read(spec, options), options)
    return replace(source_model, remarks=(*remarks, *source_model.remarks))


def draft_source(spec: str, options: SourceOptions | None, output: Path) -> SourceDraft:
    """Write a factory for the network that ``spec`` names.

    Args:
        spec: as for :func:`load_source`; for torch the class of a module or a function that gives
            one.
        options: as for :func:`load_source`.
        output: where the factory is to lie.

    Raises:
        ExportError: as :func:`load_source`.
    """
    source, options, _ = _prepared(spec, options)
    return source.draft(spec, options, output)


def find_source(spec: str) -> Source:
    """The source of a name.

    Raises:
        ExportError: none takes it, or several do.
    """
    sources = load_sources(spec)
    takers = [source for source in sources if source.takes(spec)]
    special = [source for source in takers if source.name != _LAST]
    if len(special) > 1:
        raise ExportError(
            f"{spec!r} may be of the sources {', '.join(s.name for s in special)}; write it so "
            f"that one takes it: {'; '.join(s.forms for s in special)}"
        )
    if takers:
        return (special or takers)[0]
    raise ExportError(
        f"{spec!r} names no source; expected {', '.join(s.forms for s in reversed(sources))}"
        if sources
        else f"no source is installed (entry points {GROUP!r}): install mmedge again"
    )


def load_sources(spec: str = "") -> list[Source]:
    """Every source that is installed, that of factories last.

    One that does not load is left out with a warning.

    Args:
        spec: a name; its own source may not be left out.

    Raises:
        ExportError: the source that ``spec`` begins with does not load.
    """
    sources: list[Source] = []
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            sources.append(entry.load()())
        except Exception as error:  # whatever another package raises
            package = "a package" if entry.dist is None else entry.dist.name
            text = f"the source {entry.name!r} of {package} does not load: {error}"
            if spec.startswith(f"{entry.name}:"):
                raise ExportError(f"{text}; install that package again") from error
            warnings.warn(f"{text}; it is left out", stacklevel=2)
    return sorted(sources, key=lambda source: source.name == _LAST)


def _prepared(spec: str, options: SourceOptions | None) -> tuple[Source, SourceOptions, list[str]]:
    """The source of a name, all that is said of it, and remarks on where that is said."""
    source, options, remarks = find_source(spec), options or SourceOptions(), []
    if (file := _settings(source, spec)) is not None:
        name = Path(spec.removeprefix(f"{source.name}:")).name
        settings = read_settings(file, name)
        if settings is None:
            remarks = [f"{file.name} is not for {name}, as it says"]
        else:
            options, remarks = merge(options, settings, file)
    _check(source, spec, options)
    return source, options, remarks


def _settings(source: Source, spec: str) -> Path | None:
    """The file of options beside a network that is a file or folder."""
    if not source.options:
        return None
    place = Path(spec.removeprefix(f"{source.name}:"))
    file = (place if place.is_dir() else place.parent) / SETTINGS
    return file if place.exists() and file.is_file() else None


def _check(source: Source, spec: str, options: SourceOptions) -> None:
    """Refuse what a source does not take."""
    options_taken = source.options | CONTRACT
    if refused := flags(options.names() - options_taken):
        raise ExportError(
            f"{', '.join(refused)}: not for {spec}; the source {source.name!r} takes "
            f"{', '.join(flags(options_taken))}"
            + ("" if source.options else ", and says everything else itself")
        )
