"""Where results go: looked at before work starts, written whole or not at all."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mmedge.bundle import Bundle
from mmedge.bundle.archive import open_archive
from mmedge.bundle.place import staging
from mmedge.bundle.write import keep_modes, move_bundle
from mmedge.cli.console import say, warn
from mmedge.errors import BundleError, MMEdgeError, SignatureError
from mmedge.schema import SIGNATURE

__all__ = [
    "BundleCopyOption",
    "BundleOutputOption",
    "OverwriteOption",
    "RemoveSignatureOption",
    "WorkingBundle",
    "check_file",
    "check_new",
    "finite",
    "misuse",
    "rewriting",
]

BundleOutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Write the new bundle here, and leave BUNDLE as it is: a directory, or one file "
        "NAME.mmedge. Without it BUNDLE is rewritten in its place.",
    ),
]
BundleCopyOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Write a copy with the result here, and leave BUNDLE as it is: a directory, or one "
        "file NAME.mmedge. Without it the result goes where the description above says.",
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace a bundle that is at --output.")
]
RemoveSignatureOption = Annotated[
    bool,
    typer.Option(
        "--remove-signature",
        help="Rewrite BUNDLE in its place though it is signed. Its signature is removed: sign it "
        "again.",
    ),
]


@contextmanager
def misuse(option: str) -> Iterator[None]:
    """What mmedge refuses of an option's text is misuse of the command line."""
    try:
        yield
    except (MMEdgeError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def finite(value: float | None) -> float | None:
    """Refuse infinity and NaN as the value of an option (typer's callback).

    Raises:
        BadParameter: it is one.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"expected a finite number, got {value}")
    return value


def check_file(path: Path | None, option: str = "--output") -> None:
    """Refuse a file that could not be written after the work.

    Raises:
        BadParameter: its folder is missing or cannot be written to, or it is a folder.
    """
    if path is None:
        return
    _check_folder(path, option)
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a folder; name a file", param_hint=option)
    if path.exists() and not os.access(path, os.W_OK):
        raise typer.BadParameter(f"{path} cannot be written to", param_hint=option)


def check_new(path: Path, *, overwrite: bool | None, option: str = "--output") -> None:
    """Refuse a place that something has taken.

    Args:
        path: of a bundle or a recording to be.
        overwrite: whether it may be there; None: the verb has no such option.
        option: that named it.

    Raises:
        BadParameter: it is there, or its folder is missing or cannot be written to.
    """
    if os.path.lexists(path) and not overwrite:
        hint = "" if overwrite is None else ", or give --overwrite"
        raise typer.BadParameter(
            f"{path} already exists; name another place{hint}", param_hint=option
        )
    _check_folder(path, option)


def _check_folder(path: Path, option: str) -> None:
    folder = path.absolute().parent
    if not folder.is_dir():
        raise typer.BadParameter(f"there is no folder {folder}; make it first", param_hint=option)
    # A device such as /dev/null takes data wherever it lies.
    if not path.exists() and not os.access(folder, os.W_OK):
        raise typer.BadParameter(f"the folder {folder} cannot be written to", param_hint=option)


class WorkingBundle:
    """What a verb that changes a bundle works on.

    Attributes:
        path: of the bundle to change: the one that was named, or a copy that becomes --output.
        shown_path: of the bundle that holds the result, for people.
        keep: set to False where nothing was changed: then no --output is written.
    """

    def __init__(self, path: Path, shown_path: str) -> None:
        self.path, self.shown_path, self.keep = path, shown_path, True


@contextmanager
def rewriting(
    bundle: str, output: Path | None, *, overwrite: bool, remove_signature: bool = False
) -> Iterator[WorkingBundle]:
    """Where a verb that changes a bundle does so; says at the end what was written.

    With ``output`` that is a copy beside it, which is moved there when the body has ended well, so
    that nothing half done is ever at ``output``. The signature of a signed bundle does not hold for
    what the verb makes of it, so the copy has none. In its place a signed bundle is rewritten with
    ``remove_signature`` alone.

    Raises:
        BadParameter: ``output`` is taken, or cannot be written.
        BundleError: ``bundle`` cannot be read, or the copy cannot be written.
        SignatureError: it is signed, and neither a copy nor ``remove_signature`` was asked for.
    """
    if output is None:
        if overwrite:
            raise typer.BadParameter("--overwrite says nothing without --output")
        if not remove_signature:
            _check_unsigned(bundle)
        working_bundle = WorkingBundle(Path(bundle), bundle)
        yield working_bundle
        if working_bundle.keep:
            say(f"rewrote {bundle} in its place; --output leaves it as it is")
        return
    if remove_signature:
        raise typer.BadParameter("--remove-signature says nothing with --output")
    check_new(output, overwrite=overwrite)
    with Bundle.open(bundle) as open_bundle:
        if output.absolute().exists() and output.samefile(open_bundle.path):
            raise typer.BadParameter(
                f"{output} is the bundle itself; leave --output out to rewrite it in its place",
                param_hint="--output",
            )
        with _staging(output) as folder:
            open_bundle.copy(folder / output.name, signed=False).close()
            # A private bundle has private copies.
            keep_modes(open_bundle.path, folder / output.name)
            working_bundle = WorkingBundle(folder / output.name, str(output))
            yield working_bundle
            if working_bundle.keep:
                move_bundle(working_bundle.path, output.absolute(), overwrite=overwrite)
                say(f"wrote {output}")
                if open_bundle.signature is not None:
                    warn(
                        f"{output} is not signed: it is not what {bundle} was signed as; sign it "
                        "(mmedge sign)"
                    )


def _check_unsigned(bundle: str) -> None:
    archive = open_archive(Path(bundle))
    is_signed = SIGNATURE in archive.sizes
    archive.close()
    if is_signed:
        raise SignatureError(
            f"{bundle} is signed, and what this verb writes into it is not what was signed: "
            "--output writes another bundle, and --remove-signature rewrites this one without its "
            "signature"
        )


@contextmanager
def _staging(output: Path) -> Iterator[Path]:
    stack = ExitStack()
    try:
        folder = stack.enter_context(staging(output.absolute()))
    except OSError as error:
        raise BundleError(f"{output}: the bundle cannot be written: {error}") from error
    with stack:
        yield folder
