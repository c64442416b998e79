import json

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from labkit.errors import LoadError
from labkit.load.draws import Draw, Piece
from labkit.load.prompts import WORDS, Prompts, load_tokenizer, token_range


def own(phase, index, tokens):
    """The prompt of a request that shares nothing."""
    return [Piece(Draw.CONTENTS, phase, index, tokens)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(vocab_size=600, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    path = tmp_path_factory.mktemp("model")
    tokenizer.save(str(path / "tokenizer.json"))
    return path


@pytest.mark.parametrize("vocab", [8, 300, 4096, 32_000, 128_256, 201_088])
def test_token_ids_have_the_exact_length_and_stay_within_plain_text(vocab):
    low, high = token_range(vocab)
    ids = Prompts(3, vocab).token_ids(own("measure", 0, 700))
    assert len(ids) == 700
    assert low <= ids.min() <= ids.max() < high < vocab


def test_special_tokens_of_usual_models_are_avoided():
    assert token_range(128_256)[1] <= 128_000  # Llama 3
    assert token_range(151_936)[1] <= 151_643  # Qwen 3
    assert token_range(201_088)[1] <= 199_998  # gpt-oss
    assert token_range(4096)[0] >= 256


def test_prompts_repeat_for_a_seed_and_share_no_prefix_otherwise():
    one = Prompts(1, 4096)
    assert one.token_ids(own("measure", 4, 64)).tolist() == Prompts(1, 4096).token_ids(own("measure", 4, 64)).tolist()
    everything = [one.token_ids(own("measure", i, 64)).tolist() for i in range(200)]
    everything += [one.token_ids(own("warmup", i, 64)).tolist() for i in range(200)]
    everything += [Prompts(2, 4096).token_ids(own("measure", i, 64)).tolist() for i in range(200)]
    assert len({tuple(ids[:4]) for ids in everything}) == 600


@pytest.mark.parametrize("isl", [1, 2, 17, 512])
def test_chat_text_has_the_exact_number_of_tokens(folder, isl):
    tokenizer = load_tokenizer(folder)
    text = Prompts(5, 600, tokenizer).text(own("measure", 3, isl))
    assert len(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids) == isl
    assert text == Prompts(5, 600, tokenizer).text(own("measure", 3, isl))


def test_without_a_tokenizer_a_text_has_as_many_words():
    assert len(Prompts(5, 4096).text(own("measure", 0, 40)).split()) == 40


def test_bad_vocabulary_and_folders_are_refused(tmp_path):
    with pytest.raises(LoadError, match="too small"):
        token_range(7)
    with pytest.raises(LoadError, match="does not exist"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(LoadError, match=r"has no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(LoadError, match="is no tokenizer"):
        load_tokenizer(tmp_path)


def test_prompts_share_the_pieces_that_they_have_in_common_and_nothing_else(folder):
    shared, prompts = Piece(Draw.PREFIX, "measure", 2, 100), Prompts(1, 4096)
    one, two = (prompts.token_ids([shared, *own("measure", i, 60)]).tolist() for i in range(2))
    assert len(one) == 160
    assert one[:100] == two[:100]
    assert one[100:104] != two[100:104]
    cut = prompts.token_ids([shared._replace(tokens=40)]).tolist()
    assert cut == one[:40]
    for number in (prompts, Prompts(1, 4096)):
        assert json.loads(b"[" + number.encoded_ids([shared, *own("measure", 0, 60)]) + b"]") == one
        assert json.loads(b"[" + number.encoded_ids([shared, *own("measure", 0, 60)]) + b"]") == one
    texts = [Prompts(5, 600, load_tokenizer(folder)).text([shared, *own("measure", i, 60)]) for i in range(2)]
    assert texts[0] != texts[1]
    begins = next(at for at, (one, two) in enumerate(zip(*texts, strict=False)) if one != two)
    assert 90 <= Prompts(5, 600, load_tokenizer(folder)).count(texts[0][:begins]) <= 110
