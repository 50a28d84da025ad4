"""The source ``lerobot:``: a folder that holds a policy of LeRobot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmedge_export.install import installed
from mmedge_export.sources.source import SourceModel

if TYPE_CHECKING:
    from mmedge_export.model import Model
    from mmedge_export.sources.source import SourceDraft, SourceOptions

__all__ = ["LeRobotSource"]

_PREFIX = "lerobot:"

#: Rows that a call may have unless the user says otherwise. A robot gives one; export runs the
#: network on as many, and pictures of cameras are large.
_MOST_ROWS = 2


class LeRobotSource:
    """``lerobot:FOLDER``: ``config.json``, ``model.safetensors`` and the processors' files."""

    name = "lerobot"
    forms = "lerobot:DIR"
    options = frozenset({"dims"})

    def takes(self, spec: str) -> bool:
        """Whether it begins with ``lerobot:``."""
        return spec.startswith(_PREFIX)

    def read(self, spec: str, options: SourceOptions) -> SourceModel:
        """The policy as a model. Limits of sizes and rates in the options are the loader's matter.

        Raises:
            ExportError: there is no policy, or none that can be taken; the message has the reason.
        """
        with installed(f"reading {spec}"):
            from mmedge_export.sources.lerobot.make_model import make_model
            from mmedge_export.sources.lerobot.policy_folder import read_policy
        folder = Path(spec.removeprefix(_PREFIX)).expanduser()
        source = read_policy(folder)
        model = make_model(source)
        remarks = (
            *source.remarks,
            f"a call has up to {_MOST_ROWS} rows; --dim batch=1:MOST changes it",
            "samples are made up",
        )
        model = replace(
            model, name=folder.resolve().name, dims={"batch": (1, _MOST_ROWS), **model.dims}
        )
        return SourceModel(model, remarks, _rates_not_known(model, options))

    def draft(self, spec: str, options: SourceOptions, output: Path) -> SourceDraft:
        """A factory that makes the same model.

        Raises:
            ExportError: as :meth:`read`.
        """
        model = self.read(spec, options).model
        from mmedge_export.sources.lerobot.draft import draft_policy

        folder = Path(spec.removeprefix(_PREFIX)).expanduser()
        return draft_policy(spec, folder, model, output)


def _rates_not_known(model: Model, options: SourceOptions) -> tuple[str, ...]:
    """Which sensors have no rate, neither of the training nor of the user."""
    names = [
        name
        for name, value in model.inputs.items()
        if value.modality is None and value.rate_hz is None and name not in options.rates
    ]
    reason = "no file states the frame rate of the training"
    return (f"the rate of {', '.join(names)}: {reason}; say --rate {names[0]}=HZ",) if names else ()
