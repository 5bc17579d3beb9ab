"""Every rewrite is registered under its name and can be left out by it."""

import re
from pathlib import Path

import pytest
from pytensor.compile.mode import optdb
from pytensor.graph.rewriting.db import RewriteDatabaseQuery

import pytensor_convnet  # noqa: F401  (registers them)

NAMES = [
    "cancel_shuffles",
    "reduce_before_shuffle",
    "fold_filter_flip",
    "fold_flip_of_filter_grad",
    "move_function_past_max_pool",
    "move_product_before_max_pool_grad",
    "add_before_max_pool_grad",
    "sum_before_max_pool_grad",
    "drop_unread_winners",
]
NUMBA_NAMES = [
    "cancel_shuffles",
    "reduce_before_shuffle",
    "fuse_bias_and_activation",
    "fuse_bias_and_rectifier",
    "fuse_correlation_and_max_pool",
    "fuse_filter_grad_and_max_pool_grad",
    "fuse_input_grad_and_max_pool_grad",
    "fuse_rectifier_and_average_pool",
    "fuse_tanh_grad_and_bias_grad",
    "move_activation_before_reshape",
    "keep_memory_of_dot",
    "order_transposes",
    "vectorize_tanh",
]
NUMBA_ALONE = {
    "fuse_bias_and_rectifier",
    "fuse_tanh_grad_and_bias_grad",
    "keep_memory_of_dot",
    "order_transposes",
    "vectorize_tanh",
}
CUDA_NAMES = [
    *(name for name in NUMBA_NAMES if name not in NUMBA_ALONE),
    "fuse_bias_grad_and_muted_winners",
    "fuse_rectifier_by_muting_winners",
]
ALL_NAMES = {*NAMES, *NUMBA_NAMES, *CUDA_NAMES}
BEFORE_ALL = "inline_graphs"
"""Mode CUDA's, which is not of a database of ours."""


def included(*tags, exclude=()):
    """The names of our rewrites that a mode with these tags applies."""
    query = RewriteDatabaseQuery(include=tags, exclude=exclude)
    names = set()
    for place in ("canonicalize", "convnet_moving", "convnet_fusing", "convnet_last"):
        rewriters = optdb[place].query(query)
        names |= {getattr(rewriter, "name", None) for rewriter in rewriters.get_node_rewriters()}
    return names & ALL_NAMES


def test_which_modes_apply_them():
    assert included("fast_run") == set(NAMES)
    assert included("fast_run", "numba") == {*NAMES, *NUMBA_NAMES}
    assert included("fast_run", "cuda") == {*NAMES, *CUDA_NAMES}
    assert included("fast_compile") == set()


def test_one_tag_leaves_out_all():
    assert included("fast_run", "numba", "cuda", exclude=["convnet"]) == set()


@pytest.mark.parametrize("name", sorted(ALL_NAMES))
def test_a_name_leaves_out_one(name):
    assert included("fast_run", "numba", "cuda", exclude=[name]) == ALL_NAMES - {name}


def test_the_documentation_names_each():
    page = (Path(__file__).parents[2] / "docs" / "rewrites.md").read_text()
    assert set(re.findall(r"^#+ `(\w+)`", page, re.MULTILINE)) == {*ALL_NAMES, BEFORE_ALL}


@pytest.mark.parametrize(
    ("tags", "exclude", "is_applied"),
    [
        (["fast_run", "cuda"], [], True),
        (["fast_run", "numba"], [], False),
        (["fast_run", "cuda"], ["convnet"], False),
        (["fast_run", "cuda"], [BEFORE_ALL], False),
    ],
)
def test_graphs_are_taken_apart_in_mode_cuda_only(tags, exclude, is_applied):
    found = optdb.query(RewriteDatabaseQuery(include=tags, exclude=exclude))
    assert (BEFORE_ALL in [rewriter.name for rewriter in found]) is is_applied
