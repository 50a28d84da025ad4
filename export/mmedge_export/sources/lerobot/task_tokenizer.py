"""The tokenizer of a policy's task as a file that does what the policy's processor does."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from mmedge_export.sources.lerobot.vlm_files import find_file

if TYPE_CHECKING:
    from mmedge_export.sources.lerobot.policy_folder import PolicyFolder

__all__ = ["task_tokenizer"]

_FILE = "tokenizer.json"
#: A line break behind a text; then of two at its end, one.
_LINE_BREAK = ((r"\z", "\n"), (r"\n\n\z", "\n"))


def task_tokenizer(source: PolicyFolder, length: int) -> Path | None:
    """A file that pads and cuts to ``length`` tokens; None where the policy's is not to be had.

    It lies in a folder that is there as long as the policy is.
    """
    settings = source.before.tokenizer
    name = None if settings is None else str(settings.get("tokenizer_name"))
    file = source.folder / _FILE if (source.folder / _FILE).is_file() else None
    if file is None and name is not None:
        file = find_file(source.folder, name, _FILE)
    if file is None:
        source.remarks.append(
            f"no {_FILE} in the folder, and none of {name}: the task goes in as token ids"
        )
        return None
    from tokenizers import Regex, Tokenizer, normalizers

    tokenizer = Tokenizer.from_file(str(file))
    if source.before.line_break:
        steps = [normalizers.Replace(Regex(pattern), text) for pattern, text in _LINE_BREAK]
        if tokenizer.normalizer is not None:
            steps.append(tokenizer.normalizer)
        tokenizer.normalizer = normalizers.Sequence(steps)
        source.remarks.append("an empty task has no tokens, where lerobot makes a line break of it")
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(direction="right", length=length)
    folder = tempfile.mkdtemp(prefix="mmedge-lerobot-")
    weakref.finalize(source.policy, shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / _FILE
    tokenizer.save(str(path))
    return path
