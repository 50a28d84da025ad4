"""The targets that this version makes variants for, and what each can quantise.

A target is a package and one line in :data:`TARGETS`. The package itself (:class:`TargetPackage`)
is cheap to import and says which schemes its backend has kernels for; its module ``quantizer``
(:class:`Quantizer`) writes, runs and stores them. A target that quantises nothing says why and
needs no such module.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from mmedge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir

    from mmedge.bundle import Bundle
    from mmedge.execution.plan import Run
    from mmedge.spec import Stage, Tolerance, Variant
    from mmedge_export.calibration.observed import Observed
    from mmedge_export.targets.quantizable import QuantizableNode, QuantizationScheme, Scheme
    from mmedge_export.targets.tensorrt import EngineOptions

__all__ = [
    "TARGETS",
    "Quantizer",
    "Store",
    "TargetPackage",
    "find_target",
    "precisions",
    "quantizer",
    "quantizes",
]

#: Backend name in a variant -> package that makes variants for it.
TARGETS: dict[str, str] = {
    "ort": "mmedge_export.targets.onnxruntime",
    "openvino": "mmedge_export.targets.openvino",
    "tensorrt": "mmedge_export.targets.tensorrt",
    "tensorrt_rtx": "mmedge_export.targets.tensorrt",
}


class TargetPackage(Protocol):
    """What a target's package offers.

    Attributes:
        SCHEMES: by precision, the schemes that the backend has fast kernels for.
        WHY_NONE: why there are none; empty where there are some.
    """

    SCHEMES: Mapping[str, Sequence[Scheme]]
    WHY_NONE: str


class Store(Protocol):
    """What makes variants of quantised graphs."""

    def __call__(
        self,
        bundle: Bundle,
        variant: Variant,
        graphs: Mapping[str, Path],
        folder: Path,
        tell: Callable[[str], None],
    ) -> list[tuple[Variant, dict[str, Path]]]:
        """Make them, each with its files by path in the bundle.

        Args:
            bundle: open; it is left as it is.
            variant: all that is known of them, with the float32 files.
            graphs: by stage; stages without one run as ``variant`` has them.
            folder: where files are written.
            tell: told what is being done, a line at a time.
        """


class Quantizer(Protocol):
    """What a target's module ``quantizer`` offers to the search for lower precision.

    Attributes:
        NOT_TIMED: why variants cannot be timed on the machine that makes them; empty where they
            can, and the search then keeps what is faster.
        NOT_CHECKED: what the search leaves open of every variant of this target, a line each.
        SWITCHED: backend whose sessions run graphs with switches.
        PACKAGES: distributions whose versions say what a variant was made with.
    """

    NOT_TIMED: str
    NOT_CHECKED: Sequence[str]
    SWITCHED: str
    PACKAGES: Sequence[str]

    def float_variant(self, bundle: Bundle) -> tuple[Bundle, Variant]:
        """The float32 variant that others are held against, with the bundle that has it.

        Raises:
            ExportError: there is none and none can be added.
        """

    def prepare(self, source: Path, path: Path) -> ir.Model:
        """Write the graph that schemes are made from to ``path``; returns what was written."""

    def find_nodes(
        self, model: ir.Model, precision: str, ranges: Mapping[str, tuple[float, float]] | None
    ) -> tuple[tuple[QuantizableNode, ...], dict[str, str]]:
        """The nodes of a prepared graph that can be quantised, and why other products cannot.

        Args:
            model: from :meth:`prepare`.
            precision: to quantise to.
            ranges: of tensors; None: they are not known yet.
        """

    def choose_range(self, observed: Observed, precision: str) -> tuple[float, float] | None:
        """The range to quantise a tensor by; None where it has none."""

    def write(
        self,
        source: Path,
        path: Path,
        plan: Mapping[str, QuantizationScheme],
        ranges: Mapping[str, tuple[float, float]],
        *,
        reduce_range: Collection[str] = (),
    ) -> None:
        """Write a prepared graph with the nodes of ``plan`` in their schemes."""

    def write_switched(
        self,
        source: Path,
        path: Path,
        nodes: Sequence[QuantizableNode],
        plan: Mapping[str, QuantizationScheme],
        ranges: Mapping[str, tuple[float, float]],
        reduce_range: Collection[str],
    ) -> None:
        """Write a prepared graph with a boolean input for each of ``nodes``.

        They are named as :func:`mmedge_export.targets.quantizable.switches` says.
        """

    def open_graph(
        self, path: Path, stage: Stage, *, alone: bool, threads: int | None = None
    ) -> Run:
        """A graph of a stage as it is judged.

        Args:
            path: of the graph.
            stage: what it stands for.
            alone: whether it is the network's only stage.
            threads: most threads; None: the default.

        Raises:
            ExportError: the backend does not load it.
        """

    def least_tolerance(self, base: Variant) -> Tolerance:
        """What a variant may differ by from the golden samples however near it lies here."""

    def open_store(
        self, bundle: Bundle, backend: str, precision: str, engines: EngineOptions | None
    ) -> Store:
        """What makes variants of quantised graphs; refuses early what it cannot make.

        Args:
            bundle: open.
            backend: of the variants.
            precision: of the variants.
            engines: of TensorRT alone.

        Raises:
            InputError: ``engines`` does not fit.
            BackendError: the library that makes them is not installed, or needs a GPU.
        """


def find_target(backend: str) -> TargetPackage:
    """The package that makes variants for a backend.

    Raises:
        InputError: there is none.
    """
    if backend not in TARGETS:
        raise InputError(f"backend {backend!r}: expected {' or '.join(quantizes())}")
    return cast("TargetPackage", importlib.import_module(TARGETS[backend]))


def quantizer(backend: str) -> Quantizer:
    """The module that quantises for a backend.

    Raises:
        InputError: there is none.
    """
    why = find_target(backend).WHY_NONE
    if why:
        raise InputError(f"backend {backend!r} quantizes nothing: {why}")
    return cast("Quantizer", importlib.import_module(f"{TARGETS[backend]}.quantizer"))


def quantizes() -> tuple[str, ...]:
    """The backends that can run lower precision."""
    return tuple(name for name in TARGETS if not find_target(name).WHY_NONE)


def precisions(*backends: str) -> tuple[str, ...]:
    """The lower precisions of some backends, or of all."""
    names = backends or tuple(TARGETS)
    return tuple(dict.fromkeys(word for name in names for word in find_target(name).SCHEMES))
