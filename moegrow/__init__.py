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
    from moegrow.analysis.difference import Difference, diff
    from moegrow.analysis.inspecting import inspect, norms
    from moegrow.analysis.logits import Compared, compare_logits
    from moegrow.analysis.profiles import Profile
    from moegrow.errors import MoegrowError
    from moegrow.model import Model
    from moegrow.model import open_model as open
    from moegrow.planning.opened import plan
    from moegrow.planning.report import Inspection
    from moegrow.planning.verbs import convert, depth, run, width
    from moegrow.plans import Plan
    from moegrow.recipes.recipe import Recipe
    from moegrow.writing.uploader import push
    from moegrow.writing.verifier import Verified, verify
    from moegrow.writing.writer import Written, apply

# Where each public name lives; loaded when it is first used, so that `import moegrow` is quick.
_HOMES = {
    "Compared": "analysis.logits", "Difference": "analysis.difference",
    "Inspection": "planning.report", "Model": "model", "MoegrowError": "errors", "Plan": "plans",
    "Profile": "analysis.profiles", "Recipe": "recipes.recipe", "Verified": "writing.verifier",
    "Written": "writing.writer", "apply": "writing.writer", "compare_logits": "analysis.logits",
    "convert": "planning.verbs", "depth": "planning.verbs", "diff": "analysis.difference",
    "inspect": "analysis.inspecting", "norms": "analysis.inspecting", "open": "model",
    "plan": "planning.opened", "push": "writing.uploader", "run": "planning.verbs",
    "verify": "writing.verifier", "width": "planning.verbs",
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
