"""``labkit export-deployment``: the split that a run found, as files that start it on a cluster or on other nodes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from labkit.cli.table import add_results, say, short


def add_parser(subparsers: Any) -> None:
    """Add the command to ``labkit``."""
    parser = subparsers.add_parser(
        "export-deployment",
        help="a run's split as files that start it elsewhere: Kubernetes, bare nodes, plain vLLM",
        description="Write the split that a run found or measured as files that start it elsewhere. Without a choice: the winner "
        "of a split search, the better side of a comparison, the split in force when an exploration ended. Nothing is started.",
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="an id, the beginning of one, a path, or latest")
    add(
        "--to", required=True, metavar="TARGET",
        help="dynamo-k8s: a DynamoGraphDeployment (nvidia.com/v1beta1); dynamo-shell: scripts for bare nodes with etcd; "
        "vllm-shell: plain vLLM servers and their router",
    )  # fmt: skip
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--side", metavar="SIDE", help="a side that the run measured, as `labkit show` names it")
    which.add_argument("--pin", metavar="LABEL", help="a pin of an exploration")
    which.add_argument("--trial", type=int, metavar="N", help="a trial of a split search, from 1")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--request-rate", type=float, metavar="R", help="requests per second to be served: workers are scaled to that, linearly"
    )
    size.add_argument("--replicas", type=int, metavar="N", help="copies of the split (default: 1, as measured)")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="a folder that is empty or not there (default: deployment/TARGET in the run's folder)",
    )
    add(
        "--model",
        metavar="M",
        help="hub id, or the whole path of a folder that every node has (default: the run's hub id)",
    )
    add("--dummy-weights", action="store_true", help="serve with random weights, to try the deployment out")
    add(
        "--hosts",
        metavar="A,B,…",
        help="of the shell targets: addresses of the nodes; the first has the frontend (default: 127.0.0.1)",
    )
    add("--gpus-per-host", type=int, metavar="N", help="GPUs of each node (default: 8)")
    add("--port", type=int, metavar="P", help="of the frontend or router; workers' ports follow it (default: 8000)")
    add("--etcd", metavar="URL", help="of dynamo-shell: where etcd answers (default: port 2379 of the first host)")
    add(
        "--image",
        metavar="IMAGE",
        help="of dynamo-k8s: Dynamo's runtime with vLLM (default: NVIDIA's, of the release measured with)",
    )
    add("--name", metavar="NAME", help="of dynamo-k8s: of the deployment (default: made from the model's)")
    add("--hf-secret", metavar="NAME", help="of dynamo-k8s: name of a secret in the cluster that holds HF_TOKEN")
    add_results(parser)


def run(args: argparse.Namespace) -> int:
    """Write the files and print their paths; warnings go to standard error; 0.

    Raises:
        LabError: no such run or split, or what was asked for cannot be meant; nothing is written then.
    """
    from labkit.deploy import export_deployment

    place = {
        name: getattr(args, name) for name in ("model", "hosts", "gpus_per_host", "port", "etcd", "image", "name", "hf_secret")
    }
    done = export_deployment(
        args.run, args.to, side=args.side, pin=args.pin, trial=args.trial, request_rate=args.request_rate, replicas=args.replicas,
        output=args.output, results=args.results, dummy_weights=args.dummy_weights, **place,
    )  # fmt: skip
    say(f"{done.topology}: {done.text}", error=True)
    for warning in done.warnings:
        say(f"! {warning}", error=True)
    for path in done.paths:
        say(short(path))
    return 0
