"""A file imports from lower floors alone, and slow modules are loaded only where they are used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import moegrow

FLOORS = [
    {"errors"},
    {
        "maps",
        "jsontext",
        "family",
        "ranges",
        "options",
        "spread",
        "realised",
        "recipe",
        "progress",
        "strangers",
        "waiting",
    },
    {"durable", "tables"},
    {"header", "places", "catalogue", "origin", "metadata", "refusals"},
    {"fingerprints", "fetch", "listing", "decoding"},
    {"hub", "stores"},
    {"checkpoint"},
    {"perlayer", "formats", "decoders"},
    {"dense"},
    {"plans", "layout"},
    {
        "indexers",
        "planfile",
        "lineage",
        "check",
        "noise",
        "card",
        "modes",
        "cookbook",
    },
    {"modulenames", "compiled", "ribbons"},
    {"quantconfig"},
    {"storage", "storedconfig", "report", "factors"},
    {"config", "serving", "layerwise"},
    {"arithmetic"},
    {"compensation", "rounding", "conversion", "exactly"},
    {"stream"},
    {"experts", "steps", "shards", "presets"},
    {"outputs", "schedule", "digests"},
    {"grow", "direct", "partial"},
    {"targets"},
    {"engine", "resume", "integrity"},
    {"space", "values", "publishing", "cuts"},
    {"verifier", "difference", "opened", "parts", "squares"},
    {"logits", "writer", "uploader"},
    {"profiles"},
    {"verbs", "plots", "drawn"},
    {"seams"},
    {"sketches", "advice", "page"},
    {"show", "explain", "documents", "model"},
    {"demo", "terminal", "interrupted"},
    {"finishing"},
    {"sharing"},
    {"growing"},
    {"looking", "picturing", "repeating", "advising", "reporting"},
    {"cli"},
]
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}

# The package itself is the public face: it names what others hold and imports nothing at first.
FACE = {"__init__", "__main__"}
FILES = {path.stem: path for path in Path(moegrow.__file__).parent.glob("*.py")}


def imports(file):
    """The moegrow files that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("moegrow"):
            if node.module == "moegrow":
                yield from (moegrow._HOMES.get(alias.name, alias.name) for alias in node.names)
            else:
                yield node.module.removeprefix("moegrow.")
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file.name} imports relatively"


def test_every_file_has_a_floor():
    assert FLOOR.keys() | FACE == FILES.keys()


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_a_file_imports_from_lower_floors_alone(name):
    lower = {other for other, floor in FLOOR.items() if floor < FLOOR[name]} | {"__version__"}
    assert set(imports(FILES[name])) <= lower


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_opens_with_one_sentence(name):
    docstring = ast.get_docstring(ast.parse(FILES[name].read_text()))
    assert docstring
    assert docstring.split("\n\n")[0].rstrip().endswith(".")


SLOW = {
    "torch", "numpy", "rich", "huggingface_hub", "transformers", "safetensors", "fsspec", "httpx2",
    "yaml",
}  # fmt: skip


def loaded_by(*arguments):
    """The top-level modules that a command has imported when it ends, and what it printed."""
    script = (
        "import sys, runpy, atexit\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.argv = ['moegrow', *{[str(argument) for argument in arguments]!r}]\n"
        "runpy.run_module('moegrow', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stderr.split()}, done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["width", "--help"]])
def test_help_loads_nothing_slow(arguments):
    loaded, printed = loaded_by(*arguments)
    assert "moegrow" in loaded
    assert "moegrow" in printed
    assert not loaded & SLOW


@pytest.mark.parametrize("verb", ["depth", "width"])
def test_planning_loads_nothing_slow(checkpoint, verb):
    loaded, printed = loaded_by(verb, checkpoint(), "--plan")
    assert printed.startswith('{"moegrow_plan"')
    assert not loaded & SLOW


def test_no_model_class_is_ever_loaded(checkpoint, tmp_path):
    loaded, _ = loaded_by("width", checkpoint(), "-o", tmp_path / "grown")
    assert "numpy" in loaded
    assert not loaded & {"transformers", "torch", "huggingface_hub", "httpx2", "safetensors"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_neither_torch_nor_the_hubs_library_is_needed_to_write(checkpoint, tmp_path, dtype):
    import torch

    source = checkpoint(dtype=getattr(torch, dtype))
    for name, arguments in {
        "deep": ["depth", source, "--new-layers", "identity"],
        "wide": ["width", source, "--noise", "0.01"],
        "sparse": ["width", source, "--preset", "upcycling"],
    }.items():
        loaded, _ = loaded_by(*arguments, "-o", tmp_path / name)
        assert (tmp_path / name / "config.json").exists()
        assert not loaded & {"transformers", "torch", "huggingface_hub", "httpx2", "safetensors"}


def test_every_public_name_is_where_the_package_says():
    assert {name for name in moegrow.__all__ if name != "__version__"} == moegrow._HOMES.keys()
    assert all(getattr(moegrow, name) for name in moegrow.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        moegrow.nothing  # noqa: B018
