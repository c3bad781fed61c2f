"""The layouts of the Hub, where they differ from both that transformers writes.

What a case publishes is first loaded by transformers, so that the layout is one that it reads.
"""

import json
from pathlib import Path

import pytest
import tiny
from interposed import interpose, layers
from published import LAYOUTS, merge, publish
from test_families import NOT_PLAIN, TOLERANCE


def grown_config(folder: Path):
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


@pytest.fixture
def source(checkpoint, layout, tmp_path):
    """The published checkpoint, which transformers reads as it reads the saved one."""
    saved = checkpoint(layout.family, **layout.settings)
    source = publish(saved, layout, tmp_path / "published")
    assert tiny.distance(tiny.logits(saved), tiny.logits(source)) < 1e-6
    return source


def test_depth_in_a_published_layout(layout, source, run, tmp_path):
    plain = layout.family not in NOT_PLAIN
    run("depth", *([] if plain else ["--new-layers", "identity"]), source, "-o", "grown")
    model = tiny.load(source)
    if plain:
        count = len(layers(model))
        model = interpose(model, tuple(layer for layer in range(count) for _ in range(2)))
    assert tiny.distance(tiny.logits(model), tiny.logits(tmp_path / "grown")) < 1e-5
    assert grown_config(tmp_path / "grown") == merge(grown_config(source), layout.deeper)


def test_width_in_a_published_layout(layout, source, run, tmp_path):
    run("width", "--noise", "0", source, "-o", "grown")
    tolerance = TOLERANCE.get(layout.family, 1e-4)
    assert tiny.distance(tiny.logits(source), tiny.logits(tmp_path / "grown")) < tolerance
    assert grown_config(tmp_path / "grown") == merge(grown_config(source), layout.wider)
