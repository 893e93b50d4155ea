import { alone, colour, named, unpacked } from "./found.js";

const LEAST = 0.05; // what is asked for: the control needs no new request
const TOGETHER = 2; // detectors that look at first
const at = (id) => document.getElementById(id);
const token = new URLSearchParams(location.hash.slice(1)).get("token");
const headers = token ? { Authorization: `Bearer ${token}` } : {};

let models = [], photo = null, address = null, shown = 0;
let hidden = new Set(); // classes that were switched off
const answers = new Map(); // model -> {answer, found, ms} or {error}

function say(text, bad = false) {
  at("said").textContent = text;
  at("said").classList.toggle("bad", bad);
}

function make(kind, properties = {}, ...children) {
  const element = Object.assign(document.createElement(kind), properties);
  element.append(...children);
  return element;
}

async function json(url, options = {}) {
  const answer = await fetch(url, { ...options, headers: { ...headers, ...options.headers } });
  const document = await answer.json().catch(() => ({ error: `status ${answer.status}` }));
  if (!answer.ok) throw new Error(document.error ?? `status ${answer.status}`);
  return document;
}

// -- detectors -----------------------------------------------------------------------------------

async function listModels() {
  try {
    models = (await json("models")).models;
  } catch (error) {
    say(`${error.message}${token ? "" : " (a token goes behind the address as #token=...)"}`, true);
    return;
  }
  const chosen = new Set(selected());
  at("models").replaceChildren(make("legend", { textContent: "Detectors" }));
  models.forEach((model, i) => {
    const box = make("input", { type: "checkbox", value: model.name });
    box.checked = chosen.size ? chosen.has(model.name) : i < TOGETHER;
    box.addEventListener("change", look);
    at("models").append(make("label", {}, box, model.name));
  });
  const ready = await fetch("health").then((answer) => answer.ok, () => false);
  if (!ready) setTimeout(listModels, 1500);
}

const selected = () =>
  [...at("models").querySelectorAll("input:checked")].map((box) => box.value);

// -- a photo -------------------------------------------------------------------------------------

function take(blob) {
  if (!blob) return;
  if (blob.type && !blob.type.startsWith("image/")) return say("That is no picture.", true);
  photo = blob;
  if (address) URL.revokeObjectURL(address);
  address = URL.createObjectURL(blob);
  answers.clear();
  hidden = new Set();
  look();
}

async function look() {
  if (!photo) return;
  const turn = ++shown;
  const wanted = selected();
  const missing = wanted.filter((name) => !answers.has(name));
  if (!wanted.length) say("Choose a detector.");
  else if (missing.length) say("Looking ...");
  draw();
  const of = photo;
  await Promise.all(missing.map(async (name) => {
    const begun = performance.now();
    let result;
    try {
      const query = new URLSearchParams({ model: name, score: LEAST });
      const answer = await json(`detect?${query}`, { method: "POST", body: of });
      result = { answer, found: named(answer), ms: performance.now() - begun };
    } catch (error) {
      result = { error: error.message };
    }
    if (of !== photo) return;
    answers.set(name, result);
    draw();
  }));
  if (turn === shown) summarise();
}

// -- what is shown -------------------------------------------------------------------------------

const least = () => Number(at("score").value);
const visible = (found) =>
  found.filter((one) => one.score >= least() && !hidden.has(one.name));

function listClasses() {
  const names = new Set();
  for (const name of selected()) {
    for (const one of answers.get(name)?.found ?? []) if (one.score >= least()) names.add(one.name);
  }
  for (const name of hidden) names.add(name);
  const boxes = [...names].sort().map((name) => {
    const box = make("input", { type: "checkbox", checked: !hidden.has(name) });
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(name);
      else hidden.add(name);
      draw(name);
    });
    box.dataset.name = name;
    box.style.accentColor = colour(name);
    return make("label", {}, box, name);
  });
  at("classes").replaceChildren(make("legend", { textContent: "Classes" }), ...boxes);
  at("classes").hidden = !boxes.length;
}

function summarise() {
  const bad = selected().map((name) => answers.get(name)).filter((one) => one?.error);
  if (bad.length) return say(bad[0].error, true);
  const counts = selected().map((name) => visible(answers.get(name)?.found ?? []).length);
  if (counts.length) say(`Found: ${selected().map((name, i) => `${counts[i]} by ${name}`).join(", ")}`);
}

function draw(focused = null) {
  at("least").textContent = least().toFixed(2);
  listClasses();
  if (focused) at("classes").querySelector(`[data-name="${CSS.escape(focused)}"]`)?.focus();
  if (!photo) return;
  const seen = new Map(selected().map((name) => [name, visible(answers.get(name)?.found ?? [])]));
  at("results").replaceChildren(...selected().map((name) => card(name, seen)));
  if (selected().every((name) => answers.has(name))) summarise();
}

function card(name, seen) {
  const result = answers.get(name);
  const picture = make("div", { className: "picture" },
    make("img", { src: address, alt: "the photo" }));
  const head = make("header", {}, make("h2", { textContent: name }));
  const foot = make("footer");
  const article = make("article", {}, head, picture, foot);
  article.dataset.model = name;
  if (!result) head.append(make("span", { className: "time", textContent: "looking ..." }));
  else if (result.error) foot.append(make("p", { textContent: result.error }));
  else fill(article, name, result, seen);
  return article;
}

function fill(article, name, result, seen) {
  const { width, height } = result.answer.images[0];
  const found = seen.get(name);
  const others = [...seen].filter(([other]) => other !== name && answers.get(other)?.answer)
    .map(([, list]) => list);
  const own = new Set(alone(found, others));
  const picture = article.querySelector(".picture");
  picture.querySelector("img").style.aspectRatio = `${width} / ${height}`;
  if (found.some((one) => one.segmentation)) picture.append(masks(found, width, height));
  picture.append(boxes(found, own, width, height));
  article.querySelector("header").append(make("span", {
    className: "time",
    textContent: `${(1000 * result.answer.seconds).toFixed(0)} ms`,
    title: `${result.ms.toFixed(0)} ms with the way there and back`,
  }));
  const foot = article.querySelector("footer");
  const counts = new Map();
  for (const one of found) counts.set(one.name, (counts.get(one.name) ?? 0) + 1);
  foot.append(make("p", {
    className: "count",
    textContent: found.length
      ? [...counts].map(([what, count]) => `${count} ${what}`).join(", ")
      : "Nothing at this score.",
  }));
  if (own.size) {
    foot.append(make("p", { textContent: "Seen by this one alone (dashed):" }), make("ul", {},
      ...[...own].map((one) =>
        make("li", { textContent: `${one.name} ${one.score.toFixed(2)}` }))));
  }
  const document = make("button", { type: "button", textContent: "JSON" });
  document.addEventListener("click", () => save(name, "json", new Blob(
    [JSON.stringify({ ...result.answer, annotations: found.map(({ name: _, ...rest }) => rest) },
      null, 1)], { type: "application/json" })));
  const image = make("button", { type: "button", textContent: "Picture" });
  image.addEventListener("click", async () => save(name, "png", await painted(found, result)));
  foot.append(make("div", { className: "row" }, document, image));
}

function boxes(found, own, width, height) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const size = Math.max(width, height) / 34;
  for (const one of [...found].reverse()) { // the surest on top
    const [x, y, w, h] = one.bbox;
    const group = document.createElementNS(space, "g");
    group.classList.toggle("alone", own.has(one));
    const rect = document.createElementNS(space, "rect");
    for (const [key, value] of Object.entries({ x, y, width: w, height: h })) {
      rect.setAttribute(key, value);
    }
    rect.style.stroke = colour(one.name);
    const text = document.createElementNS(space, "text");
    text.setAttribute("x", Math.min(Math.max(x, 0) + size / 5, width - size));
    text.setAttribute("y", Math.min(Math.max(y, 0) + size, height - size / 4));
    text.setAttribute("font-size", size);
    text.textContent = `${one.name} ${one.score.toFixed(2)}`;
    group.append(rect, text);
    svg.append(group);
  }
  return svg;
}

function masks(found, width, height) {
  const canvas = make("canvas", { width, height });
  paintMasks(canvas.getContext("2d"), found, width, height);
  return canvas;
}

function paintMasks(context, found, width, height) {
  const sheet = new OffscreenCanvas(width, height);
  const pen = sheet.getContext("2d");
  for (const one of [...found].reverse()) {
    if (!one.segmentation) continue;
    const mask = unpacked(one.segmentation);
    pen.fillStyle = colour(one.name);
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b] = pen.getImageData(0, 0, 1, 1).data;
    const layer = pen.createImageData(width, height);
    for (let x = 0, from = 0; x < width; x++) {
      for (let y = 0; y < height; y++, from++) {
        if (mask[from]) layer.data.set([r, g, b, 120], 4 * (y * width + x));
      }
    }
    pen.clearRect(0, 0, width, height);
    pen.putImageData(layer, 0, 0);
    context.drawImage(sheet, 0, 0);
  }
}

async function painted(found, result) {
  const { width, height } = result.answer.images[0];
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d");
  pen.drawImage(await createImageBitmap(photo), 0, 0, width, height);
  paintMasks(pen, found, width, height);
  const size = Math.max(width, height) / 34;
  pen.font = `600 ${size}px sans-serif`;
  pen.lineWidth = Math.max(2, size / 8);
  for (const one of [...found].reverse()) {
    const [x, y, w, h] = one.bbox;
    pen.strokeStyle = colour(one.name);
    pen.strokeRect(x, y, w, h);
    pen.lineJoin = "round";
    pen.strokeStyle = "#000";
    pen.fillStyle = "#fff";
    const place = [Math.max(x, 0) + size / 5, Math.max(y, 0) + size];
    pen.strokeText(`${one.name} ${one.score.toFixed(2)}`, ...place);
    pen.fillText(`${one.name} ${one.score.toFixed(2)}`, ...place);
  }
  return canvas.convertToBlob({ type: "image/png" });
}

function save(name, suffix, blob) {
  const link = make("a", {
    href: URL.createObjectURL(blob),
    download: `${name.replaceAll(/[^\w.-]+/g, "-")}.${suffix}`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// -- where photos come from ----------------------------------------------------------------------

const drop = at("drop");
drop.addEventListener("click", () => at("file").click());
drop.addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    at("file").click();
  }
});
at("file").addEventListener("change", () => take(at("file").files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  const item = [...event.clipboardData.items].find((one) => one.type.startsWith("image/"));
  if (item) take(item.getAsFile());
});
at("score").addEventListener("input", () => draw());

let stream = null;
function closeCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  at("viewfinder").hidden = true;
}
at("camera").addEventListener("click", async () => {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    return say(`The camera cannot be used: ${error.message}`, true);
  }
  at("video").srcObject = stream;
  at("viewfinder").hidden = false;
  at("shoot").focus();
});
at("shoot").addEventListener("click", async () => {
  const video = at("video");
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
  closeCamera();
  take(blob);
});
at("close").addEventListener("click", closeCamera);

async function listExamples() {
  const examples = await json("examples").catch(() => []);
  at("examples").replaceChildren(...examples.map((one, i) => {
    const button = make("button", { type: "button", title: `${one.title}: ${one.terms}` },
      make("img", { src: `examples/${i}`, alt: one.title }));
    button.addEventListener("click", async () => take(await (await fetch(`examples/${i}`)).blob()));
    return button;
  }));
}

listModels();
listExamples();
