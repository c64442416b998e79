from __future__ import annotations

from labkit.measure.epochs import epoch_of, options_of

MANIFEST = {
    "options": {"max_num_seqs": 1},
    "epochs": [{"epoch": 0, "topology": "2A"}, {"epoch": 1, "topology": "1P1D", "options": {"max_num_seqs": 2}}],
}


def test_an_epoch_is_found_by_its_number():
    assert epoch_of(MANIFEST, 1)["topology"] == "1P1D"
    assert epoch_of(MANIFEST, 2) == {}
    assert epoch_of({}, 0) == {}


def test_options_are_the_epochs_or_else_the_runs():
    assert options_of(MANIFEST, 1) == {"max_num_seqs": 2}
    assert options_of(MANIFEST, 0) == {"max_num_seqs": 1}
    assert options_of({"options": "unknown"}, 0) is None
