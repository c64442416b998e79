import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from labkit.errors import SpecError, StoreError
from labkit.serve.models import prepare, shape_config
from labkit.spec import SHAPES, Model

TEXTS = ["Hello wörld", "漢字 🚀 \x00 \u202e", "def f(x):\n\treturn  x\r\n", " " * 40, "<|im_end|"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder as a person would have it: config, tokenizer, weights in two shards with an index."""
    path = Path(prepare(Model("demo"), tmp_path / "made").path)
    model = path.rename(tmp_path / "my-model")
    for n in (1, 2):
        (model / f"model-{n}.safetensors").write_bytes(b"w" * 100 * n)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    return model


class TestShapes:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_ids_of_config_and_tokenizer_agree(self, shape: str, tmp_path: Path) -> None:
        served = prepare(Model(shape), tmp_path)
        config = json.loads((tmp_path / shape / "config.json").read_text())
        words = json.loads((tmp_path / shape / "tokenizer_config.json").read_text())
        tokenizer = Tokenizer.from_file(str(tmp_path / shape / "tokenizer.json"))
        for name in ("bos", "eos", "pad"):
            assert tokenizer.token_to_id(words[f"{name}_token"]) == config[f"{name}_token_id"]
        assert tokenizer.get_vocab_size() == config["vocab_size"] == served.vocab_size
        assert tokenizer.decode([config["vocab_size"] - 1]) != ""
        assert served.load_format == "dummy"
        assert served.name == shape

    @pytest.mark.parametrize("shape", SHAPES)
    def test_the_sizes_stay_as_published(self, shape: str, tmp_path: Path) -> None:
        prepare(Model(shape), tmp_path)
        made, published = json.loads((tmp_path / shape / "config.json").read_text()), shape_config(shape)
        changed = {key for key in made.keys() | published.keys() if made.get(key) != published.get(key)}
        assert changed <= {"bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "transformers_version"}

    @pytest.mark.parametrize("shape", ["demo", "gpt-oss-120b"])
    @pytest.mark.parametrize("text", TEXTS)
    def test_text_survives_the_tokenizer(self, shape: str, text: str, tmp_path: Path) -> None:
        tokenizer = Tokenizer.from_file(str(Path(prepare(Model(shape), tmp_path).path) / "tokenizer.json"))
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids) == text
        assert max(ids) < 4096

    def test_english_takes_fewer_tokens_than_half_its_characters(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.from_file(str(Path(prepare(Model("demo"), tmp_path).path) / "tokenizer.json"))
        text = "The value of the expression is returned to the caller when the function ends."
        assert len(tokenizer.encode(text).ids) < len(text) / 2

    def test_made_twice_is_not_written_twice(self, tmp_path: Path) -> None:
        path = Path(prepare(Model("demo"), tmp_path).path)
        before = {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in path.iterdir()}
        prepare(Model("demo"), tmp_path)
        assert {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in path.iterdir()} == before
        assert set(before) == {"config.json", "tokenizer.json", "tokenizer_config.json"}

    def test_a_damaged_copy_is_mended(self, tmp_path: Path) -> None:
        config = Path(prepare(Model("demo"), tmp_path).path) / "config.json"
        good = config.read_text()
        config.write_text(good[:50])
        prepare(Model("demo"), tmp_path)
        assert config.read_text() == good

    def test_a_place_that_cannot_be_written_is_a_store_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="cannot write"):
            prepare(Model("demo"), tmp_path / "file")

    def test_a_full_disk_leaves_no_half_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(path: Path, _target: Path) -> Path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(StoreError, match="No space left on device"):
            prepare(Model("demo"), tmp_path)
        assert list((tmp_path / "demo").iterdir()) == []

    def test_bytes_follow_the_dtype(self, tmp_path: Path) -> None:
        half, full = prepare(Model("demo"), tmp_path), prepare(Model("demo"), tmp_path, dtype="float32")
        asked = prepare(Model("demo", dtype="bfloat16"), tmp_path, dtype="float32")
        assert (half.dtype, half.kv_bytes_per_token) == (None, 4096)
        assert (full.dtype, full.kv_bytes_per_token, full.weight_bytes) == ("float32", 8192, 4 * 26_224_128)
        assert (asked.dtype, asked.kv_bytes_per_token) == ("bfloat16", 4096)


class TestLength:
    @pytest.mark.parametrize(
        ("needed", "expected"), [(None, 8192), (544, 2048), (2048, 2048), (2049, 4096), (5000, 8192), (8192, 8192)]
    )
    def test_default_fits_the_workload(self, needed: int | None, expected: int, tmp_path: Path) -> None:
        assert prepare(Model("demo"), tmp_path, isl_osl_max=needed).max_model_len == expected

    def test_rounding_stops_at_the_models_maximum(self, tmp_path: Path) -> None:
        assert prepare(Model("qwen3-0.6b"), tmp_path, isl_osl_max=33000).max_model_len == 40960

    def test_an_asked_length_is_kept(self, tmp_path: Path) -> None:
        assert prepare(Model("demo", max_model_len=600), tmp_path, isl_osl_max=544).max_model_len == 600

    @pytest.mark.parametrize(
        ("model", "needed", "named"),
        [
            (Model("demo", max_model_len=8193), None, "max_model_len = 8193 is beyond the 8192"),
            (Model("demo"), 9000, r"ISL \+ OSL = 9000 is beyond the 8192"),
            (Model("demo", max_model_len=500), 544, r"ISL \+ OSL = 544 does not fit max_model_len = 500"),
        ],
    )
    def test_too_long_is_refused(self, model: Model, needed: int | None, named: str, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=named):
            prepare(model, tmp_path, isl_osl_max=needed)

    @pytest.mark.parametrize(
        ("model", "needed", "length"),
        [(Model("demo"), 9000, 8192), (Model("demo", max_model_len=500), 544, 500), (Model("demo"), 99, 2048)],
    )
    def test_too_long_is_no_error_where_it_may_be_clipped(self, model: Model, needed: int, length: int, tmp_path: Path) -> None:
        assert prepare(model, tmp_path, isl_osl_max=needed, may_clip=True).max_model_len == length


class TestTensorParallel:
    @pytest.mark.parametrize(
        ("shape", "tp"),
        [("demo", 1), ("demo", 2), ("demo", 4), ("demo", 8), ("llama-3.1-70b", 8), ("llama-3.1-70b", 16), ("gpt-oss-120b", 8)],
    )
    def test_what_vllm_can_shard_passes(self, shape: str, tp: int, tmp_path: Path) -> None:
        prepare(Model(shape), tmp_path).check_tp(tp)

    @pytest.mark.parametrize(
        ("shape", "tp", "named"),
        [
            ("demo", 3, "TP 3 does not divide the 8 attention heads of demo"),
            ("demo", 16, "8 attention heads"),
            ("llama-3.1-8b", 6, "TP 6"),
        ],
    )
    def test_what_does_not_divide_is_refused(self, shape: str, tp: int, named: str, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=named) as error:
            prepare(Model(shape), tmp_path).check_tp(tp)
        assert "use TP 1, 2, 4, 8" in error.value.remedy

    def test_kv_heads_neither_divided_nor_copied(self, folder: Path, tmp_path: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config.update(num_attention_heads=12, num_key_value_heads=6, intermediate_size=1536)
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(SpecError, match="6 KV heads"):
            prepare(Model(str(folder)), tmp_path).check_tp(4)
        prepare(Model(str(folder)), tmp_path).check_tp(12)


class TestFolder:
    def test_is_served_in_place(self, folder: Path, tmp_path: Path) -> None:
        served = prepare(Model(str(folder)), tmp_path / "unused")
        assert (served.path, served.name, served.load_format) == (str(folder), "my-model", "auto")
        assert served.weight_bytes == 300
        assert (served.vocab_size, served.max_model_len) == (4096, 8192)
        assert not (tmp_path / "unused").exists()

    def test_dummy_weights_need_no_weights(self, folder: Path, tmp_path: Path) -> None:
        for weights in folder.glob("*.safetensors*"):
            weights.unlink()
        served = prepare(Model(str(folder), dummy_weights=True), tmp_path)
        assert (served.load_format, served.weight_bytes) == ("dummy", 2 * 26_224_128)

    def test_a_model_without_a_formula_is_served_without_sizes(self, folder: Path, tmp_path: Path) -> None:
        (folder / "config.json").write_text('{"model_type": "mamba", "vocab_size": 50280}')
        served = prepare(Model(str(folder)), tmp_path)
        assert (served.architecture, served.kv_bytes_per_token, served.vocab_size) == (None, None, 50280)
        served.check_tp(3)

    def test_a_tokenizer_of_vocabulary_and_merges_is_one(self, folder: Path, tmp_path: Path) -> None:
        (folder / "tokenizer.json").rename(folder / "vocab.json")
        with pytest.raises(SpecError, match="has no tokenizer"):
            prepare(Model(str(folder)), tmp_path)
        (folder / "merges.txt").write_text("")
        assert prepare(Model(str(folder)), tmp_path).vocab_size == 4096

    @pytest.mark.parametrize(
        ("file", "content", "named"),
        [
            ("config.json", None, "has no config.json"),
            ("config.json", "{", "config.json is no valid JSON"),
            ("config.json", "[]", "config.json holds no JSON object"),
            ("tokenizer.json", None, r"has no tokenizer \(tokenizer.json\)"),
            ("model-2.safetensors", None, "lacks the weights model-2.safetensors"),
        ],
    )
    def test_a_missing_or_broken_file_is_named(
        self, file: str, content: str | None, named: str, folder: Path, tmp_path: Path
    ) -> None:
        (folder / file).unlink()
        if content is not None:
            (folder / file).write_text(content)
        with pytest.raises(SpecError, match=named) as error:
            prepare(Model(str(folder)), tmp_path)
        assert str(folder) in error.value.what

    def test_no_weights_at_all(self, folder: Path, tmp_path: Path) -> None:
        for weights in folder.glob("*.safetensors"):
            weights.unlink()
        with pytest.raises(SpecError, match="has no weights") as error:
            prepare(Model(str(folder)), tmp_path)
        assert "dummy_weights=True" in error.value.remedy

    def test_no_folder_at_all(self, folder: Path, tmp_path: Path) -> None:
        shutil.rmtree(folder)
        with pytest.raises(SpecError, match=r"my-model does not exist"):
            prepare(Model(str(folder)), tmp_path)


class TestHub:
    def test_unknown_to_the_cache_is_passed_through(self, tmp_path: Path) -> None:
        served = prepare(Model("Qwen/Qwen3-0.6B"), tmp_path, env={"HF_HOME": str(tmp_path)}, isl_osl_max=544)
        assert (served.path, served.name, served.load_format) == ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", "auto")
        assert (served.vocab_size, served.architecture, served.max_model_len) == (None, None, 2048)

    def test_offline_and_not_cached_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="HF_HUB_OFFLINE is set"):
            prepare(Model("Qwen/Qwen3-0.6B"), tmp_path, env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})

    @pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE"])
    def test_the_cached_main_snapshot_is_read(self, variable: str, tmp_path: Path) -> None:
        hub = tmp_path / "hub" if variable == "HF_HOME" else tmp_path
        repository = hub / "models--Qwen--Qwen3-0.6B"
        for commit, vocab in (("newer", 1), ("main", 151936)):
            (repository / "snapshots" / commit).mkdir(parents=True)
            config = {**shape_config("qwen3-0.6b"), "vocab_size": vocab}
            (repository / "snapshots" / commit / "config.json").write_text(json.dumps(config))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("main\n")
        served = prepare(Model("Qwen/Qwen3-0.6B"), tmp_path, env={variable: str(tmp_path), "HF_HUB_OFFLINE": "1"})
        assert (served.path, served.vocab_size, served.max_model_len) == ("Qwen/Qwen3-0.6B", 151936, 40960)
        assert served.weight_bytes == 1_192_099_840
