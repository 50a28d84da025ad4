"""Where in the user's network something went wrong: the module's qualified name and source line."""

from __future__ import annotations

import inspect
import linecache
import re
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    import torch

__all__ = [
    "Place",
    "current_frames",
    "failing_node",
    "is_users",
    "local",
    "of_exception",
    "of_frames",
    "of_node",
    "source_line",
]

_HERE = Path(__file__).parents[1]
_STDLIB = Path(sysconfig.get_path("stdlib"))
#: Packages whose lines say how a network is run or traced, never what the network does.
_TOOLS = ("torch", "numpy", "sympy", "onnx", "onnx_ir", "onnxscript", "onnxruntime")
#: Name of the network inside the module that torch traces, see
#: :mod:`mmedge_export.capture.adapter`.
ADAPTED = "network"

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]*\n\s*(?P<code>[^\n]*)')


@dataclass(frozen=True, slots=True)
class Place:
    """A line of code, and the innermost module of the network that was running it.

    ``module`` is the qualified name as :meth:`torch.nn.Module.named_modules` gives it, empty for
    the network itself; ``kind`` is its class. ``file`` is empty where no line is known.
    """

    module: str
    kind: str
    file: str = ""
    line: int = 0
    code: str = ""

    def __str__(self) -> str:
        name = f"module {self.module!r} ({self.kind})" if self.module else f"{self.kind} itself"
        if not self.file:
            return name
        return f"{name}, {self.file} line {self.line}: {self.code}"

    def line_text(self) -> str:
        """``file.py:12: code``, as a bundle keeps it: without the folders of this machine."""
        if not self.file:
            return f"module {self.module or self.kind}"
        line = f"{Path(self.file).name}:{self.line}: {self.code}"
        return "".join(c if c.isprintable() else " " for c in line)[:500]


def of_exception(network: torch.nn.Module, error: BaseException) -> Place | None:
    """Where ``error`` (or its cause) left the code of ``network``; None if it never was in it."""
    visited_ids: set[int] = set()
    chain: BaseException | None = error
    while chain is not None and id(chain) not in visited_ids:
        visited_ids.add(id(chain))
        frames = []
        trace = chain.__traceback__
        while trace is not None:
            frames.append((trace.tb_frame, trace.tb_lineno))
            trace = trace.tb_next
        place = of_frames(network, reversed(frames))
        if place is not None:
            return place
        chain = chain.__cause__ or chain.__context__
    return None


def of_frames(network: torch.nn.Module, frames: Iterator[tuple[FrameType, int]]) -> Place | None:
    """The place that ``frames``, innermost first, stand for; None if no module was running."""
    names = {id(module): name for name, module in network.named_modules()}
    module: tuple[str, str] | None = None
    file, line = "", 0
    for frame, number in frames:
        owner = _owner(frame)
        if module is None and id(owner) in names and not _is_ours(frame.f_code.co_filename):
            module = names[id(owner)], type(owner).__name__
        if not file and is_users(frame.f_code.co_filename):
            file, line = frame.f_code.co_filename, number
        if module is not None and file:
            break
    if module is None:
        return None
    return Place(*module, file, line, _code(file, line))


def of_node(network: torch.nn.Module, node: torch.fx.Node) -> Place:
    """The place that made ``node`` of an exported program, from what the tracer wrote on it."""
    stack = node.meta.get("nn_module_stack") or {}
    name, kind = "", type(network).__name__
    for path, owner in stack.values():
        name = "" if path == ADAPTED else str(path).removeprefix(f"{ADAPTED}.")
        kind = owner.rsplit(".", 1)[-1] if isinstance(owner, str) else owner.__name__
    modules = dict(network.named_modules())
    if name not in modules:
        # A module that the tracer knows under another path, such as one in a list slice.
        name = ""
    frame = _last_frame(node)
    return Place(name, kind, *frame) if frame else Place(name, kind)


def source_line(node: torch.fx.Node) -> str:
    """``file line n: code`` of the user's line that made ``node``; empty where it is not known."""
    frame = _last_frame(node)
    return "{} line {}: {}".format(*frame) if frame else ""


def _last_frame(node: torch.fx.Node) -> tuple[str, int, str] | None:
    frames = _FRAME.finditer(node.meta.get("stack_trace") or "")
    users = [frame for frame in frames if is_users(frame["file"])]
    if not users:
        return None
    return users[-1]["file"], int(users[-1]["line"]), users[-1]["code"].strip()


def failing_node(error: BaseException) -> torch.fx.Node | None:
    """The node that an exporter was working on when it raised ``error``, read off its frames."""
    import torch

    chain: BaseException | None = error
    latest_node: torch.fx.Node | None = None
    while chain is not None:
        trace = chain.__traceback__
        while trace is not None:
            node = trace.tb_frame.f_locals.get("node")
            # Not "output": the tracer walks over it last, whatever went wrong.
            if isinstance(node, torch.fx.Node) and node.op == "call_function":
                latest_node = node
            trace = trace.tb_next
        chain = chain.__cause__
    return latest_node


def current_frames() -> Iterator[tuple[FrameType, int]]:
    """Frames of the caller, innermost first."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - inspect's own is this, only slower
    while frame is not None:
        yield frame, frame.f_lineno
        frame = frame.f_back


def _owner(frame: FrameType) -> Any:  # noqa: ANN401
    """What a method calls ``self``: its first argument."""
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    return local(frame, names[0]) if names else None


def local(frame: FrameType, name: str) -> Any:  # noqa: ANN401
    """A local variable of a function that is running; None where there is none."""
    values = frame.f_locals
    value = values.get(name)
    if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        # A copy that the frame keeps: it would hold tensors of a trace that the function itself
        # has let go, which torch takes for constants of the network.
        values.clear()
    return value


@cache  # a trace asks of the same files thousands of times
def is_users(file: str) -> bool:
    """Whether ``file`` is a network's own code, or a model library's: no tool that runs it."""
    path = Path(file)
    if file.startswith("<") or _is_ours(file):
        return False
    if path.is_relative_to(_HERE):
        return True
    if "site-packages" in path.parts:
        return path.parts[path.parts.index("site-packages") + 1] not in _TOOLS
    return not path.is_relative_to(_STDLIB)


def _is_ours(file: str) -> bool:
    """Whether ``file`` is the toolchain's own code; the zoo counts as a network's."""
    path = Path(file)
    return path.is_relative_to(_HERE) and not path.is_relative_to(_HERE / "zoo")


def _code(file: str, line: int) -> str:
    return linecache.getline(file, line).strip() if file else ""
