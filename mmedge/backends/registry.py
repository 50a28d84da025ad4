"""The backends that this version has, and what of them this machine can run.

A backend is a package and one line in :data:`BACKENDS`. The package itself (:class:`Backend`) is
cheap to import and imports no engine; its module ``session`` has ``open_stage``, and its module
``profiler``, if there is one, has ``profile_stage`` and ``UNSEEN``.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, cast

from mmedge.device import cpu_model, find_gpus, installed_versions, memory_bytes, usable_cores
from mmedge.errors import BackendError
from mmedge.spec import Device

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.backends import Session, SessionOptions
    from mmedge.backends.profile import ProfileRequest, Span
    from mmedge.bundle import Bundle
    from mmedge.device import Gpu
    from mmedge.spec import Array, Stage, Variant

__all__ = ["BACKENDS", "Backend", "Profiler", "backend", "open_stage", "probe", "profiler"]

#: Backend name in a variant -> package that serves it.
BACKENDS: dict[str, str] = {
    "ort": "mmedge.backends.onnxruntime",
    "openvino": "mmedge.backends.openvino",
    "tensorrt": "mmedge.backends.tensorrt",
    "tensorrt_rtx": "mmedge.backends.tensorrt",
}

#: Distributions beside those of backends whose versions a report must name, when installed.
LIBRARIES = (
    "mmedge", "numpy", "safetensors", "cuda-bindings", "cuda-core", "pycuda", "torch", "onnx",
)  # fmt: skip


class Backend(Protocol):
    """What a backend's package offers.

    Attributes:
        LIBRARIES: the distributions that it may come from.
        LIMITS_RUNS: whether ``run_timeout_s`` ends its runs.
    """

    LIBRARIES: Sequence[str]
    LIMITS_RUNS: bool

    def missing(
        self, backend: str, libraries: Mapping[str, str], gpus: Sequence[Gpu]
    ) -> Mapping[str, str]:
        """Why it does not run here, and what to install.

        Args:
            backend: name in a variant.
            libraries: installed distributions and their versions.
            gpus: of this machine.

        Returns:
            The reason under the backend's name, and under the name of each of its targets that it
            does not reach; nothing where it runs.
        """

    def copied(self, arrays: Sequence[Array]) -> tuple[int, str]:
        """Bytes that a session on the CPU copies of ``arrays`` that enter it, and why."""


class Profiler(Protocol):
    """What a backend's module ``profiler`` offers.

    Attributes:
        UNSEEN: what its profiles do not see, in words.
    """

    UNSEEN: str

    def profile_stage(self, request: ProfileRequest) -> list[list[Span]]:
        """The nodes of each profiled run, in a session of its own."""


def backend(name: str) -> Backend:
    """The package of a backend.

    Raises:
        BackendError: this version has none of that name.
    """
    if name not in BACKENDS:
        raise BackendError(
            f"backend {name!r} is not known; this version has {', '.join(sorted(BACKENDS))}"
        )
    return cast("Backend", importlib.import_module(BACKENDS[name]))


def open_stage(
    bundle: Bundle, stage: Stage, variant: Variant, *, options: SessionOptions
) -> Session:
    """Load ``stage`` of ``bundle`` as ``variant`` has it.

    Raises:
        BackendError: the backend is unknown or not installed, refuses the file, or would run a
            node elsewhere than the variant says.
    """
    try:
        package = backend(variant.backend)
    except BackendError as error:
        raise BackendError(f"variant {variant.id}: {error}") from None
    if options.run_timeout_s is not None and not package.LIMITS_RUNS:
        able = sorted(name for name in BACKENDS if backend(name).LIMITS_RUNS)
        raise BackendError(
            f"variant {variant.id}: run_timeout_s ends runs in {' and '.join(able)} alone; load "
            f"with backend={able[0]!r}, or leave it out"
        )
    module = importlib.import_module(f"{BACKENDS[variant.backend]}.session")
    session: Session = module.open_stage(bundle, stage, variant, options=options)
    return session


def profiler(name: str) -> Profiler | None:
    """The profiler of a backend; None where it has none, or the backend is not known."""
    module = f"{BACKENDS.get(name)}.profiler"
    if name not in BACKENDS or importlib.util.find_spec(module) is None:
        return None
    return cast("Profiler", importlib.import_module(module))


@lru_cache(maxsize=1)
def _libraries(names: tuple[str, ...]) -> dict[str, str]:
    return installed_versions(names)


def probe() -> Device:
    """Look at this machine. Cheap enough to call at every load (cached where it cannot change)."""
    packages = {name: backend(name) for name in BACKENDS}
    backend_libraries = dict.fromkeys(
        name for package in packages.values() for name in package.LIBRARIES
    )
    libraries = _libraries((*LIBRARIES, *backend_libraries))
    gpus = find_gpus()
    missing: dict[str, str] = {}
    for name, package in packages.items():
        missing.update(package.missing(name, libraries, gpus))
    targets = ["cpu", *(() if "cuda" in missing else ("cuda",))]
    return Device(
        name=gpus[0].name if gpus else cpu_model(),
        backends=tuple(name for name in packages if name not in missing),
        targets=(*targets, *dict.fromkeys(gpu.sm for gpu in gpus)),
        missing=missing,
        libraries=libraries,
        cores=usable_cores(),
        memory_bytes=memory_bytes(),
        gpus=tuple(f"{gpu.name} ({gpu.sm})" for gpu in gpus),
    )
