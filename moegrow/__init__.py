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
    from moegrow.logits import Compared, compare_logits
    from moegrow.model import Model
    from moegrow.model import open_model as open
    from moegrow.opened import plan
    from moegrow.plans import Plan
    from moegrow.profiles import Profile
    from moegrow.recipe import Recipe
    from moegrow.report import Inspection
    from moegrow.uploader import push
    from moegrow.verbs import convert, depth, inspect, norms, run, width
    from moegrow.verifier import Verified, verify
    from moegrow.writer import Written, apply

# Where each public name lives; loaded when it is first used, so that `import moegrow` is quick.
_HOMES = {
    "Model": "model", "open": "model", "Inspection": "report", "Recipe": "recipe",
    "Compared": "logits", "Difference": "difference", "MoegrowError": "errors", "Plan": "plans",
    "Profile": "profiles", "Verified": "verifier", "Written": "writer", "apply": "writer",
    "compare_logits": "logits", "convert": "verbs", "depth": "verbs", "diff": "difference",
    "inspect": "verbs", "norms": "verbs", "plan": "opened", "push": "uploader", "run": "verbs",
    "verify": "verifier", "width": "verbs",
}  # fmt: skip

__all__ = [
    "Compared", "Difference", "Inspection", "Model", "MoegrowError", "Plan", "Profile", "Recipe",
    "Verified", "Written", "__version__", "apply", "compare_logits", "convert", "depth", "diff",
    "inspect", "norms", "open", "plan", "push", "run", "verify", "width",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'moegrow' has no attribute {name!r}")
    home = import_module(f"moegrow.{_HOMES[name]}")
    return home.open_model if name == "open" else getattr(home, name)
