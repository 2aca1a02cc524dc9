"""Flows through several screens: reviews, choices, Claude, converting, mapping files.

Each is a coroutine that a worker of the main screen runs. It reaches its first screen before the
next key is dispatched, so that keys typed ahead go to that screen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from s2p_tui.alignment.mapping_file import SavedAlignment
from s2p_tui.alignment.recipe import Recipe
from s2p_tui.alignment.task import Task
from s2p_tui.app import background
from s2p_tui.app.background import app_of, in_thread
from s2p_tui.app.commands import sources, transforms
from s2p_tui.app.commands.arrange import ImpossibleError
from s2p_tui.app.failures import unexpected
from s2p_tui.app.kinds import Kind, Kinds
from s2p_tui.app.review import Reviewing
from s2p_tui.app.screens.ask_claude import AskClaude
from s2p_tui.app.screens.busy import Converting, WaitingForClaude, Working
from s2p_tui.app.screens.choose_source import ChooseSource
from s2p_tui.app.screens.choose_transform import ChooseTransform
from s2p_tui.app.screens.convert import ConvertForm, Result
from s2p_tui.app.screens.kinds import KindsView
from s2p_tui.app.screens.questions import LoadMapping, SaveRecipe
from s2p_tui.app.screens.review import Review
from s2p_tui.app.terminal.key_queue import KeyQueue
from s2p_tui.app.text import many, shorten
from s2p_tui.conversion.convert import DEFAULT_CHUNK
from s2p_tui.conversion.output import mapping_of
from s2p_tui.conversion.report import remarks
from s2p_tui.errors import CancelledError, Code, S2PError, printable
from s2p_tui.proposals.lift import Block, blocks_at, lift
from s2p_tui.session import recipes
from s2p_tui.session.recipes import own_mapping, proposal_of

if TYPE_CHECKING:
    from textual.screen import Screen

    from s2p_tui.app.commands.transforms import TransformOffer
    from s2p_tui.app.screens.main import Workspace
    from s2p_tui.app.tour import Tour
    from s2p_tui.proposals.claude.question import Question
    from s2p_tui.proposals.proposal import Proposal
    from s2p_tui.session.session import Session

T = TypeVar("T")
_AT_ONCE = 2000
"""Rows up to which a proposal is made within a key press, without anybody noticing."""
_FRAME = 4
"""Cells of the status line that no words can take."""


async def result_of(workspace: Workspace, screen: Screen[T]) -> T | None:
    """Show a screen; return what it is dismissed with."""
    return await app_of(workspace).push_screen_wait(screen)


async def _computed(
    workspace: Workspace, words: str, rows: int, find: Callable[[], T]
) -> T | S2PError | None:
    """Find something about so many rows: at once, or if many beside the keys; None if cancelled.

    Keys typed ahead are for the screen that shows it.
    """
    if rows <= _AT_ONCE:
        try:
            return find()
        except S2PError as error:
            return error
        except Exception as error:
            return unexpected(error, words.rstrip(" …"))
    screen = Working(words, find, workspace.symbols)
    found = await result_of(workspace, screen)
    app = app_of(workspace)
    if found is not None and isinstance(app, KeyQueue):
        # By then whoever called this has opened that screen.
        app.call_later(app.press_next, *screen.typed)
    return found


def has_failed(workspace: Workspace, found: object) -> bool:
    """Report a computation that was cancelled or failed."""
    if found is None:
        workspace.say("Cancelled: nothing was changed.")
    elif isinstance(found, S2PError):
        workspace.say(found.line, "lines--bad")
    return found is None or isinstance(found, S2PError)


async def review(
    workspace: Workspace, reviewing: Reviewing, none: str, *, can_widen: bool = False
) -> bool:
    """Let the user review a proposal; apply the accepted part as one edit.

    Args:
        workspace: The main screen.
        reviewing: The proposal, made for the alignment as it is.
        none: The message if it changes nothing.
        can_widen: True if there is a wider proposal to review instead.

    Returns:
        True if the wider proposal was asked for.
    """
    proposal = reviewing.proposal
    if not proposal.hunks:
        workspace.say(printable(" ".join((none, *proposal.notes))), "lines--good")
        return False
    screen = Review(workspace.session, reviewing, workspace.symbols, can_widen=can_widen)
    here = workspace.cursor.index
    accepted = await result_of(workspace, screen)
    if screen.widened:
        return True
    if accepted is None:
        workspace.say("Rejected: nothing was changed.")
        return False
    workspace.travel(
        lambda: workspace.session.edit(proposal.accepted(accepted)),
        f"{many(len(accepted), 'row')} changed; u takes it back.",
        none,
    )
    if proposal.by == "user":
        workspace.go_back_to(here)
    return False


async def match(workspace: Workspace) -> None:
    """Review what the offline matcher would change; start it if it was stopped, or failed."""
    session = workspace.session
    if session.lacks_evidence:
        session.awaits_evidence = True
        workspace.say(background.STARTED)
        await match_in_background(workspace)
        return
    words = "Comparing the rows with what the matcher found …"
    reviewing = await _computed(
        workspace,
        words,
        len(session),
        lambda: Reviewing(session.alignment, session.match_proposal()),
    )
    if isinstance(reviewing, Reviewing):
        await review(workspace, reviewing, "Everything is as the matcher would have it.")
    else:
        has_failed(workspace, reviewing)


async def match_in_background(workspace: Workspace) -> None:
    """Run the matcher beside the keys, and show the rows it found or offer them."""
    session, journal = workspace.session, workspace.journalled.journal
    task = workspace.matching = Task()
    try:
        is_taken = await background.match(session, journal, lambda: workspace.is_current, task)
    except S2PError as error:
        session.do_without_evidence()
        workspace.view.redraw()
        workspace.say(printable(background.words_without(error)), "lines--bad")
        return
    finally:
        # Its thread must not outlive the app.
        task.cancel()
        workspace.matching = None
    if is_taken:
        workspace.saved = session.alignment
        workspace.cursor.picked = None
        workspace.cursor.forget_beyond(len(session))
    workspace.view.redraw()
    workspace.say(*((background.TAKEN, "") if is_taken else (background.OFFERED, "lines--strong")))


async def apply_to_siblings(workspace: Workspace) -> None:
    """Review what the arrangement of the block here would make of its siblings.

    The innermost block first whose siblings are not arranged so already; then those around it.
    """
    session, index = workspace.session, workspace.cursor.index
    if session.row(index) is None:
        workspace.say("A benched entry is in no block: go to a row.", "lines--bad")
        return
    skeleton, folded = session.target.skeleton, workspace.cursor.here
    blocks = tuple(
        block
        for block in blocks_at(skeleton, index)
        if all(skeleton[row].path.startswith(block.prefix) for row in folded)
    )
    if not blocks:
        workspace.say("There is no numbered block here that has siblings.", "lines--bad")
        return
    while blocks:
        tried, said = blocks, list[str]()
        words = "Applying this block's arrangement to its siblings …"
        found = await _computed(
            workspace,
            words,
            len(session),
            lambda blocks=tried, said=said: _first_change(session, blocks, said),
        )
        if found is None or isinstance(found, S2PError):
            has_failed(workspace, found)
            return
        reviewing, blocks = found
        if reviewing is None:
            workspace.say(printable(" ".join(said)), "lines--good")
        elif not await review(workspace, reviewing, "", can_widen=bool(blocks)):
            return


def _first_change(
    session: Session, blocks: Sequence[Block], said: list[str]
) -> tuple[Reviewing | None, tuple[Block, ...]]:
    """Try blocks, the innermost first. Slow in a long list; changes nothing, for a thread.

    Args:
        session: The session.
        blocks: Blocks around a row.
        said: Gets a sentence about each that changes nothing.

    Returns:
        What the first that changes something would change, if one does, and the blocks after it.
    """
    for tried, block in enumerate(blocks, 1):
        state_dict, skeleton = session.checkpoint.state_dict, session.target.skeleton
        proposal = lift(
            state_dict, skeleton, session.alignment, block, session.evidence, session.verdicts
        )
        if proposal.hunks:
            return Reviewing(session.alignment, proposal), tuple(blocks[tried:])
        if not proposal.notes:
            said.append(f"Nothing in {block.prefix} feeds a leaf yet.")
        else:
            said.append(f"No sibling of {block.prefix} changes: {'; '.join(proposal.notes)}.")
    return None, ()


async def choose_source(workspace: Workspace) -> None:
    """Choose the entry for this leaf, or the leaf for this benched entry, from a list."""
    session = workspace.session
    try:
        offered = sources.offer(session, workspace.cursor.index, workspace.pools)
    except ImpossibleError as reason:
        workspace.say(str(reason), "lines--bad")
        return
    choice = await result_of(workspace, ChooseSource(offered, workspace.symbols))
    if choice is None:
        workspace.say()
        return
    workspace.make(
        lambda: sources.take(session, choice.option, swap=choice.swap, other=choice.holder)
    )


async def choose_for_kind(workspace: Workspace, kind: Kind, done: Callable[[], None]) -> None:
    """Choose the entry for the first row of a kind; the others take theirs by their numbers."""
    try:
        offered = sources.offer(workspace.session, kind.indices[0], workspace.pools)
    except ImpossibleError as reason:
        workspace.say(str(reason), "lines--bad")
        done()
        return
    screen = ChooseSource(offered, workspace.symbols, can_swap=False)
    choice = await result_of(workspace, screen)
    if choice is not None:
        workspace.make(lambda: sources.take_alike(workspace.session, choice.option, kind.indices))
    done()


async def transform_kind(workspace: Workspace, kind: Kind, done: Callable[[], None]) -> None:
    """Choose what is done to the entries of all rows of a kind."""
    session = workspace.session

    def find() -> TransformOffer | ImpossibleError:
        try:
            return transforms.offer_rows(session, kind.indices, kind.name)
        except ImpossibleError as reason:
            return reason

    words = "Looking for what these rows allow …"
    await _take_transform(workspace, await _computed(workspace, words, len(kind.indices), find))
    done()


async def kinds(workspace: Workspace) -> None:
    """Show one line per kind of row; then the rows of the one that is opened."""
    words = "Gathering the kinds of rows …"
    found = await _computed(
        workspace, words, len(workspace.session), lambda: Kinds(workspace.session)
    )
    if isinstance(found, Kinds):
        opened = await result_of(workspace, KindsView(workspace, found, workspace.symbols))
        if opened is not None:
            workspace.show_only(opened)
    else:
        has_failed(workspace, found)


async def choose_transform(workspace: Workspace) -> None:
    """Choose what is done to entries on their way into this leaf, or into a block's leaves."""
    session, cursor = workspace.session, workspace.cursor
    is_block = cursor.is_block and not cursor.marked() and cursor.picked is None

    def find() -> TransformOffer | ImpossibleError:
        try:
            return (transforms.offer_many if is_block else transforms.offer)(session, cursor)
        except ImpossibleError as reason:
            return reason

    words, rows = "Looking for what these rows allow …", len(cursor.here) if is_block else 1
    await _take_transform(workspace, await _computed(workspace, words, rows, find))


async def _take_transform(
    workspace: Workspace, offered: TransformOffer | ImpossibleError | S2PError | None
) -> None:
    """Let the user take one of the transforms that are offered, if any are."""
    session = workspace.session
    if isinstance(offered, ImpossibleError):
        workspace.say(str(offered), "lines--bad")
        return
    if offered is None or isinstance(offered, S2PError):
        has_failed(workspace, offered)
        return
    workspace.cursor.typed = ""
    screen = ChooseTransform(session, offered, workspace.symbols)
    option = await result_of(workspace, screen)
    if option is None:
        workspace.say()
    elif option.is_current:
        workspace.say("Nothing to change: this is the current transform.")
    else:
        workspace.make(lambda: transforms.take(session, offered, option))


async def ask_claude(workspace: Workspace) -> None:
    """Ask Claude about the rows that are not settled, and review what it proposes."""
    workspace.is_busy = True
    workspace.say("Writing the question …", "lines--muted")
    try:
        proposal = await _answer(workspace)
    except S2PError as error:
        workspace.say(printable(str(error)), "lines--bad")
        return
    finally:
        workspace.is_busy = False
    if proposal is None:
        workspace.say("Nothing was sent to Claude.")
    else:
        reviewing = Reviewing(workspace.session.alignment, proposal)
        await review(workspace, reviewing, "Claude proposes no change.")


async def _answer(workspace: Workspace) -> Proposal | None:
    """Show what would be sent, and if the user agrees wait for the answer; None if not.

    Raises:
        S2PError: There is no answer, in one line.
    """
    from s2p_tui.proposals.claude import account
    from s2p_tui.proposals.claude.account import find_key

    session, symbols = workspace.session, workspace.symbols
    question = await in_thread(lambda: _question(session), "Writing the question")
    workspace.say()
    if question.requests:
        # Before the user reads a question that could not be sent.
        find_key()
    name = account.last_choice()
    shown = AskClaude(question, lambda: _question(session, everything=True), name, symbols)
    consent = await result_of(workspace, shown)
    if consent is None:
        return None
    key = find_key()
    account.remember(consent.name)
    outcome = await result_of(workspace, WaitingForClaude(consent, key, symbols))
    if outcome is None:
        raise CancelledError("Asking Claude was cancelled; nothing was changed.")
    if isinstance(outcome, S2PError):
        raise outcome
    return outcome


def _question(session: Session, *, everything: bool = False) -> Question:
    from s2p_tui.proposals.claude.job import Budget
    from s2p_tui.proposals.claude.question import question_about

    budget = Budget.of(len(session.checkpoint.state_dict))
    return question_about(session.situation, budget, everything=everything)


async def convert(workspace: Workspace) -> None:
    """Ask what to write where, write it, and show the result."""
    workspace.is_busy = True
    try:
        await _convert(workspace)
    finally:
        workspace.is_busy = False


async def _convert(workspace: Workspace, refused: str = "") -> None:
    session, symbols = workspace.session, workspace.symbols
    notes = tuple(remarks(session.alignment.rows, session.target.skeleton))
    here = [file for file in session.sources if isinstance(file, Path)]
    form = ConvertForm(workspace.order, symbols, notes, here, refused)
    order = await result_of(workspace, form)
    if order is None:
        return
    workspace.order = order
    alignment = session.alignment
    screen = Converting(
        session,
        order,
        symbols,
        mapping=workspace.mapping_path,
        chunk_bytes=workspace.options.get("chunk_bytes", DEFAULT_CHUNK),
        jobs=workspace.options.get("jobs"),
    )
    outcome = await result_of(workspace, screen)
    if outcome is None or isinstance(outcome, S2PError):
        has_failed(workspace, outcome)
        if isinstance(outcome, S2PError) and outcome.code is Code.ALLOW_OVERFLOW:
            await _convert(workspace, outcome.message)
        return
    workspace.converted, workspace.saved = outcome, alignment
    name = os.path.basename(outcome.written.path)
    workspace.say(printable(f"Converted: {name}"), "lines--good")
    found = "" if workspace.tour is None else await _compare(workspace, workspace.tour)
    await result_of(workspace, Result(session, outcome, symbols, order.dtype, found))


async def _compare(workspace: Workspace, tour: Tour) -> str:
    workspace.is_comparing = True
    workspace.say("Running both models …", "lines--good")
    try:
        found = await in_thread(tour.compare, "Running both models")
    except S2PError as error:
        found = error.line
    finally:
        workspace.is_comparing = False
    workspace.say(printable(found), "lines--good")
    return found


async def load_mapping(workspace: Workspace) -> None:
    """Take over the alignment of a mapping file, as one edit."""
    session = workspace.session
    screen = LoadMapping(session, workspace.mapping_path, workspace.symbols)
    mapping = await result_of(workspace, screen)
    if isinstance(mapping, Recipe):
        await use_recipe(workspace, mapping)
    elif mapping is not None:
        name = printable(os.path.basename(mapping.name))
        before = session.alignment
        workspace.travel(
            lambda: session.start_from(mapping),
            f"Loaded {name}; u takes it back.",
            f"Everything is as in {name}.",
        )
        if session.told and session.alignment is not before:
            told = printable("; ".join(session.told))
            workspace.say(f"Loaded {name}: {told}; u takes it back.", "lines--strong")


async def use_recipe(workspace: Workspace, recipe: Recipe) -> None:
    """Review what a recipe proposes; one made from this very pair gives its mapping back."""
    session, name = workspace.session, printable(recipe.name)

    def find() -> Reviewing | SavedAlignment:
        own = own_mapping(session, recipe)
        return own or Reviewing(session.alignment, proposal_of(session, recipe))

    found = await _computed(workspace, "Comparing the rows with the recipe …", len(session), find)
    none = f"Everything is as recipe {name} has it."
    if isinstance(found, SavedAlignment):
        workspace.travel(
            lambda: session.start_from(found), f"As recipe {name} has it; u takes it back.", none
        )
    elif isinstance(found, Reviewing):
        await review(workspace, found, none)
    else:
        has_failed(workspace, found)


async def save_recipe(workspace: Workspace) -> None:
    """Ask for a name, and save the alignment as a recipe under it."""
    session = workspace.session
    stem = workspace.mapping_path.name.removesuffix(".json").removesuffix(".mapping")
    name = await result_of(workspace, SaveRecipe(stem, workspace.symbols))
    if name is None:
        workspace.say()
        return
    path = recipes.path_of(name)
    mapping = mapping_of(session.checkpoint, session.target, session.alignment)
    files = [file for file in session.sources if isinstance(file, Path)]
    protected = *files, workspace.mapping_path
    try:
        made, kept = await in_thread(
            lambda: recipes.save_recipe(mapping, path, protected=protected), "Saving the recipe"
        )
    except S2PError as error:
        workspace.say(printable(error.line), "lines--bad")
        return
    other = "" if kept is None else f"; another was there: now {kept.name}"
    count = many(len(made.patterns), "pattern")
    workspace.say(printable(f"Recipe saved: {made.name}, {count}{other}"), "lines--good")


def save_mapping(workspace: Workspace) -> None:
    """Save the mapping where it was loaded from, or beside the output."""
    path = workspace.mapping_path
    try:
        kept = workspace.session.save_mapping(path)
    except S2PError as error:
        workspace.say(printable(error.line), "lines--bad")
        return
    workspace.saved = workspace.saved_as_mapping = workspace.session.alignment
    said = "Mapping saved: "
    other = "" if kept is None else f"; another was there: now {printable(kept.name)}"
    room = workspace.size.width - len(said) - len(other) - _FRAME
    ellipsis = workspace.symbols.ellipsis
    name = shorten(printable(str(path)), max(1, room), ellipsis=ellipsis)
    workspace.say(said + name + other, "lines--good")
