"""Settings and numbers that families read from a config."""

import pytest
from test_registry import SMALL

from moegrow.errors import MoegrowError
from moegrow.families.registry import read_family
from moegrow.families.schema import number


def test_a_setting_that_is_null_counts_as_absent():
    setting = read_family(SMALL, "small").router.normalised
    assert setting.read({}) is setting.read({"norm": None}) is True
    assert setting.read({"norm": False}) is False


def test_a_setting_of_another_kind_than_its_default_is_refused():
    setting = read_family(SMALL, "small").router.normalised
    with pytest.raises(MoegrowError, match="norm is 'yes'"):
        setting.read({"norm": "yes"})


def test_a_number_may_stand_under_a_path_of_keys():
    assert number({"a": {"b": 3}}, "a.b") == 3
    assert number({"a": {}}, "a.b", 7) == 7
    with pytest.raises(MoegrowError, match=r"a\.b is '3'"):
        number({"a": {"b": "3"}}, "a.b")
