"""A file imports from lower floors alone, and slow modules are loaded only where they are used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import moegrow

# From the ground up: a line is a package (or files that stand in none), and its floors by "|".
FLOORS = """
dtypes errors | maps | display
files: atomic byte_ranges linear_regex mounts worker_threads | toml_text untrusted | json_edit
checkpoint: card_metadata | checksums hub_errors | store time_limits | header http_ranges listing
    local_store unsupported | fingerprint hub object_store shard_index side_files | locate
    weight_files | checkpoint
quant: stochastic_rounding | scheme | decoding unpack | formats packing rescale | codec |
    groups plain scaled words | awq fp4 gptq packed | find_codec | detect | claims
families: schema | architecture layer_rules registry settings | dense_layers per_layer |
    name_variants | tensor_names | layout | missing_tensors moe_blocks | read_layout
recipes: recipe | cookbook
planning: plan
model_config: layer_copies | module_patterns | indexers module_names | quantization_config |
    config_json stored_dtype
planning: noise_stats | depth_modes | noise_forecast | plan_lines | header_metadata plan_file |
    addressed_layers left_behind serving unfamiliar | check model_size passes | router
    serving_layers | experts summary width_presets | outputs | build | open_source quantised_noise |
    grow notices
kernels: noise | numba_weights | numba_codes | perturb | measure_noise sum_squares | cast reader |
    changes nonfinite | tensor_bytes
write: model_card | hub_upload | direct_io | worker | shards | digests schedule | check_digests
    compare_tensors disk_space shard_files unknown_files work_dir | engine resume verify_result
    work_dir_lock | publish | parts | write_checkpoint
analysis: lineage | norm_slices | model_weights norm_sums | model_image | diff run_layerwise |
    model_inputs | logits | norm_profile | drawings inspection norm_labels report_contents seams |
    growth_targets html_report norms_plot norms_text | advice
model
cli: options | terminal | explain resume_hint | summaries | demo | report | json_output | finish
    norms | inspection share | grow | run | main
"""


def floors():
    """Each floor, the names of its files with those of their packages."""
    for line in FLOORS.replace("\n    ", " ").strip().splitlines():
        package, _, names = line.rpartition(": ")
        for floor in names.split(" | "):
            yield [f"{package}.{name}".lstrip(".") for name in floor.split()]


FLOOR = {name: number for number, floor in enumerate(floors()) for name in floor}

HOME = Path(moegrow.__file__).parent
PACKAGES = {path.parent.name for path in HOME.glob("*/__init__.py")}
FILES = {
    ".".join(path.relative_to(HOME).with_suffix("").parts): path for path in HOME.rglob("*.py")
}
# The package itself is the public face: it names what others hold and imports nothing at first.
FACES = {"__init__", "__main__"} | {f"{package}.__init__" for package in PACKAGES}


def imports(file):
    """The moegrow files that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("moegrow"):
            home = node.module.removeprefix("moegrow").removeprefix(".")
            for alias in node.names:
                if not home:
                    yield moegrow._HOMES.get(alias.name, alias.name)
                else:
                    yield f"{home}.{alias.name}" if home in PACKAGES else home
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file.name} imports relatively"


def test_every_file_has_a_floor():
    assert FLOOR.keys() | FACES == FILES.keys()


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_a_file_imports_from_lower_floors_alone(name):
    lower = {other for other, floor in FLOOR.items() if floor < FLOOR[name]} | {"__version__"}
    assert set(imports(FILES[name])) <= lower


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_is_a_sentence_and_its_files(package):
    (sentence,) = ast.parse(FILES[f"{package}.__init__"].read_text()).body
    assert isinstance(sentence, ast.Expr)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_opens_with_one_sentence(name):
    docstring = ast.get_docstring(ast.parse(FILES[name].read_text()))
    assert docstring
    assert docstring.split("\n\n")[0].rstrip().endswith(".")


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


def test_every_public_name_is_where_the_package_says():
    assert {name for name in moegrow.__all__ if name != "__version__"} == moegrow._HOMES.keys()
    assert all(getattr(moegrow, name) for name in moegrow.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        moegrow.nothing  # noqa: B018
