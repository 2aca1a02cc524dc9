"""`python -m tests.oracles freeze DIR`, `compare DIR`: what the program does, kept.

For a change that must not change anything. Every twin, the pairs written as tables, the demo and
pairs of names alone (`--pairs`) are lined up, converted and edited at random, from seeds, through
the doors a user has. What comes of it is text, a record a line, in three files: `conversions`
(mapping file, fits, what `convert --json` prints, digests of the leaves written), `proposals` and
`edits` (rows, fits and bench, after each edit those that differ from before).

`compare` makes the records of `DIR` again and shows where they differ first. Numbers of twins come
from torch and JAX: the same versions and kind of processor are needed for the same digests.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import hashlib
import io
import json
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.transform import to_json
from s2p_tui.cli import run
from s2p_tui.errors import S2PError
from s2p_tui.session.session import Session
from tests.helpers.cases import Case, cases
from tests.helpers.random_edits import random_edit
from tests.models.twin import Truth

Lines = list[str]
Records = Iterator[tuple[str, Lines]]
"""Kind and name of each, such as `edits twin/linear 0`, and its text."""
_KINDS = ("conversions", "proposals", "edits")
_SEQUENCES = 200
_WINDOW = 60
"""Lines compared from the first that differs on: what follows one wrong edit is wrong too."""


def _records_of(case: Case, sequences: int) -> Records:
    """All records of a pair, with as many random sequences of edits."""
    try:
        session = case.open()
    except S2PError as error:
        yield f"conversions {case.name}", [error.line]
        return
    session.save_mapping("saved.json")
    lines = [*Path("saved.json").read_text().splitlines(), *_state(session)]
    if case.named is None:
        lines += _conversions(session, case.truths)
    yield f"conversions {case.name}", lines
    yield f"proposals {case.name}", list(_proposed(_fresh(session, by_order=True)))
    for number in range(sequences):
        name = f"edits {case.name} {number}"
        yield name, list(_edited(_fresh(session, by_order=number % 2 == 1), name))
    session.close()


def _conversions(session: Session, truths: Iterable[Truth]) -> Iterator[str]:
    yield from (f"{file}: {_digest(Path(file))}" for file in ("model.pt", "skeleton.eqx"))
    paths = [leaf.path for leaf in session.target.skeleton]
    yield from _told(paths, "out.eqx")
    if not Path("out.eqx").exists():
        yield from _told(paths, "trusted.eqx", "--trust-all")
    yield from _told(paths, "half.safetensors", "--trust-all", "--dtype", "bfloat16")
    for number, truth in enumerate(truths):
        sources = [truth.get(path) for path in paths]
        yield from _chosen(_fresh(session), sources, f"truth{number}")


def _chosen(session: Session, sources: list[Any], name: str) -> Iterator[str]:
    """What becomes of sources chosen by the user."""
    rows = [
        Row(gap=True, by="user") if source is None else Row(source, by="user", trusted=True)
        for source in sources
    ]
    session.edit(SetRows(tuple(enumerate(rows))))
    try:
        session.convert(f"{name}.eqx", mapping=f"{name}.json", jobs=1)
    except S2PError as error:
        yield f"{name}: {error.line}"
    else:
        yield from Path(f"{name}.json").read_text().splitlines()
        yield from _written([leaf.path for leaf in session.target.skeleton], Path(f"{name}.eqx"))


def _sequences(pairs: Iterable[Case]) -> Counter[str]:
    """How many sequences of edits each pair gets: the larger ones, so that there is room to move.

    Names alone three, the demo six, the twins with the most leaves and the tables the others.
    """
    found = Counter[str]()
    names = sorted(pairs, key=lambda case: -len(case.truths[0]) if case.truths else 0)
    for case in names:
        found[case.name] += {"dev": 3, "demo": 6}.get(case.name.partition("/")[0], 0)
    others = [case.name for case in names if case.truths or case.name.startswith("table")]
    for name in others[: _SEQUENCES - found.total()]:
        found[name] += 1
    return found


def _fresh(session: Session, *, by_order: bool = False) -> Session:
    """The same pair as if just opened, lined up as that session was, or by order."""
    start = None if by_order else session.alignment
    return Session(session.checkpoint, session.target, start, evidence=session.evidence)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _told(paths: Lines, output: str, *options: str) -> Iterator[str]:
    """What `convert --json` says and writes."""
    out, err = io.StringIO(), io.StringIO()
    arguments = ["convert", "model.pt", "skeleton.eqx", "-o", output, "--jobs", "1", "--json"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([*arguments, *options])
    yield f"convert {output} {' '.join(options)}: exit {code} {err.getvalue().strip()}"
    told = json.loads(out.getvalue() or "{}")
    told["seconds"] = 0
    for key, value in told.items():
        parts = value if isinstance(value, list) else [value]
        yield from (f" {key}: {json.dumps(part)}" for part in parts)
    if Path(output).exists():
        yield from _written(paths, Path(output))


def _written(paths: Lines, output: Path) -> Iterator[str]:
    yield f"{output}: {_digest(output)}"
    with output.open("rb") as stream:
        for path in paths if output.suffix == ".eqx" else ():
            array = np.load(stream)
            digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
            yield f" {path}: {array.shape} {array.dtype} {digest}"


def _row(row: Row) -> str:
    """All that is true of a row, in the words of a mapping file."""
    node = {"sources": row.keys, "transform": row.source and to_json(row.source, row.keys)}
    node |= {"gap": row.gap, "by": row.by, "why": row.why}
    node |= {"trusted": row.trusted, "fixed": row.fixed}
    return json.dumps({name: value for name, value in node.items() if value})


def _state(session: Session) -> Lines:
    """A line for each row, one for its fit, and the bench."""
    lines: Lines = []
    for place, leaf in enumerate(session.target.skeleton):
        row, verdict = session.row(place), session.verdict(place)
        assert row is not None
        assert verdict is not None
        blocks = ", blocks" if verdict.blocks else ""
        lines.append(f"  {place} {leaf.path} takes {_row(row)}")
        lines.append(f"  {place} {leaf.path} is {verdict.fit}{blocks}: {verdict.why}")
    bench = [session.benched(place) for place in range(len(lines) // 2, len(session))]
    return [*lines, f"  bench: {json.dumps(bench)}"]


def _proposed(session: Session) -> Iterator[str]:
    """What the matcher would change about the order, and what it has to say of the others."""
    proposal = session.match_proposal()
    for hunk in proposal.hunks:
        yield f"{hunk.title}, {hunk.confidence}: {hunk.reason}"
        for change in hunk.changes:
            sure = f"{change.confidence} {change.objection}".strip()
            yield f"  {change.index}, {sure}: {_row(change.old)} to {_row(change.new)}"
    yield f"notes: {proposal.notes}"
    yield from (f"agreed {place}: {_row(row)}" for place, row in proposal.agreed)
    yield from (f"beside {place}: {_row(row)}" for place, row in proposal.beside)


def _edited(session: Session, name: str) -> Iterator[str]:
    """A random sequence of edits: each, what it answers, and what is other than before."""
    chance = random.Random(name)
    before = _state(session)
    yield from ("lined up", *before)
    for number in range(chance.randint(20, 40)):
        try:
            done, changed = random_edit(session, chance)
        except (S2PError, IndexError, KeyError) as error:
            done, changed = str(error), range(0)
        yield f"{number}: {done} changes {changed.start}:{changed.stop}"
        after = _state(session)
        yield from (new for old, new in zip(before, after, strict=True) if old != new)
        counts = {str(fit): count for fit, count in sorted(session.counts.items()) if count}
        first = session.next_blocking(chance.randrange(len(after) // 2), 1)
        yield f"  {json.dumps(counts)}, {session.blocking} block, the next {first}"
        before = after


def _records(folder: Path | None, wanted: Counter[str] | None, only: str) -> Records:
    """All records, made in a folder that is emptied after each pair.

    Args:
        folder: Of pairs of names alone.
        wanted: Sequences of edits of each pair; None to choose.
        only: Part of the names of the pairs to make.
    """
    found = list(cases(folder))
    sequences = _sequences(found) if wanted is None else wanted
    for case in found:
        if only not in case.name:
            continue
        with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
            try:
                for name, lines in _records_of(case, sequences[case.name]):
                    yield name, [line.replace(os.path.realpath(place), "FOLDER") for line in lines]
            except Exception:
                # The others are still worth a look; what is not made is missing.
                print(f"FAILED: {case.name}\n{traceback.format_exc()}")


def _freeze(folder: Path, records: Records) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        files = {kind: stack.enter_context((folder / f"{kind}.jsonl").open("w")) for kind in _KINDS}
        for name, lines in records:
            files[name.split(" ")[0]].write(json.dumps({"name": name, "lines": lines}) + "\n")


def _frozen(folder: Path) -> dict[str, Lines]:
    lines = (line for kind in _KINDS for line in (folder / f"{kind}.jsonl").open())
    return {record["name"]: record["lines"] for record in map(json.loads, lines)}


def _compare(frozen: dict[str, Lines], records: Records, only: str) -> bool:
    """Print where the records differ from frozen ones; returns whether none does."""
    found = Counter[str]()
    left = {name for name in frozen if only in name.split(" ")[1]}
    for name, lines in records:
        left.discard(name)
        kind = name.split(" ")[0]
        if name not in frozen:
            found[f"{kind} new"] += 1
            print(f"new: {name}")
        elif lines == frozen[name]:
            found[f"{kind} the same"] += 1
        else:
            found[f"{kind} different"] += 1
            print(f"\nDIFFERENT: {name}", *_differences(frozen[name], lines), sep="\n")
    print("", *(f"missing: {name}" for name in sorted(left)), sep="\n")
    print(*(f"{count:5} {what}" for what, count in sorted(found.items())), sep="\n")
    return not left and not any(what.endswith("different") for what in found)


def _differences(old: Lines, new: Lines) -> Iterator[str]:
    """The first lines that differ, below the edit that they come from."""
    same = (n for n, (one, other) in enumerate(zip(old, new, strict=False)) if one != other)
    first = next(same, min(len(old), len(new)))
    start = next((n for n in range(first, -1, -1) if not new[n : n + 1] or new[n][:1] != " "), 0)
    yield from (f"  {line}" for line in new[start : min(start + 1, first)])
    was, now = old[first : first + _WINDOW], new[first : first + _WINDOW]
    changed = difflib.unified_diff(was, now, n=0, lineterm="")
    yield from [line for line in changed if line[:2] != "@@"][2:22]
    yield f"  … line {first + 1} of {len(old)}, now {len(new)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.oracles", description=__doc__)
    parser.add_argument("what", choices=("freeze", "compare"))
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the records are kept")
    parser.add_argument("--pairs", type=Path, help="of names alone; else shared/alignment/dev near")
    parser.add_argument("--only", default="", help="part of the names of the pairs to look at")
    options = parser.parse_args()
    near = (above / "shared/alignment/dev" for above in Path(__file__).resolve().parents)
    pairs = options.pairs or next(filter(Path.is_dir, near), None)
    if pairs is None:
        print("there are no pairs of names alone: give --pairs")
    torch.set_num_threads(1)
    started = time.monotonic()
    if options.what == "freeze":
        _freeze(options.folder, _records(pairs, None, options.only))
        good = True
    else:
        frozen = _frozen(options.folder)
        edits = Counter(name.split(" ")[1] for name in frozen if name.startswith("edits"))
        good = _compare(frozen, _records(pairs, edits, options.only), options.only)
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(not good)


if __name__ == "__main__":
    main()
