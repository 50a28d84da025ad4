"""The network itself: what every graph is held against."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmedge.errors import ExportError
from mmedge_export.capture.captured_graph import CapturedGraph
from mmedge_export.capture.golden import RepeatabilityError, Run, repeatable
from mmedge_export.install import installed
from mmedge_export.sources.onnx_rules import may_be_random

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch

    from mmedge.spec import Array, Tolerance
    from mmedge_export.capture.kept_state import KeptState
    from mmedge_export.model import Model

__all__ = ["Reference", "open_reference", "open_run"]


#: Pairs of runs after the first, of an ONNX file that has random operators.
_MORE_RUNS = 3


@dataclass(frozen=True)
class Reference:
    """A network that can be run.

    Attributes:
        model: of an ONNX file with made-up examples: with such as the network takes.
        run: outputs by name for inputs by name.
        graph: of an ONNX file.
        remarks: what a user may notice of how an ONNX file was taken, in words.
        state: what a torch module kept before it was run at all.
    """

    model: Model
    run: Run
    graph: CapturedGraph | None = None
    remarks: tuple[str, ...] = ()
    state: KeptState | None = None

    def repeated(
        self, values: Mapping[str, Array], tolerance: Tolerance, leave: Callable[[str], None]
    ) -> dict[str, Array]:
        """Outputs for ``values``.

        Args:
            values: inputs.
            tolerance: of outputs in a second run.
            leave: called with a line on what is not checked.

        Raises:
            ExportError: the network does not take them, gives others when it is run again, or
                answers by what it was asked before.
        """
        try:
            outputs = repeatable(self.run, values, tolerance)
            if self.graph is not None and may_be_random(self.graph.model):
                # Two runs may agree by chance: a seed is used for several.
                for _ in range(_MORE_RUNS):
                    repeatable(self.run, values, tolerance)
        except RepeatabilityError as error:
            if self.state is not None and (changes := self.state.changes()):
                from mmedge_export.capture.kept_state import depends

                raise depends(changes, str(error)) from error
            if self.graph is None:
                raise
            from mmedge_export.sources.onnx_rules import refusal

            raise refusal(f"{self.model.module}: {error}", "random") from error
        if self.state is not None and (changes := self.state.changes()):
            from mmedge_export.capture.kept_state import check_history

            leave(check_history(self.model, self.run, self.state, changes))
        return outputs

    def trace(self, opset: int | None) -> CapturedGraph:
        """The network as a graph.

        Args:
            opset: version of the ONNX operators that a torch network is traced to.

        Raises:
            ExportError: the network cannot be traced, or an ONNX file has another opset.
        """
        if self.graph is None:
            with installed("tracing the network"):
                from mmedge_export.capture.kept_state import fill_caches
                from mmedge_export.capture.trace import trace

            if self.state is None:
                return trace(self.model, opset=opset)
            if self.state.changes():
                # It caches: what it needs at any size should be there already.
                fill_caches(self.model, self.run)
            try:
                return trace(self.model, opset=opset)
            finally:
                self.state.restore()  # tensors of the trace may be left in it
        if opset not in (None, self.graph.opset):
            raise ExportError(
                f"{self.model.module} has opset {self.graph.opset}, but {opset} was asked for; an "
                "ONNX file is taken as it is: leave opset out, or convert the file first"
            )
        return self.graph


@contextlib.contextmanager
def open_reference(model: Model) -> Iterator[Reference]:
    """Make a network ready to run; a torch module is in evaluation mode meanwhile.

    Raises:
        ExportError: an ONNX file does not fit ``model`` or breaks a rule of docs/reference/onnx.md;
            a torch module does not take the inputs.
    """
    if isinstance(model.module, Path):
        from mmedge_export.capture.onnx_sizes import find_sizes
        from mmedge_export.sources.onnx import load_file, match, reference
        from mmedge_export.sources.onnx_output_sizes import observe_sizes
        from mmedge_export.sources.onnx_outputs import infer_outputs
        from mmedge_export.sources.onnx_settle import settle

        file = load_file(model.module)
        match(model, file)
        run = reference(file, model.outputs)
        model, remark = settle(model, file, run)
        example_remarks = (f"made-up example: {remark}",) if remark else ()
        model, size_remarks = find_sizes(model, run)
        remarks = (*file.normalized.remarks, *example_remarks, *size_remarks)
        shapes = {name: value.shape() for name, value in model.inputs.items()}
        runs = observe_sizes(model, run)
        infer_outputs(
            file.graph.model, shapes, file.normalized.output_shapes, runs, model.state_outputs
        )
        yield Reference(model, run, CapturedGraph(file.graph.model), remarks)
        return
    # torch is not needed for an ONNX file.
    with installed("running the network"):
        from mmedge_export.capture.kept_state import KeptState
        from mmedge_export.capture.network import TorchNetwork, evaluation

    module: Any = model.module
    with evaluation(module):
        state = KeptState(module)
        try:
            yield Reference(model, TorchNetwork(model), state=state)
        finally:
            state.restore()


@contextlib.contextmanager
def open_run(
    module: torch.nn.Module | Path,
    inputs: Sequence[str],
    outputs: Sequence[str] | Mapping[str, str],
) -> Iterator[Run]:
    """A network as it is called, for what has to be known before it has examples of all its inputs.

    Args:
        module: a torch module, in evaluation mode meanwhile, or an ONNX file.
        inputs: names of what it is given.
        outputs: names of what it gives.

    Raises:
        ExportError: the module does not take the inputs, or the file breaks a rule of
            docs/reference/onnx.md.
    """
    if isinstance(module, Path):
        from mmedge_export.sources.onnx import load_file, reference

        yield reference(load_file(module), outputs)
        return
    with installed("running the network"):
        from mmedge_export.capture.kept_state import KeptState
        from mmedge_export.capture.network import Called, TorchNetwork, evaluation

    with evaluation(module):
        state = KeptState(module)
        try:
            yield TorchNetwork(Called(module, inputs, outputs))
        finally:
            state.restore()
