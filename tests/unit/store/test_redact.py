import json

import pytest

from labkit.store.redact import REDACTED, is_secret_name, redact, redact_argv, redact_known, redact_text

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "name",
    ["api_key", "OPENAI_API_KEY", "--api-key", "apiKey", "hf_token", "HF_TOKEN", "token", "--token", "accessToken", "password",
     "DB_PASSWORD", "secret", "client_secret", "Authorization", "credentials", "auth", "cookie"],
)  # fmt: skip
def test_names_of_secrets(name: str):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["max_tokens", "tokens", "tokenizer", "--tokenizer", "output_tokens", "energy_j_per_token", "eos_token", "first_token",
     "max_num_batched_tokens", "tokens_from", "keys", "key", "author", "monkey", "first_token_ns"],
)  # fmt: skip
def test_names_that_hold_no_secret(name: str):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "argv",
    [
        ["labkit", "bench", "--api-key", SECRET],
        ["labkit", "bench", f"--api-key={SECRET}"],
        ["labkit", "run", "nb", "-p", "api_key", SECRET],
        ["labkit", "run", "nb", "-p", f"password={SECRET}"],
        ["labkit", "run", "nb", "-p", f"password={SECRET} and {SECRET}"],
        ["env", f"HF_TOKEN={SECRET}", "labkit"],
        ["curl", "-H", f"Authorization: Bearer {SECRET}"],
        ["labkit", "bench", "--base-url", f"https://me:{SECRET}@host:8000/v1"],
        ["labkit", "bench", "--base-url", f"https://host/v1?sig={SECRET}&x={SECRET}#top"],
        ["vllm", "--kv-transfer-config", f'{{"kv_role": "kv_both", "api_key": "{SECRET}"}}'],
        ["x", f"sk-{SECRET}"],
        ["x", f"hf_{SECRET}"],
    ],
)
def test_no_secret_of_a_command_line_is_kept(argv: list[str]):
    clean = redact_argv(argv)
    assert SECRET not in " ".join(clean)
    assert REDACTED in " ".join(clean)
    assert clean[0] == argv[0]


def test_a_harmless_command_line_stays_as_it_is():
    argv = ["labkit", "bench", "--base-url", "http://127.0.0.1:8000/v1", "--tokenizer", "./tok", "--max-tokens=5", "-p",
            "tokens=3", "eos_token=</s>", "--topology", "2P@tp2+1D@tp4"]  # fmt: skip
    assert redact_argv(argv) == argv


def test_containers_are_walked():
    clean = redact(
        {
            "env": {"HF_TOKEN": SECRET, "PATH": "/bin"},
            "engine": {"argv": ["vllm", "--api-key", SECRET], "urls": [f"http://u:{SECRET}@h/"]},
            "credentials": {"user": "me", "nested": [SECRET]},
            "list": [{"password": 12345}, {"max_tokens": 5}],
            "energy_j_per_token": 0.25,
            "token": SECRET,
        }
    )
    assert SECRET not in repr(clean)
    assert "12345" not in repr(clean)
    assert clean["env"]["PATH"] == "/bin"
    assert clean["list"][1] == {"max_tokens": 5}
    assert clean["energy_j_per_token"] == 0.25


def test_what_a_secret_variable_holds_is_hidden_wherever_it_stands(monkeypatch: pytest.MonkeyPatch):
    held = 'c4n"ary\\value'
    monkeypatch.setenv("SOME_COMPANYS_TOKEN", held)
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")  # as servers without keys are spoken to
    assert redact_text(f"the server said: {held}!") == f"the server said: {REDACTED}!"
    kept = {"outputs": [{"text": f"it is {held}"}], "n": 1.5, "image": "aGVsbG8=="}
    hidden = json.loads(redact_known(json.dumps(kept, indent=1)))
    assert hidden == {**kept, "outputs": [{"text": f"it is {REDACTED}"}]}
    assert redact_text("an EMPTY answer") == "an EMPTY answer"


def test_an_absent_secret_is_not_claimed():
    assert redact({"api_key": None}) == {"api_key": None}


def test_url_keeps_its_host():
    assert redact_text(f"http://me:{SECRET}@h:1/v1?a={SECRET}#x") == f"http://{REDACTED}@h:1/v1?{REDACTED}#x"
