"""How a model lies on the disk: keys left out of config.json, said twice, or under two spellings.

A change is kept only where transformers makes the same config of it.
"""

import json
from pathlib import Path
from typing import Any

import transformers
from drawing import Case, text_part

# What config.json must keep saying, whatever the class's defaults are.
KEPT = ("model_type", "architectures", "text_config", "thinker_config", "dtype")


def rewrite(folder: Path, case: Case) -> None:
    """Change config.json as the case asks, as far as transformers reads the same in it."""
    file = folder / "config.json"
    wanted = resolved(folder)
    root = json.loads(file.read_text())
    text = text_part(root)

    def keep(key: str, table: dict[str, Any], before: Any) -> None:
        """Put a key back where transformers reads another config without, or with it."""
        file.write_text(json.dumps(root, indent=2))
        try:
            is_same = resolved(folder) == wanted
        except Exception:  # whatever a class raises: the key is needed
            is_same = False
        if not is_same:
            table.pop(key, None)
            table.update(before)
            file.write_text(json.dumps(root, indent=2))

    if case.aliases:
        for spelling, key in type(wanted_class(folder)).attribute_map.items():
            for there, other in ((spelling, key), (key, spelling)):
                if there in text and other not in text:
                    text[other] = text[there]
                    keep(other, text, {})
    if case.at_root and text is not root:
        for key in [key for key in text if key not in (*KEPT, *root)]:
            if case.chance.random() < 0.5:
                root[key] = text[key]
                keep(key, root, {})
    if case.left_out:
        for key in [key for key in text if key not in KEPT]:
            if case.chance.random() < case.left_out:
                keep(key, text, {key: text.pop(key)})


def wanted_class(folder: Path) -> Any:
    return transformers.AutoConfig.from_pretrained(folder).get_text_config()


def resolved(folder: Path) -> dict[str, Any]:
    """What transformers makes of config.json for the language model, defaults filled in."""
    found = wanted_class(folder).to_dict()
    for key in ("transformers_version", "_name_or_path"):
        found.pop(key, None)
    return json.loads(json.dumps(found, default=str))
