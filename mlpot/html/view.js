"use strict";
// Structures on a canvas: spheres and halves of bonds, painted from the farthest to the nearest.
// Drag or use the arrow keys to rotate, wheel or pinch or + and - to zoom, double-click to go back.

const PERSPECTIVE = 4; // distance of the eye, in radii of the scene
const ball = (element) => 0.17 + 0.27 * element.radius; // Å
const EDGE_PARTS = 8; // pieces of an edge of the cell, so that atoms hide and are hidden

const multiply = (a, b) => a.map((_, k) => [0, 1, 2].reduce((sum, m) => sum + a[k - (k % 3) + m] * b[3 * m + (k % 3)], 0));
const apply = (m, v) => [0, 3, 6].map((k) => m[k] * v[0] + m[k + 1] * v[1] + m[k + 2] * v[2]);
const between = (a, b, t) => a.map((x, k) => x + t * (b[k] - x));
const rotation = (about_x, about_y) => {
  const [cx, sx, cy, sy] = [Math.cos(about_x), Math.sin(about_x), Math.cos(about_y), Math.sin(about_y)];
  return multiply([1, 0, 0, 0, cx, -sx, 0, sx, cx], [cy, 0, sy, 0, 1, 0, -sy, 0, cy]);
};

function sphere(color) {
  const image = document.createElement("canvas");
  image.width = image.height = 128;
  const pen = image.getContext("2d");
  const light = pen.createRadialGradient(48, 44, 4, 64, 64, 64);
  light.addColorStop(0, "#fff");
  light.addColorStop(0.25, color);
  light.addColorStop(0.7, color);
  light.addColorStop(1, "#555");
  [pen.fillStyle, pen.strokeStyle, pen.lineWidth] = [light, "#444", 4];
  pen.beginPath();
  pen.arc(64, 64, 61, 0, 2 * Math.PI);
  pen.fill();
  pen.stroke();
  return image;
}

function cellEdges(cell) {
  const corner = (i, j, k) => [0, 1, 2].map((x) => (i - 0.5) * cell[x] + (j - 0.5) * cell[3 + x] + (k - 0.5) * cell[6 + x]);
  const edges = [];
  for (const [i, j] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
    edges.push([corner(0, i, j), corner(1, i, j)], [corner(i, 0, j), corner(i, 1, j)], [corner(i, j, 0), corner(i, j, 1)]);
  }
  const parts = [...Array(EDGE_PARTS).keys()];
  return edges.flatMap(([a, b]) => parts.map((n) => [between(a, b, n / EDGE_PARTS), between(a, b, (n + 1) / EDGE_PARTS)]));
}

function view(figure) {
  const { elements, frames, radius, start, shown: first } = JSON.parse(figure.querySelector("script").textContent);
  const [canvas, slider, play, words] = ["canvas", "input", "button", "output"].map((name) => figure.querySelector(name));
  const pen = canvas.getContext("2d");
  const pointers = new Map();
  const scene = frames.map(({ numbers, positions, bonds, cell }) => ({
    numbers,
    bonds,
    points: numbers.map((_, k) => positions.slice(3 * k, 3 * k + 3)),
    edges: cell ? cellEdges(cell) : [],
  }));
  for (const element of Object.values(elements)) element.image = sphere(element.color);
  let [turn, zoom, shown, timer, placed] = [start, 1, first, null, []];

  function pieces() {
    const { numbers, points, bonds, edges } = scene[shown];
    const atoms = points.map((point) => apply(turn, point));
    const list = atoms.map((at, k) => ({ z: at[2], at, k, element: elements[numbers[k]] }));
    for (let n = 0; n < bonds.length; n += 2) {
      for (const [i, j] of [[bonds[n], bonds[n + 1]], [bonds[n + 1], bonds[n]]]) {
        const [middle, r] = [between(atoms[i], atoms[j], 0.5), ball(elements[numbers[i]])];
        const from = between(atoms[i], atoms[j], Math.min(0.5, (0.9 * r) / Math.hypot(...atoms[i].map((x, k) => x - atoms[j][k]))));
        list.push({ z: (from[2] + middle[2]) / 2, from, to: middle, color: elements[numbers[i]].color, width: 0.2 });
      }
    }
    for (const [a, b] of edges.map((edge) => edge.map((point) => apply(turn, point)))) {
      list.push({ z: (a[2] + b[2]) / 2, from: a, to: b, color: "#888", width: 0.04 });
    }
    return list.sort((a, b) => a.z - b.z);
  }

  function draw() {
    const [width, height, fine] = [canvas.clientWidth, canvas.clientHeight, window.devicePixelRatio || 1];
    [canvas.width, canvas.height] = [width * fine, height * fine];
    pen.setTransform(fine, 0, 0, fine, (width * fine) / 2, (height * fine) / 2);
    pen.lineCap = "round";
    const size = (zoom * 0.5 * Math.min(width, height)) / radius;
    const scale = (z) => (size * PERSPECTIVE * radius) / Math.max(0.2 * radius, PERSPECTIVE * radius - z);
    const flat = (point) => [point[0] * scale(point[2]), -point[1] * scale(point[2])];
    placed = [];
    for (const { z, at, k, element, from, to, color, width } of pieces()) {
      if (at) {
        const [[x, y], r] = [flat(at), ball(element) * scale(z)];
        pen.drawImage(element.image, x - r, y - r, 2 * r, 2 * r);
        placed.push({ x, y, r, name: `atom ${k}, ${element.symbol}` });
      } else {
        const thick = Math.max(1, width * scale(z));
        for (const [stroke, w] of width > 0.1 ? [["#444", thick], [color, 0.75 * thick]] : [[color, thick]]) {
          [pen.strokeStyle, pen.lineWidth] = [stroke, w];
          pen.beginPath();
          pen.moveTo(...flat(from));
          pen.lineTo(...flat(to));
          pen.stroke();
        }
      }
    }
  }

  function show(k) {
    shown = Math.min(Math.max(k, 0), scene.length - 1);
    slider.value = shown;
    words.textContent = frames[shown].words;
    draw();
  }

  function playOrPause(on) {
    clearInterval(timer);
    timer = on ? setInterval(() => show((shown + 1) % scene.length), 80) : null;
    play.textContent = on ? "Pause" : "Play";
  }

  function rotate(about_x, about_y) {
    turn = multiply(rotation(about_x, about_y), turn);
    draw();
  }

  function magnify(factor) {
    zoom = Math.min(Math.max(zoom * factor, 0.2), 20);
    draw();
  }

  const apart = () => {
    const [a, b] = pointers.values();
    return Math.hypot(a.x - b.x, a.y - b.y);
  };
  canvas.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return name(event);
    const before = pointers.size === 2 && apart();
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (before) magnify(apart() / before);
    else rotate((event.clientY - last.y) / 120, (event.clientX - last.x) / 120);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("dblclick", () => ([turn, zoom] = [start, 1]) && draw());
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas) return; // whoever scrolls past does not mean to zoom
    event.preventDefault();
    magnify(Math.exp(-event.deltaY / 500));
  }, { passive: false });
  const keys = {
    ArrowLeft: () => rotate(0, -0.1), ArrowRight: () => rotate(0, 0.1),
    ArrowUp: () => rotate(-0.1, 0), ArrowDown: () => rotate(0.1, 0),
    "+": () => magnify(1.1), "-": () => magnify(1 / 1.1),
  };
  canvas.addEventListener("keydown", (event) => keys[event.key] && (event.preventDefault(), keys[event.key]()));

  function name(event) {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
    const over = placed.findLast((atom) => Math.hypot(atom.x - x, atom.y - y) < atom.r);
    canvas.title = over ? over.name : "";
  }

  slider.addEventListener("input", () => (playOrPause(false), show(Number(slider.value))));
  play.addEventListener("click", () => playOrPause(timer === null));
  new ResizeObserver(draw).observe(canvas);
  show(first);
}

document.querySelectorAll("figure.view").forEach(view);
