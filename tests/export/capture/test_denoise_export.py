"""Networks that denoise: what is exported makes the latents that torch makes."""

from __future__ import annotations

from dataclasses import replace

import loop_networks as networks
import numpy as np
import onnxruntime as ort
import pytest
import torch
from shared import once

from mmedge.bundle import Bundle
from mmedge.errors import ExportError
from mmedge_export import Denoise, export
from mmedge_export.schedules import ddim, flow_euler


def exported(name: str, tmp_path_factory) -> Bundle:
    def make(folder):
        export(getattr(networks, name)(), folder / "net").close()

    return Bundle.open(once(tmp_path_factory, f"denoise-{name}", make) / "net")


def follow(model, inputs: dict, noise: np.ndarray, *, guided: bool) -> list[np.ndarray]:
    """Latents of all steps, computed in torch from the model's own parts."""
    encoder, loop = model.module, model.loop
    with torch.no_grad():
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}
        constants = dict(zip(model.outputs, encoder(**tensors), strict=True))
        plain = dict(constants)
        if guided:
            empty = torch.from_numpy(np.tile(loop.unconditional["ids"], (len(noise), 1)))
            plain |= dict(zip(model.outputs, encoder(**{**tensors, "ids": empty}), strict=True))
        x, latents = torch.from_numpy(noise.copy()), []
        for time, a, p, q, r, s, u, _, _ in loop.schedule.rows:
            kind = torch.int64 if loop.time_dtype == "int64" else torch.float32
            shape = [len(noise)] if loop.time_shape else []
            at = torch.full(shape, time, dtype=kind)
            m = loop.step(latent=a * x, timestep=at, **constants)["prediction"]
            if guided:
                m0 = loop.step(latent=a * x, timestep=at, **plain)["prediction"]
                m = m0 + loop.guidance * (m - m0)
            x = r * (p * x + q * m) + s * x + u * m
            latents.append(x.numpy())
    return latents


def test_guided_latents_and_pictures_are_those_of_torch(tmp_path_factory):
    model = networks.picture()
    with exported("picture", tmp_path_factory) as bundle:
        manifest, samples = bundle.manifest, bundle.samples()
        stored = bundle.unconditional()
        graphs = {
            stage.name: ort.InferenceSession(str(bundle.path / stage.graph))
            for stage in manifest.stages
        }
    assert [stage.name for stage in manifest.stages] == ["image", "ids", "step", "decoder"]
    assert manifest.loop.unconditional == ("words",)  # the image stays as it is
    assert stored["words"].shape == (1, networks.WIDTH)
    for sample in samples:
        latents = follow(model, sample.inputs, sample.loop["noise"], guided=True)
        expected = np.stack([latents[0], latents[3], latents[-1]])
        assert np.allclose(sample.loop["latents"], expected, rtol=1e-4, atol=1e-4)
        # What a golden step took beside its constants gives its golden outputs.
        tensors = {**sample.inputs, **sample.outputs, **sample.step}
        for stage in manifest.loop_stages():
            feeds = {spec.name: tensors[spec.name] for spec in stage.inputs}
            for spec, value in zip(stage.outputs, graphs[stage.name].run(None, feeds), strict=True):
                assert np.allclose(value, sample.outputs[spec.name], rtol=1e-4, atol=1e-4)


def test_actions_of_a_flow_are_those_of_torch(tmp_path_factory):
    model = networks.policy_head()
    with exported("policy_head", tmp_path_factory) as bundle:
        manifest, samples = bundle.manifest, bundle.samples()
    assert manifest.loop.guidance is None
    assert [stage.modality for stage in manifest.stages] == ["image", "joints", None]
    assert next(s for s in manifest.stages[-1].inputs if s.name == "timestep").dtype == "float32"
    for sample in samples:
        latents = follow(model, sample.inputs, sample.loop["noise"], guided=False)
        expected = np.stack([latents[0], latents[2], latents[-1]])
        assert np.allclose(sample.loop["latents"], expected, rtol=1e-4, atol=1e-5)


class OtherShape(networks.Denoiser):
    def forward(self, latent, timestep, view, words):
        return {"prediction": super().forward(latent, timestep, view, words)["prediction"][:, 1:]}


class Deaf(networks.Denoiser):
    def forward(self, latent, timestep, view, words):
        return {"prediction": super().forward(latent * 0, timestep, view, words)["prediction"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": OtherShape()}, r"'prediction' is float32 \[1, 6, 6\]; expected float32 \[1, 7"),
        ({"step": Deaf()}, "stays the same whatever 'latent' is"),
        ({"sizes": {}}, "shape names 'horizon', which nothing that the step takes has"),
        ({"dims": {"height": (1, 9)}}, "dims names 'height', but the step has no dynamic"),
        ({"unconditional": {"view": networks.floats(2, 5, 32)}}, "rows that differ; give one row"),
        ({"unconditional": {"ids": None}}, "nothing that the step takes changes with it"),
    ],
)
def test_what_is_no_step_is_refused(options, message, tmp_path):
    model = networks.picture(**options)
    if "ids" in options.get("unconditional", {}):
        loop = replace(model.loop, unconditional={"ids": model.inputs["ids"].example})
        model = replace(model, loop=loop)
    with pytest.raises(ExportError, match=message):
        export(model, tmp_path / "net")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": 2.0}, "guidance and unconditional belong together"),
        ({"clip": -1.0}, "clip is -1.0; expected a number above 0"),
        ({"clip": 1.0, "schedule": flow_euler(3)}, "no step of this schedule uses one"),
        ({"schedule": [1, 2]}, "schedule is list; expected a Schedule"),
        ({"schedule": flow_euler(3), "time_dtype": "int64"}, "times that are no whole numbers"),
        ({"time_shape": (1, 1)}, "time_shape is"),
        ({"latent": "timestep"}, "'timestep' names two tensors of the step"),
        ({"time_dtype": "float64"}, "time_dtype is 'float64'"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(options, message):
    schedule = ddim(networks.alphas_cumprod(), 3)
    with pytest.raises(ExportError, match=message):
        Denoise(networks.Denoiser(), **{"schedule": schedule, "shape": (1, 7, 6), **options})
