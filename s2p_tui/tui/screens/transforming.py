"""The key that chooses transforms: of one row, or of a folded block's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s2p_tui.tui import choosing
from s2p_tui.tui.choosing_many import offer_many
from s2p_tui.tui.moves import ImpossibleError
from s2p_tui.tui.running import app_of
from s2p_tui.tui.screens.proposing import Proposing
from s2p_tui.tui.screens.transform import ChooseTransform

if TYPE_CHECKING:
    from s2p_tui.tui.choosing import Offer, Option


class Transforming(Proposing):
    """Has transforms chosen."""

    def action_transform(self) -> None:
        """Choose what is done to entries on their way into this leaf."""
        if self.is_busy:
            return
        session, cursor = self.session, self.cursor
        is_block = cursor.is_block and not cursor.marked() and cursor.picked is None

        def find() -> Offer | ImpossibleError:
            try:
                return (offer_many if is_block else choosing.offer)(session, cursor)
            except ImpossibleError as reason:
                return reason

        self.work_out(
            "Looking for what these rows allow …",
            len(cursor.here) if is_block else 1,
            find,
            self._offer_transforms,
        )

    def _offer_transforms(self, offered: Offer | ImpossibleError) -> None:
        if isinstance(offered, ImpossibleError):
            self.say(str(offered), "lines--bad")
            return
        self.cursor.typed = ""

        def chosen(option: Option | None) -> None:
            if option is None:
                self.say()
            elif option.is_current:
                self.say("It is so already.")
            else:
                self.make(lambda: choosing.take(self.session, offered, option))

        app_of(self).push_screen(ChooseTransform(self.session, offered, self._glyphs), chosen)
