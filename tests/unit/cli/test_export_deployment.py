"""``labkit export-deployment``: paths on standard output, what must be known on standard error."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.cli.main import main
from tests.support.saved_runs import saved_run


def test_paths_go_to_standard_output_and_warnings_to_standard_error(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    saved_run(tmp_path, "mine", ("2A", "1P1D"), gpus=True)
    argv = [
        "export-deployment",
        "mine",
        "--to",
        "dynamo-k8s",
        "--side",
        "1P1D",
        "--replicas",
        "3",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main([*argv, "--results", str(tmp_path)]) == 0
    told = capsys.readouterr()
    (path,) = (Path(line) for line in told.out.splitlines())
    assert "replicas: 3" in path.read_text()
    assert "3P3D: 3 copies of 1P1D" in told.err
    assert "! the model is to be filled in" in told.err


def test_every_option_reaches_its_file(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    saved_run(tmp_path, "mine", ("1P1D",), gpus=True)
    results = ["--results", str(tmp_path)]
    shell = [
        "--hosts",
        "n1,n2",
        "--gpus-per-host",
        "1",
        "--port",
        "9000",
        "--etcd",
        "http://e:1",
        "--dummy-weights",
        "--model",
        "a/b",
    ]
    assert main(["export-deployment", "mine", "--to", "dynamo-shell", "--output", str(tmp_path / "shell"), *shell, *results]) == 0
    assert "--http-port 9000" in (tmp_path / "shell" / "frontend.sh").read_text()
    assert "ETCD_ENDPOINTS=http://e:1" in (tmp_path / "shell" / "deployment.env").read_text()
    decode = (tmp_path / "shell" / "decode-0.sh").read_text()
    assert "DYN_TCP_RPC_HOST=n2" in decode
    assert "--load-format dummy" in decode
    cluster = ["--image", "mine/vllm:2.0.0", "--name", "prod", "--hf-secret", "hf", "--request-rate", "0.1"]
    assert main(["export-deployment", "mine", "--to", "dynamo-k8s", "--output", str(tmp_path / "k8s"), *cluster, *results]) == 0
    text = (tmp_path / "k8s" / "deployment.yaml").read_text()
    for part in ("image: mine/vllm:2.0.0", "  name: prod\n", "name: hf\n"):
        assert part in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--to", "helm"], "unknown target 'helm'"),
        (["--to", "vllm-shell", "--side", "9A"], "side '9A' was not measured"),
        (["--to", "vllm-shell", "--trial", "1"], "no trial 1"),
        (["--to", "vllm-shell", "--pin", "x"], "no pin 'x'"),
    ],
)
def test_a_refusal_is_one_message_with_a_remedy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, more: list[str], message: str
):
    saved_run(tmp_path, "mine", ("1P1D",))
    assert main(["export-deployment", "mine", *more, "--results", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("labkit: ")
    assert message in told.err
    assert "→" in told.err
