"""Every hostile bundle of tests/bundles_bad is refused, and the error says why."""

from __future__ import annotations

import json

import pytest
from bundles_bad import (
    cache_attacks,
    file_attacks,
    graph_attacks,
    loop_attacks,
    manifest_attacks,
    zip_attacks,
)
from bundles_bad.zip_attacks import entries_of, pack

from mmedge.bundle import Bundle
from mmedge.errors import BundleError
from mmedge.schema import manifest_from_json, manifest_to_json

ATTACKS = [
    *manifest_attacks.ATTACKS,
    *loop_attacks.ATTACKS,
    *cache_attacks.ATTACKS,
    *file_attacks.ATTACKS,
    *graph_attacks.ATTACKS,
    *zip_attacks.ATTACKS,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_refused(attack, tiny_bundle, tmp_path):
    path = attack.make(tiny_bundle, tmp_path)
    if attack.late:
        with Bundle.open(path) as bundle, pytest.raises(BundleError, match=attack.words) as caught:
            bundle.verify()
    else:
        with pytest.raises(BundleError, match=attack.words) as caught:
            Bundle.open(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000 + len(str(path))


def test_what_attacks_on_caches_begin_with_is_good(tiny_bundle):
    tree = json.loads((tiny_bundle / "manifest.json").read_text())
    cache_attacks.caches(tree)
    manifest = manifest_from_json(json.dumps(tree))
    first, second = manifest.variants
    assert (first.cache, second.cache) == ("growing", "in_place")
    assert second.id == f"{first.id}-in_place"
    assert manifest_from_json(manifest_to_json(manifest)) == manifest


@pytest.mark.parametrize("kind", loop_attacks.GOOD)
def test_what_attacks_on_loops_begin_with_is_good(kind, tiny_bundle):
    # Or they might be refused for faults of their beginning.
    tree = json.loads((tiny_bundle / "manifest.json").read_text())
    loop_attacks.GOOD[kind](tree)
    manifest = manifest_from_json(json.dumps(tree))
    assert manifest.loop.kind == kind
    assert manifest_from_json(manifest_to_json(manifest)) == manifest


def test_a_loop_of_an_older_version_takes_no_whole_prompts(tiny_bundle):
    """A reader of that version would cut a prompt into pieces that do not see each other."""
    tree = json.loads((tiny_bundle / "manifest.json").read_text())
    loop_attacks.GOOD["generate"](tree)
    expected = manifest_from_json(json.dumps(tree))
    tree["schema_version"] = 5
    with pytest.raises(BundleError, match="no field 'whole_prompt' in version 5"):
        manifest_from_json(json.dumps(tree))
    del tree["loops"][0]["whole_prompt"]
    assert manifest_from_json(json.dumps(tree)) == expected


def test_names_are_unique():
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names)


def test_the_attackers_zip_writer_writes_good_zips_too(tiny_bundle, tmp_path):
    # Or the attacks might be refused for faults of their tool.
    path = tmp_path / "good.mmedge"
    path.write_bytes(pack(entries_of(tiny_bundle)))
    with Bundle.open(path) as bundle:
        bundle.verify()
