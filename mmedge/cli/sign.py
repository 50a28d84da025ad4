"""``mmedge sign``: say who released a bundle, and as which version."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from mmedge.bundle.private_key import is_encrypted
from mmedge.bundle.sign import add_signature, release_payload, sign_bundle
from mmedge.bundle.signature import Signature
from mmedge.cli.console import BundleArgument, JsonOption, emit_json, settings, table
from mmedge.cli.trust import signature_json, signature_rows
from mmedge.errors import SignatureError
from mmedge.schema.release import MAX_NUMBER, SIGNATURE_BYTES

__all__ = ["sign"]

#: Bytes of what --print-payload wrote that are read; it writes some 250.
MAX_PAYLOAD_BYTES = 1 << 14

Expiry = int | Literal["never"] | None


def sign(
    bundle: BundleArgument,
    *,
    key: Annotated[
        Path | None,
        typer.Option(
            help="The private key that signs (NAME.key); with --signature the public one "
            "(NAME.pub)."
        ),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(
            help="Of the release: a whole number, higher than of the release before. Without it: "
            "that of the release signed before, or 0.",
            min=0,
            max=MAX_NUMBER,
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            help="From when on devices refuse it: a date such as 2027-12-31, a time such as "
            "2027-12-31T12:00:00Z, or never. Without it: as the release signed before says, or "
            "never.",
            metavar="DATE",
        ),
    ] = None,
    allow_lower_version: Annotated[
        bool,
        typer.Option("--allow-lower-version", help="Sign a lower version than before."),
    ] = False,
    print_payload: Annotated[
        bool,
        typer.Option(
            "--print-payload",
            help="Write the bytes that a signer elsewhere has to sign to standard output, and sign "
            "nothing.",
        ),
    ] = False,
    signature: Annotated[
        Path | None,
        typer.Option(
            help="Add the signature in this file, made elsewhere: 64 bytes, with --payload and "
            "--key NAME.pub."
        ),
    ] = None,
    payload: Annotated[
        Path | None, typer.Option(help="With --signature: what --print-payload wrote.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign BUNDLE in its place, after all its digests were checked.

    A second key's signature joins the first. Another --version or --expires makes a new release
    statement: signatures of the one before are removed, and mmedge says so.
    """
    _check_options(
        {"--key": key, "--signature": signature, "--payload": payload, "--version": version,
         "--expires": expires},
        print_payload=print_payload, as_json=as_json,
    )  # fmt: skip
    end = _expiry(expires)
    if print_payload:
        data = release_payload(
            bundle, version=version, expires=end, allow_lower_version=allow_lower_version
        )
        sys.stdout.buffer.write(data)
        settings.emitted = True
        return
    if signature is not None and payload is not None and key is not None:
        got = add_signature(
            bundle,
            _read(payload, MAX_PAYLOAD_BYTES),
            _read(signature, SIGNATURE_BYTES + 1),
            key,
            allow_lower_version=allow_lower_version,
        )
    else:
        path = key or Path()
        passphrase = None
        if is_encrypted(path):
            passphrase = str(typer.prompt(f"passphrase of {path}", hide_input=True, err=True))
        got = sign_bundle(
            bundle, path, version=version, expires=end, passphrase=passphrase,
            allow_lower_version=allow_lower_version,
        )  # fmt: skip
    _show(bundle, got, as_json=as_json)


def _check_options(options: dict[str, object], *, print_payload: bool, as_json: bool) -> None:
    """Refuse options that do not fit each other."""
    given = {name for name, value in options.items() if value is not None}
    if print_payload:
        if wrong := given & {"--key", "--signature", "--payload"}:
            raise typer.BadParameter(f"{min(wrong)} says nothing with --print-payload")
        if as_json:
            raise typer.BadParameter("--json says nothing with --print-payload: it writes bytes")
    elif "--key" not in given:
        raise typer.BadParameter("--key is missing: the key that signs, such as release.key")
    elif "--signature" in given:
        if "--payload" not in given:
            raise typer.BadParameter("--signature needs --payload: what --print-payload wrote")
        if wrong := given & {"--version", "--expires"}:
            raise typer.BadParameter(
                f"{min(wrong)} says nothing with --signature: what was signed states it"
            )
    elif "--payload" in given:
        raise typer.BadParameter("--payload says nothing without --signature")


def _expiry(words: str | None) -> Expiry:
    """Seconds since 1970 of a date or time; without an offset it is in UTC."""
    if words is None or words == "never":
        return words  # type: ignore[return-value]  # mypy widens the literal
    try:
        time = datetime.fromisoformat(words)
    except ValueError as error:
        raise typer.BadParameter(
            f"expected a date such as 2027-12-31, a time such as 2027-12-31T12:00:00Z, or never; "
            f"got {words!r}",
            param_hint="--expires",
        ) from error
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise SignatureError(f"{path}: cannot be read: {error}") from error


def _show(bundle: str, signature: Signature, *, as_json: bool) -> None:
    if as_json:
        emit_json({"bundle": bundle, "signature": signature_json(signature)})
        return
    table(f"{bundle}: signed", ("what", "value"), signature_rows(signature))
