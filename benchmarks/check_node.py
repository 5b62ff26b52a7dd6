"""Does an exported file give the same predictions in another language: JavaScript, in Node, by onnxruntime-web?

The inputs of some rows are made as ``mixfit.onnx_predict`` makes them, handed to Node as JSON, and predicted there by
WebAssembly on one thread. Prints the largest difference of each output from onnxruntime in Python, relative to the
largest value; exit code 1 if one is above 1e-5, or texts differ.
Run: python benchmarks/check_node.py MODEL.onnx TABLE FOLDER [ROWS]
FOLDER is where this was run: npm install onnxruntime-web@1.30.0"""

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mixfit.data.photos.decode import read_for_size
from mixfit.data.photos.find import find_photos
from mixfit.data.table.read import read_table
from mixfit.export.onnx_predict import OnnxModel

TOLERANCE = 1e-5
SCRIPT = """
import { readFile, writeFile } from "node:fs/promises";
const [library, model, given, out] = process.argv.slice(1);
const ort = await import(library);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(await readFile(model));
const feeds = {};
for (const [name, { type, values, dims }] of Object.entries(JSON.parse(await readFile(given)))) {
  const kinds = { float64: Float64Array, float32: Float32Array, int64: BigInt64Array, uint8: Uint8Array };
  const plain = type === "int64" ? values.map(BigInt) : values.map((one) => (one === null ? NaN : one));
  feeds[name] = new ort.Tensor(type, type === "string" ? plain : kinds[type].from(plain), dims);
}
const started = performance.now();
const found = await session.run(feeds);
const seconds = (performance.now() - started) / 1000;
const number = (value) => (typeof value === "bigint" ? Number(value) : value);
const plain = Object.entries(found).map(([name, one]) => [name, Array.from(one.data, number)]);
await writeFile(out, JSON.stringify({ seconds, outputs: Object.fromEntries(plain) }));
"""


def as_json(values: np.ndarray) -> dict[str, Any]:
    """An input for JavaScript."""
    kind = "string" if values.dtype == object else values.dtype.name
    flat = values.ravel().tolist()
    if kind == "int64":
        flat = list(map(str, flat))
    elif kind.startswith("float"):
        flat = [one if one == one else None for one in flat]  # JSON has no NaN
    return {"type": kind, "values": flat, "dims": list(values.shape)}


def main() -> None:
    """Compare."""
    path, table, library = map(Path, sys.argv[1:4])
    rows = int(sys.argv[4]) if sys.argv[4:] else 4
    model = OnnxModel.load(path, threads=1)
    some = model.schema.table(read_table(table).head(rows))
    photos = None
    if model.meta["photos"] is not None:
        photos = find_photos(some.frame, model.schema.names("image"), table.parent, model.schema.photos, absent=True)
    decode = partial(read_for_size, size=(model.meta["photos"] or {}).get("size"), follow_links=False)
    pixels, end = model.photos(photos, 0, len(some), {}, decode)
    inputs = {name: values[:end] for name, values in model.cells(some).items()} | pixels
    names = {one.name for one in model.session.get_inputs()}
    given = {name: values for name, values in (inputs | {"row_count": np.array([end])}).items() if name in names}
    wanted = model.run(given, end)
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "in.json", Path(folder) / "out.json"
        asked.write_text(json.dumps({name: as_json(values) for name, values in given.items()}))
        program = (library / "node_modules/onnxruntime-web/dist/ort.node.min.mjs").resolve().as_uri()
        call = ["node", "--input-type=module", "-e", SCRIPT, program, str(path), str(asked), str(answered)]
        subprocess.run(call, check=True)
        found = json.loads(answered.read_text())
    print(f"{path.name}: {end} rows, {len(pixels.get('photos', ()))} photos, {found['seconds']:.2f} s in Node")
    bad = 0
    for name, values in wanted.items():
        got = np.array(found["outputs"][name])
        if values.dtype == object:
            differing = int((got != values.ravel()).sum())
            print(f"{name}: {differing} of {len(got)} differ")
            bad += differing > 0
            continue
        largest = float(np.abs(values).max(initial=1e-300))
        apart = float(np.abs(got.astype(np.float64) - values.ravel()).max(initial=0.0)) / largest
        print(f"{name}: largest difference {apart:.1e} of the largest value")
        bad += not apart <= TOLERANCE
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
