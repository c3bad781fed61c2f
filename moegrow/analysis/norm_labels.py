"""Label norm profiles where several are shown together."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from moegrow.analysis.norm_profile import Profile
from moegrow.errors import one_line


def labels(profiles: Sequence[Profile]) -> list[str]:
    """A name for each profile: its own, with as much of its place as tells it from others.

    What would steer a terminal, or a reader of CSV or SVG, is spelled out. Profiles of one name
    and one place, such as two plans for one source, are numbered.
    """
    found = _apart(profiles)
    counts, seen = Counter(found), Counter[str]()
    for number, label in enumerate(found):
        if counts[label] > 1:
            seen[label] += 1
            found[number] = f"{label} ({seen[label]})"
    return [one_line(label) for label in found]


def shortened(label: str, longest: int) -> str:
    """A label with its middle left out, where it is longer than that.

    >>> shortened("a-very-long-name-of-a-model", 15)
    'a-very-…a-model'
    """
    if len(label) <= longest:
        return label
    head = (longest - 1) // 2
    return f"{label[:head]}…{label[len(label) - (longest - 1 - head) :]}"


def _apart(profiles: Sequence[Profile]) -> list[str]:
    """The names, those that several have behind the last folders in which their places differ."""
    alike: dict[str, list[int]] = defaultdict(list)
    for number, profile in enumerate(profiles):
        alike[profile.name].append(number)
    found = [profile.name for profile in profiles]
    for name, numbers in alike.items():
        parents = [profiles[number].location.rstrip("/").split("/")[:-1] for number in numbers]
        places = len(set(map(tuple, parents)))
        depth = next(
            depth
            for depth in range(1, max(map(len, parents)) + 2)
            if len({tuple(each[-depth:]) for each in parents}) == places
        )
        if places > 1:
            for number, each in zip(numbers, parents, strict=True):
                found[number] = "/".join([*each[-depth:], name])
    return found
