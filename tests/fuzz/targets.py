"""What is held against damaged files: refused with a MoegrowError, or right."""

import json
import shutil
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors

from moegrow.checkpoint.checkpoint import Checkpoint, open_checkpoint
from moegrow.checkpoint.header import read_header
from moegrow.checkpoint.store import CONFIG, INDEX
from moegrow.errors import MoegrowError
from moegrow.families.layout import Layout
from moegrow.families.read_layout import read_layout
from moegrow.files import json_edit
from moegrow.planning import build, grow, model_size, plan_file, plan_lines
from moegrow.planning.check import check_plan
from moegrow.planning.open_source import Opened, load
from moegrow.planning.plan import Plan
from moegrow.write.verify_result import verify
from moegrow.write.write_checkpoint import apply

LARGEST_RESULT = 4 << 20  # bytes that are written and verified for one case

GROWTHS: list[tuple[str, dict[str, Any]]] = [
    ("depth", {}),
    ("depth", {"mode": "stack"}),
    ("depth", {"mode": "expand", "every": 1}),
    ("depth", {"layers": "1,0"}),
    ("width", {}),
    ("width", {"experts": "3x", "noise": 0.0, "order": "interleave"}),
    ("width", {"top_k": "keep", "preset": "upcycling"}),
]


def header(content: bytes, folder: Path) -> bool:
    """Read the header of a file with this content; what is read must be what it says."""
    path = folder / "model.safetensors"
    path.write_bytes(content)
    try:
        found = read_header(path)
    except MoegrowError:
        return False
    assert found.size == len(content)
    ends = sorted((spec.start, spec.stop) for spec in found.tensors)
    assert all(found.begin <= start <= stop <= found.size for start, stop in ends)
    if all(isinstance(value, str) for value in found.metadata.values()):
        # The library of the format must read all that is read here.
        told = dict(safetensors.deserialize(content))
        assert told.keys() == {spec.name for spec in found.tensors}
    return True


def index(text: str, folder: Path) -> bool:
    """Open a checkpoint whose index has this text."""
    (folder / INDEX).write_bytes(text.encode("utf-8", "replace"))
    try:
        read_layout(open_checkpoint(folder))
    except MoegrowError:
        return False
    return True


def config(text: str, source: Checkpoint) -> bool:
    """Grow a checkpoint whose config has this text, in two ways."""
    try:
        table = json_edit.loads(text, CONFIG, infinities=True, is_shallow=True)
        layout = read_layout(replace(source, config=table, config_text=text))
    except MoegrowError:
        return False
    return grown(layout, "")


def family(text: str, source: Checkpoint) -> bool:
    """Read and grow a checkpoint by a family file of this text."""
    try:
        layout = read_layout(source, family_text=text)
    except MoegrowError:
        return False
    return grown(layout, text)


def grown(layout: Layout, family_text: str) -> bool:
    """Plan growth in depth and in width; a plan must pass the check and be what its lines say."""
    was_planned = False
    try:
        start = Opened(build.start(layout, family_text), layout)
    except MoegrowError:
        return False
    model_size.inspection(*start)
    # Two of the ways, for each text always the same.
    first = zlib.crc32(layout.checkpoint.config_text.encode() + family_text.encode())
    for verb, settings in (GROWTHS[first % 4], GROWTHS[4 + first // 4 % 3]):
        with suppress(MoegrowError):
            plan: Plan = getattr(grow, verb)(start, **settings)
            check_plan(plan, layout.checkpoint)
            model_size.inspection(plan, layout)
            json.loads(plan.config)
            lines = [line.encode().decode() for line in plan_lines.to_lines(plan)]
            assert plan_file.take_lines(lines).spell(plan.outputs)
            was_planned = True
    return was_planned


def plan(text: str, folder: Path) -> bool:
    """Load, grow and write a plan of this text; what was written must verify."""
    target = folder / "grown"
    shutil.rmtree(target, ignore_errors=True)
    try:
        opened = load(plan_file.take_lines(text.split("\n")))
        model_size.inspection(*opened)
        check_plan(*(opened.plan, opened.layout.checkpoint))
        with suppress(MoegrowError):
            grow.width(opened.plan)
        if opened.plan.nbytes > LARGEST_RESULT:
            return False
        apply(opened.plan, target, threads=1)
    except MoegrowError:
        assert not target.exists()
        assert not target.with_name("grown.partial").exists()
        return False
    found = verify(target, threads=1)
    assert found.ok, found.problems
    shutil.rmtree(target)
    return True
