"""``mmedge env``: what this machine can run, and for the rest why not and what to install."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec

from mmedge import native
from mmedge.backends.registry import BACKENDS, probe
from mmedge.cli.console import JsonOption, emit_json, table

__all__ = ["env"]


def env(*, as_json: JsonOption = False) -> None:
    """Show the device, the backends that run here, and how to get the others."""
    device = probe()
    takes_text = find_spec("tokenizers") is not None
    verifies = find_spec("cryptography") is not None
    if as_json:
        kernel = None if native.why_absent() else native.cpu_isa()
        emit_json(
            {
                **asdict(device),
                "attention_kernel": kernel,
                "takes_text": takes_text,
                "verifies_signatures": verifies,
            }
        )
        return
    table(
        "this machine",
        ("what", "found"),
        [
            ("device", device.name),
            ("GPUs", ", ".join(device.gpus) or "none"),
            ("cores", device.cores),
            ("memory", f"{device.memory_bytes / 2**30:.1f} GiB"),
            ("targets", ", ".join(device.targets)),
            ("attention kernel", native.why_absent() or native.cpu_isa()),
            (
                "text",
                "tokenizers is installed"
                if takes_text
                else "tokenizers is not installed: pip install 'mmedge[text]'",
            ),
            (
                "signatures",
                "cryptography is installed"
                if verifies
                else "cryptography is not installed: pip install 'mmedge[sign]'",
            ),
            *sorted(device.libraries.items()),
        ],
    )
    others = sorted(set(device.missing) - set(BACKENDS))
    table(
        "backends",
        ("backend", "here", "why not, and what to do"),
        [
            (name, "no" if name in device.missing else "runs", device.missing.get(name, ""))
            for name in (*BACKENDS, *others)
        ],
    )
