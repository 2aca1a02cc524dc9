"""Claude's proposal without the app: shown and confirmed in the terminal."""

from __future__ import annotations

import re
import shutil
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.transform import describe
from s2p_tui.errors import (
    CancelledError,
    Code,
    Hint,
    ProposerError,
    S2PError,
    UsageError,
    printable,
)
from s2p_tui.proposals.claude import account
from s2p_tui.proposals.claude.account import find_key
from s2p_tui.proposals.claude.ask import Claude
from s2p_tui.proposals.claude.job import Asking, Budget
from s2p_tui.proposals.claude.question import Question, question_about
from s2p_tui.proposals.proposal import Change, Confidence, Hunk, Proposal

if TYPE_CHECKING:
    from s2p_tui.session.session import Session

_NUMBER = re.compile(r"[0-9]+")
_MOST_KEYS = 4
_MOST_LINES = 400


def lines_of(proposal: Proposal, skeleton: Skeleton) -> Iterator[str]:
    """List the changes hunk by hunk; rows alike but for their numbers share a line."""
    shown = 0
    for hunk in proposal.hunks:
        yield printable(f"{hunk.title}: {hunk.reason}" if hunk.reason else hunk.title)
        for line in _rows(hunk, skeleton):
            shown += 1
            if shown <= _MOST_LINES:
                yield printable(line)
    if shown > _MOST_LINES:
        yield f"and {shown - _MOST_LINES:,} more lines; the app shows them all"
    yield from map(printable, proposal.notes)


def _rows(hunk: Hunk, skeleton: Skeleton) -> Iterator[str]:
    alike: dict[tuple[str, ...], list[str]] = {}
    for change in hunk.changes:
        line = _line(change, skeleton[change.index].path)
        alike.setdefault(tuple(_NUMBER.split(line)), []).append(line)
    for lines in alike.values():
        more = f"  (and {len(lines) - 1:,} alike)" if len(lines) > 1 else ""
        yield f"  {lines[0]}{more}"


def _line(change: Change, path: str) -> str:
    but = f"; but {change.objection}" if change.objection else ""
    old, new = in_words(change.old), in_words(change.new)
    what = f"{old} stays" if old == new else f"{old} -> {new}"
    return f"{path}: {what}  [{change.confidence}]{but}"


def in_words(row: Row) -> str:
    """Describe a row's source."""
    if row.source is None:
        return "the skeleton's value" if row.gap else "nothing"
    keys, done = row.keys, describe(row.source)
    names = ", ".join(keys[:_MOST_KEYS])
    if len(keys) > _MOST_KEYS:
        names += f" and {len(keys) - _MOST_KEYS} more"
    return f"{names} ({done})" if names and done else names or done


Confirm = Callable[[str], bool]
_POLL_SECONDS = 0.1


def propose_with_claude(
    session: Session,
    *,
    model: str | None = None,
    confirm: Confirm | None = None,
    yes: bool = False,
    everything: bool = False,
) -> bool:
    """Ask Claude about the rows that are not settled; apply what is accepted as one edit.

    The question is printed on standard error and confirmed before it is sent; the answer is printed
    and confirmed before anything changes. Reads no tensor data.

    Args:
        session: The alignment to complete.
        model: An alias (haiku, sonnet, opus, sonnet3.5) or a full id; default: the last one
            used.
        confirm: Answers both questions in the user's stead.
        yes: Answer them with yes, but leave out rows that Claude itself is unsure of.
        everything: Ask about settled rows too.

    Returns:
        False if the user declined.

    Raises:
        UsageError: There is nobody to ask, or no such model.
        ProposerError: Claude cannot be asked, or the answer cannot be used.
        CancelledError: It was interrupted.
    """
    ask = confirm or (_always if yes else _on_terminal())
    name = account.last_choice() if model is None else model
    chosen = account.model_named(name)
    budget = Budget.of(len(session.checkpoint.state_dict))
    question = question_about(session.situation, budget, everything=everything)
    if not question.requests:
        _tell("Every row is settled: there is nothing to ask Claude, and nothing was sent.")
        return True
    key = find_key()
    _announce(question, chosen, in_full=not yes)
    if not ask(f"Send this to {chosen.id}?"):
        _tell("Nothing was sent.")
        return False
    account.remember(name)
    job = Asking()
    claude = Claude(key, chosen.id, budget, job)
    proposal = _waited_for(lambda: claude.answer(question), job)
    return _take(session, proposal, ask, yes=yes and confirm is None)


def _take(session: Session, proposal: Proposal, ask: Confirm, *, yes: bool) -> bool:
    for line in lines_of(proposal, session.target.skeleton):
        _tell(line)
    indices = [
        change.index
        for change in proposal.changes
        if not (yes and change.confidence is Confidence.UNSURE)
    ]
    unsure = sum(1 for _ in proposal.changes) - len(indices)
    if unsure:
        _tell(f"Left out, as Claude itself is unsure of them: {unsure} rows.")
    if not indices:
        _tell("Claude proposes no change.")
        return True
    if not ask(f"Accept {'this row' if len(indices) == 1 else f'these {len(indices):,} rows'}?"):
        _tell("Rejected: nothing was changed.")
        return False
    session.edit(proposal.accepted(indices))
    if session.blocking:
        _tell(f"{session.blocking:,} rows do not line up yet, or are doubtful.")
    if unused := len(session.unused.blocking):
        _tell(f"{unused:,} unused {'entry is' if unused == 1 else 'entries are'} not accepted.")
    return True


def _always(question: str) -> bool:
    _tell(f"{question} Yes.")
    return True


def _on_terminal() -> Confirm:
    """Return a function that asks on standard error and reads standard input.

    Raises:
        UsageError: They are not a terminal.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "Claude's proposal has to be confirmed, and there is no terminal to ask on.",
            Hint(Code.NOBODY_TO_ASK),
        )

    def ask(question: str) -> bool:
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    return ask


def _announce(question: Question, chosen: account.Model, *, in_full: bool) -> None:
    if chosen.warning:
        _tell(chosen.warning)
    if in_full:
        for line in question.text.splitlines():
            _tell(f"  | {line}")
    count = len(question.requests)
    requests = "1 request" if count == 1 else f"{count} requests"
    size = sum(len(request.text.encode()) for request in question.requests)
    _tell(
        f"To {chosen.id}: {len(question.asked):,} rows in {requests}, {size:,} bytes, about "
        f"{question.tokens:,} tokens by estimate. Names, shapes, dtypes and layer classes; no "
        "numbers of either model, no file names."
    )
    for note in question.notes:
        _tell(note)


def _waited_for(work: Callable[[], Proposal], job: Asking) -> Proposal:
    """Run work in a thread and return its outcome; Ctrl-C cancels it at once.

    Raises:
        S2PError: What the work raised, or that it was interrupted.
    """
    outcome: list[Proposal | S2PError] = []

    def target() -> None:
        try:
            outcome.append(work())
        except S2PError as error:
            outcome.append(error)
        except Exception as error:
            words = f"Unexpected {type(error).__name__} while asking Claude."
            outcome.append(ProposerError(words, "Please report this."))

    thread = threading.Thread(target=target, name="asking", daemon=True)
    try:
        thread.start()
        with _signs_of_life(job) as show:
            while thread.is_alive():
                thread.join(_POLL_SECONDS)
                show()
    except KeyboardInterrupt:
        job.cancel()
        raise CancelledError("Asking Claude was cancelled; nothing was changed.") from None
    (result,) = outcome
    if isinstance(result, S2PError):
        raise result
    return result


@contextmanager
def _signs_of_life(job: Asking) -> Generator[Callable[[], None]]:
    if not sys.stderr.isatty():
        yield lambda: None
        return
    blank = ""

    def show() -> None:
        nonlocal blank
        words = printable(job.progress)[: shutil.get_terminal_size().columns - 1]
        sys.stderr.write(f"\r{blank}\r{words}")
        sys.stderr.flush()
        blank = " " * len(words)

    try:
        yield show
    finally:
        sys.stderr.write(f"\r{blank}\r")


def _tell(line: str) -> None:
    sys.stderr.write(f"{printable(line)}\n")
