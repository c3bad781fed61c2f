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
    from moegrow.analysis.diff import Difference, diff
    from moegrow.analysis.inspection import inspect, norms
    from moegrow.analysis.logits import Compared, compare_logits
    from moegrow.analysis.norm_profile import Profile
    from moegrow.errors import MoegrowError
    from moegrow.model import Model
    from moegrow.model import open_model as open
    from moegrow.planning.grow import convert, depth, run, width
    from moegrow.planning.model_size import Inspection
    from moegrow.planning.open_source import plan
    from moegrow.planning.plan import Plan
    from moegrow.recipes.recipe import Recipe
    from moegrow.steps import Convert, Depth, Width
    from moegrow.write.hub_upload import push
    from moegrow.write.verify_result import Verified, verify
    from moegrow.write.write_checkpoint import Written, apply

# Where each public name lives; loaded when it is first used, so that `import moegrow` is quick.
_HOMES = {
    "Compared": "analysis.logits",
    "Convert": "steps",
    "Depth": "steps",
    "Difference": "analysis.diff",
    "Inspection": "planning.model_size",
    "Model": "model",
    "MoegrowError": "errors",
    "Plan": "planning.plan",
    "Profile": "analysis.norm_profile",
    "Recipe": "recipes.recipe",
    "Verified": "write.verify_result",
    "Width": "steps",
    "Written": "write.write_checkpoint",
    "apply": "write.write_checkpoint",
    "compare_logits": "analysis.logits",
    "convert": "planning.grow",
    "depth": "planning.grow",
    "diff": "analysis.diff",
    "inspect": "analysis.inspection",
    "norms": "analysis.inspection",
    "open": "model",
    "plan": "planning.open_source",
    "push": "write.hub_upload",
    "run": "planning.grow",
    "verify": "write.verify_result",
    "width": "planning.grow",
}

__all__ = [
    "Compared", "Convert", "Depth", "Difference", "Inspection", "Model", "MoegrowError", "Plan",
    "Profile", "Recipe", "Verified", "Width", "Written", "__version__", "apply", "compare_logits",
    "convert", "depth", "diff", "inspect", "norms", "open", "plan", "push", "run", "verify",
    "width",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'moegrow' has no attribute {name!r}")
    home = import_module(f"moegrow.{_HOMES[name]}")
    return home.open_model if name == "open" else getattr(home, name)
