"""Grow a trained Mixture-of-Experts checkpoint: deeper, wider, or both in one pass.

The functions are the verbs of the command line. Those that grow return a plan and write
nothing; `apply` writes it:

    plan = moegrow.depth("ckpt/", mode="interpose")
    plan = moegrow.width(plan, experts="2x", noise=0.01)
    moegrow.apply(plan, "grown/")
    assert moegrow.verify("grown/").ok
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from moegrow.difference import Difference, diff
    from moegrow.errors import MoegrowError
    from moegrow.opened import plan
    from moegrow.plans import Plan
    from moegrow.uploader import push
    from moegrow.verbs import depth, inspect, width
    from moegrow.verifier import Verified, verify
    from moegrow.writer import Written, apply

# Where each public name lives; loaded when it is first used, so that `import moegrow` is quick.
_HOMES = {
    "Difference": "difference", "MoegrowError": "errors", "Plan": "plans", "Verified": "verifier",
    "Written": "writer", "apply": "writer", "depth": "verbs", "diff": "difference",
    "inspect": "verbs", "plan": "opened", "push": "uploader", "verify": "verifier",
    "width": "verbs",
}  # fmt: skip

__all__ = [
    "Difference", "MoegrowError", "Plan", "Verified", "Written", "__version__", "apply", "depth",
    "diff", "inspect", "plan", "push", "verify", "width",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'moegrow' has no attribute {name!r}")
    return getattr(import_module(f"moegrow.{_HOMES[name]}"), name)
