"""Options that say whose signature a bundle has to have, and how a signature is shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmedge.bundle import Bundle
from mmedge.cli.console import say
from mmedge.schema.release import MAX_NUMBER

if TYPE_CHECKING:
    from mmedge.bundle.signature import Signature, TrustedKeys

__all__ = ["TrustOptions", "not_checked", "signature_json", "signature_rows"]

KeyOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--key",
        help="A public key (NAME.pub of mmedge keygen). One of those given has to have signed "
        "BUNDLE. May be repeated.",
        metavar="NAME.pub",
    ),
]
LowestVersionOption = Annotated[
    int | None,
    typer.Option(
        help="With --key: refuse a release of a lower version.", min=0, max=MAX_NUMBER, metavar="N"
    ),
]


@dataclass(frozen=True, kw_only=True)
class TrustOptions:
    """Options of every verb that opens a bundle."""

    key: KeyOption = None
    lowest_version: LowestVersionOption = None

    def keywords(self) -> dict[str, Any]:
        """Arguments of :func:`mmedge.load` and :meth:`mmedge.Bundle.open`.

        Raises:
            BadParameter: ``--lowest-version`` stands alone.
        """
        if self.lowest_version is not None and not self.key:
            raise typer.BadParameter(
                "--lowest-version says nothing without --key: nobody would know who wrote the "
                "version"
            )
        return {"trusted_keys": self.key or None, "lowest_version": self.lowest_version}

    def trusted(self) -> TrustedKeys | None:
        """The keys, read; None where none was given."""
        if not self.keywords()["trusted_keys"]:
            return None
        from mmedge.bundle.signature import TrustedKeys

        return TrustedKeys.of(self.key, self.lowest_version)

    def check(self, bundle: str) -> None:
        """Open a bundle with the keys that were given, if any, before a verb begins its work."""
        if not self.keywords()["trusted_keys"]:
            return
        with Bundle.open(bundle, **self.keywords()) as opened:
            signature = opened.signature
        if signature is not None:
            keys = ", ".join(signature.verified_by)
            say(f"{bundle}: release {signature.release.version}, signature verified by {keys}")


def signature_rows(signature: Signature | None) -> list[tuple[str, object]]:
    """What is shown of a signature: a row each."""
    if signature is None:
        return [("signature", "none")]
    from mmedge.bundle.signature import show_time

    release = signature.release
    expires = "never" if release.expires is None else show_time(release.expires)
    return [
        ("version", release.version),
        ("signed", show_time(release.signed)),
        ("expires", expires),
        *((f"key {name}", status) for name, status in signature.statuses().items()),
    ]


def signature_json(signature: Signature | None) -> dict[str, Any] | None:
    """The same as plain data; ``verified`` is whether a trusted key's signature was verified."""
    if signature is None:
        return None
    return {
        **asdict(signature.release),
        "verified": bool(signature.verified_by),
        "keys": signature.statuses(),
    }


def not_checked(signature: Signature | None) -> list[str]:
    """What of a signature was not verified, for a list of such things."""
    if signature is None:
        return []
    return [
        f"the signature by key {name}: {status.partition(': ')[2]}"
        for name, status in signature.statuses().items()
        if status != "verified"
    ]
