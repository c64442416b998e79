"""What was freed goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import numpy as np
import psutil
import pytest

from labkit.measure.memory import LARGE_BYTES, give_back

#: in a process of its own: which allocator Arrow uses, before a lab is explored and after, and whether it still counts
ALLOCATORS = """
import pyarrow as pa
from labkit.measure.memory import live_long
before = pa.array(range(100_000))
live_long()
after = pa.array(range(100_000))
assert before.equals(after)
print(pa.default_memory_pool().backend_name, pa.total_allocated_bytes() >= after.nbytes)
"""


#: in a process of its own: how much of many large blocks stays where something small lies behind each
HOLES = """
import numpy as np, psutil
from labkit.measure.memory import LARGE_BYTES, live_long
np.ones(4 * LARGE_BYTES)  # freed: from here on glibc takes such from its heap
live_long()
process, blocks = psutil.Process(), []
before = process.memory_info().rss
for _ in range(50):
    blocks.append((np.ones(2 * LARGE_BYTES, np.uint8), bytes(1000)))
grown = process.memory_info().rss - before
small = [few for _, few in blocks]
del blocks
print(grown, process.memory_info().rss - before)
"""


def test_arrow_takes_its_memory_where_it_can_be_given_back():
    told = subprocess.run([sys.executable, "-c", ALLOCATORS], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.split() == ["system", "True"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps it like this")
def test_a_large_block_leaves_no_hole():
    told = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True, timeout=60)
    grown, left = map(int, told.stdout.split())
    assert grown > 50 * LARGE_BYTES
    assert left < grown / 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps it like this")
def test_what_lies_free_under_something_in_use_goes_back():
    process, each, count = psutil.Process(), LARGE_BYTES // 2, 2000  # too small to be mapped, whoever ran before in this process
    blocks = [np.ones(each, np.uint8) for _ in range(count)]
    kept = blocks[-1]
    blocks.clear()
    before = process.memory_info().rss
    give_back()
    assert before - process.memory_info().rss > each * count / 2
    assert kept.all()
