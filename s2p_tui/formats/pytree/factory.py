"""Calling the user's own code for the model it makes. Imports JAX and Equinox."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import equinox
import jax

from s2p_tui.errors import InputError, UsageError
from s2p_tui.formats.models import Factory, recordable
from s2p_tui.formats.pytree.flax_models import (
    LinenModel,
    WithOwners,
    is_linen,
    is_nnx,
    linen_layers,
    traced_apart,
)

eqx: Any = equinox


def is_pytree(value: Any) -> bool:
    """Return True if JAX looks into the value, rather than taking it as one leaf."""
    return not jax.tree_util.all_leaves([value])


def call_factory(
    spec: str,
    kwargs: Mapping[str, Any] | None = None,
    *,
    abstract: bool = False,
    is_object: Callable[[Any], bool] = is_pytree,
) -> Any:
    """Return the result of `pkg.module:factory` or `file.py:factory`. Runs the user's code.

    A required argument named `key` that is not in `kwargs` gets `jax.random.PRNGKey(0)`, one named
    `rngs` gets `flax.nnx.Rngs(0)`. A name that is not callable is taken as the object itself.

    Args:
        spec: Where the factory is.
        kwargs: Its arguments.
        abstract: Make shapes only (`equinox.filter_eval_shape`), allocating nothing.
        is_object: Tells objects that can be called, as models can, from factories.

    Raises:
        UsageError: There is no such module or name.
        InputError: The factory raised an exception.
    """
    return _result(import_object(spec), spec, kwargs, abstract, is_object)


def model_of(spec: str, kwargs: Mapping[str, Any] | None = None, *, abstract: bool = False) -> Any:
    """Return a factory's model, with the layers of Linen that it initialises; see `call_factory`.

    Raises:
        UsageError: There is no such module or name.
        InputError: The factory raised an exception.
    """
    return model_and_factory(spec, kwargs, abstract=abstract)[0]


def model_and_factory(
    spec: str, kwargs: Mapping[str, Any] | None = None, *, abstract: bool = False
) -> tuple[Any, Factory | None]:
    """As `model_of`, with the factory for a skeleton's record.

    That is None for an object itself, and for models of Flax, which load otherwise.
    """
    where, name = _located(spec)
    factory = _attribute(where, name)
    with linen_layers() as owners:
        tree = _result(factory, spec, kwargs, abstract, _is_model)
    linen = LinenModel.of(tree)
    if linen is not None:
        return WithOwners(linen.variables, owners), None
    if owners and isinstance(tree, Mapping):
        return WithOwners(tree, owners), None
    if owners or tree is factory or is_nnx(tree):
        return tree, None
    given = dict(kwargs or {})
    takes_key = "key" not in given and _needs(factory, "key")
    return tree, recordable(Factory(f"{where}:{name}", given, takes_key))


def callable_model(spec: str, kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return a factory's model to call, with the layers that Linen initialised; see `model_of`.

    Raises:
        UsageError: There is no such module or name.
        InputError: The factory raised an exception.
    """
    with linen_layers() as owners:
        tree = call_factory(spec, kwargs, is_object=_is_model)
    return tree, owners


def _is_model(value: Any) -> bool:
    return is_pytree(value) or is_linen(value)


def _result(
    factory: Any,
    spec: str,
    kwargs: Mapping[str, Any] | None,
    abstract: bool,
    is_object: Callable[[Any], bool],
) -> Any:
    if not callable(factory) or is_object(factory):
        return factory

    def make() -> Any:
        arguments = dict(kwargs or {})
        if "key" not in arguments and _needs(factory, "key"):
            arguments["key"] = jax.random.PRNGKey(0)
        if "rngs" not in arguments and _needs(factory, "rngs"):
            arguments["rngs"] = importlib.import_module("flax.nnx").Rngs(0)
        return factory(**arguments)

    try:
        if abstract:
            traced, whole = traced_apart(make)
            return whole(eqx.filter_eval_shape(traced))
        return make()
    except Exception as error:
        raise InputError(
            f"{spec} raised {type(error).__name__}: {_first_line(error)}.",
            "Call it yourself in Python to see the traceback.",
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else "it does not say why"


def _needs(factory: Callable[..., Any], name: str) -> bool:
    # The metaclass of NNX's modules shows nothing of what they are made from.
    made = [factory, factory.__init__] if isinstance(factory, type) else [factory]
    for one in made:
        try:
            parameter = inspect.signature(one).parameters.get(name)
        except (TypeError, ValueError):
            continue
        if parameter is not None:
            return parameter.default is parameter.empty
    return False


def import_object(spec: str) -> Any:
    """Return the object that `pkg.module:name`, `pkg.module.name` or `file.py:name` names.

    Runs the module's code.

    Raises:
        UsageError: There is no such module or name.
    """
    return _attribute(*_located(spec))


def _located(spec: str) -> tuple[str, str]:
    """Return the module or file, and the name in it."""
    where, _, name = spec.rpartition(":")
    if not where and name.endswith(".py"):
        raise UsageError(f"{spec} is a file, and names nothing in it.", f"Write {spec}:NAME.")
    if not where.endswith(".py") and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if where:
        return where, name
    with _importing(spec):
        return _split(spec)


def _attribute(where: str, name: str) -> Any:
    with _importing(where):
        is_file = where.endswith(".py")
        found: Any = _import_file(Path(where)) if is_file else importlib.import_module(where)
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{where} has no {name!r}.", "Check the name.")
        found = getattr(found, part)
    return found


@contextlib.contextmanager
def _importing(where: str) -> Generator[None]:
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{where} cannot be imported: {type(error).__name__}: {_first_line(error)}.",
            "Give pkg.module:factory, importable from here, or file.py:factory.",
        ) from error


def _split(dotted: str) -> tuple[str, str]:
    """`pkg.module.Class.name` as its longest module and the name in it."""
    parts = dotted.split(".")
    for length in range(len(parts) - 1, 0, -1):
        where = ".".join(parts[:length])
        try:
            known = where in sys.modules or importlib.util.find_spec(where) is not None
        except ModuleNotFoundError:
            known = False
        if known:
            return where, ".".join(parts[length:])
    raise UsageError(
        f"{dotted} names nothing that can be imported from here.",
        "Give pkg.module:name, pkg.module.name or file.py:name.",
    )


def _import_file(path: Path) -> Any:
    loaded = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or loaded is None or loaded.loader is None:
        raise UsageError(
            f"{path} does not exist.", "Give file.py:factory, the file as it is found from here."
        )
    module = importlib.util.module_from_spec(loaded)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.parent.resolve()))
    loaded.loader.exec_module(module)
    return module
