"""One request, made up: what its waterfall is drawn from."""

from labkit.dashboard.waterfall import Stretch, Waterfall


def story() -> Waterfall:
    """A request of ten tokens that waited, moved its KV cache, and stalled once while another prompt was prefilled."""
    tokens = [0.182 + 0.022 * i for i in range(5)] + [0.352 + 0.023 * i for i in range(5)]
    return Waterfall(
        request=1234,
        title="request 1234 · 512 → 10 tokens · worker-0 → worker-2",
        stretches=(
            Stretch("queue", 0.0, 0.041),
            Stretch("prefill", 0.041, 0.139, "prefill of 512 tokens on worker-0"),
            Stretch("transfer", 0.139, 0.160, "KV 12.6 MB to worker-2"),
            Stretch("decode", 0.160, tokens[-1]),
            Stretch("stall", tokens[4], tokens[5], "82 ms without a token"),
            Stretch("other", -0.02, 0.035, "request 1229, 480 tokens <b>"),
            Stretch("other", 0.275, 0.345, "request 1240, 2048 tokens"),
        ),
        token_s=tuple(tokens),
        limit_s=0.05,
    )
