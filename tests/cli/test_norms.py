"""Where pictures are written to, and where they are not."""

import alter
import pytest


@pytest.fixture
def grown(run, checkpoint, tmp_path):
    run("depth", checkpoint(), "-o", "grown", "-q")
    return tmp_path / "grown"


def test_no_picture_is_drawn_into_a_checkpoint(run, checkpoint, grown):
    source = checkpoint()
    for arguments, place in (
        (["norms", source, "--plot"], source), (["norms", source, grown, "--plot"], grown),
        (["map", grown, "--svg"], grown), (["map", grown, "--svg"], source),
    ):  # fmt: skip
        before = alter.contents(place)
        done = run(*arguments, place / "picture.svg", code=1)
        assert f"is in the checkpoint {place.name}, into which nothing is written" in done.stderr
        assert f"hint: give another place with {arguments[-1]}" in done.stderr
        assert not done.stdout
        assert alter.contents(place) == before


def test_a_picture_takes_the_place_of_one_that_is_there_and_follows_no_link(run, grown, tmp_path):
    (tmp_path / "kept").write_text("mine")
    (tmp_path / "map.svg").symlink_to("kept")
    assert run("map", grown, "--svg", "map.svg").stderr == "drawn: map.svg\n"
    assert not (tmp_path / "map.svg").is_symlink()
    assert (tmp_path / "map.svg").read_text().startswith("<svg")
    assert (tmp_path / "kept").read_text() == "mine"


def test_what_the_system_has_against_a_picture_is_said_of_it_by_its_name(run, checkpoint, grown):
    for arguments in (["norms", checkpoint(), "-q", "--plot"], ["map", grown, "--svg"]):
        done = run(*arguments, "/proc/picture.svg", code=1)
        assert f"error: {arguments[-1]} /proc/picture.svg cannot be written" in done.stderr
