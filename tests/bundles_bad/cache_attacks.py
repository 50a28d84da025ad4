"""Attacks by way of a variant's cache in place.

Each begins with a manifest that is good: the tiny network with a loop whose state grows along the
length of keys, and two variants of one backend, precision and target that differ in their cache.
"""

from __future__ import annotations

from bundles_bad.attack import Attack, on_manifest
from bundles_bad.loop_attacks import denoises, generates


def caches(manifest):
    """A step with a state [batch, heads, length, size], and a second variant that holds it."""
    generates(manifest)
    step = manifest["stages"][1]
    step["inputs"][3]["shape"] = ["batch", 2, "past", 8]
    step["outputs"][1]["shape"] = ["batch", 2, "total", 8]
    manifest["states"][0]["axis"] = 2
    first = manifest["variants"][0]
    files = dict(first["files"])
    manifest["variants"].append({**first, "files": files, "cache": "in_place"})


def _on(change, prepare=caches):
    def both(manifest):
        prepare(manifest)
        change(manifest)

    return on_manifest(both)


def _cache_is(value):
    return _on(lambda m: m["variants"][-1].update(cache=value))


def _reshape(shape, new_shape, axis):
    def change(manifest):
        manifest["stages"][1]["inputs"][3]["shape"] = shape
        manifest["stages"][1]["outputs"][1]["shape"] = new_shape
        manifest["states"][0]["axis"] = axis
        if axis is None:
            manifest["states"][0]["initial"] = "zeros"

    return _on(change)


def _in_place(manifest):
    manifest["variants"][0]["cache"] = "in_place"


AT = r"\$\.variants\[1\]\.cache: expected "
STATES = AT + r"growing, or states \[batch, heads, length, size\] of floats, got in_place with past"

ATTACKS = [
    Attack("a cache of an unknown form", AT + "one of growing, in_place", _cache_is("static")),
    Attack("a cache of no form", AT + "one of growing, in_place, got null", _cache_is(None)),
    Attack("a cache with fields", AT + "one of growing, in_place", _cache_is({"form": "in_place"})),
    Attack(
        "two variants with one cache",
        r"\$\.variants\[1\]: expected a name used once, got duplicate 'ort-fp32-cpu'",
        _cache_is("growing"),
    ),
    Attack(
        "a cache in place without a loop",
        r"\$\.variants\[0\]\.cache: expected growing, since there is no loop",
        on_manifest(_in_place),
    ),
    Attack(
        "a cache in place for a latent",
        r"\$\.variants\[0\]\.cache: expected growing, since no loop generates tokens",
        _on(_in_place, denoises),
    ),
    Attack(
        "a cache in place of what does not grow",
        AT + "growing, since no state of 'step' grows",
        _reshape(["batch", 2, 4, 8], ["batch", 2, 4, 8], None),
    ),
    Attack("a cache in place of rank 3", STATES, _reshape(*[["batch", "past", 8]] * 2, 1)),
    Attack(
        "a cache in place along another axis",
        STATES,
        _reshape(["batch", "past", 2, 8], ["batch", "total", 2, 8], 1),
    ),
    Attack(
        "a cache in place of heads without a number",
        STATES,
        _reshape(["batch", "new", "past", 8], ["batch", "new", "total", 8], 2),
    ),
    Attack(
        "a cache in place of whole numbers",
        STATES,
        _on(
            lambda m: (
                m["stages"][1]["inputs"][3].update(dtype="int64"),
                m["stages"][1]["outputs"][1].update(dtype="int64"),
            )
        ),
    ),
    Attack(
        "a stage that takes the last place itself",
        AT + r"growing, or no input 'cache\.last' of the stage",
        _on(
            lambda m: (
                m["stages"][1]["inputs"][2].update(name="cache.last"),
                m["loops"][0].update(position="cache.last"),
            )
        ),
    ),
    Attack(
        "a stage that takes the total itself",
        AT + r"growing, or no input 'cache\.total' of the stage",
        _on(
            lambda m: (
                m["stages"][1]["inputs"][2].update(name="cache.total"),
                m["loops"][0].update(position="cache.total"),
            )
        ),
    ),
    Attack(
        "a cache in place without a file for the loop",
        r"\$\.variants\[1\]\.files: expected a file for each stage of the loop",
        _on(lambda m: m["variants"][1]["files"].pop("step")),
    ),
]
