"""The SHA-256 of a bundle's files, of large ones in threads while the caller reads graphs.

Hashing leaves Python's lock to other threads, but whoever asks for it back may wait 5 ms
(``sys.getswitchinterval``). So files are opened by the caller, and a thread hashes in one step.
``concurrent.futures`` takes longer to import than a small bundle to hash.
"""

from __future__ import annotations

import os
from threading import Thread
from typing import TYPE_CHECKING, Final

from mmedge.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge.bundle.archive import Archive
    from mmedge.spec import Manifest

__all__ = ["DigestCheck"]

#: Bytes from which a file is hashed in a thread: 0.15 ms of one core's work, more than a thread
#: takes to start.
LARGE: Final = 1 << 18

#: Threads, besides the one that waits for them.
MAX_THREADS: Final = 3


class DigestCheck:
    """Compares every file with its digest in the manifest.

    Made, it hashes large files; :meth:`finish` says what came of it.

    Args:
        archive: of the bundle.
        manifest: of it.

    Raises:
        BundleError: a file changed since it was listed.
    """

    def __init__(self, archive: Archive, manifest: Manifest) -> None:
        self._archive, self._manifest = archive, manifest
        names = sorted(manifest.files, key=lambda name: archive.sizes[name])
        large = [name for name in names if archive.sizes[name] >= LARGE]
        self._small = names[: len(names) - len(large)]
        self._digests: dict[str, str] = {}
        self._errors: list[Exception] = []
        # The largest are taken from the end.
        self._waiting = [(name, archive.digester(name)) for name in large]
        count = min(len(large), MAX_THREADS, max(1, (os.cpu_count() or 1) - 1))
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Wait for what is under way, hash the rest and compare.

        Raises:
            BundleError: a file is altered, or changed while it was read.
        """
        for name in self._small:
            self._digests[name] = self._archive.digester(name)()
        self._work()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        for name, expected in self._manifest.files.items():
            if self._digests[name] != expected:
                raise BundleError(
                    f"{self._archive.path}: {name} is altered: expected SHA-256 {expected}, got "
                    f"{self._digests[name]}; copy or export the bundle again"
                )

    def _work(self) -> None:
        """Hash files until none waits."""
        while True:
            try:
                name, digest = self._waiting.pop()
            except IndexError:
                return
            self._add(name, digest)

    def _add(self, name: str, digest: Callable[[], str]) -> None:
        try:
            self._digests[name] = digest()
        except Exception as error:  # noqa: BLE001 - raised by whoever waits
            self._errors.append(error)
