"""Opens, loads and checks the bundle that a stream is to go over to."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from mmedge.bundle import Bundle
from mmedge.errors import BundleError, InputError

if TYPE_CHECKING:
    from functools import partial

    from mmedge.execution.replayable import Replayable
    from mmedge.spec import PlanName
    from mmedge.stream.network import Runnable

__all__ = ["SwapLoad", "is_pipeline"]

#: Arguments of :func:`mmedge.load` that opening a bundle takes.
TRUST = ("trusted_keys", "lowest_version")


class Reloads(Protocol):
    """A pipeline that knows how it was loaded."""

    reload: partial[Runnable] | None


@runtime_checkable
class UsesPlan(Protocol):
    """A pipeline that may have loaded another plan than a stream runs."""

    def use_plan(self, plan: PlanName) -> None:
        """Load a plan in place of the one that is loaded."""


def is_pipeline(source: object) -> bool:
    """Whether ``source`` is a loaded pipeline and not a path."""
    return hasattr(source, "run_stage") and hasattr(source, "bundle")


def _version(bundle: Bundle) -> int | None:
    """The version of a bundle's release, if a trusted key signed it; else None."""
    signature = bundle.signature
    return signature.release.version if signature is not None and signature.verified_by else None


class SwapLoad:
    """Each step in a call, so that each runs at the priority that suits it.

    Args:
        running: the pipeline that the stream runs; another bundle is loaded as it was.
        source: the path of a bundle, or a loaded pipeline.
        options: arguments of :func:`mmedge.load` in place of those that the running one had.

    Attributes:
        bundle: once opened.
        pipe: once loaded.
        path: of the bundle; None: it is loaded already.
        owns: whether the pipeline is the stream's, since it was loaded of a path.
        is_verified: whether golden samples are replayed.

    Raises:
        InputError: options for a pipeline that is loaded already, or a source that is neither.
    """

    def __init__(self, running: Runnable, source: Any, options: dict[str, Any]) -> None:  # noqa: ANN401
        self.bundle: Bundle | None = None
        self.pipe: Runnable | None = None
        self.owns = not is_pipeline(source)
        self._running, self._given = running.bundle, options
        self.path: Path | None = None
        reload = getattr(running, "reload", None)
        self._reload = cast("partial[Runnable] | None", reload)
        if not self.owns:
            if options:
                raise InputError(
                    f"swap: {', '.join(options)}: the new pipeline is loaded already; pass the "
                    "path of its bundle in its place, or load it with these"
                )
            self.pipe, self.bundle = source, source.bundle
        elif not isinstance(source, str | Path):
            raise InputError(
                f"swap: expected the path of a bundle or a loaded pipeline, got {source!r:.80}"
            )
        elif self._reload is None:
            raise InputError("swap: nobody said how to load a bundle; pass a loaded pipeline")
        else:
            self.path = Path(source)
        self._options = {} if self._reload is None else {**self._reload.keywords, **options}
        unknown = options.keys() - self._options_known()
        if unknown:
            raise InputError(f"swap: unknown argument {min(unknown)!r}; mmedge.load has none such")
        self.is_verified = not options.get("allow_unverified", False)

    def _options_known(self) -> set[str]:
        return set() if self._reload is None else set(self._reload.keywords)

    def open(self) -> Bundle:
        """Read the bundle, and compare all of it with its digests; its signature, where keys are.

        Raises:
            MMEdgeError: it cannot be trusted or read.
        """
        if self.bundle is None and self.path is not None:
            self.bundle = Bundle.open(self.path, **self._trust())
        return cast("Bundle", self.bundle)

    def _trust(self) -> dict[str, Any]:
        """The keys and the lowest version of the new bundle: those of the one that runs."""
        trust = {name: self._options.get(name) for name in TRUST}
        trusted = self._running.trusted
        if trusted is not None and not self._given.keys() & set(TRUST):
            version = _version(self._running) or 0
            trust = dict(
                zip(TRUST, (trusted.pems(), max(trusted.lowest_version, version)), strict=True)
            )
        return trust

    def check_version(self) -> None:
        """Refuse what is older than the signed release that runs, or is not signed at all.

        Raises:
            BundleError: the version is lower, or no trusted key signed it.
        """
        before = _version(self._running)
        after = None if self.bundle is None else _version(self.bundle)
        if before is not None and (after is None or after < before):
            has = "of no verified release" if after is None else f"release {after}"
            raise BundleError(
                f"the bundle that runs is signed release {before}, and the new one is {has}: a "
                "swap does not go back; close the stream and make one of it if that is meant"
            )

    def load(self) -> Runnable:
        """Load it, as the running one was loaded.

        Raises:
            MMEdgeError: it does not load here.
        """
        if self.pipe is None and self._reload is not None and self.bundle is not None:
            manifest = self.bundle.manifest
            has_cut = all("cut" in manifest.plan_names(v) for v in manifest.variants)
            arguments = {
                **self._options,
                **dict.fromkeys(TRUST),
                "plan": "cut" if has_cut else None,
            }
            # Verified by itself, at low priority, and not only where export has not proven it.
            self.pipe = self._reload(self.bundle, **{**arguments, "allow_unverified": True})
        return cast("Runnable", self.pipe)

    def verify(self) -> None:
        """Replay the golden samples.

        Raises:
            MMEdgeError: it does not compute here what it should, or has no golden samples.
        """
        # Programs that swap nothing do without the module.
        from mmedge.execution.verify import verify

        pipe = cast("Runnable", self.pipe)
        if isinstance(pipe, UsesPlan):
            pipe.use_plan(pipe.bundle.manifest.stream_plan(pipe.variant))
        if self.is_verified:
            verify(cast("Replayable", pipe)).check()

    def close(self) -> None:
        """Free what was loaded, unless it is the caller's; may be called twice."""
        if not self.owns:
            return
        pipe, self.pipe = self.pipe, None
        bundle, self.bundle = self.bundle, None
        with suppress(OSError):  # a file that cannot be removed is no reason to end a stream
            if pipe is not None:
                cast("Any", pipe).close()
            if bundle is not None:
                bundle.close()
