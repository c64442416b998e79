from dataclasses import replace

import pytest

from labkit.errors import HardwareError
from labkit.serve.control_group import free_memory
from labkit.serve.hardware import assign, inspect_node
from labkit.serve.memory import check_memory, check_room
from tests.support.fake_engine import MODEL, fake_gpu, fake_node

GIB = 2**30


def test_every_worker_of_a_node_without_gpu_needs_all_weights():
    model = replace(MODEL, weight_bytes=9 * GIB)  # the node has 16 GiB
    check_memory(model, assign([1], fake_node()))
    with pytest.raises(HardwareError, match=r"9 GiB for its weights in each worker, and has 8 GiB .*50% of 16 GiB"):
        check_memory(model, assign([1, 1], fake_node()))


def test_gpus_hold_a_part_each_and_share_what_they_share():
    node = replace(fake_node(), gpus=(fake_gpu(0), fake_gpu(1)))
    model = replace(MODEL, weight_bytes=140 * GIB)
    check_memory(model, assign([2], node))
    with pytest.raises(HardwareError, match="140 GiB for its weights in each worker, and has 80 GiB of GPU 0") as error:
        check_memory(model, assign([1, 1], node))
    assert "higher TP" in error.value.remedy
    with pytest.raises(HardwareError, match="50% of 80 GiB"):
        check_memory(replace(MODEL, weight_bytes=41 * GIB), assign([1, 1, 1, 1], node))


def test_workers_that_start_beside_others_need_what_is_free_now():
    model = replace(MODEL, weight_bytes=3 * GIB)
    check_room(model, 2, GIB, 8 * GIB)
    with pytest.raises(HardwareError, match=r"2 new workers beside .* need 8 GiB .*, and 7 GiB of the node's memory is free"):
        check_room(model, 2, GIB, 7 * GIB)
    check_room(replace(model, weight_bytes=None), 2, GIB, 2 * GIB)
    assert 0 < free_memory() <= inspect_node().memory_bytes


def test_unknown_weights_are_left_to_the_engine():
    check_memory(replace(MODEL, weight_bytes=None), assign([1] * 8, fake_node()))
