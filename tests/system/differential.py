"""Random cases, grown by the command and by a reference in memory, and where the two disagree.

`python tests/system/differential.py --cases 1500 --seed 7 [--types a,b]` prints a table of how the
cases went, and a line for each disagreement by which it can be run again. `--only hy_v4:12` runs
one case, and `--steps "depth --times 3x; width"` does something else with its source.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import definitions
import forks
import layouts
import reference
import tiny
import torch
from comparing import CAUTIOUS, NoReference, config_problems, logit_problems, tensor_problems
from drawing import Case, draw, plainer

TYPES = sorted(path.stem for path in tiny.CONFIGS.glob("*.json"))
Operations = tuple[tuple[str, ...], ...]
# Layers that keep keys for others behind them: the last copy is the original (docs/method.md).
LAST_IS_ORIGINAL = ("gemma4", "gemma4_text")


class Outcome(Exception):
    """How a case went: "right", "refused", "unbuildable" or "disagree", and why.

    `case` is the one that was built, which may be plainer than the one that was drawn.
    """

    case: Case

    def __init__(self, kind: str, why: str = "") -> None:
        super().__init__(kind, why)
        self.kind, self.why = kind, why


def try_case(
    case: Case, nursery: forks.Nursery, folder: Path, operations: Operations = ()
) -> Outcome:
    """Build the source, grow it by the command and by the reference, and compare.

    `operations` are done instead of the case's own, whichever config a model can be made of.
    """
    outcome = Outcome("right")
    try:
        case, source = _build(case, folder / "source")
        case = replace(case, operations=operations or case.operations)
        _grow_and_compare(case, source, nursery, folder)
    except Outcome as found:
        outcome = found
    outcome.case = case
    return outcome


def _build(case: Case, place: Path) -> tuple[Case, reference.Network]:
    for attempt in (case, plainer(case)):
        with contextlib.suppress(Exception):  # classes refuse configs in their own ways
            shutil.rmtree(place, ignore_errors=True)
            config = json.loads(json.dumps(attempt.config))
            tiny.save(config, place, dtype=attempt.dtype, fused=attempt.is_fused,
                      shard_size=attempt.shard_size)  # fmt: skip
            before = reference.compute(tiny.load(place))
            if not before.isfinite().all():
                continue
            layouts.rewrite(place, attempt)
            source = tiny.load(place)
            assert reference.distance(before, reference.compute(source)) == 0
            return attempt, source
    raise Outcome("unbuildable")


def _grow_and_compare(
    case: Case, source: reference.Network, nursery: forks.Nursery, folder: Path
) -> None:
    place = folder / "source"
    config = reference.text_config(source)
    model = definitions.Model.source(
        layers=len(getattr(*reference.layers(source))),
        experts=reference.setting(config, reference.EXPERT_COUNTS),
        top_k=reference.setting(config, reference.TOP_KS),
    )
    last = case.model_type in LAST_IS_ORIGINAL and bool(config.num_kv_shared_layers)
    result, told = _grow(case, place, nursery, folder)
    for words in case.operations:
        model = definitions.grown(
            model, words, last_is_original=last, has_skip=case.model_type == "zaya"
        )
    try:
        grown = tiny.load(result)
    except Exception as error:  # transformers says it in its own ways
        raise Outcome("disagree", f"does not load: {str(error)[:300]}") from None
    try:
        problems = [
            *tensor_problems(place, result, model, case),
            *config_problems(place, result, model, len(getattr(*reference.layers(source)))),
            *logit_problems(source, grown, model, case, told),
        ]
    except NoReference as error:
        raise Outcome("no reference", str(error)) from None
    if problems:
        is_cautious = all(problem.startswith(CAUTIOUS) for problem in problems)
        raise Outcome("cautious" if is_cautious else "disagree", "; ".join(problems[:4]))


def _grow(
    case: Case, place: Path, nursery: forks.Nursery, folder: Path
) -> tuple[Path, list[dict[str, Any]]]:
    """Run the operations, by one pass of plans or one after the other; what is said of width."""
    at: Path | str = place
    plan, said = "", []
    for number, words in enumerate(case.operations):
        result = folder / f"grown{number}"
        is_last = number == len(case.operations) - 1
        output = ["--plan"] if case.is_piped and not is_last else ["-o", result, "--json"]
        ended = nursery.begin(words[0], at, *words[1:], *output, folder=folder, stdin=plan).end()
        if ended.returncode:
            assert ended.returncode in (1, 2)
            assert ended.stderr.startswith("error: "), ended.stderr
            raise Outcome("refused", ended.stderr.splitlines()[0][:200])
        if output == ["--plan"]:
            plan, at = ended.stdout, "-"
        else:
            at = result
            said += [step for step in json.loads(ended.stdout)["steps"] if step["axis"] == "width"]
    return result, said


def main() -> None:
    reader = argparse.ArgumentParser()
    reader.add_argument("--cases", type=int, default=150)
    reader.add_argument("--seed", type=int, default=0)
    reader.add_argument("--types", default="")
    reader.add_argument("--only", default="", help="TYPE:SEED of one case")
    reader.add_argument("--steps", default="", help="other commands for --only, with ; between")
    reader.add_argument("--settings", default="{}", help="other settings for --only, as JSON")
    arguments = reader.parse_args()
    torch.set_num_threads(1)
    transformers_log()
    steps = tuple(tuple(step.split()) for step in filter(None, arguments.steps.split(";")))
    if arguments.only:
        model_type, _, seed = arguments.only.partition(":")
        settings = json.loads(arguments.settings)
        if "dtype" in settings:
            settings["dtype"] = getattr(torch, settings["dtype"])
        cases = iter([replace(draw(model_type, int(seed)), **settings)])
    else:
        cases = drawn(arguments.types.split(",") if arguments.types else TYPES,
                      arguments.cases, arguments.seed)  # fmt: skip
    table: dict[str, Counter[str]] = {}
    # A long run that is stopped still says how far it came.
    with contextlib.suppress(KeyboardInterrupt), forks.Nursery() as nursery:
        for case in cases:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    outcome = try_case(case, nursery, Path(folder), steps)
                except Exception:
                    outcome = Outcome("broken", traceback.format_exc()[-600:])
                    outcome.case = case
            table.setdefault(case.model_type, Counter())[outcome.kind] += 1
            if arguments.only:
                print(outcome.case)
            if outcome.kind not in ("right", "refused", "unbuildable") or arguments.only:
                print(f"{outcome.kind} --only {case.model_type}:{case.seed}: {outcome.why}")
                done = outcome.case.operations
                print("    ", "; ".join(" ".join(words) for words in done), flush=True)
            elif outcome.kind == "refused":
                print(f"refused {case.model_type}:{case.seed}: {outcome.why}", file=sys.stderr)
    kinds = ("right", "refused", "cautious", "disagree", "no reference", "unbuildable", "broken")
    print(f"{'':24}" + "".join(f"{kind:>13}" for kind in kinds))
    for name, counts in sorted(table.items()):
        print(f"{name:24}" + "".join(f"{counts[kind]:13}" for kind in kinds))
    total: Counter[str] = sum(table.values(), Counter())
    print(f"{'all':24}" + "".join(f"{total[kind]:13}" for kind in kinds))


def drawn(types: list[str], count: int, seed: int) -> Iterator[Case]:
    """As many cases, of all the types in turns."""
    chance = random.Random(seed)
    for number in range(count):
        yield draw(types[number % len(types)], chance.randrange(10**6))


def transformers_log() -> None:
    import transformers

    transformers.logging.set_verbosity_error()


if __name__ == "__main__":
    main()
