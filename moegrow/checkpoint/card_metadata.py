"""Read licence, languages and datasets from an untrusted model card."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST = 1 << 17  # bytes of a card that are looked at: metadata stands at its beginning
MOST_VALUES = 300

_LINK = r"https?://[!-~]{1,300}"
_FILE = r"[\w.-]+(?:/[\w.-]+){0,5}"
_PATTERNS = {
    "license": r"[\w.+-]{1,60}",
    "license_name": r"[^\x00-\x1f\x7f-\x9f]{1,100}",
    "license_link": rf"{_LINK}|{_FILE}",
    "language": r"[A-Za-z]{1,20}(?:-[A-Za-z0-9]{1,20}){0,3}",
    "datasets": r"[\w.-]{1,100}(?:/[\w.-]{1,100})?",
    "pipeline_tag": r"[a-z0-9-]{1,60}",
}
_LISTS = ("language", "datasets")


@dataclass(frozen=True)
class Carried:
    """The metadata of a card that goes on to the next; `is_whole` unless some made no sense."""

    values: Mapping[str, Any] = field(default_factory=dict)
    is_whole: bool = True


def read_metadata(text: str) -> Carried:
    """The metadata between the two lines of --- at the beginning of a card.

    Values are texts and lists of texts of the kinds that belong there, and nothing else. No type
    is guessed, so that the language `no` stays Norwegian; references, which could make little
    text into much, are refused.

    >>> read_metadata("---\\nlicense: mit\\nlanguage: [en, no]\\n---\\n").values
    {'license': 'mit', 'language': ['en', 'no']}
    """
    lines = text.removeprefix("\ufeff").lstrip().splitlines()
    if not lines or lines[0].rstrip() != "---":
        return Carried()
    end = next((at for at, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    table = None if end is None else _load("\n".join(lines[1:end]))
    if not isinstance(table, dict):
        return Carried(is_whole=False)
    values = {}
    is_whole = True
    for key, pattern in _PATTERNS.items():
        given = table.get(key)
        if given in (None, "", []):
            continue
        many = given if isinstance(given, list) else [given]
        kept = [
            value
            for value in many[:MOST_VALUES]
            if isinstance(value, str) and re.fullmatch(pattern, value)
        ]
        is_whole = is_whole and len(kept) == len(many)
        if kept:
            values[key] = kept if key in _LISTS else kept[0] if len(kept) == 1 else kept
    return Carried(values, is_whole)


def _load(text: str) -> Any:
    """The YAML in a text, all of its values texts, or None where it is none."""
    import yaml

    class Loader(yaml.BaseLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("a reference")
            return super().compose_node(parent, index)

    try:
        # Neither of its loaders that make Python objects has a part in this one.
        return yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError):
        return None


def front_matter(values: Mapping[str, Any]) -> str:
    """Metadata as the beginning of a card."""
    import yaml

    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n"
