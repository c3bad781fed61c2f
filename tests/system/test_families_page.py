"""docs/families.md says what the family files do now, and every type has been measured."""

import json

import pytest
from families_page import MEASURED, PAGE, TYPES, page


def test_the_page_is_current(checkpoint):
    assert PAGE.read_text() == page(checkpoint), "run python tests/support/families_page.py"


@pytest.mark.parametrize("name", TYPES)
def test_what_was_measured_is_rounding(name):
    measured = json.loads(MEASURED.read_text())[name]
    assert all(float(difference) < 3e-4 for difference in measured.values())
    assert measured.keys() <= {"width", "identity"}
