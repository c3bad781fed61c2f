"""The library of the Hub is quiet while it works for moegrow, and afterwards as it was."""

import logging
from contextlib import suppress

import pytest
from huggingface_hub.utils import are_progress_bars_disabled

from moegrow.checkpoint.hub_errors import quieted


@pytest.mark.parametrize("quiet", [False, True])
def test_the_logger_and_the_bars_of_the_library_are_as_before_at_the_end(quiet):
    logger = logging.getLogger("huggingface_hub")
    before = logger.level, are_progress_bars_disabled()
    with suppress(KeyError), quieted(quiet=quiet):
        assert logger.level == logging.ERROR
        assert are_progress_bars_disabled() == (quiet or before[1])
        raise KeyError
    assert (logger.level, are_progress_bars_disabled()) == before
