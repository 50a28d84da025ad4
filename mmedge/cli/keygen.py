"""``mmedge keygen``: a key that signs bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmedge.bundle.private_key import generate_key
from mmedge.cli.console import JsonOption, emit_json, say, table
from mmedge.cli.output import check_new

__all__ = ["keygen"]


def keygen(
    name: Annotated[str, typer.Argument(help="Path of the two files without their suffixes.")],
    *,
    passphrase: Annotated[
        bool,
        typer.Option(
            "--passphrase", help="Ask for a passphrase, and encrypt the private key with it."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make an Ed25519 key: NAME.key signs bundles, NAME.pub verifies them.

    Neither may be there yet. Keep NAME.key off devices, and give it to nobody.
    """
    for suffix in (".key", ".pub"):
        check_new(Path(f"{name}{suffix}"), overwrite=None, option="NAME")
    words = None
    if passphrase:
        words = str(typer.prompt("passphrase", hide_input=True, confirmation_prompt=True, err=True))
    files = generate_key(name, passphrase=words)
    if as_json:
        emit_json({
            "private": str(files.private),
            "public": str(files.public),
            "key_id": files.key_id,
            "encrypted": words is not None,
        })  # fmt: skip
        return
    table(
        "key",
        ("what", "value"),
        [
            ("signs", f"{files.private} (keep it off devices)"),
            ("verifies", files.public),
            ("key id", files.key_id),
            ("private key", "encrypted" if words is not None else "not encrypted"),
        ],
    )
    say(f"wrote {files.private} and {files.public}")
