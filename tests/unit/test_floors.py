"""A file of the package imports from lower floors alone."""

import ast
from pathlib import Path

import pytest

import moegrow

# From the ground up: a line is a package (or files that stand in none), and its floors by "|".
FLOORS = """
dtypes errors | maps options | display growth | steps
files: atomic byte_ranges linear_regex mounts worker_threads | toml_text typed_toml untrusted |
    json_edit | typed_json
checkpoint: card_metadata | checksums hub_cache hub_errors | store time_limits | header http_ranges
    listing local_store store_limits unsupported | fingerprint hub object_store shard_index
    side_files | locate weight_files | checkpoint
quant: decoding scheme stochastic_rounding | formats | unpack | packing rescale | codec | groups
    plain scaled words | awq fp4 gptq packed | find_codec | detect | claims
families: schema | architecture layer_rules registry settings | dense_layers model_facts
    name_variants per_layer | tensor_names | quantisation | layout | missing_tensors moe_blocks |
    read_layout
recipes: recipe | cookbook
planning: router_notes | notes op | plan
model_config: layer_copies | module_patterns | indexers module_names | quantization_config |
    config_json stored_dtype
planning: noise_stats noted_command | depth_modes | plan_lines | header_metadata output_record |
    header_record | plan_file | check_pieces noise_forecast | addressed_layers left_behind
    model_size passes serving unfamiliar | check_layers | check | router serving_layers | experts
    summary width_presets | outputs | build | open_source quantised_noise | grow notices
kernels: noise | numba_weights | numba_codes | perturb | cast measure_noise sum_squares | reader |
    changes nonfinite | tensor_bytes
write: model_card | direct_io | worker | hub_upload | compare_tensors | shards | digests schedule |
    check_digests disk_space shard_files work_dir | check_output engine resume verify_result
    work_dir_lock write_job | publish | run_job | write_checkpoint
analysis: lineage | model_weights norm_slices | model_image norm_sums | run_layerwise | diff
    model_inputs | logits | norm_profile | drawings inspection norm_labels report_contents seams |
    growth_targets html_report norms_plot norms_text | advice
model
cli: options | terminal | resume_hint | explain | summaries | demo json_output | finish norms report
    | grow inspection | run | main
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


# Files below the layout, and those that rewrite the text of a config.
READ_CONFIGS = ("checkpoint.", "families.", "model_config.", "files.", "quant.")


def raw_lookups(tree):
    """Where code looks up a single key of a config, as texts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "moegrow.families.schema":
            yield from (one.name for one in node.names if one.name in ("lookup", "number"))
        found = None
        if isinstance(node, ast.Subscript):
            found = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            is_key = bool(node.args) and not isinstance(node.args[0], ast.Starred)
            if node.func.attr in ("get", "pop", "setdefault") and is_key:
                found = node.func.value
            elif node.func.attr in ("read", "count", "scores_by") and is_key:
                found = node.args[0]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            found = node.comparators[0]
        if isinstance(found, ast.Attribute) and found.attr == "config":
            if ast.unparse(found.value) not in ("self", "family", "plan", "layout.family"):
                yield ast.unparse(node)
        elif isinstance(found, ast.Name) and found.id == "config":
            yield ast.unparse(node)


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_file_above_the_families_looks_up_keys_of_a_config(name):
    if not name.startswith(READ_CONFIGS):
        assert [*raw_lookups(ast.parse(FILES[name].read_text()))] == []


@pytest.mark.parametrize(
    "code",
    [
        "from moegrow.families.schema import Config, lookup",
        "layout.config['vocab_size']",
        "layout.checkpoint.config.get('architectures')",
        "'quantization_config' in checkpoint.config",
        "router.scores_by(layout.config)",
        "config['x']",
    ],
)
def test_a_look_up_in_a_config_is_noticed(code):
    assert [*raw_lookups(ast.parse(code))]


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
