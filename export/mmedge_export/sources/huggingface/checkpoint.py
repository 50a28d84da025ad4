"""A checkpoint as transformers saves it: network, configuration, processor, generation settings.

Nothing in it is executed, unless the caller trusts its code: weights are safetensors alone.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from mmedge.errors import ExportError
from mmedge_export.install import remedy
from mmedge_export.noise import quiet

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Checkpoint", "leave_out_noise", "read_checkpoint"]

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
#: Files whose presence says that there is a tokenizer or a processor to be read.
_PROCESSOR_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)


@dataclass(frozen=True)
class _Parts:
    """What a folder has of a processor that is not there as a whole."""

    tokenizer: Any = None
    image_processor: Any = None
    feature_extractor: Any = None


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds.

    Attributes:
        folder: where it lies.
        network: of transformers, in evaluation mode, float32.
        processor: of transformers (a processor, tokenizer, image processor or feature extractor);
            None where the folder has none.
        remarks: what a user should know of how it was read.
        frame: height and width of the user's pictures, which the graph is to resize as the
            processor does; None: it takes pictures of the size that the processor makes.
    """

    folder: Path
    network: Any
    processor: Any = None
    remarks: list[str] = field(default_factory=list)
    frame: tuple[int, int] | None = None

    @property
    def config(self) -> Any:  # noqa: ANN401 - transformers is not imported here
        """The network's configuration."""
        return self.network.config

    def part(self, name: str) -> Any:  # noqa: ANN401
        """A part of the processor (``tokenizer``, ``image_processor``, ``feature_extractor``)."""
        processor = self.processor
        if processor is None:
            return None
        if (part := getattr(processor, name, None)) is not None:
            return part
        if isinstance(processor, _Parts):
            return None
        kinds = {
            "tokenizer": "convert_ids_to_tokens",
            "image_processor": "rescale",
            "feature_extractor": "sampling_rate",
        }
        return processor if hasattr(processor, kinds[name]) else None


def read_checkpoint(folder: Path, *, trust_remote_code: bool = False) -> Checkpoint:
    """Read a folder that ``save_pretrained`` wrote.

    Args:
        folder: with config.json and safetensors.
        trust_remote_code: run Python files of the checkpoint.

    Raises:
        ExportError: something is missing, not safe, or not for this version of transformers.
    """
    config = _read_config(folder)
    remarks: list[str] = []
    kind = _find_class(folder, config, remarks, trust_remote_code=trust_remote_code)
    _refuse_parts(kind)
    _refuse_pickle(folder, kind.__name__)
    with quiet():
        try:
            network, loading = kind.from_pretrained(
                folder,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
            )
        except Exception as error:  # whatever a foreign class raises
            raise ExportError(
                f"{folder}: {kind.__name__} cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        processor = _read_processor(folder, remarks, trust_remote_code=trust_remote_code)
    _choose_experts(network, remarks)
    leave_out_noise(network, remarks)
    if missing := sorted(loading["missing_keys"]):
        raise ExportError(
            f"{folder}: {len(missing)} weights of {kind.__name__} are not in the checkpoint, such "
            f"as {missing[0]!r}: they would be random; save the trained network of that class, or "
            "name the class whose weights these are in config.json (architectures)"
        )
    if unused := sorted(loading["unexpected_keys"]):
        remarks.append(f"{len(unused)} tensors of the file are not used, such as {unused[0]!r}")
    saved = str(config.get("dtype") or config.get("torch_dtype") or "float32").split(".")[-1]
    if saved != "float32":
        remarks.append(f"weights were saved as {saved} and are exported as float32")
    return Checkpoint(folder, network.eval(), processor, remarks)


def leave_out_noise(network: Any, remarks: list[str]) -> None:  # noqa: ANN401
    """Let a network add no noise to features of a sensor, where it can be told so.

    Args:
        network: of transformers.
        remarks: what a user should know of it.
    """
    for part in network.modules():
        for name in (f"get_{modality}_features" for modality in ("image", "video", "audio")):
            function = getattr(part, name, None)
            if function is None:
                continue
            sample = inspect.signature(function).parameters.get("sample")
            if sample is not None and sample.default is True:
                setattr(part, name, _without_noise(function))
                remarks.append(f"{name} adds no noise (sample=False), as it does by default")


def _without_noise(function: Any) -> Any:  # noqa: ANN401
    @functools.wraps(function)
    def features(*args: Any, **options: Any) -> Any:  # noqa: ANN401
        # A network's forward says what it was told by itself, which is the default.
        return function(*args, **{**options, "sample": False})

    return features


def _choose_experts(network: Any, remarks: list[str]) -> None:  # noqa: ANN401
    """Let a mixture of experts multiply by tokens: to sort tokens by expert depends on values."""
    if not hasattr(network, "set_experts_implementation"):
        return
    before = network.get_experts_implementation()
    network.set_experts_implementation("batched_mm")
    with quiet():
        for part in network.modules():
            _multiply_by_tokens(part)
    weights = (getattr(part, "down_proj", None) for part in network.modules())
    if any(isinstance(value, torch.Tensor) and value.ndim == 3 for value in weights):
        remarks.append(
            "experts: each token takes copies of the weights of its experts, so memory grows with "
            f"the tokens of a prompt (transformers: {before[''] or 'eager'}, here batched_mm)"
        )


@torch.no_grad()
def _multiply_by_tokens(part: Any) -> None:  # noqa: ANN401
    """Let a mixture of experts that knows one way alone, going through experts, know the other.

    It is tried on made-up tokens: what gives something else stays as it is.
    """
    weights = [getattr(part, name, None) for name in ("gate_up_proj", "down_proj")]
    narrow = weights[-1]
    if not all(isinstance(w, torch.Tensor) and w.ndim == 3 for w in weights) or narrow is None:
        return
    if hasattr(part, "has_gate") or not hasattr(part, "_apply_gate"):
        return
    from transformers.integrations.moe import batched_mm_experts_forward

    rng = torch.Generator().manual_seed(0)
    tokens = torch.randn((3, narrow.shape[1]), generator=rng)
    experts = torch.arange(6).reshape(3, 2) % len(narrow)
    values = (tokens, experts, torch.rand((3, 2), generator=rng))
    try:
        expected = part(*values)
        settings = {"has_gate": True, "has_bias": False, "is_transposed": False}
        for name in ("has_post_expert_norm", "_is_expert_parallel"):
            settings[name] = False
        for name, value in settings.items():
            setattr(part, name, value)
        result = batched_mm_experts_forward(part, *values)
    except Exception:  # noqa: BLE001 - whatever a foreign class raises: it is another kind
        return
    if torch.allclose(result, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())):
        part.forward = functools.partial(batched_mm_experts_forward, part)


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not folder.is_dir():
        raise ExportError(f"no folder at {folder}; expected one that save_pretrained wrote")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{file} cannot be read: {error}; expected a folder that save_pretrained wrote"
        ) from error
    if not isinstance(config, dict):
        raise ExportError(f"{file}: expected an object, got {type(config).__name__}")
    return config


def _find_class(
    folder: Path, config: dict[str, Any], remarks: list[str], *, trust_remote_code: bool
) -> Any:  # noqa: ANN401
    """The class of transformers that the checkpoint names."""
    transformers = _transformers()
    names = config.get("architectures") or []
    if len(names) != 1 or not isinstance(names[0], str):
        raise ExportError(
            f"{folder / 'config.json'}: architectures is {names!r}; expected one class of "
            'transformers, such as ["BertForSequenceClassification"]; save_pretrained writes it'
        )
    name = names[0]
    if name.isidentifier() and (kind := _attribute(transformers, name)) is not None:
        if config.get("auto_map"):
            remarks.append(f"the checkpoint's own code was not run: transformers has {name}")
        return kind
    auto = config.get("auto_map") or {}
    if not auto:
        raise ExportError(
            f"{folder}: transformers {transformers.__version__} has no class {name!r}; install "
            "the version that the checkpoint was saved with, or write a factory: mmedge init"
        )
    if not trust_remote_code:
        raise ExportError(
            f"{folder}: the class {name!r} is Python code of the checkpoint (auto_map), which is "
            "not run: it can do anything that you can do. Read it, and if you trust whoever wrote "
            "it, say --trust-remote-code"
        )
    entry = next((key for key, value in auto.items() if str(value).endswith(f".{name}")), None)
    if entry is None:
        raise ExportError(f"{folder}: auto_map names no class {name!r}; it has {auto}")
    remarks.append(f"code of the checkpoint was run: {auto[entry]}")
    return getattr(transformers, entry)


def _attribute(transformers: Any, name: str) -> Any:  # noqa: ANN401
    try:
        return getattr(transformers, name, None)
    except ImportError as error:  # transformers imports by need
        cause = error.__cause__ or error
        raise ExportError(
            f"transformers cannot import {name}: {cause}; mend that installation (a torchvision "
            "that was built for another torch is the usual cause: install the build for "
            f"torch {torch.__version__}, or none)"
        ) from error


def _transformers() -> Any:  # noqa: ANN401
    try:
        import transformers
    except ImportError as error:
        raise ExportError(f"hf: needs transformers: {remedy(error)}") from error
    return transformers


def _refuse_parts(kind: Any) -> None:  # noqa: ANN401
    """Refuse a class that has no forward: it is no one network."""
    if getattr(kind, "forward", None) is not torch.nn.Module.forward:
        return
    parts = [name.removesuffix("_config") for name in getattr(kind.config_class, "sub_configs", ())]
    raise ExportError(
        f"{kind.__name__} has no forward, only a generate() that runs its parts one after another"
        + (f": {', '.join(parts)}" if parts else "")
        + "; load it with transformers, save the part that you need, such as "
        f"network.{(*parts, 'part')[0]}.save_pretrained(FOLDER), and export that folder, or write "
        "a factory with mmedge init"
    )


def _refuse_pickle(folder: Path, name: str) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = [file.name for pattern in _PICKLES for file in folder.glob(pattern)]
    if not pickles:
        raise ExportError(f"{folder} has no weights; expected model.safetensors")
    raise ExportError(
        f"{folder} has its weights as a pickle ({min(pickles)}), which can run any code when it is "
        "read. Convert it once, where you trust it:\n"
        f'  python -c "from transformers import {name} as C; '
        f"C.from_pretrained({str(folder)!r}, use_safetensors=False)"
        f'.save_pretrained({str(folder)!r})"'
    )


def _read_processor(folder: Path, remarks: list[str], *, trust_remote_code: bool) -> Any:  # noqa: ANN401
    """The processor, or those of its parts that the folder has."""
    if not any((folder / name).is_file() for name in _PROCESSOR_FILES):
        remarks.append("the folder has no processor: shapes follow from config.json alone")
        return None
    import transformers

    options = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        return transformers.AutoProcessor.from_pretrained(folder, **options)
    except Exception as error:  # noqa: BLE001 - whatever a foreign class raises
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    parts: dict[str, Any] = {}
    for name, kind in (
        ("tokenizer", "AutoTokenizer"),
        ("image_processor", "AutoImageProcessor"),
        ("feature_extractor", "AutoFeatureExtractor"),
    ):
        # What a folder lacks cannot be read, and is no fault of it.
        with contextlib.suppress(Exception):
            parts[name] = getattr(transformers, kind).from_pretrained(folder, **options)
    if not parts:
        remarks.append(
            f"the processor could not be read, so preprocessing and text stay outside: {reason}"
        )
        return None
    return _Parts(**parts)
