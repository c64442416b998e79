import msgspec
import pytest

from labkit.load.events import UNKNOWN, ChunkLog, TokenCount, decode, text_of


def count(*events: str) -> tuple[list[int], TokenCount]:
    counter = TokenCount()
    tokens = []
    for text in events:
        event = decode(text.encode())
        if event.choices:
            tokens.append(counter.chunk(event.choices[0], event.usage, bool(text_of(event.choices[0]))))
        elif event.usage is not None:
            counter.usage(event.usage)
    return tokens, counter


def chunk(text: str = "a", used: int | None = None, **choice) -> str:
    event: dict = {"choices": [{"text": text, **choice}]}
    if used is not None:
        event["usage"] = {"prompt_tokens": 5, "completion_tokens": used}
    return msgspec.json.encode(event).decode()


def test_tokens_are_the_growth_of_usage_even_without_text():
    tokens, counter = count(chunk("", 0), chunk("", 1), chunk("ab", 4), chunk("", 4))
    assert tokens == [0, 1, 3, 0]
    assert counter.total() == (4, "usage")
    assert (counter.prompt_tokens, counter.unknown, counter.token_chunks) == (5, 0, 2)


def test_usage_with_the_last_chunk_only_says_nothing_about_that_chunk():
    assert count(chunk("a"), chunk("b"), chunk("c", 3, finish_reason="length"))[0] == [UNKNOWN] * 3
    tokens, counter = count(chunk(""), chunk(""), chunk("", 3, finish_reason="length"))
    assert tokens == [UNKNOWN] * 3
    assert counter.total() == (3, "usage")


def test_an_answer_in_one_chunk_is_known():
    assert count(chunk("abc", 3, finish_reason="length"))[0] == [3]


def test_a_gap_in_the_usage_makes_only_what_it_covers_unknown():
    assert count(chunk("a", 1), chunk("b"), chunk("c", 3), chunk("d", 4))[0] == [1, UNKNOWN, UNKNOWN, 1]


def test_an_empty_first_chunk_without_usage_does_not_spoil_the_rest():
    role = '{"choices": [{"delta": {"role": "assistant", "content": ""}}]}'
    assert count(role, chunk("a", 1), chunk("b", 2))[0] == [UNKNOWN, 1, 1]


def test_token_ids_count_where_usage_does_not():
    tokens, counter = count(chunk("ab", token_ids=[1, 2]), chunk("", token_ids=[3]))
    assert tokens == [2, 1]
    assert counter.total() == (3, "chunks")


def test_without_usage_nothing_is_claimed():
    tokens, counter = count(chunk("a"), chunk("b"))
    assert tokens == [UNKNOWN, UNKNOWN]
    assert counter.total() == (None, None)
    assert counter.token_chunks == 2


@pytest.mark.parametrize("field", ["content", "reasoning", "reasoning_content"])
def test_content_and_reasoning_are_text(field):
    event = decode(f'{{"choices": [{{"delta": {{"{field}": "x"}}}}]}}'.encode())
    assert text_of(event.choices[0]) == "x"


@pytest.mark.parametrize(
    "bad", [b"", b"{", b"[]", b'{"usage": {"completion_tokens": 5000000000}}', b'{"id": "\xff"}', b"[" * 5000]
)
def test_what_is_no_event_is_one_kind_of_error(bad):
    with pytest.raises((msgspec.MsgspecError, ValueError, RecursionError)):
        decode(bad)


def test_the_log_gives_its_rows_once_and_marks_unknown_counts():
    log = ChunkLog()
    log.add(1, 10, 1, True)
    log.add(2, 11, 40_000, False)
    columns, tokens = log.take()
    assert columns["tokens"].tolist() == [1, 32_767]
    assert columns["text"].tolist() == [True, False]
    assert tokens == 32_768
    log.add(1, 12, UNKNOWN, True)
    columns, tokens = log.take()
    assert (list(columns["tokens"]), tokens, columns["request"].tolist()) == ([None], 0, [1])
    assert len(log.take()[0]["t_ns"]) == 0
