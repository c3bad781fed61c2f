"""Labels tell profiles apart, whatever strangers call their folders."""

import pytest

from moegrow.analysis.norm_labels import labels
from moegrow.analysis.norm_profile import Profile


def profile(location, name=None):
    name = location.rpartition("/")[2] if name is None else name
    return Profile(name, location, "qwen3_moe", 1, {"experts": (1.0,)}, {}, False, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("locations", "expected"),
    [
        (["/a/base"], ["base"]),
        (["/a/base", "/a/other"], ["base", "other"]),
        (["/a/base", "/b/base", "/b/other"], ["a/base", "b/base", "other"]),
        (["/a/x/base", "/b/x/base"], ["a/x/base", "b/x/base"]),
        (["/x/base", "/y/x/base"], ["/x/base", "y/x/base"]),
        (["hf://one/base", "hf://two/base"], ["one/base", "two/base"]),
        (["/a/base", "/a/base"], ["base (1)", "base (2)"]),
        (["/a/base", "/b/base", "/a/base"], ["a/base (1)", "b/base", "a/base (2)"]),
    ],
)
def test_profiles_of_one_name_have_as_much_of_their_place_as_tells_them_apart(locations, expected):
    assert labels([profile(location) for location in locations]) == expected


def test_what_would_steer_a_terminal_is_spelled_out():
    assert labels([profile("/a/x", "a\x1b[31m\nb\tc")]) == ["a\\x1b[31m\\nb\\tc"]
