"""Flows that run both models: one compares their modules, one lets the forward settle rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s2p_tui.alignment.edits import apply
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.mapping_file import replayed
from s2p_tui.app.agreement import Agreement
from s2p_tui.app.checks import Source
from s2p_tui.app.flows import has_failed, result_of, review
from s2p_tui.app.review import Reviewing
from s2p_tui.app.screens.check import CheckForm, Checking
from s2p_tui.errors import S2PError
from s2p_tui.proposals import forward

if TYPE_CHECKING:
    from s2p_tui.alignment.mapping_file import SavedAlignment
    from s2p_tui.app.agreement import Found
    from s2p_tui.app.screens.main import Workspace


async def check(workspace: Workspace) -> None:
    """Mark the rows whose modules agree, and go to the first of those that differ."""
    ran = await _run_both(workspace, settles=False)
    if ran is None:
        return
    found, _ = ran
    agreement = _shown(workspace, Agreement(workspace.session, found))
    good = found.status == "agree" and agreement.first is None
    if good:
        more = " S settles doubtful rows." if workspace.session.blocking else ""
    else:
        more = " S tries to settle it."
    said = workspace.symbols.plain(agreement.summary) + more
    workspace.say(said, "lines--good" if good else "lines--bad")


async def settle(workspace: Workspace) -> None:
    """Review the rows that the forward decides."""
    ran = await _run_both(workspace, settles=True)
    if ran is None:
        return
    session = workspace.session
    found, mapping = ran
    if mapping is None:
        agreement = _shown(workspace, Agreement(session, found))
        why = "Nothing was settled, as no small change makes both models agree."
        workspace.say(workspace.symbols.plain(f"{why} {agreement.summary}"), "lines--bad")
        return
    settled = replayed(mapping, session.checkpoint.state_dict, session.target.skeleton).alignment
    notes = [f"Not settled: {row.path}: {row.why}." for row in found.open]
    proposal = forward.propose(settled.rows, session.situation, notes)
    # Marks hold for what was run: they go from rows that are rejected, as after any edit.
    accepted = proposal.accepted({change.index for change in proposal.changes})
    _shown(workspace, Agreement(session, found, apply(session.alignment, accepted).rows))
    none = "Nothing is to be settled: both models agree."
    await review(workspace, Reviewing(session.alignment, proposal), none)


def _shown(workspace: Workspace, agreement: Agreement) -> Agreement:
    """Mark the rows, and go to the first whose module differs."""
    workspace.view.show_agreement(agreement)
    if agreement.first_row is not None:
        workspace.go_to(agreement.first_row, reveal=True)
    return agreement


async def _run_both(
    workspace: Workspace, *, settles: bool
) -> tuple[Found, SavedAlignment | None] | None:
    """Ask for both models' code and an input, and run them.

    Returns:
        What was found, and the mapping with which both agree, if that was asked for. None if
        nothing was run, or it failed.
    """
    session, symbols, options = workspace.session, workspace.symbols, workspace.options
    if session.counts[Fit.MISMATCHED]:
        workspace.go_to(session.find("mismatched")[0], reveal=True)
        words = "Both models can be run once no row is mismatched; doubtful rows may be."
        workspace.say(words, "lines--bad")
        return None
    typed = await result_of(workspace, CheckForm(workspace.typed, symbols, settles=settles))
    if typed is None:
        workspace.say()
        return None
    workspace.typed = typed
    allow_missing = options.get("allow_missing", False)
    source = Source(options.get("checkpoint"), options.get("adapter"), allow_missing)
    screen = Checking(session, typed, source, symbols, settles=settles)
    found = await result_of(workspace, screen)
    if has_failed(workspace, found) or found is None or isinstance(found, S2PError):
        return None
    return found, screen.job.settled
