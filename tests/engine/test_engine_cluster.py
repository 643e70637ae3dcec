"""How a cluster of unlike machines is divided, and what is remembered of who did what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagger.engine.machines import Machines, machines_of, parse_groups
from tagger.engine.options import TagOptions
from tagger.engine.resources import choose_layout
from tagger.engine.timeline import MODEL, Span, Timeline
from tagger.errors import UsageError


def node(cpus=0, gpus=0, *, alive=True):
    return {"Alive": alive, "Resources": {"CPU": float(cpus), "GPU": float(gpus), "memory": 1e9}}


def test_a_head_without_cpus_and_the_dead_work_for_nobody():
    nodes = [node(), node(4), node(4), node(4, alive=False), node(8, 2)]
    assert machines_of(nodes, []) == [Machines(4, 0, now=2, most=2), Machines(8, 2, now=1, most=1)]


def test_what_is_there_counts_even_where_fewer_were_told():
    assert machines_of([node(4), node(4)], parse_groups("1x4cpu")) == [Machines(4, 0, now=2, most=2)]


@pytest.mark.parametrize("text", ["4", "x4cpu", "4x", "4x4gpu", "-1x4cpu", "4x4cpu+gpu", "4x4cpu;2x2cpu"])
def test_groups_that_cannot_be_read_are_told(text):
    with pytest.raises(UsageError, match="--machines must be like"):
        parse_groups(text)


def test_pools_start_with_what_is_there_and_may_grow_to_what_is_told():
    there = [node(), node(16), node(4, 1)]
    layout = choose_layout(machines_of(there, parse_groups("8x16cpu,4x4cpu+1gpu")))
    assert (layout.first_actors, layout.model_actors, layout.fetch_tasks) == (1, 4, 128)
    assert (layout.model_gpus, layout.model_cpus, layout.apart) == (1, 1.0, True)


@pytest.mark.parametrize(
    ("share", "actors", "each"), [(0.25, 8, 0.25), (0.5, 4, 0.5), (1, 2, 1.0), (2, 1, 2.0), (0.4, 4, 0.5)]
)
def test_parts_of_gpus_and_several(share, actors, each):
    """One CPU feeds one GPU, whoever shares it; 0.4 fits twice on a GPU, never across two."""
    layout = choose_layout([Machines(8, 2, now=1, most=1)], gpus_per_actor=share)
    assert (layout.model_actors, layout.model_gpus, layout.model_cpus) == (actors, share, each)


def test_more_actors_than_gpus_share_them():
    layout = choose_layout([Machines(8, 2, now=1, most=1)], model_actors=5)
    assert (layout.model_actors, layout.model_gpus) == (5, 1 / 3)


def test_gpus_that_are_not_there_are_refused():
    with pytest.raises(UsageError, match="the cluster has none"):
        choose_layout([Machines(8, 0, now=1, most=1)], gpus_per_actor=1)
    with pytest.raises(UsageError, match="no machine has more than 2 GPUs"):
        choose_layout([Machines(8, 2, now=4, most=4)], gpus_per_actor=4)


@pytest.mark.parametrize(
    "asked", [{"fetch_tasks": 10**6}, {"model_actors": 10**6}, {"model_actors": 50, "fetch_tasks": 10**5}]
)
def test_what_ray_cannot_divide_is_refused(asked):
    with pytest.raises(UsageError, match="too many for 2 CPUs"):
        choose_layout([Machines(2, 0, now=1, most=1)], **asked)


def test_actors_that_find_no_gpu_are_refused():
    with pytest.raises(UsageError, match="5 model actors of 1 GPUs are more than the cluster's 1 GPU"):
        choose_layout([Machines(2, 1, now=1, most=1)], model_actors=5, gpus_per_actor=1.0)


@pytest.mark.parametrize("share", [0, 0.001, -1, 1.5, float("nan"), float("inf")])
def test_a_share_that_no_gpu_has_is_refused(share):
    with pytest.raises(UsageError, match="--gpus-per-actor must be a part of one GPU"):
        TagOptions(gpus_per_actor=share)


groups = st.builds(
    lambda cpus, gpus, now, more: Machines(cpus, gpus, now=now, most=now + more),
    st.integers(1, 64),
    st.integers(0, 8),
    st.integers(0, 5),
    st.integers(0, 5),
)


@given(st.lists(groups.filter(lambda one: one.most), min_size=1, max_size=4), st.booleans())
def test_no_cluster_is_asked_for_more_than_it_may_have(machines, on_gpus):
    layout = choose_layout(machines, on_gpus=on_gpus)
    assert layout.cpus <= sum(one.cpus * one.most for one in machines) + 1e-6
    assert layout.model_actors * layout.model_gpus <= sum(one.gpus * one.most for one in machines)
    assert layout.first_actors >= 1
    assert min(layout.fetch_tasks, layout.model_actors, layout.fetch_cpus) > 0
    if layout.apart:
        assert layout.fetch_tasks == sum(one.cpus * one.most for one in machines if not one.gpus)
    # An actor must fit on one machine.
    assert any(one.cpus >= layout.model_cpus and one.gpus >= layout.model_gpus for one in machines)


spans = st.builds(
    lambda node, start, long, images: Span(MODEL, node, 1000.0 + start, 1000.0 + start + long, images),
    st.sampled_from(["a", "b"]),
    st.floats(-5, 5000),
    st.floats(0, 700),
    st.integers(0, 512),
)


@given(st.lists(spans, max_size=20))
def test_a_timeline_loses_nothing_however_long_it_gets(all_of_them):
    timeline = Timeline(1000.0)
    timeline.add(all_of_them)
    rows = timeline.to_record()["rows"]
    assert all(len(row["busy_s"]) == len(row["images"]) <= 120 for row in rows)
    for row in rows:
        of_node = [span for span in all_of_them if span.node == row["node"]]
        assert sum(row["images"]) == sum(span.images for span in of_node)
        busy = sum(max(0.0, span.end - max(span.start, 1000.0)) for span in of_node)
        assert sum(row["busy_s"]) == pytest.approx(busy, abs=0.01 * len(row["busy_s"]))
