"""Traces of both formats: read as they are meant, or refused with file, line and value."""

import contextlib
import hashlib
import json
from collections import Counter
from datetime import datetime, timedelta
from itertools import combinations, takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import LabError, LoadError
from labkit.load.schedule import Schedule
from labkit.load.target import Requests, Target
from labkit.load.traces import load_lengths, load_trace
from labkit.spec import Workload

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens"


def mooncake(*rows):
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    return "\n".join(json.dumps(dict(zip(names, row, strict=False))) for row in rows)


@pytest.fixture
def write(tmp_path):
    def write(text, name="trace"):
        file = tmp_path / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(file)

    return write


def test_mooncake(write):
    trace = load_trace(write(mooncake((0, 600, 5, [7, 8]), (1500, 512, 1, [7]), (3000.5, 3, 0), (1, 2, 3, None))))
    assert trace.times_ns.tolist() == [0, 1_500_000_000, 3_000_500_000, 1_000_000]
    assert (trace.isl.tolist(), trace.osl.tolist(), trace.zeros) == ([600, 512, 3, 2], [5, 1, 1, 3], 1)
    assert [trace.hash_ids(row) for row in range(4)] == [[7, 8], [7], [], []]


def test_azure_keeps_all_seven_digits_and_time_zones(write):
    rows = "2023-11-16 18:17:03.9799600,4808,10\r\n2024-05-10 00:00:00.009930+02:00,3180,8\r\n1999-01-01T00:00:00Z,1,0\r\n"
    trace = load_trace(write(f"{HEAD}\r\n{rows}"))
    assert trace.times_ns.tolist() == [1700158623979960000, 1715292000009930000, 915148800000000000]
    assert (trace.isl.tolist(), trace.osl.tolist(), trace.zeros) == ([4808, 3180, 1], [10, 8, 1], 1)
    assert trace.hash_ids(1) == []


def test_byte_order_mark_blank_lines_and_more_columns_in_another_order(write):
    csv = '\ufeff\n"generatedtokens",extra,TimeStamp , CONTEXTTOKENS\n\n10,"a,b",2023-11-16 18:17:03,4808\n\n'
    trace = load_trace(write(csv))
    assert (trace.isl.tolist(), trace.osl.tolist()) == ([4808], [10])
    trace = load_trace(write('\ufeff\r\n\r\n{"x":{"y":[1]},"output_length":2,"input_length":1,"timestamp":0}\r\n\r\n', "b"))
    assert (trace.isl.tolist(), trace.osl.tolist()) == ([1], [2])


def test_milliseconds_since_1970_are_exact(write):
    trace = load_trace(write(mooncake((1_700_158_623_979, 1, 1), (1_700_158_623_979.25, 1, 1), (938_565_651_185, 1, 1))))
    assert trace.times_ns.tolist() == [1_700_158_623_979_000_000, 1_700_158_623_979_250_000, 938_565_651_185_000_000]


def test_a_file_that_changed_is_read_again(write):
    assert len(load_trace(write(mooncake((0, 1, 1))))) == 1
    assert len(load_trace(write(mooncake((0, 1, 1), (5, 1, 1))))) == 2


def test_lengths_come_from_a_list_or_a_column(write):
    assert load_lengths(write("\ufeff12\n\n900\r\n0\n"), "isl").tolist() == [12, 900, 1]
    file = write(mooncake((0, 10, 5), (1, 20, 6)), "b")
    assert (load_lengths(file, "isl").tolist(), load_lengths(file, "osl").tolist()) == ([10, 20], [5, 6])
    with pytest.raises(LoadError, match=r"line 2: the length '-3'"):
        load_lengths(write("12\n-3\n"), "isl")


good = '{"timestamp":0,"input_length":1,"output_length":1}'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1 has no timestamp, contexttokens, generatedtokens"),
        ("hello\n", "line 1 has no timestamp"),
        ("TIMESTAMP,ContextTokens\n", "line 1 has no generatedtokens"),
        (HEAD, "holds no requests"),
        (f"{HEAD}\n2023-11-16 18:17:03,1", "line 2: 2 columns where the head has 3"),
        (f"{HEAD}\n\nyesterday,1,2", "line 3: TIMESTAMP 'yesterday'"),
        (f"{HEAD}\n2023-13-16 18:17:03,1,2", "TIMESTAMP '2023-13-16 18:17:03'"),
        (f"{HEAD}\n9999-12-31 23:59:59,1,2", "TIMESTAMP '9999-12-31 23:59:59'"),
        *((f"{HEAD}\n2023-11-16 18:17:03,{bad},2", f"line 2: ContextTokens {bad!r}") for bad in ("-1", "nan", "1e9", "1.5", "")),
        (f"{HEAD}\n2023-11-16 18:17:03,1,99999999", "GeneratedTokens '99999999'"),
        (f"{HEAD}\n2023-11-16 18:17:03,1,{'9' * 5000}", "GeneratedTokens '9999"),
        (f'{HEAD}\n"2023', "line 2: no CSV"),
        (f'{HEAD}\n"' + "x\n" * 200_000, "no CSV: field larger"),
        (f"{good}\n{{", "line 2: '{' is no request"),
        (f"{good}\n[1]", "line 2: '[1]' is no request"),
        (f"{good}\n" + good.replace("1}", "NaN}"), "line 2: "),
        (f"{good}\n" + good.replace("1}", "1e999}"), "line 2: "),
        (good.replace("1}", "-1}"), "line 1: output_length -1"),
        (good.replace("1}", "10000001}"), "output_length 10000001"),
        (good.replace("1}", "9" * 3000 + "}"), "line 1: "),
        (good.replace("1}", '"1"}'), "Expected `int`, got `str`"),
        (good.replace("0,", "-5,"), "timestamp -5 is not a number of milliseconds"),
        (good.replace("0,", "1e300,"), "timestamp 1e+300"),
        (good.replace("}", ',"hash_ids":[-1]}'), "hash id"),
        (good.replace("}", f',"hash_ids":[{2**64}]}}'), "hash id"),
        (good.replace("}", ',"x":' + "[" * 100_000 + "]" * 100_000 + "}"), "line 1: "),
        ("{" * 900_000, "line 1: "),
        (good + " " * (1 << 20), "line 1: the line is longer than 1048576 bytes"),
        (b"\xff\xfe{\x00", "line 1: byte 0xff is no UTF-8"),
    ],
)
def test_what_cannot_be_meant_is_named_with_its_line(write, text, says):
    file = write(text)
    with pytest.raises(LoadError) as caught:
        load_trace(file)
    assert caught.value.what.startswith((file, f"trace {file}"))
    assert says in caught.value.what
    assert len(caught.value.what) < 600
    assert "input_length" in caught.value.remedy


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path, "/dev/zero", tmp_path / ("x" * 5000), "a\0b"):
        with pytest.raises(LoadError, match="cannot read"):
            load_trace(str(path))


lines = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.text(max_size=40).map(str.encode),
        st.sampled_from([good.encode(), HEAD.encode(), b"2023-11-16 18:17:03.1,5,5", b'"', b"{", b"\xef\xbb\xbf", b"\0", b"NaN"]),
        st.dictionaries(
            st.sampled_from(["timestamp", "input_length", "output_length", "hash_ids"]),
            st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=3), st.none()),
        ).map(lambda row: json.dumps(row).encode()),
    ),
    max_size=6,
).map(b"\n".join)


@settings(max_examples=300)
@given(data=lines)
def test_no_bytes_raise_anything_else(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "fuzzed"
    file.write_bytes(data)
    for read in (load_trace, lambda path: load_lengths(path, "osl")):
        with contextlib.suppress(LabError):
            assert len(read(str(file))) > 0


@settings(max_examples=60)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 10**12), st.integers(1, 10**7), st.integers(1, 10**7), st.lists(st.integers(0, 2**64 - 1), max_size=4)
        ),
        min_size=1,
        max_size=20,
    )
)
def test_every_request_is_read_as_written(tmp_path_factory, rows):
    file = tmp_path_factory.getbasetemp() / "written"
    file.write_text(mooncake(*rows))
    trace = load_trace.__globals__["_load_trace"].__wrapped__(str(file), 0, 0)
    read = zip((trace.times_ns // 1_000_000).tolist(), trace.isl.tolist(), trace.osl.tolist(), strict=True)
    assert [(*row, trace.hash_ids(number)) for number, row in enumerate(read)] == rows


times = st.integers(0, 4 * 10**8).map(lambda ticks: 1_700_000_000 * 10**9 + ticks * 100)  # in ns, a tenth of a µs apart
rows_of = st.lists(st.tuples(times, st.integers(0, 10**7), st.integers(0, 10**7)), min_size=1, max_size=30)


@settings(max_examples=60)
@given(
    rows=rows_of,
    digits=st.integers(7, 9),
    zone_min=st.one_of(st.none(), st.integers(-14 * 60, 14 * 60)),
    order=st.permutations(["TIMESTAMP", "ContextTokens", "GeneratedTokens", "x"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_azure_rows_are_read_as_written(tmp_path_factory, rows, digits, zone_min, order, end):
    """Seven fractional digits as in the published files (or more), any order of columns, any time zone."""

    def cells(t_ns, isl, osl):
        moment = datetime(1970, 1, 1) + timedelta(seconds=t_ns // 10**9, minutes=zone_min or 0)
        fraction = f"{t_ns % 10**9:09d}"[:digits]
        zone = "" if zone_min is None else f"{'-' if zone_min < 0 else '+'}{abs(zone_min) // 60:02d}:{abs(zone_min) % 60:02d}"
        return {
            "TIMESTAMP": f"{moment:%Y-%m-%d %H:%M:%S}.{fraction}{zone}",
            "ContextTokens": isl,
            "GeneratedTokens": osl,
            "x": "",
        }

    lines = [order, *([str(cells(*row)[name]) for name in order] for row in rows)]
    file = tmp_path_factory.getbasetemp() / "azure"
    file.write_text("".join(",".join(line) + end for line in lines), newline="")
    trace = load_trace.__globals__["_load_trace"].__wrapped__(str(file), 0, 0)
    read = zip(trace.times_ns.tolist(), trace.isl.tolist(), trace.osl.tolist(), strict=True)
    assert list(read) == [(t_ns, max(isl, 1), max(osl, 1)) for t_ns, isl, osl in rows]
    assert trace.zeros == sum((isl == 0) + (osl == 0) for _, isl, osl in rows)


SMALL_ROWS = st.lists(
    st.tuples(
        st.integers(0, 10**7),
        st.integers(1, 3000),
        st.integers(1, 900),
        st.lists(st.integers(0, 5), max_size=7),
    ),
    min_size=1,
    max_size=25,
)


def written(tmp_path_factory, rows):
    """A file of its own for each: readers remember what they read by name, size and time."""
    text = mooncake(*rows)
    file = tmp_path_factory.getbasetemp() / hashlib.sha256(text.encode()).hexdigest()
    file.write_text(text)
    return file


def sent(file, **fields):
    """Schedule of a trace in ``file``, with what it sends: ``[(at_s, isl, osl)]``."""
    schedule = Schedule(Workload(trace=str(file), **fields))
    times = list(schedule.arrivals("measure"))
    return schedule, [(at_s, *schedule.lengths("measure", index)) for index, at_s in enumerate(times)]


@settings(max_examples=50)
@given(rows=SMALL_ROWS, scale=st.sampled_from([0.01, 0.5, 1.0, 3.0]), limit=st.one_of(st.none(), st.integers(2, 3500)))
def test_a_trace_is_sent_in_the_order_of_its_times_scaled_and_clipped_as_is_counted(tmp_path_factory, rows, scale, limit):
    file = written(tmp_path_factory, rows)
    schedule, requests = sent(file, time_scale=scale, clip_tokens=limit)
    ordered = sorted(rows, key=lambda row: row[0])  # rows of one instant in the order of the file
    assert [at_s for at_s, _, _ in requests] == pytest.approx([(row[0] - ordered[0][0]) / 1e3 * scale for row in ordered])
    lost_prompts = lost_answers = clipped = 0
    for (_, isl, osl), (_, row_isl, row_osl, _) in zip(requests, ordered, strict=True):
        room = row_isl + row_osl if limit is None else limit
        assert isl + osl == min(room, row_isl + row_osl)
        assert isl <= row_isl
        assert osl <= row_osl
        lost_prompts, lost_answers = lost_prompts + row_isl - isl, lost_answers + row_osl - osl
        clipped += row_isl + row_osl > room
    words = f"{clipped} of {len(rows)} requests are longer than {limit} tokens and were clipped: "
    words += f"{lost_prompts} tokens of prompts and {lost_answers} of answers left out"
    assert (schedule.notes()[1:] == (words,)) if clipped else (len(schedule.notes()) == 1)


@settings(max_examples=50)
@given(rows=SMALL_ROWS, seed=st.integers(0, 2**40), data=st.data())
def test_a_sample_has_rows_of_the_trace_once_each_and_in_order(tmp_path_factory, rows, seed, data):
    file = written(tmp_path_factory, rows)
    count = data.draw(st.integers(1, len(rows)))
    for fields, pool in (({"sample": True, "seed": seed}, rows), ({}, rows[:count])):
        _, requests = sent(file, requests=count, **fields)
        assert len(requests) == count
        assert [at_s for at_s, _, _ in requests] == sorted(at_s for at_s, _, _ in requests)
        assert requests[0][0] == 0
        assert not Counter((isl, osl) for _, isl, osl in requests) - Counter((isl, osl) for _, isl, osl, _ in pool)
        assert sent(file, requests=count, **fields)[1] == requests


@settings(max_examples=40)
@given(rows=SMALL_ROWS, seed=st.integers(0, 2**40))
def test_equal_ids_are_equal_tokens_and_other_ids_are_others(tmp_path_factory, rows, seed):
    """The longest common beginning of two prompts is that of their ids, to the token (but for chance: one in thousands)."""
    requests = Requests(
        Target("http://127.0.0.1:9", "m", 200_000), Workload(trace=str(written(tmp_path_factory, rows)), seed=seed)
    )
    ordered = sorted(rows, key=lambda row: row[0])
    prompts = [json.loads(requests.body("measure", index))["prompt"] for index in range(len(rows))]
    assert [len(prompt) for prompt in prompts] == [isl for _, isl, _, _ in ordered]
    for (one, (_, isl_a, _, ids_a)), (other, (_, isl_b, _, ids_b)) in combinations(zip(prompts, ordered, strict=True), 2):
        blocks = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids_a, ids_b, strict=False)))
        shared = min(512 * blocks, isl_a, isl_b)
        assert one[:shared] == other[:shared]
        assert one[shared : shared + 2] != other[shared : shared + 2] or shared == min(isl_a, isl_b)
