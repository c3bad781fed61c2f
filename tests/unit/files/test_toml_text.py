"""TOML of anyone: what tomllib reads, and nothing that takes it for ever or all memory."""

import tomllib
from importlib.resources import files
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moegrow.errors import MoegrowError
from moegrow.files.toml_text import loads


@pytest.mark.parametrize("package", ["moegrow.families", "moegrow.recipes", "moegrow.quant"])
def test_the_files_that_ship_are_read(package):
    found = [one for one in files(package).iterdir() if one.name.endswith(".toml")]
    assert found
    for one in found:
        assert loads(one.read_text("utf-8"), one.name) == tomllib.loads(one.read_text("utf-8"))


DOTTED = "a" + ".a" * 20_000 + " = 1\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (DOTTED, "20000 dots in one line"), (f"[{DOTTED[:40_001]}]", "20000 dots"),
        (f"x = {{{DOTTED.strip()}}}", "20000 dots"), (f"x = '''a''''\n{DOTTED}", "20000 dots"),
        (f'x = ["""a"""""]\n{DOTTED}', "20000 dots"), ('"a"' + '."a"' * 900 + " = 1", "900 dots"),
        (f'x = {{ y = """a"""", {DOTTED.strip()} }}', "20000 dots"),
        ("a . " * 900 + "a = 1", "900 dots"), (f'x = "a\\\\"\n{DOTTED}', "20000 dots"),
        ("x = " + "[" * 100_000, "nests too deeply"), ("x = " + "[" * 70 + "]" * 70, "64 levels"),
        ("x = 0x" + "f" * 100_000, "more than 64 bits"), ("x = " + "9" * 100_000, "not valid TOML"),
        ("x = 1\nx = 2", "not valid TOML"), ('x = "', "not valid TOML"), ("x = '''", "not valid"),
    ],
    ids=range(16),
)  # fmt: skip
def test_what_is_larger_than_any_file_of_ours_is_refused_at_once(text, says):
    started = process_time()
    with pytest.raises(MoegrowError, match=says):
        loads(text, "the file")
    assert process_time() - started < 1


@pytest.mark.parametrize(
    "text",
    [
        "x = '" + "." * 99 + "'", 'x = "\\"' + "." * 99 + '"', "# it's " + "." * 99 + "\nx = 1",
        'x = """\n"' + "." * 99 + '""""', "x = '''\n'" + "." * 99 + "''''", "[a.b.c]\nd.e = 1.5",
        'x = """\\"""' + "." * 99 + '"""',
    ],
)  # fmt: skip
def test_dots_in_texts_and_comments_are_no_keys(text):
    assert loads(text, "the file") == tomllib.loads(text)


@settings(max_examples=60, deadline=None)
@given(st.text("a.\"'#\\\n=[]{}, 1", max_size=40))
def test_whatever_is_read_is_what_tomllib_reads(text):
    try:
        expected = tomllib.loads(text)
    except ValueError:
        with pytest.raises(MoegrowError):
            loads(text, "the file")
        return
    if text.count(".") <= 16:
        assert loads(text, "the file") == expected
