"""The way from `c` to a file, and the ways it can end."""

from __future__ import annotations

import threading
from pathlib import Path

import equinox as eqx
import numpy as np
import pytest
from textual.widgets import Input, Label, Static

from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.alignment.task import Job
from s2p_tui.app.screens.busy import Converting
from s2p_tui.app.screens.convert import ConvertForm, PlainCheckbox, Result, report
from s2p_tui.app.screens.main import Workspace
from s2p_tui.conversion.contents import CastLoss
from s2p_tui.conversion.convert import Written
from s2p_tui.conversion.output import Converted
from s2p_tui.errors import OutputError
from s2p_tui.formats.skeleton_file import open_target
from s2p_tui.session.session import Session
from tests.app.reading import status
from tests.helpers.orbax_pair import arrays_in, pair_in
from tests.helpers.running_app import Opened, until
from tests.helpers.sessions import checkpoint_of, fitting, linears, make_session


async def test_refuses_and_goes_to_the_first_row_that_blocks(opened: Opened) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press("G", "c")
        assert pilot.app.screen is workspace
        assert workspace.cursor.index == 0
        assert "Row 1: expected 4 (4 elements), got 2×3 (6). And 2 other rows." in status(workspace)


@pytest.mark.slow("drives the app through several screens")
async def test_converts_and_reports(opened: Opened, tmp_path: Path) -> None:
    output = tmp_path / "out.eqx"
    async with opened(fitting(), output=output) as (pilot, workspace):
        await pilot.press("space", "J", "c")
        assert isinstance(pilot.app.screen, ConvertForm)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Result))
        facts = str(pilot.app.screen.query_one("#facts", Static).content)
        assert "Read back and compared with its sources: equal." in facts
        assert str(output) in facts
        assert not workspace.has_unsaved_edits
        await pilot.press("enter")
        assert pilot.app.screen is workspace
        await pilot.press("q")
        await pilot.pause()
    result = pilot.app.return_value
    assert result is workspace.converted
    assert result is not None
    assert result.written.path == output
    assert result.mapping == tmp_path / "out.mapping.json"
    like = [np.zeros((2, 2), np.float32)] * 4
    loaded = eqx.tree_deserialise_leaves(output, like)
    assert all(np.array_equal(leaf, np.arange(4).reshape(2, 2)) for leaf in loaded)


@pytest.mark.slow("drives the app through several screens")
async def test_a_file_that_exists_is_replaced_once_it_is_confirmed(
    opened: Opened, tmp_path: Path
) -> None:
    output = tmp_path / "out.eqx"
    output.write_text("notes")
    async with opened(fitting(), output=output) as (pilot, workspace):
        await pilot.press("c", "enter")
        assert isinstance(pilot.app.screen, ConvertForm)
        remark = str(pilot.app.screen.query_one("#remark").render())
        assert f"Replace {output}? Enter again does it" in remark
        await pilot.press("escape")
        assert pilot.app.screen is workspace
        assert output.read_text() == "notes"
        await pilot.press("c", "enter", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Result))
        assert output.read_bytes()[:6] == b"\x93NUMPY"


@pytest.mark.slow("drives the app through several screens")
async def test_name_and_dtype_are_taken_from_the_form(opened: Opened, tmp_path: Path) -> None:
    async with opened(fitting(), output=tmp_path / "x.eqx") as (pilot, workspace):
        await pilot.press("c")
        pilot.app.screen.query_one(Input).value = str(tmp_path / "y.safetensors")
        await pilot.press("tab", "down", "down", "space", "tab", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Result))
        assert workspace.order.output == tmp_path / "y.safetensors"
        assert workspace.order.dtype == "bfloat16"
        snippet = str(pilot.app.screen.query_one("#snippet", Static).content)
        assert "safetensors.flax" in snippet


@pytest.mark.slow("drives the app through many screens")
async def test_a_name_that_ends_in_orbax_makes_an_orbax_checkpoint(
    opened: Opened, tmp_path: Path
) -> None:
    pair = pair_in(tmp_path)
    output = tmp_path / "model.orbax"
    async with opened(pair.session(), output=tmp_path / "model") as (pilot, _):
        await pilot.press("c")
        remark = pilot.app.screen.query_one("#remark", Label)
        assert "model.orbax for Orbax" in str(remark.render())
        await pilot.press("end", *".orbax")
        assert "An Orbax checkpoint" in str(remark.render())
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Result))
        snippet = str(pilot.app.screen.query_one("#snippet", Static).content)
        assert f'ocp.StandardCheckpointer().restore("{output}", wanted)' in snippet
        assert "model, state = eqx.combine" in snippet
        await pilot.press("enter", "c", "enter")
        assert isinstance(pilot.app.screen, ConvertForm)
        remark = pilot.app.screen.query_one("#remark", Label)
        assert "model.orbax exists: remove it first" in str(remark.render())
    assert len(arrays_in(output)) == 18


@pytest.mark.slow("drives the app through many screens")
async def test_an_absolute_name_can_be_typed(opened: Opened, tmp_path: Path) -> None:
    async with opened(fitting(), output=tmp_path / "x.eqx") as (pilot, workspace):
        await pilot.press("c", "ctrl+u", "slash", *"no", "slash", *"x.eqx", "enter")
        assert isinstance(pilot.app.screen, ConvertForm)
        remark = str(pilot.app.screen.query_one("#remark").render())
        assert "There is no folder /no." in remark
        await pilot.press("escape")
        assert pilot.app.screen is workspace


async def test_keys_typed_on_after_c_do_not_change_what_is_converted(
    opened: Opened, tmp_path: Path
) -> None:
    async with opened(fitting(), output=tmp_path / "x.eqx") as (pilot, workspace):
        before = workspace.session.alignment
        await workspace.action_convert()
        workspace.action_shift(1)
        workspace.action_undo()
        assert workspace.session.alignment is before
        await until(pilot, lambda: isinstance(pilot.app.screen, ConvertForm))
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is workspace)
        await pilot.press("J")
        assert workspace.session.alignment is not before


@pytest.mark.slow("drives the app through several screens")
async def test_cancelled_form_converts_nothing(opened: Opened, tmp_path: Path) -> None:
    async with opened(fitting(), output=tmp_path / "x.eqx") as (pilot, workspace):
        for cancel in (["escape"], ["tab", "tab", "tab", "enter"]):
            await pilot.press("c", *cancel)
            await pilot.pause()
            assert pilot.app.screen is workspace
        assert not list(tmp_path.iterdir())


async def test_empty_name_stays_in_the_form(opened: Opened) -> None:
    async with opened(fitting()) as (pilot, _):
        await pilot.press("c")
        pilot.app.screen.query_one(Input).value = " "
        await pilot.press("enter")
        assert isinstance(pilot.app.screen, ConvertForm)


@pytest.mark.parametrize("key", ["escape", "q", "ctrl+c"])
@pytest.mark.slow("opens the app for every case")
async def test_running_conversion_is_cancelled(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    cancelled = threading.Event()

    def convert(_: Session, __: Path, *, job: Job, **___: object) -> Converted:
        job.total, job.written, job.leaf = 100, 40, ".layer0\x1b[31m"
        while not job.is_cancelled:
            pass
        cancelled.set()
        job.check()
        raise AssertionError("not cancelled")

    monkeypatch.setattr(Session, "convert", convert)
    async with opened(fitting(), output=tmp_path / "x.eqx") as (pilot, workspace):
        await pilot.press("c", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Converting))
        await until(pilot, lambda: "40 bytes" in words_of(pilot.app.screen, "#figures"))
        assert "\\x1b[31m" in words_of(pilot.app.screen, "#leaf")
        await pilot.press(key)
        await until(pilot, lambda: pilot.app.screen is workspace)
        assert cancelled.is_set()
        assert "Cancelled" in status(workspace)
        assert workspace.converted is None


@pytest.mark.parametrize("error", [OutputError("The disk is full.", "Free some."), OSError("bug")])
async def test_failed_conversion_is_one_line(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def convert(_: Session, __: Path, **___: object) -> Converted:
        raise error

    monkeypatch.setattr(Session, "convert", convert)
    async with opened(fitting()) as (pilot, workspace):
        await pilot.press("c", "enter")
        await until(pilot, lambda: pilot.app.screen is workspace and bool(status(workspace)))
        await pilot.pause()
        expected = "The disk is full. Free some." if isinstance(error, OutputError) else "OSError"
        assert expected in status(workspace)


def test_report_names_losses_and_unused_entries() -> None:
    losses = {f".leaf{i}": CastLoss(overflowed=3) for i in range(7)}
    written = Written(Path("a.eqx"), 1000, 2.0, True, losses)
    lines = report(linears(), Converted(written, None))
    assert lines[0] == "a.eqx  1.0 kB in 2.0 s"
    assert "Not used: 1 entry on the bench." in lines
    assert "! .leaf0: 3 numbers became infinite." in lines
    assert lines[-1] == "! And 2 more leaves lost numbers in the cast."


@pytest.mark.slow("drives the app through several screens")
async def test_form_tells_which_leaves_keep_their_values(opened: Opened) -> None:
    async with opened(fitting()) as (pilot, workspace):
        await pilot.press("G", "s", "s", "G", "y", "c")
        form = pilot.app.screen
        assert isinstance(form, ConvertForm)
        (told,) = form.query(".told").results(Label)
        path = workspace.session.target.skeleton[-1].path
        assert str(told.content) == f"1 leaf keeps the skeleton's value: {path}"


def test_form_and_result_tell_that_a_plain_file_names_no_layers(tmp_path: Path) -> None:
    eqx.tree_serialise_leaves(tmp_path / "plain.eqx", [np.zeros(3, np.float32)])
    target = open_target(tmp_path / "plain.eqx")
    session = Session(checkpoint_of({"a": np.zeros(3, np.float32)}), target)
    converted = Converted(Written(Path("a.eqx"), 1000, 2.0, True, {}), None)
    assert "names no layer classes" in report(session, converted)[-1]


def words_of(screen: object, selector: str) -> str:
    assert isinstance(screen, Converting | Workspace)
    return str(screen.query_one(selector, Static).content)


@pytest.mark.slow("drives the app through several screens")
async def test_numbers_that_do_not_fit_are_written_where_the_form_allows_it(
    opened: Opened, tmp_path: Path
) -> None:
    # Counts up from 0, of which the last ones are too large.
    entry, leaf = Entry("layer", (66000,), "float32"), Leaf(".layer", (66000,), "float16")
    session, output = make_session([entry], [leaf]), tmp_path / "out.eqx"
    async with opened(session, output=output) as (pilot, _):
        await pilot.press("c")
        assert not pilot.app.screen.query(PlainCheckbox)
        await pilot.press("enter")
        await until(pilot, lambda: bool(pilot.app.screen.query(PlainCheckbox)))
        refused = str(pilot.app.screen.query_one("#refused", Label).content)
        assert ".layer: 480 numbers became infinite" in refused
        assert not output.exists()
        # As it is, it is refused again; ticked, it is written.
        await pilot.press("enter")
        await until(pilot, lambda: bool(pilot.app.screen.query(PlainCheckbox)))
        await pilot.press("tab", "tab", "space", "tab", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Result))
        facts = str(pilot.app.screen.query_one("#facts", Static).content)
        assert "480 numbers became infinite" in facts
    (loaded,) = eqx.tree_deserialise_leaves(output, [np.zeros(66000, np.float16)])
    assert np.isinf(loaded).sum() == 480
