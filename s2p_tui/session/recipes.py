"""Recipe files: the user's folder of them, those shipped with the program, and their use."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_config_path

from s2p_tui.alignment import recipe_file
from s2p_tui.alignment.edits import Edit
from s2p_tui.alignment.mapping_file import SavedAlignment
from s2p_tui.alignment.recipe import Recipe
from s2p_tui.alignment.recipe_learning import learn
from s2p_tui.alignment.recipe_replay import Replay, expanded
from s2p_tui.conversion.output import mapping_of, require_place, write_beside
from s2p_tui.errors import Code, Hint, InputError, S2PError, some
from s2p_tui.formats.sniff import read_whole
from s2p_tui.proposals.proposal import Proposal
from s2p_tui.proposals.recipe import propose

if TYPE_CHECKING:
    from s2p_tui.session.session import Session

_MOST = 1 << 26
"""Bytes of a recipe file; one of 10,000 patterns takes three million."""
SUFFIX = ".recipe.json"
_HEAD = 256
"""Bytes within which a file names its format."""


def path_of(name: str) -> Path:
    """Return the file of a recipe: a path as it is, a plain name in the user's folder."""
    is_plain = Path(name).name == name and not name.endswith(".json")
    return folder() / f"{name}{SUFFIX}" if is_plain else Path(name).expanduser()


def folder() -> Path:
    """Return the user's folder of recipes, existing or not."""
    return user_config_path("s2p-tui", appauthor=False) / "recipes"


def known() -> dict[str, Path | Traversable]:
    """Return the recipes there are by name; the user's go before shipped ones of the same name."""
    shipped = files("s2p_tui.session").joinpath("shipped")
    found: dict[str, Path | Traversable] = {
        file.name.removesuffix(SUFFIX): file
        for file in sorted(shipped.iterdir(), key=lambda file: file.name)
        if file.name.endswith(SUFFIX)
    }
    own = sorted(folder().glob("*.json")) if folder().is_dir() else []
    return found | {file.name.removesuffix(".json").removesuffix(".recipe"): file for file in own}


def is_recipe(where: Path) -> bool:
    """Return True for a recipe file, or a known recipe's name where there is no such file."""
    if not where.is_file():
        return str(where) in known()
    try:
        with where.open("rb") as stream:
            return f'"{recipe_file.FORMAT}"'.encode() in stream.read(_HEAD)
    except OSError:
        return False


def load_recipe(where: str | Path) -> Recipe:
    """Read a recipe file, or a known recipe by its name.

    Raises:
        InputError: There is none, it cannot be read, or it is no recipe.
    """
    path = Path(where)
    if path.is_file():
        return _read(path, str(path))
    recipes = known()
    if str(where) in recipes:
        return _read(recipes[str(where)], str(where))
    raise InputError(
        f"{where} is no recipe file and no recipe's name. Known are: {some(list(recipes))}.",
        Hint(Code.SAVED_RECIPE),
    )


def _read(path: Path | Traversable, name: str) -> Recipe:
    try:
        text = read_whole(path, _MOST).decode() if isinstance(path, Path) else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{name} cannot be read: {reason}.", Hint(Code.SAVED_RECIPE)) from None
    return recipe_file.from_text(text, name)


def fitting(session: Session) -> list[str]:
    """Return the names of the known recipes that cover a pair. Reads no tensor data."""
    state_dict, skeleton = session.checkpoint.state_dict, session.target.skeleton
    found: list[str] = []
    for name, path in known().items():
        try:
            recipe = _read(path, name)
        except S2PError:
            # Whoever asks for it by name is told what is wrong with it.
            continue
        if Replay(recipe, state_dict, skeleton).covers:
            found.append(name)
    return found


def own_mapping(session: Session, recipe: Recipe) -> SavedAlignment | None:
    """Return the mapping that a recipe was made from, if it was made from this pair."""
    state_dict, skeleton = session.checkpoint.state_dict, session.target.skeleton
    if not Replay(recipe, state_dict, skeleton).is_its_own:
        return None
    mapping = mapping_of(session.checkpoint, session.target, session.alignment)
    return expanded(recipe, mapping, state_dict, skeleton)


def proposal_of(session: Session, recipe: Recipe) -> Proposal:
    """Return the changes that a recipe made from another pair proposes. Changes nothing."""
    return propose(recipe, session.situation)


def follow(session: Session, recipe: Recipe) -> None:
    """Take over all that a recipe proposes, as one edit.

    Raises:
        OtherFilesError: It was made from this pair, and the layers have other settings now.
    """
    mapping = own_mapping(session, recipe)
    if mapping is not None:
        session.start_from(mapping)
        return
    proposal = proposal_of(session, recipe)
    edit: Edit = proposal.accepted({change.index for change in proposal.changes})
    session.edit(edit)
    session.told = proposal.notes


def save_recipe(
    mapping: SavedAlignment, path: Path, *, protected: tuple[Path, ...] = ()
) -> tuple[Recipe, Path | None]:
    """Write the recipe of a mapping.

    Args:
        mapping: The mapping; it holds the shapes of both ends.
        path: The file. Another one there is kept with `~` behind its name.
        protected: Files that it must not replace.

    Returns:
        The recipe, and where another file of that name is kept now.

    Raises:
        InputError: The mapping does not hold together.
        OutputError: It cannot be written.
    """
    if path.parent == folder():
        folder().mkdir(parents=True, exist_ok=True)
    require_place(path, protected)
    recipe = learn(mapping, path.name.removesuffix(".json").removesuffix(".recipe"))
    return recipe, write_beside(path, recipe_file.to_text(recipe).encode(), keep_old=True)
