"""Grow a trained Mixture-of-Experts checkpoint: deeper, wider, or both in one pass.

A checkpoint is opened, grown as often as you like, and written in one pass:

    model = moegrow.open("ckpt/").deepen(mode="interpose").widen(experts="2x", noise=0.01)
    print(model)
    assert model.apply("grown/").verify().ok

The functions are the verbs of the command line, which work on plans: those that grow return
one and write nothing, and `apply` writes it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from moegrow.difference import Difference, diff
    from moegrow.errors import MoegrowError
    from moegrow.model import Model
    from moegrow.model import open_model as open
    from moegrow.opened import plan
    from moegrow.plans import Plan
    from moegrow.recipe import Recipe
    from moegrow.report import Inspection
    from moegrow.uploader import push
    from moegrow.verbs import convert, depth, inspect, run, width
    from moegrow.verifier import Verified, verify
    from moegrow.writer import Written, apply

# Where each public name lives; loaded when it is first used, so that `import moegrow` is quick.
_HOMES = {
    "Model": "model", "open": "model", "Inspection": "report", "Recipe": "recipe",
    "Difference": "difference", "MoegrowError": "errors", "Plan": "plans", "Verified": "verifier",
    "Written": "writer", "apply": "writer", "convert": "verbs", "depth": "verbs",
    "diff": "difference", "inspect": "verbs", "plan": "opened", "push": "uploader",
    "run": "verbs", "verify": "verifier", "width": "verbs",
}  # fmt: skip

__all__ = [
    "Difference", "Inspection", "Model", "MoegrowError", "Plan", "Recipe", "Verified", "Written",
    "__version__", "apply", "convert", "depth", "diff", "inspect", "open", "plan", "push", "run",
    "verify", "width",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'moegrow' has no attribute {name!r}")
    home = import_module(f"moegrow.{_HOMES[name]}")
    return home.open_model if name == "open" else getattr(home, name)
