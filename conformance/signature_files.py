"""Signed bundles of the cases: one small bundle with any ``manifest.json`` and ``manifest.sig``."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from case_files import CASES, read
from signature_mutants import mutants

from mmedge.bundle import Bundle
from mmedge.bundle import signature as checks
from mmedge.errors import BundleError, SignatureError

__all__ = ["TINY", "decide", "read_tiny", "taken_mutants", "write_case", "write_signed"]

#: The bundle whose other files all have.
TINY = CASES / "bundles" / "tiny"


def read_tiny(folder: Path = TINY) -> dict[str, bytes]:
    """The files of a bundle that is a directory, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_signed(
    path: Path,
    files: dict[str, bytes],
    *,
    signature: bytes | None,
    manifest: bytes | None = None,
    zipped: bool,
) -> None:
    """Write a bundle to ``path``, which must not be there.

    Args:
        path: where.
        files: of the bundle, by name.
        signature: bytes of ``manifest.sig``; None: it has none.
        manifest: bytes in place of its ``manifest.json``; ``manifest.sha256`` is that of them.
        zipped: whether it is one zip.
    """
    files = dict(files)
    if manifest is not None:
        digest = hashlib.sha256(manifest).hexdigest()
        files |= {
            "manifest.json": manifest,
            "manifest.sha256": f"{digest}  manifest.json\n".encode(),
        }
    if signature is not None:
        files["manifest.sig"] = signature
    # As mmedge writes them: by name, then what describes the others.
    last = ("manifest.json", "manifest.sha256", "manifest.sig")
    names = sorted(files.keys() - set(last)) + [name for name in last if name in files]
    if not zipped:
        for name in names:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(files[name])
        return
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
        for name in names:
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, files[name])


def write_case(path: Path, files: dict[str, bytes], case: dict[str, Any], *, zipped: bool) -> None:
    """Write the bundle of a case of ``signatures.json``; ``files`` are those of the bundle."""
    signature, manifest = (
        None if case[name] is None else case[name].encode("latin-1")
        for name in ("signature", "manifest")
    )
    write_signed(path, files, signature=signature, manifest=manifest, zipped=zipped)


def decide(
    path: Path, keys: Sequence[str] | None, lowest_version: int | None, now: int
) -> dict[str, Any]:
    """What this runtime makes of a bundle, on a clock that says ``now``; ``keys`` are PEM texts."""
    pems = None if keys is None else [key.encode() for key in keys]
    try:
        with (
            mock.patch.object(checks, "wall_clock", return_value=now),
            Bundle.open(path, trusted_keys=pems, lowest_version=lowest_version) as bundle,
        ):
            signature = bundle.signature
    except BundleError as error:
        message = str(error).replace(str(path.resolve()), "BUNDLE").replace(str(path), "BUNDLE")
        # What is wrong with JSON is said in the words of this Python.
        message = re.sub(r"what is not JSON \(.*\)", "what is not JSON", message)
        return {"error": type(error).__name__, "message": message}
    if signature is None:
        return {"release": None, "verified_by": []}
    release = signature.release
    return {
        "release": {
            "version": release.version,
            "signed": release.signed,
            "expires": release.expires,
        },
        "verified_by": list(signature.verified_by),
    }


def taken_mutants(
    folder: Path, open_bundle: Callable[[Path, str], None], *, count: int, seed: int
) -> list[str]:
    """Names of mutants of a signed bundle that a reader takes; there should be none.

    Args:
        folder: empty; the bundle is a directory in it.
        open_bundle: opens the bundle at a path with the one trusted key, in PEM, and closes it.
        count: of the mutants.
        seed: of them.

    Raises:
        AssertionError: the bundle is not taken as it was signed.
        Exception: ``open_bundle`` raised anything else than a SignatureError.
    """
    content = read(CASES / "signatures" / "signatures.json")
    case = next(case for case in content["cases"] if case["name"] == "never expires")
    files, signature = read_tiny(), case["signature"].encode("latin-1")
    path, key = folder / "signed", content["keys"]["a"]
    write_signed(path, files, signature=signature, zipped=False)
    open_bundle(path, key)
    taken = []
    for mutant in mutants(files["manifest.json"], signature, count=count, seed=seed):
        digest = hashlib.sha256(mutant.manifest).hexdigest()
        (path / "manifest.json").write_bytes(mutant.manifest)
        (path / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
        (path / "manifest.sig").write_bytes(mutant.signature)
        try:
            open_bundle(path, key)
        except SignatureError:
            continue
        taken.append(mutant.name)
    return taken
