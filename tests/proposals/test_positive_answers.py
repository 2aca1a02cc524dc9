"""Names, numbers and layouts that prove nothing by themselves, and what proves them."""

from __future__ import annotations

import pytest

from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Shape
from s2p_tui.proposals.matcher import match

LINEAR = "equinox.nn.Linear"
Shapes = dict[str, Shape]


def doubted(entries: Shapes, leaves: Shapes, owner: str | None = LINEAR) -> set[str]:
    """The paths of the leaves that are not certain."""
    state_dict = StateDict(tuple(Entry(key, shape, "float32") for key, shape in entries.items()))
    skeleton = Skeleton(
        tuple(Leaf(path, shape, "float32", owner=owner) for path, shape in leaves.items())
    )
    found = match(state_dict, skeleton).suggestions
    return {leaf.path for leaf, one in zip(skeleton, found, strict=True) if not one.certain}


def numbered(name: str, numbers: tuple[int, ...], first: Shape = (8, 8)) -> Shapes:
    """Dense layers in a list of a checkpoint."""
    shapes = (first, *[(8, 8)] * (len(numbers) - 1))
    return {
        f"{name}.{number}.fc.{role}": size
        for number, shape in zip(numbers, shapes, strict=True)
        for role, size in (("weight", shape), ("bias", shape[:1]))
    }


def listed(name: str, count: int, first: Shape = (8, 8)) -> Shapes:
    """The same of a pytree."""
    entries = numbered("x", tuple(range(count)), first)
    return {
        f".{name}[{key.split('.')[1]}].fc.{key.split('.')[-1]}": shape
        for key, shape in entries.items()
    }


@pytest.mark.parametrize("name", ["blocks", "h", "encoder.layer"])
@pytest.mark.parametrize("numbers", [(2, 3, 4), (2, 4, 6), (3, 4)])
def test_a_list_that_begins_late_may_have_lost_its_first_member(
    name: str, numbers: tuple[int, ...]
) -> None:
    leaves = listed("blocks", len(numbers))
    assert doubted(numbered(name, numbers), leaves) == {*leaves}


@pytest.mark.parametrize("numbers", [(0, 1, 2), (1, 3, 5), (0, 2, 4), (2, 5, 8)])
def test_no_member_fits_in_before_the_first_one(numbers: tuple[int, ...]) -> None:
    assert not doubted(numbered("net", numbers), listed("blocks", 3))


def test_sizes_show_the_first_member() -> None:
    entries, leaves = numbered("h", (1, 2, 3), (8, 5)), listed("blocks", 3, (8, 5))
    assert not doubted(entries, leaves)


def test_a_checkpoint_whose_lists_all_count_from_one_counts_from_one() -> None:
    assert not doubted(numbered("h", (1, 2, 3)), listed("blocks", 3))
    leaves = listed("encoder", 3) | listed("decoder", 2)
    entries = numbered("encoder", (1, 2, 3)) | numbered("decoder", (1, 2))
    assert not doubted(entries, leaves)
    # One that counts from 0 shows that the other one lost a member.
    entries = numbered("encoder", (1, 2, 3)) | numbered("decoder", (0, 1))
    assert doubted(entries, leaves) == {path for path in leaves if "encoder" in path}


def test_members_before_the_first_one_are_there_for_something_else() -> None:
    leaves = listed("layers", 2)
    entries = numbered("net", (2, 3))
    assert doubted(entries, leaves) == {*leaves}
    first = {"net.0.weight": (4, 3), "net.1.weight": (5, 3)}
    stems = {".net_stem.weight": (4, 3), ".net_stem2.weight": (5, 3)}
    assert not doubted(entries | first, leaves | stems)


@pytest.mark.parametrize(
    ("leaves", "certain"),
    [
        ("gate up down", True),
        ("gate_proj up_proj down_proj", True),
        ("w_gate w_up w_down", True),
        ("gate3 up1 down2", False),
        ("fc_gate fc1 fc2", False),
        ("w_gate w_in w_out", False),
        ("gate_proj wi wo", False),
    ],
)
def test_only_gate_up_and_down_are_what_llama_calls_by_number(leaves: str, certain: bool) -> None:
    shapes = ((12, 8), (12, 8), (8, 12))
    keys = zip(("w1", "w3", "w2"), shapes, strict=True)
    entries = {f"layers.0.ff.{key}.weight": shape for key, shape in keys}
    paths = zip(leaves.split(), shapes, strict=True)
    wanted = {f".layers[0].ff.{leaf}.weight": shape for leaf, shape in paths}
    assert (not doubted(entries, wanted)) == certain


@pytest.mark.parametrize(
    ("around", "owner", "certain"),
    [("adapter", "Own", False), ("mlp", "Own", True), ("adapter", LINEAR, True)],
)
def test_up_leads_in_where_a_module_is_a_feed_forward_one(
    around: str, owner: str, certain: bool
) -> None:
    # An adapter leads down first, and in a class that keeps (in, out) the other way fits as well.
    up, down = ((3, 8), (8, 3)) if owner == LINEAR else ((8, 3), (3, 8))
    entries = {f"{around}.down_proj.weight": (3, 8), f"{around}.up_proj.weight": (8, 3)}
    leaves = {f".{around}.in_proj.weight": up, f".{around}.out_proj.weight": down}
    assert (".adapter.in_proj.weight" in doubted(entries, leaves, owner)) == (
        around == "adapter" and not certain
    )


@pytest.mark.parametrize("key", ["W_q", "attn.to_q", "text_projection"])
def test_a_bare_parameter_in_a_layer_may_hold_the_input_axis_first(key: str) -> None:
    path = "." + key.replace("W_q", "q")
    assert doubted({key: (8, 8)}, {f"{path}.weight": (8, 8)})
    assert not doubted({f"{key}.weight": (8, 8)}, {f".{key}.weight": (8, 8)})


def test_weights_of_layers_do_not_vote_for_bare_parameters() -> None:
    entries: Shapes = {"attn.W_q": (8, 8), "fc.weight": (12, 8)}
    leaves: Shapes = {".attn.q.weight": (8, 8), ".fc.weight": (12, 8)}
    assert doubted(entries, leaves, "Own") == {".attn.q.weight"}


def test_a_matrix_beside_one_that_is_turned_may_be_turned_too() -> None:
    leaves: Shapes = {".W_x": (8, 3), ".W_h": (8, 8), ".b": (8,)}
    assert doubted({"W_x": (3, 8), "W_h": (8, 8), "b": (8,)}, leaves, "Own") == {".W_h"}
    assert not doubted({"W_x": (8, 3), "W_h": (8, 8), "b": (8,)}, leaves, "Own")


def test_several_square_weights_in_one_are_of_no_layer_of_pytorch() -> None:
    assert doubted({"fc.weight": (3, 4, 4)}, {".fc.weight": (3, 4, 4)})
    assert not doubted({"fc.weight": (3, 5, 4)}, {".fc.weight": (3, 5, 4)})


@pytest.mark.parametrize(
    "names",
    [
        *("log10_k k", "sigma_sq sigma", "noise_sigma2 noise_sigma", "logdt dt", "cos_theta theta"),
        *("one_minus_alpha alpha", "gain gain_db", "alphas_cumprod alphas", "rsigma sigma"),
        *("logits probs", "running_std running_var", "freq period", "temp_c temp_k"),
    ],
)
def test_a_parameter_of_another_name_may_be_a_function_of_it(names: str) -> None:
    entry, leaf = names.split()
    assert doubted({entry: (5,)}, {f".{leaf}": (5,)}, "Own") == {f".{leaf}"}
    beside: Shapes = {"fc.weight": (4, 6), "out.weight": (3, 4)}
    leaves = {f".{key}": shape for key, shape in beside.items()}
    found = doubted(beside | {entry: (5,)}, leaves | {f".{leaf}": (5,)}, "Own")
    assert f".{leaf}" in found


@pytest.mark.parametrize(
    "names",
    ["pos_embed pos_embedding", "cls_token class_token", "A_log A_log", "table_param table"],
)
def test_a_parameter_of_the_same_name_in_other_words_is_the_same(names: str) -> None:
    entry, leaf = names.split()
    assert not doubted({entry: (5,)}, {f".{leaf}": (5,)}, "Own")


@pytest.mark.parametrize(
    "names",
    [
        *("value_head policy_head", "proj_in proj_out", "ln_f ln_in", "norm_pre norm_post"),
        *("label_emb time_emb", "predictor projector", "gamma_1 gamma_2", "start_token end_token"),
    ],
)
def test_what_shares_a_general_word_alone_is_something_else(names: str) -> None:
    entry, leaf = names.split()
    others: Shapes = {f"blocks.{n}.{m}.weight": (8, 8) for n in (0, 1) for m in ("q", "k", "v")}
    leaves = {key.replace(".0.", "[0].").replace(".1.", "[1]."): s for key, s in others.items()}
    leaves = {f".{key}": shape for key, shape in leaves.items()}
    ending = "" if names.startswith(("gamma", "start")) else ".weight"
    wanted = {f".{leaf}{ending}": (8,)}
    assert doubted(others | {f"{entry}{ending}": (8,)}, leaves | wanted) == {*wanted}


@pytest.mark.parametrize("names", ["rel_w rel_h rel_width rel_height", "h w height width"])
def test_letters_are_not_compared_by_the_spelling_of_what_they_stand_for(names: str) -> None:
    one, other, leaf, second = names.split()
    entries: Shapes = {one: (7, 4), other: (7, 4)}
    assert doubted(entries, {f".{second}": (7, 4), f".{leaf}": (7, 4)}, "Own")


def test_numbers_of_lists_in_lists_go_by_their_names() -> None:
    entries: Shapes = {f"layers.{i}.heads.{j}.weight": (4, 4) for i in (0, 1) for j in (0, 1)}
    crossed: Shapes = {f".heads[{j}].layers[{i}].weight": (4, 4) for j in (0, 1) for i in (0, 1)}
    same: Shapes = {f".layers[{i}].heads[{j}].weight": (4, 4) for i in (0, 1) for j in (0, 1)}
    assert not doubted(entries, crossed)
    assert not doubted(entries, same)


def test_of_lists_in_lists_with_as_many_members_either_may_be_stacked() -> None:
    entries: Shapes = {f"q{i}.{j}.weight": (4, 5) for i in (1, 2) for j in (0, 2)}
    leaves: Shapes = {f".q.layers[{j}].weight": (2, 4, 5) for j in (0, 1)}
    assert doubted(entries, leaves) == {*leaves}


@pytest.mark.parametrize("order", [(4, 3, 2, 1), (1, 2, 3, 4)])
def test_numbers_that_fall_in_the_checkpoint_are_levels(order: tuple[int, ...]) -> None:
    roles: Shapes = {"weight": (4, 4), "bias": (4,)}
    entries = {f"up{n}.{role}": shape for n in order for role, shape in roles.items()}
    leaves = {f".ups[{n}].{role}": shape for n in range(4) for role, shape in roles.items()}
    assert doubted(entries, leaves) == ({*leaves} if order[0] == 4 else set())


@pytest.mark.parametrize("order", [(10, 2), (2, 10)])
def test_numbers_of_members_that_fall_need_not_be_indices(order: tuple[int, ...]) -> None:
    roles: Shapes = {"weight": (4, 4), "bias": (4,)}
    entries = {f"heads.{n}.{role}": shape for n in order for role, shape in roles.items()}
    leaves = {f".heads[{n}].{role}": shape for n in (0, 1) for role, shape in roles.items()}
    assert doubted(entries, leaves) == ({*leaves} if order[0] == 10 else set())


def test_the_first_of_two_is_not_the_second_of_a_list() -> None:
    entries: Shapes = {"last.weight": (4, 4), "first.weight": (4, 4)}
    assert doubted(entries, {".blocks[0].weight": (4, 4), ".blocks[1].weight": (4, 4)})


@pytest.mark.parametrize("around", ["", "net."])
def test_lists_called_first_and_last_are_as_long_as_they_are(around: str) -> None:
    roles: Shapes = {"weight": (4, 3), "bias": (4,)}
    entries: Shapes = {
        f"{name}.{n}.{role}": shape
        for name in ("first", "last")
        for n in range(3)
        for role, shape in roles.items()
    }
    leaves = {
        ".{}{}[{}].{}".format(around, *key.split(".")): shape for key, shape in entries.items()
    }
    assert not doubted(entries, leaves)


@pytest.mark.parametrize("shape", [(24, 8), (24, 8, 1)])
def test_queries_keys_and_values_of_a_convolution_may_alternate(shape: Shape) -> None:
    leaves = {f".{part}.weight": (8, *shape[1:]) for part in "qkv"}
    owner = LINEAR if len(shape) == 2 else "equinox.nn.Conv1d"
    beside: Shapes = {"proj.weight": (8, *shape[1:])}
    wanted = leaves | {".proj.weight": beside["proj.weight"]}
    found = doubted({"qkv.weight": shape} | beside, wanted, owner)
    assert found == ({*leaves} if len(shape) > 2 else set())


@pytest.mark.parametrize("name", ["query_key_value", "wqkv", "qkv_proj"])
def test_a_fused_leaf_may_hold_its_parts_head_by_head(name: str) -> None:
    entries: Shapes = {f"attn.{part}_proj.weight": (8, 8) for part in "qkv"}
    path = f".attn.{name}.weight"
    assert doubted(entries, {path: (24, 8)}) == {path}
    assert not doubted({path[1:]: (24, 8)}, {path: (24, 8)})


@pytest.mark.parametrize(
    "names",
    [
        "linear_h linear_u input_linear recurrent_linear",
        "h_layer x_layer input_layer recurrent_layer",
        "fc_h fc_z fc_state fc_in",
        "conv_a conv_b conv_first conv_other",
    ],
)
def test_the_kind_of_a_layer_shows_not_which_of_two_it_is(names: str) -> None:
    first, second, *leaves = names.split()
    for keys in ((first, second), (second, first)):
        entries = {f"{key}.weight": (8, 8) for key in keys}
        assert len(doubted(entries, {f".{leaf}.weight": (8, 8) for leaf in leaves})) == 2
        # One alone is left where the other one is told by its size.
        entries[f"{second}.weight"] = (8, 5)
        sizes = zip(leaves, ((8, 8), (8, 5)), strict=True)
        assert not doubted(entries, {f".{leaf}.weight": size for leaf, size in sizes})


def test_one_word_is_enough_to_tell_two_layers_apart() -> None:
    leaves = {".input_linear.weight": (8, 8), ".hidden_linear.weight": (8, 8)}
    assert not doubted({"hidden_fc.weight": (8, 8), "in_fc.weight": (8, 8)}, leaves)
