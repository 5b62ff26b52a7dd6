"""How fast are texts encoded, and are the embeddings those of sentence-transformers?

Encodes made texts of 5 to 200 words with all-MiniLM-L6-v2 by mixfit and, where the package sentence-transformers is
installed, by its own ``encode`` with its defaults, in turn in one process; then prints texts per second, by the clock
and by the processor, and the largest difference of two numbers. The words are those of the tokenizer, some of them
joined, so that no text has more than 256 tokens, which sentence-transformers would cut.
Run: OMP_NUM_THREADS=1 python benchmarks/bench_text.py [--texts 2000] [--passes 2] [--model FOLDER]"""

import argparse
import logging
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from statistics import median

import numpy as np
import torch

from mixfit.nn.sentence import MINILM, PACKAGE, SentenceEncoder, load_sentence_encoder


def make_texts(encoder: SentenceEncoder, count: int) -> list[str]:
    """Of 5 to 200 words."""
    rng = np.random.default_rng(0)
    known = sorted(word for word in encoder.tokenizer.get_vocab() if word.isalpha() and len(word) > 1)
    words = np.array([*known, *("".join(pair) for pair in rng.choice(known, (len(known) // 10, 2)))])
    texts: list[str] = []
    while len(texts) < count:
        text = " ".join(rng.choice(words, rng.integers(5, 201)))
        if len(encoder.tokenize(text)) == 1:
            texts.append(text)
    return texts


def timed(encode: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    """The embeddings, seconds of the clock, and seconds of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    found = encode()
    return found, time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--model", type=Path, help="a folder; by default the package's")
    args = parser.parse_args()
    ours = load_sentence_encoder(args.model)
    texts = make_texts(ours, args.texts)
    lengths = [len(ours.tokenize(text)[0]) for text in texts]
    ways: dict[str, Callable[[], np.ndarray]] = {"mixfit": lambda: ours.encode(texts)}
    try:
        release = version("sentence-transformers")
    except PackageNotFoundError:
        print("sentence-transformers is not installed: nothing to compare with.")
    else:
        logging.disable()
        from sentence_transformers import SentenceTransformer

        files = distribution(PACKAGE).files or ()
        inside = next(str(file.locate()) for file in files if file.as_posix().endswith(f"{MINILM}/config.json"))
        theirs = SentenceTransformer(str(args.model or Path(inside).parent), device="cpu")
        ways[f"sentence-transformers {release}"] = lambda: theirs.encode(texts, show_progress_bar=False)
    gmacs = ours.network.multiply_adds(round(float(np.mean(lengths)))) / 1e9
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads, float32")
    print(f"{len(texts):,} texts, {sum(lengths):,} tokens, longest {max(lengths)}; {gmacs:.4f} GMACs per token")
    found: dict[str, list[tuple[np.ndarray, float, float]]] = {way: [] for way in ways}
    for _ in range(args.passes):
        for way, encode in ways.items():
            found[way].append(timed(encode))
    for way, passes in found.items():
        clock, processor = median(one[1] for one in passes), median(one[2] for one in passes)
        print(
            f"{way:<30}{len(texts) / clock:8.1f} texts/s{len(texts) / processor:8.1f} texts per processor second, "
            f"median of {len(passes)}; clock {', '.join(f'{one[1]:.1f}' for one in passes)} s, "
            f"processor {', '.join(f'{one[2]:.1f}' for one in passes)} s"
        )
    if len(found) == 2:
        first, second = (passes[0][0] for passes in found.values())
        print(f"largest difference of two numbers: {np.abs(first - second).max():.1e}")


if __name__ == "__main__":
    main()
