"""The :class:`Bundle`: what export hands to the runtime.

The module is long, since it is one class whose methods are documented for users. What a load has no
use for is imported by the methods that need it: writing, samples, what a device keeps.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmedge.bundle.choose import choose, restrict
from mmedge.bundle.digests import DigestCheck
from mmedge.bundle.load import CheckedBundle, load
from mmedge.bundle.onnxfile import GraphFile
from mmedge.bundle.place import caches
from mmedge.closable import Closable
from mmedge.errors import BundleError, InputError, NoVariantError
from mmedge.schema import DIGEST, MANIFEST, SAMPLES, SIGNATURE, labels_from_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from mmedge.bundle.archive import Archive
    from mmedge.bundle.device_cache import Measurement
    from mmedge.bundle.device_engines import DeviceEngines
    from mmedge.bundle.samples import Samples
    from mmedge.bundle.signature import PublicKey, Signature, TrustedKeys
    from mmedge.bundle.write import Source
    from mmedge.spec import Array, Decision, Device, Manifest, Sample, Variant

__all__ = ["Bundle"]


class Bundle(Closable):
    """A checked bundle. Made by :meth:`open` and :meth:`write`; a context manager.

    What an open bundle reads is what its digests were compared with (see docs/reference/bundle.md
    for what that promises and what not). A bundle opened from a zip may hold temporary files until
    :meth:`close`.

    Attributes:
        path: the directory or zip it came from.
        manifest: what it says about itself.
        signature: its release statement and which trusted keys verified it; None: it has none.
        trusted: the keys that it was opened with; None: no signature was verified.
    """

    def __init__(self, contents: CheckedBundle, trusted: TrustedKeys | None = None) -> None:
        self.path = contents.archive.path
        self.manifest: Manifest = contents.manifest
        self.signature: Signature | None = contents.signature
        self.trusted = trusted
        self._archive = contents.archive
        self._graphs = contents.graphs
        self._samples: Samples | None = None
        # By device, what it keeps of this bundle.
        self._measured: dict[str, Mapping[str, Measurement]] = {}
        self._engines: dict[str, DeviceEngines | None] = {}

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        trusted_keys: Sequence[PublicKey] | None = None,
        lowest_version: int | None = None,
    ) -> Bundle:
        """Open a bundle, either form, after checking all of it (:mod:`mmedge.bundle.load`).

        Costs one SHA-256 pass over all files.

        Args:
            path: of the directory or zip.
            trusted_keys: Ed25519 public keys, each a PEM file or a PEM text. One of them has to
                have signed the bundle. None: no signature is verified.
            lowest_version: lowest version of a signed release that is taken; None: 0.

        Raises:
            BundleError: it is missing, malformed, altered, incomplete or from another schema.
            SignatureError: it is not signed as asked, or a key cannot be read.
            ValueError: ``trusted_keys`` is empty, or ``lowest_version`` comes without keys.
        """
        if trusted_keys is None and lowest_version is None:
            return cls(load(Path(path)))
        from mmedge.bundle.signature import TrustedKeys

        trusted = TrustedKeys.of(trusted_keys, lowest_version)
        return cls(load(Path(path), trusted=trusted), trusted)

    @classmethod
    def write(
        cls,
        path: str | Path,
        manifest: Manifest,
        files: Mapping[str, bytes | Path],
        *,
        samples: Sequence[Sample] = (),
        absent: Mapping[str, Array] | None = None,
        states: Mapping[str, Array] | None = None,
        unconditional: Mapping[str, Array] | None = None,
        overwrite: bool = False,
    ) -> Bundle:
        """Write a bundle and open it.

        It is staged beside ``path``, checked, and renamed into place, so that ``path`` never holds
        half a bundle. Equal content gives equal bytes.

        Args:
            path: where; with the suffix ``.mmedge`` one zip, otherwise a directory.
            manifest: its ``files`` and ``samples`` are filled in here.
            files: content, or the file to copy, by path in the bundle; without the manifest and the
                samples file.
            samples: golden samples, with every input and every stage's outputs.
            absent: stand-ins by input name, for each input of the optional modalities whose
                ``absent`` is ``token``.
            states: first values of states that begin as ``stored``, by the state's input.
            unconditional: what stands for the network's outputs in a loop's run without condition.
            overwrite: replace the bundle at ``path``. What is not a readable bundle stays.

        Raises:
            BundleError: the bundle would not be valid, something is at ``path`` already, or the
                disk refused.
        """
        from mmedge.bundle.write import SUFFIX, write_bundle

        path = Path(path)
        _check_own(path, files)
        manifest = replace(manifest, samples=len(samples))
        sources: dict[str, Source] = dict(files)
        if any((samples, absent, states, unconditional)):
            from mmedge.bundle.samples import Samples, samples_to_bytes

            content = Samples(tuple(samples), absent or {}, states or {}, unconditional or {})
            sources[SAMPLES] = samples_to_bytes(manifest, content, source=f"{path}: {SAMPLES}")
        zipped = path.suffix == SUFFIX
        return cls(write_bundle(path, manifest, sources, zipped=zipped, overwrite=overwrite))

    def with_variant(self, variant: Variant, files: Mapping[str, bytes | Path]) -> Bundle:
        """Rewrite this bundle in its place and form with ``variant`` added, or replaced by its id.

        Files of a replaced variant that nothing else uses are dropped. So is a cache in place of
        the same kind whose weights lie in a file that is written anew, and a signature, with a
        UserWarning. This object is closed.

        Args:
            variant: what to add.
            files: the files it brings, by path in the bundle.

        Returns:
            The new bundle, open.

        Raises:
            BundleError: as :meth:`write`, or the bundle was changed or replaced since it was
                opened, as by another call of this method. What is there then stays, and this
                object stays open.
        """
        _check_own(self.path, files)
        from mmedge.bundle.variants import add_variant

        manifest, unused = add_variant(self.manifest, variant, files, self._with_weights)
        return self._rewrite(manifest, files, unused)

    def without_variant(self, name: str) -> Bundle:
        """Rewrite this bundle in its place and form without one variant.

        Files that nothing else uses go with it; the stages' own graphs stay. This object is closed.

        Args:
            name: the variant's id, such as ``ort-int8-cpu``.

        Returns:
            The new bundle, open.

        Raises:
            BundleError: there is no such variant, or no other one; else as :meth:`with_variant`.
        """
        from mmedge.bundle.variants import remove_variant

        manifest, unused = remove_variant(self.manifest, name, self._with_weights, source=self.path)
        return self._rewrite(manifest, {}, unused)

    def copy(self, path: str | Path, *, overwrite: bool = False, signed: bool = True) -> Bundle:
        """Write the same bundle elsewhere, in the form that ``path`` asks for.

        Its signature goes with it. One of a manifest of an older schema cannot: the copy has
        another manifest, and a UserWarning says that it is not signed.

        Args:
            path: where; with the suffix ``.mmedge`` one zip, otherwise a directory.
            overwrite: as for :meth:`write`.
            signed: False leaves the signature out.

        Returns:
            The copy, open; this one stays open.

        Raises:
            BundleError: as :meth:`write`.
        """
        from mmedge.bundle.write import SUFFIX, write_bundle

        path = Path(path)
        sources: dict[str, Source] = {name: self.read(name) for name in self.manifest.files}
        contents = write_bundle(
            path,
            self.manifest,
            sources,
            zipped=path.suffix == SUFFIX,
            overwrite=overwrite,
            signature=self._envelope() if signed else None,
        )
        return type(self)(contents)

    def with_measurements(self, measurements: Mapping[str, Measurement], device: Device) -> Bundle:
        """Rewrite this bundle in its place and form with what was measured on a device.

        Args:
            measurements: by the variant's id.
            device: where.

        Returns:
            The new bundle, open. This object is closed.

        Raises:
            BundleError: as :meth:`with_variant`.
        """
        from mmedge.bundle.device_cache import measured_variant

        variants = tuple(
            measured_variant(variant, measurements.get(variant.id), device.cores)
            for variant in self.manifest.variants
        )
        return self._rewrite(replace(self.manifest, variants=variants), {}, ())

    def keep_measurements(self, measurements: Mapping[str, Measurement], device: Device) -> Path:
        """Keep what was measured on a device in its cache folder beside this bundle.

        :meth:`select` goes by it on that device, before what the manifest says.

        Returns:
            The folder (:func:`mmedge.bundle.device_cache.cache_folder`).

        Raises:
            BundleError: the disk refused.
        """
        from mmedge.bundle.device_cache import write_measurements

        folder = write_measurements(self.path, self.digest, device, measurements)
        self._measured.clear()
        return folder

    def keep_engines(
        self, built: Sequence[tuple[Variant, Mapping[str, bytes | Path]]], device: Device
    ) -> Path:
        """Keep engines that were built on a device in its cache folder beside this bundle.

        :meth:`select` counts them in on that device.

        Args:
            built: variants, and their files by path in the bundle.
            device: where.

        Returns:
            The folder.

        Raises:
            BundleError: the disk refused.
        """
        from mmedge.bundle.device_engines import write_engines

        before = self._read_engines(device)
        folder = write_engines(self.path, self.digest, device, built, before)
        self._engines.clear()
        return folder

    def on(self, device: Device) -> Manifest:
        """The manifest with what a device found out: engines it built, and what it measured."""
        if not caches(self.path).is_dir():  # most loads: nothing more is imported or read
            return self.manifest
        from mmedge.bundle.device_cache import cache_folder, measured_variant, read_measurements

        key = cache_folder(self.path, "", device).name
        if key not in self._measured:
            self._measured[key] = read_measurements(self.path, self.digest, device)
        engines, measurements = self._read_engines(device), self._measured[key]
        manifest = self.manifest if engines is None else engines.manifest
        if not measurements:
            return manifest
        variants = tuple(
            measured_variant(variant, measurements.get(variant.id), device.cores)
            for variant in manifest.variants
        )
        return replace(manifest, variants=variants)

    def _read_engines(self, device: Device) -> DeviceEngines | None:
        from mmedge.bundle.device_cache import cache_folder
        from mmedge.bundle.device_engines import read_engines

        key = cache_folder(self.path, "", device).name
        if key not in self._engines:
            signed = self.signature is not None
            self._engines[key] = read_engines(
                self.path, self.digest, self.manifest, device, signed=signed
            )
        return self._engines[key]

    def _envelope(self) -> bytes | None:
        return None if self.signature is None else bytes(self._archive.read(SIGNATURE))

    def _archives(self) -> Iterator[Archive]:
        """Where files lie: in the bundle, and in the folders of devices that were asked for."""
        yield self._archive
        yield from (engines.archive for engines in self._engines.values() if engines is not None)

    def _holder(self, name: str) -> Archive:
        for archive in self._archives():
            if name in archive.sizes:
                return archive
        raise BundleError(f"{self.path}: no file {name!r} in this bundle")

    def with_metrics(self, metrics: Mapping[str, Mapping[str, float | None]]) -> Bundle:
        """Rewrite this bundle in its place and form with metrics of its variants set.

        Args:
            metrics: by the variant's id, those to set, or to remove where None; its others stay.
                This object is closed.

        Returns:
            The new bundle, open.

        Raises:
            BundleError: as :meth:`with_variant`, or there is no such variant.
        """
        from mmedge.bundle.variants import set_metrics

        return self._rewrite(set_metrics(self.manifest, metrics, source=self.path), {}, ())

    def _rewrite(
        self, manifest: Manifest, files: Mapping[str, bytes | Path], dropped_names: Collection[str]
    ) -> Bundle:
        """The bundle written anew: another manifest, ``files`` added, ``dropped_names`` gone.

        A signature does not hold for another manifest: it goes, with a UserWarning.
        """
        from mmedge.bundle.write import write_bundle

        sources: dict[str, Source] = {
            name: self.read(name) for name in self.manifest.files if name not in dropped_names
        }
        contents = write_bundle(
            self.path,
            manifest,
            {**sources, **files},
            zipped=self._archive.zipped,
            overwrite=True,
            before_move=self._archive.check_unchanged,
            signature=self._envelope(),
        )
        self.close()
        return type(self)(contents)

    def select(
        self,
        device: Device,
        *,
        variant: str | None = None,
        backend: str = "auto",
        precision: str | None = None,
        target: str | None = None,
    ) -> tuple[Variant, tuple[Decision, ...]]:
        """The variant to run on ``device``, and a decision with its reason on every variant.

        Among the variants that can run there, an engine built for the device's GPU comes before
        a graph on that GPU, and both before the CPU; then the lower ``metrics["latency_ms"]``,
        measured before not measured; then fp32; then the manifest's order. What was measured on
        the device itself (:meth:`keep_measurements`) counts before what the manifest says.

        Args:
            device: from :func:`mmedge.backends.registry.probe`.
            variant: allow the one of this id only.
            backend: allow this backend only; ``auto`` allows all.
            precision: allow this precision only.
            target: take the device as one that offers this target alone. What it measured and built
                counts all the same.

        Raises:
            InputError: there is no variant of that id, or the device does not offer the target.
            NoVariantError: none can run; its ``decisions`` say why.
        """
        restricted = restrict(device, target)
        ids = [entry.id for entry in self.manifest.variants]
        if variant is not None and variant not in ids:
            raise InputError(
                f"{self.path}: no variant {variant!r}; this bundle has {', '.join(ids)}"
            )
        best, decisions = choose(
            self.on(device), restricted, variant=variant, backend=backend, precision=precision
        )
        if best is None:
            reasons = "; ".join(f"{d.variant}: {d.reason}" for d in decisions)
            raise NoVariantError(
                f"{self.path}: no variant can run on {device.name}: {reasons}", decisions
            )
        return best, decisions

    def decisions(
        self, device: Device, *, backend: str = "auto", precision: str | None = None
    ) -> tuple[Decision, ...]:
        """The decisions of :meth:`select`, also where no variant can run."""
        return choose(self.on(device), device, backend=backend, precision=precision)[1]

    def samples(self) -> tuple[Sample, ...]:
        """The golden samples: all inputs and every stage's outputs.

        Raises:
            BundleError: the samples file is not what the manifest declares.
        """
        return self._read_samples().golden

    def absent_tokens(self) -> dict[str, Array]:
        """The stand-in of each input whose modality may be absent with ``token``, by input name.

        Raises:
            BundleError: as :meth:`samples`.
        """
        return dict(self._read_samples().absent)

    def first_states(self) -> dict[str, Array]:
        """What each state that begins as ``stored`` begins with, by its input.

        Raises:
            BundleError: as :meth:`samples`.
        """
        return dict(self._read_samples().states)

    def unconditional(self) -> dict[str, Array]:
        """What stands for outputs of the network in a loop's run without condition, by name.

        Raises:
            BundleError: as :meth:`samples`.
        """
        return dict(self._read_samples().unconditional)

    def _read_samples(self) -> Samples:
        from mmedge.bundle.samples import Samples, samples_from_bytes

        if SAMPLES not in self.manifest.files:
            return Samples()
        if self._samples is None:
            source = f"{self.path}: {SAMPLES}"
            self._samples = samples_from_bytes(
                bytes(self.read(SAMPLES)), self.manifest, source=source
            )
        return self._samples

    def labels(self, output: str) -> list[str]:
        """Class names of an output in order of their index; empty when it has none.

        Raises:
            BundleError: no such output, or its labels file is not a JSON list of strings.
        """
        if output not in self.manifest.outputs:
            names = ", ".join(self.manifest.outputs)
            raise BundleError(f"{self.path}: no output {output!r}; this bundle has {names}")
        name = self.manifest.labels.get(output)
        if name is None:
            return []
        return labels_from_json(bytes(self.read(name)), source=f"{self.path}: {name}")

    def read(self, name: str) -> memoryview:
        """A file's bytes, mapped from the directory's file or the zip: read-only, not copied.

        Raises:
            BundleError: no such file, or it changed since the bundle was opened.
        """
        return self._holder(name).read(name)

    def file(self, name: str) -> Path:
        """A path for libraries that open files by themselves; a graph's weights lie beside it.

        From a directory it is the file itself, checked to be the one that was digested. From a zip
        the file and its weights are copied, once, to a private temporary directory that
        :meth:`release` and :meth:`close` remove: ONNX Runtime maps weights from a path without
        copying them, whereas from memory it copies them, takes only those of the outermost graph,
        and needs version 1.24.

        Raises:
            BundleError: as :meth:`read`, or the copy does not fit on the disk.
        """
        archive = self._holder(name)
        archive.place(sorted(self._with_weights([name])))
        return archive.folder() / name

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest in lower-case hex, which stands for the whole bundle."""
        return hashlib.sha256(self._archive.read(MANIFEST)).hexdigest()

    def check_unchanged(self) -> None:
        """Make sure that what lies at :attr:`path` is still what was opened.

        A backend opens files by their paths a moment after :meth:`file` has checked them.

        Raises:
            BundleError: it was changed, replaced or removed since.
        """
        for archive in self._archives():
            archive.check_unchanged()

    def release(self) -> None:
        """Forget the files that :meth:`file` placed: a backend that loaded them needs them no more.

        From a zip their copies are removed, so that a process that is killed later leaves none
        behind; on Linux what is mapped of them stays readable. :meth:`file` places them again. From
        a directory nothing is removed. May be called twice.
        """
        for archive in self._archives():
            archive.release()

    def weights(self, graph: str) -> tuple[str, ...]:
        """Paths in the bundle of the weight files that one of its graphs uses.

        Raises:
            BundleError: no such file.
        """
        self._holder(graph)
        return self._graphs.get(graph, GraphFile()).weights

    def size(self, variant: Variant) -> int:
        """Bytes that a variant needs of this bundle: its files, and what its graphs use of weights.

        Weights that several graphs or variants share count once for each variant. So the sizes of
        variants add up to more than the bundle's, and one of a variant does not depend on others.

        Raises:
            BundleError: a file of it is not in this bundle.
        """
        names = set(variant.files.values())
        spans = {span for name in names for span in self._graphs.get(name, GraphFile()).spans}
        total, reached = 0, ("", 0)
        for file, begin, end in sorted(spans):
            new_begin = max(begin, reached[1]) if file == reached[0] else begin
            if end > new_begin:
                total += end - new_begin
                reached = file, end
        return total + sum(self._holder(name).sizes[name] for name in names)

    def functions(self, graph: str) -> Mapping[str, int]:
        """How often one of its graphs calls each function of mmedge's own domain.

        Raises:
            BundleError: no such file.
        """
        self._holder(graph)
        return self._graphs.get(graph, GraphFile()).functions

    def _with_weights(self, names: Collection[str]) -> set[str]:
        """Files by their names, and those of the weights that graphs among them use."""
        return {*names, *(w for name in names for w in self._graphs.get(name, GraphFile()).weights)}

    def verify(self) -> None:
        """Check all that can be checked without running a network.

        Digests every file again, and reads the samples, the absent tokens and all labels.

        Raises:
            BundleError: something is not as the manifest declares.
        """
        DigestCheck(self._archive, self.manifest).finish()
        self._samples = None
        self._read_samples()
        for output in self.manifest.outputs:
            self.labels(output)

    def close(self) -> None:
        """Remove temporary files. May be called twice; views that were handed out stay valid."""
        for archive in self._archives():
            archive.close()

    def __repr__(self) -> str:
        return f"<Bundle {self.manifest.name!r} at {self.path}>"


def _check_own(path: Path, files: Collection[str]) -> None:
    for name in (MANIFEST, DIGEST, SAMPLES, SIGNATURE):
        if name in files:
            raise BundleError(f"{path}: {name} is written by mmedge; leave it out of files")
