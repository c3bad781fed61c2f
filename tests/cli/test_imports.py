"""A command loads slow modules only where it uses them."""

import subprocess
import sys

import pytest

SLOW = {
    "torch", "numpy", "rich", "huggingface_hub", "transformers", "safetensors", "fsspec", "httpx2",
    "yaml", "re2",
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
