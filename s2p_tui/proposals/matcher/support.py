"""Support of names for pairs: words in common, conventions of a port, and numbers that are indices.

A pair without support is the guess of sizes alone, which is no proof: where an entry is missing,
another one of its size would take its leaf.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping

from s2p_tui.proposals.matcher.likeness import words_alike
from s2p_tui.proposals.matcher.offsets import Shifted
from s2p_tui.proposals.matcher.pieces import parts_named
from s2p_tui.proposals.matcher.templates import Pairs, open_numbers, words_of
from s2p_tui.proposals.matcher.words import (
    FAINT,
    Steps,
    is_meaning,
    name_of,
    remembered,
    snake,
)

Shape = tuple[int, ...]
_FUNCTIONS = frozenset(
    (
        *("log", "exp", "inv", "sqrt", "square", "neg", "std", "var", "inverse", "logit", "logits"),
        *("raw", "unconstrained", "softplus", "rho", "recip", "reciprocal", "rsqrt", "squared"),
        *("chol", "cholesky", "cov", "covariance", "prec", "precision", "probs", "abs"),
        *("rate", "unit"),
    )
)
"""Words of names that tell a number from a function of it."""
_OF_OTHERS = frozenset(("mean", "rel", "relative"))
"""Words for a number that is worked out from several, or measured by another one."""
_MASK = "mask"
_ROLES = frozenset(("weight", "bias", "mean", "var", "count"))
_ENDS = frozenset(("head", "out", "final", "generator"))
"""Words for the last layer of a model, which mean the same."""
_GENERAL = frozenset(
    ("head", "embed", "token", "norm", "pos", "final", "out", "in", "table", "attn", "dec", "enc")
)
"""Words in names of many kinds of modules: they show nothing beside others that differ."""
_GENERAL_WORDS = _GENERAL | frozenset(
    (
        *("ln", "layernorm", "layer", "emb", "embedding", "embeddings", "proj", "fc", "linear"),
        *("conv", "mlp", "block", "blocks", "layers", "net", "dense", "tokens", "module", "model"),
        *("projection", "decoder", "encoder", "bias", "weight", "scale", "table"),
    )
)
_WRAPPERS = frozenset(("orig", "mod", "model", "pytree", "shared"))
"""Names of wrappers around models and of tied layers."""
_SILENT = FAINT | _ROLES | _WRAPPERS
_ALONE = frozenset((role,) for role in _ROLES)
_OF_LAYERS = frozenset((("weight",), ("bias",)))
_SILENT_PARTS = _SILENT | frozenset(
    (
        *("embed", "pos", "token", "class", "attn", "relative", "vision", "text", "patch", "self"),
        *("register", "learned", "learnable", "param", "params", "parameter", "parameters", "vec"),
        *("vector", "matrix", "tensor", "time", "layers", "abs", "absolute", "running", "moving"),
        *("score", "scores", "e"),
    )
)
"""Words that a name of the same parameter may have more."""
_KINDS = frozenset(("mlp", "conv", "proj"))
"""Words that say little but which kind of layer a layer is."""
_LAYERS = frozenset(
    (
        *("mlp", "conv", "proj", "block", "module", "weight", "norm", "embed", "layer", "layers"),
        *("blocks", "net", "model", "embedding", "ln"),
    )
)
"""Words that say that something is a layer, and of which kind; meanings are among them."""
_IN_WORDS = ("conv", "fc", "lin", "dense", "proj", "mlp")
"""Parts of other words, as `pwconv`, that say it too."""
_NEARLY = 0.74
"""`predictor` and `projector` are below it, `normalise` and `normalize` above."""
_MATRIX = 2
_SHORTEST = 3
"""Letters of a word that is looked for in others."""
_OFTEN = 2
"""Modules in which two names go together before that is a convention and no accident."""
_WORD = re.compile(r"[a-z]+[0-9]*|[0-9]+")
_LETTERS = re.compile(r"w?(?!vq)([qkv]{2,3})")
"""Queries, keys and values in one, a letter for each; `vq` is a vector quantiser."""
_NUMBERED_PARTS = re.compile(r"w([123]{2,3})")
"""The layers of a gated one together, as `w13` is of `w1` and `w3`."""
_FUSED = frozenset(
    (
        *("query", "key", "value", "gate", "up", "scale", "shift", "gamma", "w1", "w2", "w3"),
        *("mean", "mu", "logvar", "var", "std", "logstd", "sigma"),
    )
)
"""Parts of which a layer has several in one, in an order that only its name tells."""
_DIGITS = re.compile(r"\d+")


def unsupported(
    pairs: Pairs,
    useless: Collection[Steps],
    shapes: Mapping[int, Shape],
    held: Mapping[Shape, int],
) -> dict[int, str]:
    """Pairs whose names have nothing in common although those of most pairs do, and why.

    What is left over must not fill what is left over for its size alone. Names that differ in the
    same way more than once are a convention of the port's.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
        useless: Steps of entries that hold no parameter; under another name they fill no leaf.
        shapes: The shapes of the leaves.
        held: How many entries there are of each shape.
    """
    roles: dict[int, tuple[str, str]] = {}
    modules: dict[int, tuple[str, str]] = {}
    # Counted apart: where most names say nothing, these must not make the others a convention.
    unknown: dict[int, tuple[str, str]] = {}
    for templates, places in pairs.by_template.items():
        if templates[0] == templates[1]:
            continue
        target, source = map(_named, templates)
        agree, is_same = _roles_agree(target, source), target[-1] == source[-1]
        unlike, is_unknown = _unlike_modules(target, source), _is_unknown(target, source)
        for n in () if is_same and unlike is None and not is_unknown else places:
            if not agree or (not is_same and _named(pairs[n][1]) in useless):
                roles[n] = target[-1], source[-1]
            elif unlike is not None:
                modules[n] = unlike
            elif is_unknown:
                mine, theirs = (_named(steps) for steps in pairs[n])
                unknown[n] = _text(_named(mine[:-1]) or mine), _text(_named(theirs[:-1]) or theirs)
    found: dict[int, str] = {}
    for odd in (roles, modules, unknown):
        if 2 * len(odd) > len(pairs):
            otherwise = _otherwise(pairs)
            odd = {n: names for n, names in odd.items() if n in otherwise or pairs[n][1] in useless}
        often: dict[tuple[str, str], set[tuple[Steps, Steps]]] = defaultdict(set)
        for n, names in odd.items():
            target, source = pairs[n]
            often[names].add((target[:-1], source[:-1]))
        for n, names in odd.items():
            target, source = map(_named, pairs[n])
            functions = _functions(target[-1], source[-1])
            is_often = len(often[names]) >= _OFTEN
            if is_often and odd is roles and _is_role(target):
                is_often = _modules_agree(target, source)
            if not is_often or source in useless or functions:
                found[n] = f"{names[1]} and {names[0]} have nothing in common but their size"
                if functions and odd is roles:
                    found[n] = f"{source[-1]} may be a function of {target[-1]}, or that of it"
    strangers = _strangers(pairs)
    last = _last_layers(pairs, strangers, shapes, held) if strangers else ()
    return found | {n: why for n, why in strangers.items() if pairs[n][0][:-1] not in last}


def exchangeable(pairs: Pairs, shapes: Mapping[int, Shape]) -> dict[int, str]:
    """Pairs of modules side by side that could be exchanged, as no word speaks for either, and why.

    What they have in common, as `linear` in `linear_h` and `input_linear`, says a kind alone.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
        shapes: The shapes of the leaves.
    """
    beside: dict[tuple[Steps, Steps, Shape], list[int]] = defaultdict(list)
    for n, (target, source) in pairs.items():
        if min(len(target), len(source)) < 2 or target[-2].isdigit():
            continue
        if not _speaks(target[-2], source[-2]):
            around = (*target[:-2], target[-1]), (*source[:-2], source[-1])
            beside[(*around, shapes[n])].append(n)
    return {
        n: f"no word of {pairs[n][1][-2]} and {pairs[n][0][-2]} shows that they go together"
        for members in beside.values()
        if len(members) > 1
        for n in members
    }


@remembered
def _speaks(mine: str, theirs: str) -> bool:
    """Return True unless both names have words, and those differ altogether."""
    names = [name_of(step) for step in (mine, theirs)]
    common = {*names[0].words} & {*names[1].words}
    # Norms are told by what they are around.
    if any(name.numbers for name in names) or "norm" in common or common - _LAYERS:
        return True
    first, second = (
        {word for word in _words(step) if not any(kind in word for kind in _IN_WORDS)} - _LAYERS
        for step in (mine, theirs)
    )
    return not (first and second) or any(
        one == other or _related(one, other)
        if min(len(one), len(other)) > 1
        # A letter stands for a word that begins with it.
        else one[0] == other[0]
        for one in first
        for other in second
    )


def _otherwise(pairs: Pairs) -> set[int]:
    """The pairs of which `_says_otherwise` is true."""
    found: set[int] = set()
    for templates, places in pairs.by_template.items():
        target, source = map(_named, templates)
        if target[:-1] == source[:-1]:
            found.update(n for n in places if _says_otherwise(*map(_named, pairs[n])))
        elif _says_otherwise(target, source):
            found.update(places)
    return found


def _says_otherwise(target: Steps, source: Steps) -> bool:
    """Return True if last names differ that no convention makes the same.

    Those are names of a user's own parameters, of statistics, and of one module's roles.
    """
    if _roles_agree(target, source):
        return False
    if _functions(target[-1], source[-1]) or (len(target) > 1 and target[:-1] == source[:-1]):
        return True
    mine, theirs = (words_of(steps[-1:]) for steps in (target, source))
    return not (mine in _OF_LAYERS) ^ (theirs in _OF_LAYERS)


def unlike_parameters(pairs: Pairs) -> dict[int, str]:
    """Pairs of names that mean nothing here, of which the last ones are words of different things.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
    """
    found: dict[int, str] = {}
    for n, (target, source) in pairs.items():
        ends = _named(target)[-1], _named(source)[-1]
        if all(len(end.strip("0123456789")) > 1 for end in ends) and _says_otherwise(
            _named(target), _named(source)
        ):
            found[n] = f"{ends[1]} and {ends[0]} have nothing in common but their size"
    return found


def _functions(target: str, source: str) -> frozenset[str]:
    """Words of one of two last names that may make it a function of the other."""
    mine, theirs = _words(target), _words(source)
    apart = mine ^ theirs
    told = _FUNCTIONS & apart
    if mine < theirs or theirs < mine:
        told |= {word for word in apart if not _SILENT_PARTS & {word, *name_of(word).words}}
        # `rel_pos_bias` and `running_mean` are other names; of a user's own word they are not.
        if not any(map(is_meaning, (m for word in mine & theirs for m in name_of(word).words))):
            told |= apart & _OF_OTHERS
    # Also written as one word with it, as in `logdt` and `sigma2`.
    for one, other in ((mine, theirs), (theirs, mine)):
        for word in one - other:
            told |= {word for rest in other - one if _is_grown(word, rest)}
    return told


def _is_grown(word: str, rest: str) -> bool:
    """Return True if a word is another one with something before it, or a number after it."""
    if word.startswith(rest):
        return word.removeprefix(rest).isdigit()
    return len(rest) > 1 and word.endswith(rest)


def _strangers(pairs: Pairs) -> dict[int, str]:
    """Pairs of which the other members of the leaf's list, or of the entry's, have another name.

    Of a list without a telling name of its own, as `layers`, nothing else shows what belongs in it.
    """
    found: dict[int, str] = {}
    for mine, theirs in ((0, 1), (1, 0)):
        lists: dict[Steps, dict[str, dict[Steps, list[int]]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(list))
        )
        for n, sides in pairs.items():
            if _telling(sides[mine]) is None and (other := _telling(sides[theirs])) is not None:
                around = tuple(map(open_numbers, sides[mine]))
                lists[around][other[0]][sides[theirs][:-1]].append(n)
        for names in lists.values():
            often = [name for name, modules in names.items() if len(modules) >= _OFTEN]
            usual = {*words_of(tuple(often))} - _GENERAL
            for name, modules in names.items() if often else ():
                if len(modules) >= _OFTEN or usual.intersection(words_of((name,))):
                    continue
                for n in (n for numbers in modules.values() for n in numbers):
                    found[n] = f"{name} is unlike what else is in {_text(pairs[n][mine][:-1])}"
    return found


def _last_layers(
    pairs: Pairs, strangers: Iterable[int], shapes: Mapping[int, Shape], held: Mapping[Shape, int]
) -> set[Steps]:
    """The layers that only end a list of dense layers, as `out` does that follows `hidden`.

    One side has it in the list and the other one beside it, under the name of a last layer. No
    other tensor has its shape, which leads from what the list gives to another size: a layer
    missing between them, or in its place, would have to have that shape too.
    """
    sizes = Counter(shapes.values())
    ends: list[tuple[int, int]] = []
    for n in strangers:
        listed, shape = [_is_member(side) for side in pairs[n]], shapes[n]
        is_dense = len(shape) == len({*shape}) == _MATRIX and pairs[n][0][-1] == "weight"
        if is_dense and sizes[shape] == held[shape] == 1 and sum(listed) == 1:
            side = listed.index(True)
            if _ENDS.intersection(words_of(pairs[n][1 - side][-2:-1])):
                ends.append((n, side))
    lists: tuple[dict[Steps, dict[int, int]], ...] = defaultdict(dict), defaultdict(dict)
    for n, sides in pairs.items() if ends else ():
        for side, steps in enumerate(sides):
            if steps[-1] == "weight" and _is_member(steps):
                lists[side][steps[:-2]][int(steps[-2])] = n
    found: set[Steps] = set()
    for n, side in ends:
        *before, last = sorted(lists[side][pairs[n][side][:-2]].items())
        if [number for number, _ in (*before, last)] != [*range(len(before) + 1)] or last[1] != n:
            continue
        others = [pairs[place][1 - side] for _, place in before]
        members = sorted(lists[1 - side].get(others[-1][:-2], {}).items()) if others else []
        numbers = [number for number, _ in members]
        in_order = [place for _, place in members] == [place for _, place in before]
        is_whole = bool(numbers) and numbers[-1] - numbers[0] + 1 == len(numbers)
        if in_order and is_whole and shapes[before[-1][1]][:1] == shapes[n][1:]:
            found.add(pairs[n][0][:-1])
    return found


def _is_member(steps: Steps) -> bool:
    return len(steps) > _MATRIX and steps[-2].isdigit()


def namesakes(
    pairs: Pairs,
    entries: Mapping[Steps, int],
    sizes: Mapping[int, int],
    leaves: Iterable[Steps],
) -> dict[int, str]:
    """Pairs apart from the entry of the leaf's very name, or from the leaf of the entry's.

    Of lists that count from 0 on one side and from 1 on the other, such names say nothing.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
        entries: The number of elements of each entry that leaves could take, by its steps.
        sizes: The number of elements of the leaves.
        leaves: Steps of all leaves that entries could fill.
    """
    # Wrappers such as `module.` are no part of a name.
    outer = _wrapper([target for target, _ in pairs.values()]), _wrapper(entries)
    filled = {target[outer[0] :]: n for n, (target, _) in pairs.items()}
    named = {steps[outer[1] :]: (steps, size) for steps, size in entries.items()}
    found: dict[int, str] = {}
    for n, (target, source) in pairs.items():
        if target[outer[0] :] == source[outer[1] :]:
            continue
        steps, size = named.get(target[outer[0] :], ((), -1))
        if size == sizes[n]:
            found[n] = f"{_text(steps)} has the very name of this leaf"
        other = filled.get(source[outer[1] :])
        if other is not None and sizes[other] == sizes[n]:
            found[n] = f"another leaf has the very name of {_text(source)}"
    if found:
        shifted = Shifted(pairs, leaves, entries)
        for n, (target, source) in pairs.items():
            names = _unnumbered(target[outer[0] :]), _unnumbered(source[outer[1] :])
            if n in found and names[0] == names[1] and shifted.explains(target, source):
                del found[n]
    return found


def _unnumbered(steps: Steps) -> Steps:
    return tuple(step for step in steps if not step.isdigit())


def _wrapper(paths: Iterable[Steps]) -> int:
    """Return the number of leading steps that all paths share, but for the last one."""
    paths = list(paths)
    if not paths:
        return 0
    first, last = min(paths), max(paths)
    most = min(len(first), len(last)) - 1
    shared = next((n for n in range(most) if first[n] != last[n]), max(most, 0))
    # A list is no wrapper: its name is part of what its members are called.
    while shared and any(path[shared].isdigit() for path in paths if len(path) > shared):
        shared -= 1
    return shared


def reordered(pairs: Pairs) -> dict[int, str]:
    """Pairs of which one is named by its parts, and the other not by the same in the same order.

    What `gate_up` holds is in another order in `up_gate`, and in none that a name shows in `fc1`.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
    """
    found: dict[int, str] = {}
    for sides, places in pairs.by_template.items():
        mine, theirs = (
            {parts: step for step in steps if not step.isdigit() and len(parts := _parts(step)) > 1}
            for steps in sides
        )
        if mine.keys() == theirs.keys():
            continue
        other = sides[1] if mine else sides[0]
        known = {tuple(name_of(part).words[0] for part in parts_named(step)) for step in other}
        if not (mine and theirs) and known & (mine.keys() | theirs.keys()):
            continue
        (parts, step), *_ = mine.items() or theirs.items()
        why = f"nothing shows in which order the parts of {step} are"
        for others, other in theirs.items():
            if others != parts and sorted(others) == sorted(parts):
                why = f"{other} names its parts in another order than {step}"
        found.update(dict.fromkeys(places, why))
    return found


@remembered
def _parts(step: str) -> Steps:
    """The parts that a name counts up."""
    found: list[str] = []
    for word in _WORD.findall(snake(step)):
        if (letters := _LETTERS.fullmatch(word)) is not None:
            found += [name_of(letter).words[0] for letter in letters[1]]
        elif (digits := _NUMBERED_PARTS.fullmatch(word)) is not None:
            found += [f"w{digit}" for digit in digits[1]]
        else:
            found += [one for one in (word, *name_of(word).words) if one in _FUSED][:1]
    return tuple(found)


def _is_role(steps: Steps) -> bool:
    return words_of(steps[-1:]) in _ALONE


def _modules_agree(target: Steps, source: Steps) -> bool:
    """Return True if the modules of two tensors have a name in common."""
    own = [{step for step in steps[:-1] if not step.isdigit()} for steps in (target, source)]
    words = [_all_words(steps[:-1]) for steps in (target, source)]
    return bool(own[0] & own[1] or words[0] & words[1])


def _named(steps: Steps) -> Steps:
    """The steps down to the last one that is no number."""
    last = max((level for level, step in enumerate(steps) if not step.isdigit()), default=0)
    return steps[: last + 1]


@remembered
def _words(step: str) -> frozenset[str]:
    return frozenset(word for word in re.split(r"[_\W]+", step.lower()) if word)


def _roles_agree(target: Steps, source: Steps) -> bool:
    """Return True if the last names mean the same, or one of them is named as its module."""
    if target[-1] == source[-1] or _is_named_as_module(target, source):
        return True
    mine, theirs = (words_of(steps[-1:]) for steps in (target, source))
    apart = _words(target[-1]) ^ _words(source[-1])
    if _MASK in apart:
        return False
    around = _all_words((*target[:-1], *source[:-1]))
    functions = _functions(target[-1], source[-1]) - around
    # `weight` and `scale` mean the same, and so do `var` and `running_var`.
    if functions and not (mine == theirs and functions <= _FUNCTIONS and mine in _ALONE):
        return False
    few, many = sorted((_words(target[-1]), _words(source[-1])), key=len)
    if few <= many and not few <= _ROLES:
        return True
    if mine == theirs or theirs in _ALONE:
        # Of a plain leaf that takes a layer's weight the modules are compared.
        return mine == theirs or mine not in _ALONE
    telling = [{*words} - FAINT - _FUNCTIONS for words in (mine, theirs)]
    if all(telling) and (_within(*telling) or _within(*reversed(telling))):
        return True
    around = [{*words_of(steps[-2:])} - _ROLES for steps in (target, source)]
    return bool(mine and {*mine} <= around[1]) or bool(theirs and {*theirs} <= around[0])


def _is_named_as_module(target: Steps, source: Steps) -> bool:
    """Return True for `q_proj_weight` and `query_proj.weight`, as of PyTorch's attention."""
    for one, other in ((target, source), (source, target)):
        module, _, role = one[-1].rpartition("_")
        if module and role == other[-1] and role in _ROLES:
            words = {*words_of((module,))}
            return bool(words - _KINDS) and words <= {*words_of(other[-2:-1])}
    return False


def _within(few: Collection[str], many: Collection[str]) -> bool:
    """Return True if each word is among others, or much like one of them."""
    return all(word in many or any(words_alike(word, other) for other in many) for word in few)


def _unlike_modules(target: Steps, source: Steps) -> tuple[str, str] | None:
    """The steps that name the two modules, if these have nothing to do with each other."""
    mine, theirs = _telling(target), _telling(source)
    if mine is None or theirs is None or mine[0] == theirs[0]:
        return None
    words = [_all_words(steps) for steps in (target, source)]
    few, many = sorted((_words(mine[0]), _words(theirs[0])), key=len)
    if few <= many:
        return None
    if any(
        one not in _GENERAL and _related(one, other) for one in mine[1] for other in theirs[1]
    ) or (_words(mine[0]) & _words(theirs[0]) - _GENERAL_WORDS):
        return None
    if _ENDS & mine[1] and _ENDS & theirs[1]:
        words = [each | _ENDS for each in words]
    alone = [
        {word for word in own[1] if not any(_related(word, other) for other in others)}
        for own, others in ((mine, words[1]), (theirs, words[0]))
    ]
    return (mine[0], theirs[0]) if all(alone) else None


def _is_unknown(target: Steps, source: Steps) -> bool:
    """Return True if one module has words that mean nothing here, and the other one says a kind."""
    mine, theirs = _telling(target), _telling(source)
    if mine is not None and theirs is not None:
        return False
    told = mine or theirs
    if told is None or any(map(is_meaning, told[1])):
        return False
    if any(kind in word for word in told[1] for kind in _IN_WORDS):
        return False
    kinds = [{*words_of(steps)} & _KINDS for steps in (target, source)]
    return any(kinds) and not kinds[0] & kinds[1]


@remembered
def _related(first: str, second: str) -> bool:
    """Return True if words are much alike, or one is in the other, as `tags` in `hidden2tag`."""
    short, long = sorted((first.removesuffix("s"), second), key=len)
    return words_alike(first, second) > _NEARLY or (len(short) >= _SHORTEST and short in long)


def _telling(steps: Steps) -> tuple[str, frozenset[str]] | None:
    """The last step that says more than most names do, its numbers left open; and its words."""
    for step in reversed(steps):
        if not step.isdigit() and (told := _told_by(step)) is not None:
            return told
    return None


@remembered
def _told_by(step: str) -> tuple[str, frozenset[str]] | None:
    # A letter that means nothing is a mark, as in `c_proj`.
    words = frozenset(word for word in words_of((step,)) if len(word) > 1) - _SILENT
    return (open_numbers(step), words) if words else None


@remembered
def _all_words(steps: Steps) -> frozenset[str]:
    return frozenset(words_of(steps)) - _SILENT


def _text(steps: Steps) -> str:
    return ".".join(steps)
