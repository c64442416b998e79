import json

import pytest

from labkit.errors import LoadError
from labkit.load.target import OPENAI, Requests, Target, request_body
from labkit.spec import Workload


@pytest.mark.parametrize(
    ("url", "path", "port"),
    [
        ("http://h:8000", "/v1", 8000),
        ("http://h:8000/", "/v1", 8000),
        ("http://h:8000/v1/", "/v1", 8000),
        ("https://api.example.com", "/v1", 443),
        ("https://example.com/openai", "/openai/v1", 443),
        ("http://[::1]/v1", "/v1", 80),
    ],
)
def test_base_urls_with_and_without_v1(url, path, port):
    target = Target(url, "m", 4096)
    assert (target.base_path, target.port) == (path, port)


@pytest.mark.parametrize(
    "url", ["", "h:8000", "ftp://h", "http://", "http://h:99999", "http://h:0", "http://h/a b", "http://h\r\nX: y"]
)
def test_unusable_urls_are_refused(url):
    with pytest.raises(LoadError, match="base URL"):
        Target(url, "m", 4096)


def test_logins_in_urls_are_refused_without_being_repeated():
    with pytest.raises(LoadError) as error:
        Target("http://me:hunter2@h/v1", "m", 4096)
    assert "hunter2" not in str(error.value)


def test_keys_stay_out_of_repr_and_cannot_split_headers():
    assert "s3cret" not in repr(Target("http://h", "m", 4096, "s3cret"))
    with pytest.raises(LoadError) as error:
        Target("http://h", "m", 4096, "s3cret\r\nX: y")
    assert "s3cret" not in str(error.value)


def test_bodies_ask_for_exactly_the_tokens_and_repeat():
    work = Workload(isl="uniform:5-50", osl=9, concurrency=1, requests=1, seed=3)
    one, two = (Requests(Target("http://h", "m", 4096), work) for _ in range(2))
    body = json.loads(one.body("measure", 12))
    assert one.body("measure", 12) == two.body("measure", 12) != one.body("measure", 13)
    assert len(body["prompt"]) == one.schedule.lengths("measure", 12)[0]
    assert body["max_tokens"] == 9
    assert body["ignore_eos"] is True
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert body["temperature"] == 0


def test_a_name_that_looks_like_a_body_stays_a_name():
    name = 'm","prompt":[1],"messages":[{'
    for api in ("completions", "chat"):
        work = Workload(isl=8, osl="uniform:1-3", concurrency=1, requests=9, api=api)
        requests = Requests(Target("http://h", name, 4096), work)
        for number in range(9):
            body = json.loads(requests.body("measure", number))
            assert body["model"] == name
            assert body["max_tokens"] == requests.schedule.lengths("measure", number)[1]
            assert len(body["prompt"]) == 8 if api == "completions" else body["messages"][0]["role"] == "user"


def test_plain_openai_gets_no_foreign_fields():
    body = json.loads(request_body(Target("http://h", "m", 4096, dialect=OPENAI), [], 5, chat=True))
    assert set(body) == {"model", "messages", "max_tokens", "temperature", "stream", "stream_options"}
    assert body["stream_options"] == {"include_usage": True}


def test_heads_carry_key_id_and_length():
    requests = Requests(Target("http://h:81", "m", 4096, "k3y"), Workload(concurrency=1, requests=1, api="chat"))
    head = requests.head(b"x" * 17, "labkit-1").decode()
    assert head.startswith("POST /v1/chat/completions HTTP/1.1\r\nHost: h:81\r\n")
    for line in ("Authorization: Bearer k3y", "X-Request-Id: labkit-1", "Content-Length: 17", "Connection: close"):
        assert f"\r\n{line}\r\n" in head
    assert head.endswith("\r\n\r\n")


def test_targets_survive_the_pipe():
    target = Target("http://h", "m", 4096, "k", OPENAI, None)
    assert Target.from_dict(json.loads(json.dumps(target.to_dict()))) == target
