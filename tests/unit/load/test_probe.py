import asyncio

import pytest

from labkit.errors import LoadError
from labkit.load.probe import probe
from labkit.load.target import OPENAI, VLLM, Target
from tests.support.oracle_server import OracleServer


@pytest.fixture(scope="module")
def server():
    with OracleServer() as running:
        yield running


def ask(server, model, api="completions", options=""):
    return asyncio.run(probe(Target(server.url, f"{model}?ttft=1&itl=0{options}", 4096), api=api, timeout_s=5.0))


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_a_server_that_takes_everything_needs_one_request(server, api):
    before = len(server.log)
    found = ask(server, "plain", api)
    assert (found.dialect, found.notes) == (VLLM, ())
    assert len(server.log) == before + 1


def test_a_server_that_refuses_foreign_fields_gets_none(server):
    found = ask(server, "strict")
    assert found.dialect == OPENAI
    assert any("ignore_eos" in note for note in found.notes)
    assert not {"ignore_eos", "return_token_ids"} & set(server.log[-1].fields)


def test_token_ids_are_asked_for_where_usage_comes_only_at_the_end(server):
    found = ask(server, "tokenids")
    assert (found.dialect.token_ids, found.notes) == (True, ())


def test_token_ids_that_are_wanted_are_asked_for_and_taken_only_where_they_come(server):
    def asked(model):
        target = Target(server.url, f"{model}?ttft=1&itl=0", 4096)
        return asyncio.run(probe(target, api="completions", timeout_s=5.0, token_ids=True)).dialect.token_ids

    assert asked("tokenids") is True
    assert asked("plain") is False
    assert asked("strict") is False


def test_an_answer_without_text_does_not_pass_for_a_counted_one(server):
    """Random weights may answer tokens that are no text yet: nothing then shows at once that the counts are missing."""
    found = ask(server, "tokenids", options="&text=0")
    assert (found.dialect.token_ids, found.notes) == (True, ())


def test_unknown_counts_are_said(server):
    notes = " ".join(ask(server, "nousage").notes)
    assert "no usage" in notes
    assert "how many tokens a chunk holds" in notes


def test_a_server_in_trouble_is_measured_all_the_same(server):
    found = ask(server, "http503")
    assert found.dialect == VLLM
    assert "told to answer 503" in found.notes[0]


@pytest.mark.parametrize(
    ("model", "words"), [("nobody", "knows no model"), ("http400", "refuses the probe"), ("http401", "the key")]
)
def test_what_cannot_be_measured_is_an_error(server, model, words):
    with pytest.raises(LoadError, match=words):
        asyncio.run(probe(Target(server.url, model, 4096), api="completions", timeout_s=5.0))


def test_nobody_there_is_an_error():
    with pytest.raises(LoadError, match=r"nobody answers at http://127\.0\.0\.1:1"):
        asyncio.run(probe(Target("http://127.0.0.1:1", "m", 4096), api="completions"))
