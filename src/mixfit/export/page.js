// A row of the form -> the inputs of model.onnx, as mixfit.onnx_predict makes them of a table -> its outputs.
"use strict";
const MODEL = JSON.parse(document.getElementById("model").textContent);
const BLANKS = "[ \\t\\n\\r\\v\\f\\x1c-\\x1f\\x85\\xa0\\u2002\\u2003\\u2007\\u2009\\u200b\\u202f\\u3000\\ufeff]*";
const AROUND = new RegExp("^" + BLANKS + "|" + BLANKS + "$", "g");
const SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;
const MISSING_TIME = -(2n ** 63n);

class Wrong extends Error {}

const stripped = (text) => text.replace(AROUND, "");

function numberOf(text, column) {
  if (!text) return NaN;
  if (!/^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/.test(text)) {
    throw new Wrong(`${column}: "${text}" is not a plain number such as 1234.5. Leave it empty if it is not known.`);
  }
  return Number(text);
}

// What makes two cells the same level: see Form.keys and canonical_number in mixfit.
function keyOf(text, keys) {
  if (keys === "text") return text;
  if (keys !== "truth" && /^-?(0|[1-9]\d*)(\.\d+([eE][+-]?\d+)?|[eE][+-]?\d+)$/.test(text)) return canonical(text);
  if (keys !== "number" && /^(true|True|TRUE)$/.test(text)) return "True";
  if (keys !== "number" && /^(false|False|FALSE)$/.test(text)) return "False";
  return text;
}

function canonical(text) {
  const whole = /^(-?\d+)\.0+$/.exec(text);
  if (whole) return whole[1] === "-0" ? "0" : whole[1];
  const digits = text.split(/e/i)[0].replace(/\D/g, "").replace(/^0+|0+$/g, "");
  const value = Number(text);
  if (digits.length > 17 || !Number.isFinite(value) || (value === 0 && digits)) return text;
  return value === 0 ? "0" : written(value);
}

// A number as Python writes it, without the point of a whole one: with an exponent below 1e-4 and from 1e16 on.
function written(value) {
  const [, sign, first, rest, power] = /^(-?)(\d)(?:\.(\d+))?e([+-]\d+)$/.exec(value.toExponential());
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 16) {
    const size = String(Math.abs(exponent)).padStart(2, "0");
    return `${sign}${first}${rest ? "." + rest : ""}e${exponent < 0 ? "-" : "+"}${size}`;
  }
  const digits = first + (rest ?? "");
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${digits}`;
  const wholeDigits = digits.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  return sign + wholeDigits + (digits.length > exponent + 1 ? "." + digits.slice(exponent + 1) : "");
}

const DATE = /^(\d{4})-(\d{1,2})-(\d{1,2})(?:(?:T|\s+)(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?(?:\s*(?:Z|z|UTC|GMT|([+-])(\d{2}):?(\d{2})?))?)?$/;
const CLOCK = /^()()()(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?$/;

// Microseconds since 1970 in UTC, and the minutes by which the clock of the cell is ahead.
function timeOf(text, column, clock) {
  if (!text) return [null, 0];
  const found = (clock ? CLOCK : DATE).exec(text);
  const [year, month, day, hour, minute, second] = (found ?? []).slice(1, 7).map((one) => Number(one || 0));
  const moment = new Date(0);
  moment.setUTCFullYear(clock ? 1970 : year, clock ? 0 : month - 1, clock ? 1 : day);
  const real = clock || (moment.getUTCMonth() === month - 1 && moment.getUTCDate() === day);
  const zone = Number(found?.[9] ?? 0) * 60 + Number(found?.[10] ?? 0);
  const zoned = Number(found?.[9] ?? 0) < 24 && Number(found?.[10] ?? 0) < 60;
  if (!found || !real || hour > 23 || minute > 59 || second > 59 || !zoned) {
    throw new Wrong(`${column}: write ${clock ? "a time such as 18:30" : "a date such as 2020-01-31 or 2020-01-31 18:30"}, or nothing.`);
  }
  const ahead = found[8] === "-" ? -zone : zone;
  const micro = BigInt((found[7] ?? "").padEnd(6, "0").slice(0, 6));
  const milli = moment.getTime() + ((hour * 60 + minute - ahead) * 60 + second) * 1000;
  return [BigInt(milli) * 1000n + micro, ahead];
}

// What the clocks show in a zone.
function inZone([time, ahead], zone) {
  if (time === null) return MISSING_TIME;
  const fixed = /^UTC([+-])(\d\d):(\d\d)$/.exec(zone);
  if (zone === "UTC") return time;
  if (zone === "own") return time + BigInt(ahead) * 60_000_000n;
  if (fixed) return time + BigInt((fixed[1] + "1") * (fixed[2] * 60 + Number(fixed[3]))) * 60_000_000n;
  const second = time >= 0n ? time / 1_000_000n : -((-time + 999_999n) / 1_000_000n);
  const options = { timeZone: zone, calendar: "iso8601", numberingSystem: "latn", hourCycle: "h23", era: "short" };
  for (const part of ["year", "month", "day", "hour", "minute", "second"]) options[part] = "numeric";
  const shown = new Intl.DateTimeFormat("en", options).formatToParts(new Date(Number(second) * 1000));
  const part = Object.fromEntries(shown.map((one) => [one.type, one.value]));
  const local = new Date(0);
  local.setUTCFullYear(part.era?.startsWith("B") ? 1 - part.year : Number(part.year), part.month - 1, Number(part.day));
  local.setUTCHours(Number(part.hour), Number(part.minute), Number(part.second));
  return BigInt(local.getTime()) * 1000n + (time - second * 1_000_000n);
}

function tagsOf(text, column, between) {
  if (!text) return null;
  if (text.startsWith("[") || (between === "list" && /^[({]/.test(text))) {
    throw new Wrong(`${column}: write the tags without brackets, with ${between === "list" ? "," : between} between them.`);
  }
  const tags = text.split(between === "list" ? "," : between).map((one) => one.trim()).filter(Boolean);
  return [...new Set(tags)];
}

// The words of a text, as to_words in mixfit: each sign is a word.
function wordsOf(text) {
  const simple = (sign) => (sign === "\u0130" ? "i" : [...sign.toLowerCase()].length === 1 ? sign.toLowerCase() : sign);
  const plain = [...[...text].slice(0, 50_000).join("").normalize("NFKC")].map(simple).join("");
  const apart = plain.replace(/([^\p{L}\p{N}\p{M}\t\n\f\r _])/gu, " $1 ");
  return apart.split(SPACE).filter((word) => word && [...word].length <= 200);
}

// How often a text has each known word, pair of words and n-gram of characters.
function termsOf(words, known) {
  const place = new Map();
  let start = 0;
  for (const kind of ["words", "pairs", "grams"]) {
    known[kind].forEach((term, number) => place.set(kind + term, start + number));
    start += known[kind].length;
  }
  const counts = new Float32Array(start);
  const count = (key) => place.has(key) && counts[place.get(key)]++;
  words.forEach((word, number) => {
    count("words" + word);
    if (number) count("pairs" + words[number - 1] + " " + word);
    const signs = [" ", ...word, " "];
    for (let n = 2; n <= 4; n++) {
      for (let first = 0; first === 0 || first + n <= signs.length; first++) {
        count("grams" + signs.slice(first, first + n).join(""));
      }
      if (n >= signs.length) break;
    }
  });
  return counts;
}

// RGB pixels as read_image has them: upright, without profile, over white; of a large JPEG no more than are needed.
async function pixelsOf(file, size) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Wrong(`${file.name}: this browser cannot read the photo.`);
  }
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const first = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  const most = first[0] === 0xff && first[1] === 0xd8 ? Math.min(width, height) / (2 * size) : 1;
  return reduced(rgba, width, height, [8, 4, 2].find((scale) => scale <= most) ?? 1);
}

// Mean of squares of pixels, in the place of a decoder that reads a JPEG at a part of its size.
function reduced(rgba, width, height, scale) {
  const [wide, high] = [Math.ceil(width / scale), Math.ceil(height / scale)];
  const pixels = new Uint8Array(wide * high * 3);
  for (let y = 0; y < high; y++) {
    const rows = Math.min(scale, height - y * scale);
    for (let x = 0; x < wide; x++) {
      const columns = Math.min(scale, width - x * scale);
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0;
        for (let row = 0; row < rows; row++) {
          let from = ((y * scale + row) * width + x * scale) * 4 + channel;
          for (let column = 0; column < columns; column++, from += 4) sum += rgba[from];
        }
        pixels[(y * wide + x) * 3 + channel] = Math.round(sum / (rows * columns));
      }
    }
  }
  return { pixels, width: wide, height: high };
}

async function photoInputs(photos) {
  const found = [];
  for (const [column, name] of MODEL.photos.columns.entries()) {
    for (const file of photos[name] ?? []) found.push({ column, ...(await pixelsOf(file, MODEL.photos.size)) });
  }
  const [high, wide] = ["height", "width"].map((side) => Math.max(1, ...found.map((one) => one[side])));
  const canvas = new Uint8Array(found.length * high * wide * 3);
  found.forEach((one, number) => {
    for (let row = 0; row < one.height; row++) {
      const line = one.pixels.subarray(row * one.width * 3, (row + 1) * one.width * 3);
      canvas.set(line, (number * high + row) * wide * 3);
    }
  });
  const numbers = (values) => BigInt64Array.from(values, BigInt);
  return {
    photos: ["uint8", canvas, [found.length, high, wide, 3]],
    photo_sizes: ["int64", numbers(found.flatMap((one) => [one.height, one.width])), [found.length, 2]],
    photo_rows: ["int64", numbers(found.map(() => 0)), [found.length]],
    photo_columns: ["int64", numbers(found.map((one) => one.column)), [found.length]],
  };
}

// The inputs that hold cells; cells are texts by column.
function cellInputs(cells) {
  const inputs = {};
  for (const one of MODEL.inputs) {
    const text = stripped(cells[one.column] ?? "");
    const form = MODEL.forms[one.column];
    const tags = () => tagsOf(text, one.column, form.between);
    const time = () => inZone(timeOf(text, one.column, form.clock), one.zone ?? "UTC");
    const [name, holds] = [one.input, one.holds];
    if (holds === "number") inputs[name] = ["float64", [numberOf(text, one.column)], [1]];
    else if (holds === "category") inputs[name] = ["string", [text && keyOf(text, form.keys)], [1]];
    else if (holds === "tags") inputs[name] = ["float64", one.tags.map((tag) => Number(tags()?.includes(tag) ?? 0)), [1, one.tags.length]];
    else if (holds === "number of tags") inputs[name] = ["float64", [tags()?.length ?? NaN], [1]];
    else if (holds === "number of words") inputs[name] = ["int64", [text ? BigInt(wordsOf(text).length) : -1n], [1]];
    else if (holds === "terms") {
      const counts = termsOf(text ? wordsOf(text) : [], MODEL.text[one.column]);
      inputs[name] = ["float32", counts, [1, counts.length]];
    } else inputs[name] = ["int64", [time()], [1]];
  }
  return inputs;
}

let session;

const bytesOf = (base64) => Uint8Array.fromBase64?.(base64) ?? Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));

async function unpacked(base64) {
  const stream = new Blob([bytesOf(base64)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function start() {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await unpacked(MIXFIT_RUNTIME.wasm);
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([MIXFIT_RUNTIME.glue], { type: "text/javascript" })) };
  ort.env.logLevel = "error";
  session = await ort.InferenceSession.create(bytesOf(MIXFIT_MODEL), { executionProviders: ["wasm"] });
}

// Predict a row: cells are texts by column, photos lists of files by column.
async function predict(cells, photos) {
  const inputs = { ...cellInputs(cells), row_count: ["int64", [1n], [1]] };
  if (MODEL.photos) Object.assign(inputs, await photoInputs(photos));
  const feeds = {};
  for (const name of session.inputNames) {
    const [type, values, dims] = inputs[name];
    feeds[name] = new ort.Tensor(type, values, dims);
  }
  const outputs = await session.run(feeds);
  const values = (name) => (outputs[name] ? Array.from(outputs[name].data) : null);
  if (!MODEL.classes) return { prediction: values("prediction")[0], lower: values("lower")?.[0], upper: values("upper")?.[0] };
  const set = values("prediction_set");
  return {
    prediction: values("prediction")[0],
    probabilities: Object.fromEntries(MODEL.classes.map((name, place) => [name, values("probabilities")[place]])),
    prediction_set: set && MODEL.classes.filter((_, place) => set[place]),
  };
}

// --- the form ---

const form = document.querySelector("form");
const answer = document.getElementById("answer");

function element(tag, text, ...children) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  made.append(...children);
  return made;
}

function show(found) {
  const number = (value) => value.toLocaleString("en", { maximumSignificantDigits: 6 });
  const unit = MODEL.unit ? " " + MODEL.unit : "";
  const level = MODEL.level === null ? "" : number(100 * MODEL.level) + " %";
  const parts = [element("h2", "Prediction"), element("p", MODEL.classes ? found.prediction : number(found.prediction) + unit)];
  parts[1].className = "value";
  if (found.lower !== undefined) {
    parts.push(element("p", `With a probability of ${level} between ${number(found.lower)} and ${number(found.upper)}${unit}.`));
  }
  if (found.prediction_set) parts.push(element("p", `With a probability of ${level} one of: ${found.prediction_set.join(", ")}.`));
  if (found.probabilities) {
    const rows = Object.entries(found.probabilities).sort((one, other) => other[1] - one[1]);
    const cells = rows.map(([name, share]) => element("tr", null, element("th", name), element("td", number(100 * share) + " %")));
    parts.push(element("table", null, element("caption", "Probability of each class"), ...cells));
  }
  for (const one of MODEL.inputs) {
    const value = stripped(new FormData(form).get(one.column) ?? "");
    const levels = MODEL.forms[one.column].levels;
    if (one.holds === "category" && value && !levels.includes(keyOf(value, MODEL.forms[one.column].keys))) {
      parts.push(element("p", `${one.column}: "${value}" was not seen in training and is treated as unknown.`));
    }
  }
  answer.className = "answer";
  answer.replaceChildren(...parts);
  answer.dataset.answer = JSON.stringify(found);
}

function refuse(text) {
  answer.className = "problem";
  answer.replaceChildren(element("h2", "There is no prediction"), element("p", text));
  delete answer.dataset.answer;
}

async function submitted() {
  const [cells, photos] = [{}, {}];
  for (const field of form.elements) {
    if (field.type === "file") photos[field.name] = [...field.files];
    else if (field.name) cells[field.name] = field.value;
  }
  try {
    show(await predict(cells, photos));
  } catch (error) {
    refuse(error instanceof Wrong ? error.message : `The model cannot be run in this browser: ${error.message ?? error}`);
  }
  answer.hidden = false;
}

const button = form.querySelector("button");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  await submitted();
  button.disabled = false;
});
start().then(
  () => {
    button.disabled = false;
    button.textContent = "Predict";
  },
  (error) => {
    refuse(`The model cannot be loaded in this browser: ${error.message ?? error}`);
    answer.hidden = false;
  },
);
