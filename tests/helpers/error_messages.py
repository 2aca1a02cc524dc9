"""Every error message of the package, read from its source.

`python -m tests.helpers.error_messages` prints them.

What is put into a message when it is raised stands in braces, as the source has it. A message that
a helper makes of words it is given is listed once for each place that gives it some.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).parent.parent.parent / "s2p_tui"
_BASES = ("S2PError", "ImpossibleError")
_DEEPEST = 4
_COMPARED = ast.NotEq | ast.Lt | ast.LtE | ast.Gt | ast.GtE | ast.NotIn


@dataclass(frozen=True, slots=True)
class Message:
    """One message at one place of the source.

    Attributes:
        place: `file:line`.
        kind: Name of the exception's class.
        status: The exit status it ends a command with; empty for what the app's status line says.
        text: What is wrong; what is interpolated stands in braces.
        hint: The way out, in the same form; empty if none is given.
        inserted: What is interpolated into the text.
        compared: The comparison that raises it, as the source has it; empty if none does.
    """

    place: str
    kind: str
    status: str
    text: str
    hint: str
    inserted: tuple[str, ...]
    compared: str = ""

    @property
    def line(self) -> str:
        """Text and hint in one line."""
        return f"{self.text} {self.hint}".strip()


def package_sources() -> dict[str, str]:
    """The source of each module, by its path in the package's folder."""
    return {
        str(path.relative_to(PACKAGE.parent)): path.read_text(encoding="utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def messages(sources: Mapping[str, str]) -> list[Message]:
    """Every message that these modules raise, or build to be raised, in order of their places."""
    return list(_Catalogue({path: ast.parse(text) for path, text in sources.items()}).messages())


def class_names(sources: Mapping[str, str]) -> set[str]:
    """The classes that these modules define."""
    trees = map(ast.parse, sources.values())
    return {
        node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    }


Text = tuple[str, tuple[str, ...]]
"""Words, and what is interpolated into them."""


@dataclass
class _Scope:
    """What names stand for at one place.

    Attributes:
        module: The module.
        function: The function; None outside.
        given: What the function's arguments come to, where they are words.
    """

    module: ast.Module
    function: ast.FunctionDef | ast.AsyncFunctionDef | None
    given: dict[str, list[Text]] = field(default_factory=dict)


class _Catalogue:
    def __init__(self, trees: Mapping[str, ast.Module]) -> None:
        self._trees = trees
        self._classes = {
            node.name: node
            for tree in trees.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
        }
        self._constants = {
            (tree, name): value for tree in trees.values() for name, value in _assigned(tree.body)
        }
        self._shared = {
            name: value for (_, name), value in self._constants.items() if name[:1] != "_"
        }
        self._calls: dict[str, list[tuple[str, ast.Call, _Scope]]] = {}
        for path, tree in trees.items():
            for call, scope, _ in _calls(tree):
                self._calls.setdefault(_name(call.func), []).append((path, call, scope))

    def messages(self) -> Iterator[Message]:
        for path, tree in self._trees.items():
            for call, scope, compared in _calls(tree):
                kind = _name(call.func)
                if self._is_ours(kind):
                    yield from self._of(path, call, kind, scope, compared)

    def _is_ours(self, kind: str) -> bool:
        if kind in _BASES:
            return True
        known = self._classes.get(kind)
        return known is not None and any(self._is_ours(_name(base)) for base in known.bases)

    def _of(
        self, path: str, call: ast.Call, kind: str, scope: _Scope, compared: str
    ) -> Iterator[Message]:
        if not call.args:
            return
        text, hint = call.args[0], self._hint_of(call, kind)
        for place, words in self._given(path, call, scope, text, hint):
            at = _Scope(scope.module, scope.function, words)
            for shown, inserted in self._rendered(text, at):
                yield Message(
                    place,
                    kind,
                    self._status(kind),
                    shown,
                    " | ".join(dict.fromkeys(one for one, _ in self._rendered(hint, at))),
                    inserted,
                    compared,
                )

    def _given(
        self, path: str, call: ast.Call, scope: _Scope, *used: ast.expr | None
    ) -> Iterator[tuple[str, dict[str, list[Text]]]]:
        """Where words come from: here, or, in a helper that is given some, where it is called."""
        parameters = _parameters(scope.function)
        names = {
            node.id
            for expr in used
            if expr is not None
            for node in ast.walk(expr)
            if isinstance(node, ast.Name) and node.id in parameters
        }
        found = False
        for where, called, around in (
            self._calls.get(scope.function.name, []) if scope.function else []
        ):
            given = dict(zip(parameters, called.args, strict=False))
            given |= {keyword.arg: keyword.value for keyword in called.keywords if keyword.arg}
            words = {
                name: self._rendered(given[name], around)
                for name in sorted(names & given.keys())
                if self._is_words(given[name], around)
            }
            if words:
                found = True
                yield f"{where}:{called.lineno}", words
        if not found:
            yield f"{path}:{call.lineno}", {}

    def _is_words(self, expr: ast.expr, scope: _Scope) -> bool:
        return _is_text(expr) or (isinstance(expr, ast.Name) and bool(self._texts(expr, scope)))

    def _hint_of(self, call: ast.Call, kind: str) -> ast.expr | None:
        for keyword in call.keywords:
            if keyword.arg == "hint":
                return keyword.value
        parameters = self._parameters_of(kind)
        if "hint" in parameters and parameters.index("hint") < len(call.args):
            return call.args[parameters.index("hint")]
        return self._default_hint(kind)

    def _parameters_of(self, kind: str) -> list[str]:
        made = self._init(kind)
        return _parameters(made)[1:] if made is not None else ["message", "hint"]

    def _default_hint(self, kind: str) -> ast.expr | None:
        made = self._init(kind)
        if made is None:
            return None
        arguments = made.args
        defaults = dict(zip(_parameters(made)[::-1], arguments.defaults[::-1], strict=False))
        return defaults.get("hint")

    def _init(self, kind: str) -> ast.FunctionDef | None:
        known = self._classes.get(kind)
        if known is None:
            return None
        for node in known.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                return node
        return next((made for base in known.bases if (made := self._init(_name(base)))), None)

    def _status(self, kind: str) -> str:
        known = self._classes.get(kind)
        if known is None or kind == "ImpossibleError":
            return ""
        for node in ast.walk(known):
            match node:
                case ast.AnnAssign(target=ast.Name(id="exit_code"), value=ast.Constant(value)):
                    return str(value)
                case ast.Assign(targets=[ast.Name(id="exit_code")], value=ast.Constant(value)):
                    return str(value)
                case ast.Assign(targets=[ast.Attribute(attr="exit_code")], value=value):
                    return ast.unparse(value)
                case _:
                    pass
        return next((found for base in known.bases if (found := self._status(_name(base)))), "")

    def _rendered(self, expr: ast.expr | None, scope: _Scope, depth: int = 0) -> list[Text]:
        """The texts an expression may come to, and what is interpolated into each."""
        match expr:
            case None:
                return [("", ())]
            case ast.Constant(value=str(text)):
                return [(text, ())]
            case ast.JoinedStr(values):
                parts: list[Text] = [("", ())]
                for value in values:
                    more = self._rendered(value, scope, depth)
                    parts = [(a + b, (*x, *y)) for a, x in parts for b, y in more]
                return parts
            case ast.FormattedValue(value):
                return self._inserted(value, scope, depth)
            case ast.IfExp(_, body, orelse):
                return [*self._rendered(body, scope, depth), *self._rendered(orelse, scope, depth)]
            case ast.BinOp(left, ast.Add(), right):
                firsts, lasts = (self._rendered(side, scope, depth) for side in (left, right))
                return [(a + b, (*x, *y)) for a, x in firsts for b, y in lasts]
            case ast.Name() if depth < _DEEPEST and (found := self._texts(expr, scope, depth)):
                return found
            case _:
                return [(f"{{{ast.unparse(expr)}}}", (ast.unparse(expr),))]

    def _inserted(self, value: ast.expr, scope: _Scope, depth: int) -> list[Text]:
        """A value in a text: spelled out where it is one of a few texts, else in braces."""
        plain = [(f"{{{ast.unparse(value)}}}", (ast.unparse(value),))]
        if isinstance(value, ast.IfExp) and _is_text(value.body) and _is_text(value.orelse):
            return self._rendered(value, scope, depth)
        if isinstance(value, ast.Name) and depth < _DEEPEST:
            return self._texts(value, scope, depth) or plain
        return plain

    def _texts(self, node: ast.Name, scope: _Scope, depth: int = 0) -> list[Text]:
        """The words a name stands for; none where it may be anything else."""
        if node.id in scope.given:
            return scope.given[node.id]
        if scope.function is not None:
            if node.id in _parameters(scope.function):
                return []
            inside = [value for name, value in _assigned(scope.function.body) if name == node.id]
            if inside:
                words = all(value is not node and self._is_words(value, scope) for value in inside)
                made = [self._rendered(value, scope, depth + 1) for value in inside if words]
                return [text for texts in made for text in texts]
        if not node.id.strip("_").isupper():
            return []
        known = self._constants.get((scope.module, node.id)) or self._shared.get(node.id)
        return self._rendered(known, scope, depth + 1) if known and _is_text(known) else []


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(value):
            return _name(value)
        case _:
            return ""


def _is_text(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=str()) | ast.JoinedStr():
            return True
        case ast.IfExp(_, body, orelse):
            return _is_text(body) and _is_text(orelse)
        case ast.BinOp(left, ast.Add(), right):
            return _is_text(left) and _is_text(right)
        case _:
            return False


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef | None) -> list[str]:
    if function is None:
        return []
    arguments = function.args
    return [one.arg for one in (*arguments.posonlyargs, *arguments.args)]


def _assigned(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    """The names that statements set, and to what; a tuple set to a tuple one by one."""
    for statement in body:
        for node in ast.walk(statement):
            match node:
                case ast.Assign(targets=[ast.Name(name)], value=value):
                    yield name, value
                case ast.Assign(targets=[ast.Tuple(names)], value=ast.Tuple(values)):
                    yield from zip(map(_name, names), values, strict=False)
                case ast.Assign(targets=[ast.Tuple(names)], value=value):
                    yield from ((_name(name), value) for name in names)
                case _:
                    pass


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, _Scope, str]]:
    """Every call, where it stands, and the comparison it directly depends on."""

    def within(
        node: ast.AST, scope: _Scope, compared: str
    ) -> Iterator[tuple[ast.Call, _Scope, str]]:
        if isinstance(node, ast.Call):
            yield node, scope, compared
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            scope, compared = _Scope(tree, node), ""
        for child in ast.iter_child_nodes(node):
            inside = compared
            if isinstance(node, ast.If):
                test = ast.unparse(node.test) if child in node.body and _compares(node.test) else ""
                inside = test if isinstance(child, ast.Raise | ast.Return) else ""
            yield from within(child, scope, inside)

    yield from within(tree, _Scope(tree, None), "")


def _compares(test: ast.expr) -> bool:
    return any(
        isinstance(operator, _COMPARED)
        for node in ast.walk(test)
        if isinstance(node, ast.Compare)
        for operator in node.ops
    )


def main() -> None:
    """Print the catalogue."""
    found = messages(package_sources())
    for message in found:
        status = f" ({message.status})" if message.status else ""
        print(f"{message.place}: {message.kind}{status}")
        print(f"    {message.text}")
        if message.hint:
            print(f"    → {message.hint}")
    print(f"{len(found)} messages at {len({message.place for message in found})} places")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
