"""A file of the package imports from lower floors alone."""

import ast
from pathlib import Path

import pytest

import moegrow

# From the ground up: a line is a package (or files that stand in none), and its floors by "|".
FLOORS = """
errors | maps | growth display
files: atomic byte_ranges linear_regex mounts worker_threads | toml_text untrusted | json_edit
checkpoint: card_metadata | checksums hub_cache hub_errors | store time_limits | header http_ranges
    listing local_store unsupported | fingerprint hub object_store shard_index side_files | locate
    weight_files | checkpoint
quant: stochastic_rounding | scheme | decoding unpack | formats rescale scaled | packed_columns |
    dequantize detect | claims requantize
families: schema | architecture layer_rules registry settings | dense_layers per_layer |
    name_variants | tensor_names | layout | missing_tensors moe_blocks | read_layout
recipes: recipe | cookbook
planning: noted_command router_notes | notes | plan
model_config: layer_copies | module_patterns | indexers module_names | quantization_config |
    config_json stored_dtype
planning: noise_stats | depth_modes | noise_forecast | plan_lines | header_metadata plan_file |
    addressed_layers left_behind serving unfamiliar | check model_size passes | router
    serving_layers | experts summary width_presets | outputs | build | open_source quantised_noise |
    grow notices
kernels: noise | numba_weights | numba_codes perturb | fused_dequantize measure_noise sum_squares |
    cast reader | changes nonfinite | tensor_bytes
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


def test_every_public_name_is_where_the_package_says():
    assert {name for name in moegrow.__all__ if name != "__version__"} == moegrow._HOMES.keys()
    assert all(getattr(moegrow, name) for name in moegrow.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        moegrow.nothing  # noqa: B018


@pytest.mark.parametrize("file", sorted(Path(__file__).parent.rglob("*.py")), ids=lambda f: f.stem)
def test_the_fast_loop_needs_numpy_alone(file):
    slow = {"torch", "transformers", "tiny", "quantised", "published", "autorounded", "interposed"}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            assert not slow & {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in slow
