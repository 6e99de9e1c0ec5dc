// A grid to paint on, with the mouse, a pen or the keyboard. It loads nothing from a network.
const CELL = 20;  // pixels on the screen
const NEIGHBOURS = [[0, 1], [0, -1], [1, 0], [-1, 0]];

function render({ model, el }) {
  const side = model.get("side");
  let ink = [...model.get("value")];
  let row = side >> 1, column = side >> 1, last = null;

  const make = (tag, text = "") => Object.assign(document.createElement(tag), { textContent: text });
  const box = make("div"), canvas = make("canvas"), status = make("div"), clear = make("button", "Clear the painting");
  const name = model.get("description");
  canvas.width = canvas.height = side * CELL;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label",
    `${name}: ${side} rows of ${side} cells. Arrow keys move, Space or Enter paints, Delete or Backspace erases.`);
  canvas.dataset.lmSuppressShortcuts = "true";  // JupyterLab would take Space and the arrow keys for itself
  canvas.style.cssText = "touch-action: none; cursor: crosshair; background: white; outline-offset: 3px";
  status.setAttribute("role", "status");
  clear.type = "button";
  clear.className = "jupyter-button";
  clear.style.width = "auto";
  box.style.cssText = "display: inline-flex; flex-direction: column; gap: 6px; padding: 6px; align-items: start";
  box.append(make("div", name), canvas, status, clear);
  el.append(box);

  const at = (r, c) => r * side + c;
  const inside = (r, c) => r >= 0 && r < side && c >= 0 && c < side;

  function draw() {
    const pen = canvas.getContext("2d");
    for (let r = 0; r < side; r++) {
      for (let c = 0; c < side; c++) {
        const grey = Math.round(255 * (1 - ink[at(r, c)]));
        pen.fillStyle = `rgb(${grey}, ${grey}, ${grey})`;
        pen.fillRect(c * CELL, r * CELL, CELL, CELL);
        pen.strokeStyle = "#999";
        pen.lineWidth = 1;
        pen.strokeRect(c * CELL + 0.5, r * CELL + 0.5, CELL - 1, CELL - 1);
      }
    }
    pen.strokeStyle = "#D55E00";
    pen.lineWidth = 3;
    pen.strokeRect(column * CELL + 1.5, row * CELL + 1.5, CELL - 3, CELL - 3);
    canvas.style.outline = document.activeElement === canvas ? "3px solid #0072B2" : "1px solid #767676";
    status.textContent = `row ${row + 1}, column ${column + 1}: ${Math.round(100 * ink[at(row, column)])} % ink`;
  }

  // A pen as wide as those of the real digits: a black cell with grey neighbours. Erasing makes one cell white.
  function touch(erase) {
    if (erase) {
      ink[at(row, column)] = 0;
    } else {
      ink[at(row, column)] = 1;
      for (const [down, right] of NEIGHBOURS) {
        if (inside(row + down, column + right)) {
          const near = at(row + down, column + right);
          ink[near] = Math.max(ink[near], 0.5);
        }
      }
    }
    draw();
  }

  function send() {
    model.set("value", [...ink]);
    model.save_changes();
  }

  function stroke(event) {
    const frame = canvas.getBoundingClientRect();
    const to = [event.clientY - frame.top, event.clientX - frame.left].map(
      (place) => Math.min(side - 1, Math.max(0, Math.floor(place / (frame.width / side)))));
    const from = last ?? to;
    const steps = Math.max(1, Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1]));
    for (let step = 0; step <= steps; step++) {  // a fast mouse skips cells
      [row, column] = [0, 1].map((axis) => Math.round(from[axis] + (to[axis] - from[axis]) * step / steps));
      touch(event.shiftKey);
    }
    last = to;
  }

  function release() {
    if (last !== null) send();
    last = null;
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    canvas.focus();
    stroke(event);
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => { if (last !== null) stroke(event); });
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const paints = { " ": false, Enter: false, Delete: true, Backspace: true };  // key: does it erase?
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in moves || event.key in paints)) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key in moves) {
      const [down, right] = moves[event.key];
      if (inside(row + down, column + right)) [row, column] = [row + down, column + right];
      draw();
    } else {
      touch(paints[event.key]);
      send();
    }
  });
  canvas.addEventListener("focus", draw);
  canvas.addEventListener("blur", draw);
  clear.addEventListener("click", () => {
    ink.fill(0);
    draw();
    send();
  });
  const follow = () => {
    ink = [...model.get("value")];
    draw();
  };
  model.on("change:value", follow);
  draw();
  return () => model.off("change:value", follow);
}

export default { render };
