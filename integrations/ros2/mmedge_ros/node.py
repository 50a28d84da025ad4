"""The node: loads a bundle, runs a stream of it, and says how it is.

Messages come in the executor's threads and are pushed there. Stages run in the stream's threads,
and one thread of the node takes results and publishes them. Diagnostics have a timer on a clock
that no simulation stops.
"""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

import mmedge
from mmedge import BackendError, InputError, MMEdgeError
from mmedge.recording.ros import Converter, policies, seconds
from mmedge_ros.inlet import Inlet, message_class
from mmedge_ros.outlet import Outlet
from mmedge_ros.parameters import Parameters, declare, is_own, read
from mmedge_ros.status import Counts, modality_status, status, stream_status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rclpy.lifecycle import LifecycleState
    from rclpy.parameter import Parameter

    from mmedge.stream import Result

__all__ = ["StreamNode"]

#: Seconds between diagnostics, between two looks whether to end, and that a thread may take to end.
DIAGNOSTICS_S, LOOK_S, END_S = 1.0, 0.1, 5.0
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class StreamNode(LifecycleNode):
    """A stream of a bundle between topics.

    ``configure`` reads the parameters and loads and checks the bundle; a parameter or bundle that
    will not do is told, and leaves the node unconfigured. ``activate`` makes the stream and
    subscribes. ``deactivate`` ends both, ``cleanup`` releases the bundle; ``shutdown`` and errors
    release everything.

    Args:
        name: of the node.
        options: of :class:`rclpy.node.Node`.
    """

    def __init__(self, name: str = "mmedge", **options: Any) -> None:  # noqa: ANN401
        super().__init__(
            name,
            automatically_declare_parameters_from_overrides=True,
            allow_undeclared_parameters=True,
            **options,
        )
        declare(self)
        self.stream: mmedge.Stream | None = None
        self.inlets: dict[str, Inlet] = {}
        self._pipe: mmedge.Pipeline | None = None
        self._settings: Parameters | None = None
        self._converters: dict[str, Converter] = {}
        self._outlet: Outlet | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._last: Result | None = None
        self._errors: Counter[str] = Counter()
        self._counts = Counts()
        self._fault = ""
        self.add_on_set_parameters_callback(self._check_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(
            DIAGNOSTICS_S, self._publish_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def now(self) -> float:
        """Seconds of the node's clock: the system's, or under ``use_sim_time`` that of /clock."""
        return seconds(*divmod(self.get_clock().now().nanoseconds, 10**9))

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters, load the bundle."""
        try:
            parameters = read(self)
            options = dict(parameters.options)
            pipe = mmedge.load(parameters.bundle, **options)
            try:
                self._configure(parameters, pipe)
            except BaseException:
                pipe.close()
                raise
        except Exception as error:  # noqa: BLE001 - rclpy would not say it
            self._tell("not configured", error)
            return FAILURE
        self._fault = ""
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the stream, and subscribe."""
        pipe, parameters, outlet = self._pipe, self._settings, self._outlet
        assert pipe is not None  # noqa: S101 - the state machine's promise
        assert parameters is not None  # noqa: S101
        assert outlet is not None  # noqa: S101
        result = super().on_activate(state)
        self._errors.clear()
        self._counts, self._last = Counts(), None
        outlet.published = 0
        try:
            stream = self.stream = pipe.stream(
                trigger=parameters.trigger,
                deadline_ms=parameters.deadline_ms,
                align=policies(parameters.topics),
                clock=self.now,
            )
            for modality, topic in parameters.topics.items():
                converter = self._converters[modality]
                self.inlets[modality] = Inlet(self, stream, modality, topic, converter)
        except Exception as error:  # noqa: BLE001 - of rclpy too, such as a name that is none
            self._tell("not activated", error)
            self._end_stream()
            super().on_deactivate(state)
            return FAILURE
        self._fault = ""
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._publish_results, args=(stream, outlet), name="mmedge results", daemon=True
        )
        self._thread.start()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the stream and the subscriptions."""
        try:
            self._end_stream()
            return super().on_deactivate(state)
        except Exception as error:
            self._tell("not deactivated", error)
            raise

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the bundle."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything."""
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything; the node is unconfigured and may be configured again."""
        self._fault = self._fault or f"error in the transition from {state.label}"
        self._release()
        super().on_error(state)
        return SUCCESS

    def destroy_node(self) -> None:
        """Release everything."""
        self._release()
        super().destroy_node()

    def _configure(self, parameters: Parameters, pipe: mmedge.Pipeline) -> None:
        manifest = pipe.bundle.manifest
        converters = {}
        for modality, topic in parameters.topics.items():
            message_class(topic.type)
            converters[modality] = Converter(manifest, modality, topic, topic.type)
        for each in manifest.modalities:
            if each.required and each.name not in converters:
                raise InputError(
                    f"modality {each.name!r} is required: set modalities.{each.name}.topic"
                )
        pipe.use_plan(manifest.stream_plan(pipe.variant))
        # What the stream refuses is told now, and not when the robot is to move.
        pipe.stream(
            trigger=parameters.trigger,
            deadline_ms=parameters.deadline_ms,
            align=policies(parameters.topics),
        ).close()
        self._outlet = Outlet(self, manifest)
        self._pipe, self._settings, self._converters = pipe, parameters, converters
        self.get_logger().info(
            f"loaded {parameters.bundle}: {manifest.name}, {pipe.variant.id}, plan {pipe.plan}"
        )

    def _tell(self, what: str, error: Exception) -> None:
        """Keep and log why a transition failed; with its traceback where that is no one's fault."""
        kind = "" if isinstance(error, MMEdgeError) else f"{type(error).__name__}: "
        self._fault = f"{what}: {kind}{error}"
        trace = "" if not kind else "\n" + "".join(traceback.format_exception(error))
        self.get_logger().error(f"{self._fault}{trace}")

    def _end_stream(self) -> None:
        self._stop.set()
        for inlet in self.inlets.values():
            inlet.close()
        if self.stream is not None:
            self.stream.close()
        if self._thread is not None:
            self._thread.join(END_S)
            if self._thread.is_alive():
                self.get_logger().error(f"a stage still runs after {END_S:g} s")
        self.stream, self._thread = None, None
        self.inlets = {}

    def _release(self) -> None:
        self._end_stream()
        if self._outlet is not None:
            self._outlet.close()
        if self._pipe is not None:
            self._pipe.close()
        self._outlet, self._pipe, self._settings, self._converters = None, None, None, {}

    def _publish_results(self, stream: mmedge.Stream, outlet: Outlet) -> None:
        """Take results until told to stop. Only the end of the stream ends it before."""
        while not self._stop.is_set():
            try:
                result = stream.result(timeout=LOOK_S)
            except TimeoutError:
                continue
            except BackendError as error:
                if not self._stop.is_set():
                    self.get_logger().error(f"{error}")
                return
            try:
                self._last = result
                outlet.publish(result)
            except Exception as error:  # noqa: BLE001 - one result is no reason to give no more
                self._errors[f"{type(error).__name__}: {error}"] += 1
                self.get_logger().error(f"a result: {error}", throttle_duration_sec=5.0)

    def _publish_diagnostics(self) -> None:
        try:
            message = DiagnosticArray(status=self._status())
            message.header.stamp = self.get_clock().now().to_msg()
            self._diagnostics.publish(message)
        except Exception as error:  # noqa: BLE001 - the node goes on without
            self.get_logger().error(f"diagnostics: {error}", throttle_duration_sec=5.0)

    def _status(self) -> list[Any]:
        name = self.get_fully_qualified_name()
        stream, pipe, parameters = self.stream, self._pipe, self._settings
        if pipe is None or parameters is None:
            level = b"\x02" if self._fault else b"\x00"
            return [status(f"{name}: stream", level, self._fault or "unconfigured", {})]
        manifest = pipe.bundle.manifest
        fixed = {
            "bundle": manifest.name,
            "digest": pipe.bundle.digest,
            "signature": _signature(pipe.bundle),
            "variant": pipe.variant.id,
            "plan": pipe.plan,
            "trigger": parameters.trigger,
            "deadline_ms": parameters.deadline_ms,
        }
        if stream is None:
            level = b"\x02" if self._fault else b"\x00"
            return [status(f"{name}: stream", level, self._fault or "inactive", fixed)]
        health, now = stream.health(), self.now()
        fixed["published"] = 0 if self._outlet is None else self._outlet.published
        statuses = [stream_status(f"{name}: stream", health, self._counts, fixed, self._errors)]
        required = {modality.name for modality in manifest.modalities if modality.required}
        for modality, inlet in self.inlets.items():
            statuses.append(
                modality_status(
                    f"{name}: {modality}",
                    inlet,
                    health.modalities[modality],
                    self._counts,
                    required=modality in required,
                    now=now,
                    last=self._last,
                )
            )
        return statuses

    def _check_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        names = [each.name for each in parameters if is_own(each.name)]
        if names and self._pipe is not None:
            return SetParametersResult(
                successful=False,
                reason=f"{', '.join(names)}: read when the node is configured; clean it up first",
            )
        return SetParametersResult(successful=True)


def _signature(bundle: mmedge.Bundle) -> str:
    """Who signed a bundle, as far as it was checked."""
    signature = bundle.signature
    if signature is None:
        return "none"
    if not signature.verified_by:
        return f"version {signature.release.version}, not checked: no key was given"
    return f"version {signature.release.version}, verified by {', '.join(signature.verified_by)}"
