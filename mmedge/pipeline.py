"""One-shot runs of a bundle: named inputs in, named outputs out."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Self

from mmedge.backends import Session, SessionOptions, open_stage
from mmedge.bundle import Bundle
from mmedge.device import probe
from mmedge.errors import BackendError, InputError, MMEdgeError
from mmedge.feeds import Feeds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from mmedge.spec import Array, Decision, Device, Variant

__all__ = ["Pipeline", "load"]


class Pipeline:
    """A bundle's stages, loaded on one device. Made by :func:`load`; safe to call from threads.

    Attributes:
        bundle: the bundle it came from.
        variant: the variant that runs.
        decisions: for every variant of the bundle, whether it was taken and why.
    """

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        decisions: tuple[Decision, ...],
        *,
        options: SessionOptions,
    ) -> None:
        self.bundle = bundle
        self.variant = variant
        self.decisions = decisions
        self._feeds = Feeds(bundle, on_gpu=variant.target != "cpu")
        self._outputs = bundle.manifest.outputs
        self._stages: list[tuple[str, tuple[str, ...], Session]] = []
        self._whole: Callable[[Mapping[str, Any]], dict[str, Array]] | None = None
        try:
            for stage in bundle.manifest.in_order():
                session = open_stage(bundle, stage, variant, options=options)
                names = tuple(spec.name for spec in stage.inputs)
                self._stages.append((stage.name, names, session))
            # A process that is killed cleans nothing up: what was unpacked goes as soon as it can.
            bundle.release()
        except MMEdgeError:
            self.close()
            raise
        # One stage that yields just the network's outputs needs nothing around its session.
        only = self._stages[0][2] if len(self._stages) == 1 else None
        direct = only is not None and tuple(spec.name for spec in only.outputs) == self._outputs
        self._whole = only.run if only is not None and direct else None

    def __call__(self, **inputs: Any) -> dict[str, Array]:  # noqa: ANN401
        """Run once; each keyword is an input's name. See :meth:`run`."""
        return self.run(inputs)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Run all stages once.

        Args:
            inputs: array by input name, of the dtype and shape that ``bundle.manifest`` declares;
                NumPy, anything with DLPack on the host, or ``__cuda_array_interface__`` where the
                variant runs on a GPU. A string for a modality with a tokenizer. Optional
                modalities may be left out.

        Returns:
            NumPy array by output name, in the manifest's order.

        Raises:
            InputError: a wrong name, dtype, rank or size.
            BackendError: the engine failed, or the pipeline is closed.
        """
        if self._whole is not None:
            return self._whole(self._feeds.prepare(inputs))
        return self.timed(inputs)[0]

    def timed(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Array], dict[str, int]]:
        """:meth:`run`, and the nanoseconds that each part of it took.

        The parts are ``inputs`` (checks, tokenising, stand-ins) and every stage by its name.
        """
        self._check_open()
        start = perf_counter_ns()
        values = self._feeds.prepare(inputs)
        now = perf_counter_ns()
        parts = {"inputs": now - start}
        for stage, names, session in self._stages:
            start = now
            values.update(session.run({name: values[name] for name in names}))
            now = perf_counter_ns()
            parts[stage] = now - start
        return {name: values[name] for name in self._outputs}, parts

    def run_stage(self, stage: str, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Run one stage alone on tensors that fit it, such as golden ones; nothing is checked.

        Raises:
            InputError: the bundle has no such stage.
            BackendError: the engine failed.
        """
        self._check_open()
        for name, names, session in self._stages:
            if name == stage:
                return session.run({key: feeds[key] for key in names})
        known = ", ".join(name for name, _, _ in self._stages)
        raise InputError(f"no stage {stage!r}; this bundle has {known}")

    def _check_open(self) -> None:
        if not self._stages:
            raise BackendError(f"{self!r} is closed; load the bundle again")

    def close(self) -> None:
        """Free the sessions and the bundle. May be called twice."""
        for _, _, session in self._stages:
            session.close()
        self._stages = []
        self._whole = None
        self.bundle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Pipeline {self.bundle.manifest.name!r} {self.variant.id}>"


def load(
    path: str | Path,
    backend: str = "auto",
    precision: str | None = None,
    device: str | None = None,
    *,
    threads: int | None = None,
) -> Pipeline:
    """Open a bundle, choose a variant for this machine and load it.

    Args:
        path: a bundle's directory or its ``.mmedge`` file.
        backend: ``"ort"``, ``"tensorrt"``, ``"tensorrt_rtx"`` (or ``"tensorrt-rtx"``), or
            ``"auto"`` for the best that runs here (see :meth:`mmedge.Bundle.select`).
        precision: take variants of this precision only, such as ``"fp32"``.
        device: ``"cpu"``, ``"cuda"`` or an architecture such as ``"sm_87"``: take variants made
            for it only. None: whatever this machine offers.
        threads: intra-op threads of each stage on the CPU. None: the backend's default.

    Raises:
        BundleError: the bundle cannot be trusted or read.
        InputError: ``device`` is none that this machine offers.
        NoVariantError: none of its variants can run here as asked.
        BackendError: the chosen variant failed to load, or would run elsewhere than it says.
    """
    bundle = Bundle.open(path)
    try:
        variant, decisions = bundle.select(
            restrict(probe(), device), backend=backend.replace("-", "_"), precision=precision
        )
        return Pipeline(bundle, variant, decisions, options=SessionOptions(threads=threads))
    except MMEdgeError:
        bundle.close()
        raise


def restrict(device: Device, target: str | None) -> Device:
    """``device`` as if it offered ``target`` alone; unchanged for None.

    Raises:
        InputError: this machine does not offer it.
    """
    if target is None:
        return device
    if target not in device.targets:
        why = device.missing.get(target)
        raise InputError(
            f"device {target!r} is not here; this machine offers {', '.join(device.targets)}"
            + (f" ({why})" if why else "")
        )
    return replace(device, targets=(target,))
