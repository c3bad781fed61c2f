"""Fingerprints of weight files: two kinds, which can be held against each other."""

import hashlib
from dataclasses import dataclass, replace

import alter
import pytest

from moegrow.checkpoint.checkpoint import open_checkpoint
from moegrow.checkpoint.fingerprint import WHOLE, SourceFile, digest, is_same, read_header
from moegrow.checkpoint.local_store import LocalFolder


@dataclass(frozen=True)
class Knowing(LocalFolder):
    """A folder whose files' SHA-256 is known, as the Hub knows those of its files."""

    def sha256(self, name):
        return hashlib.sha256((self.folder / name).read_bytes()).hexdigest()


@pytest.fixture
def source(checkpoint, tmp_path):
    return alter.copy(checkpoint(), tmp_path)


def known(store, name):
    return SourceFile(name, store.size(name), digest(store, name, read_header(store, name)))


def test_a_known_sum_of_all_bytes_is_the_digest_and_else_samples_are(source):
    first = open_checkpoint(source).files[0]
    assert known(LocalFolder(source), first.name) == first
    assert not first.digest.startswith(WHOLE)
    whole = known(Knowing(source), first.name)
    assert whole.digest == WHOLE + hashlib.sha256((source / first.name).read_bytes()).hexdigest()


@pytest.mark.parametrize("planned", [LocalFolder, Knowing])
@pytest.mark.parametrize("now", [LocalFolder, Knowing])
def test_either_kind_can_be_held_against_the_other(source, planned, now):
    name = open_checkpoint(source).files[0].name
    old = known(planned(source), name)
    assert is_same(old, known(now(source), name), now(source))
    alter.flip(source / name, (source / name).stat().st_size - 1)
    assert not is_same(old, known(now(source), name), now(source))
    assert not is_same(replace(old, digest=WHOLE), known(now(source), name), now(source))
