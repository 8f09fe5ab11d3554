"use strict";
// Draws the pictures of the page from the data in it. Charts are Plotly's; cells are drawn on canvases here, since tens
// of thousands of them are too many for SVG, and WebGL is not everywhere and not printed alike.
(() => {
  const given = JSON.parse(document.getElementById("data").textContent);
  const { palette, scale } = given;
  const KINDS = { f4: Float32Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i1: Int8Array, i2: Int16Array };
  const QUIET = "#e4e7ea", STEPS = 65535;
  const redraws = [];

  function unpacked(array) {
    const bytes = Uint8Array.from(atob(array.bdata), (letter) => letter.charCodeAt(0));
    return new KINDS[array.dtype](bytes.buffer);
  }

  function element(kind, attributes = {}, ...inner) {
    const made = document.createElement(kind);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") made.className = value; else made.setAttribute(name, value);
    }
    made.append(...inner);
    return made;
  }

  function chooser(place, label, names, changed) {
    const select = element("select");
    names.forEach((name, i) => select.append(element("option", { value: i }, name)));
    select.addEventListener("change", () => changed(Number(select.value)));
    place.append(element("label", {}, label, select));
    return select;
  }

  // -- charts -------------------------------------------------------------------------------------------------------
  const FONT = { family: 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif', size: 12.5, color: "#1b1f24" };
  const AXIS = { automargin: true, gridcolor: "#e8ebee", zerolinecolor: "#c3c9cf", linecolor: "#8c959f", ticks: "outside", tickcolor: "#8c959f", ticklen: 4 };
  // of Plotly's buttons these alone: another sends the data to a server
  const BUTTONS = [["toImage"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]];
  const WIDE = 520;

  function filled(layout, width) {
    const whole = { font: FONT, paper_bgcolor: "#fff", plot_bgcolor: "#fff", margin: { l: 50, r: 12, t: 14, b: 44 }, hovermode: "closest",
      hoverlabel: { font: { family: FONT.family, size: 12.5 } }, legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", xanchor: "left" }, dragmode: width < WIDE ? false : "zoom", ...layout };
    for (const key of Object.keys(whole)) if (/^[xy]axis\d*$/.test(key)) whole[key] = { ...AXIS, ...whole[key] };
    for (const key of ["xaxis", "yaxis"]) whole[key] ??= { ...AXIS };
    if (layout.narrow && width < WIDE) Object.assign(whole, layout.narrow);
    delete whole.narrow;
    return { ...whole, width };
  }

  function spoken(trace, shared) {
    if (!trace.text?.of) return trace;
    const names = shared[trace.text.of];
    return { ...trace, text: Array.from(unpacked(trace.text.at), (i) => names[i]) };
  }

  function chart(figure, picture) {
    const place = figure.querySelector(".picture"), controls = figure.querySelector(".controls");
    const names = Object.keys(picture.figures);
    let shown = 0;
    const draw = () => {
      const { data, layout } = picture.figures[names[shown]];
      return Plotly.react(place, data.map((trace) => spoken(trace, picture.shared)), filled(layout, place.clientWidth),
        { displaylogo: false, displayModeBar: place.clientWidth < WIDE ? false : "hover", modeBarButtons: BUTTONS, toImageButtonOptions: { format: "svg" } });
    };
    if (names.length > 1) chooser(controls, picture.choose, names, (i) => { shown = i; draw(); });
    redraws.push({ place, draw, width: 0 });
    return draw();
  }

  // -- cells --------------------------------------------------------------------------------------------------------
  // more categories than colours are told apart by shape
  const SHAPES = [
    (path, x, y, r) => { path.moveTo(x + r, y); path.arc(x, y, r, 0, 7); },
    (path, x, y, r) => path.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8),
    (path, x, y, r) => { path.moveTo(x, y - 1.3 * r); path.lineTo(x + 1.2 * r, y + 0.9 * r); path.lineTo(x - 1.2 * r, y + 0.9 * r); path.closePath(); },
    (path, x, y, r) => { path.moveTo(x, y - 1.3 * r); path.lineTo(x + 1.3 * r, y); path.lineTo(x, y + 1.3 * r); path.lineTo(x - 1.3 * r, y); path.closePath(); },
  ];
  const MARKS = ["M11 6a5 5 0 1 1-10 0a5 5 0 1 1 10 0z", "M1.5 1.5h9v9h-9z", "M6 0l6 11h-12z", "M6 0l6 6l-6 6l-6-6z"];
  const shapeOf = (code) => Math.floor(code / palette.length) % SHAPES.length;
  const colourOf = (column, code) => (code === column.missing ? "#c8c8c8" : palette[code % palette.length]);
  const said = (number) => Number(number.toPrecision(4)).toString();

  function valueOf(column, cell) {
    if (column.categories) return column.categories[column.codes[cell]];
    const step = column.values[cell];
    return step === STEPS ? "no value" : said(column.low + (step / (STEPS - 1)) * (column.high - column.low));
  }

  function mark(column, code) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("width", 12); svg.setAttribute("height", 12); svg.setAttribute("viewBox", "0 0 12 12"); svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", MARKS[shapeOf(code)]); path.setAttribute("fill", colourOf(column, code));
    svg.append(path);
    return svg;
  }

  function cells(figure, picture) {
    const place = figure.querySelector(".picture"), controls = figure.querySelector(".controls");
    place.removeAttribute("role");
    const columns = picture.columns.map((column) => column.categories
      ? { ...column, codes: unpacked(column.codes) }
      : { ...column, low: column.values.low, high: column.values.high, values: unpacked(column.values) });
    const n = picture.n, hidden = columns.map(() => new Set());
    let column = columns[0], which = 0;

    const row = element("div", { class: "maps" }), legend = element("div");
    place.append(row, legend);
    const maps = picture.maps.map((each) => {
      const canvas = element("canvas", { role: "img", "aria-label": each.title }), tip = element("div", { class: "tip", hidden: "" });
      row.append(element("div", { class: "map" }, element("h3", {}, each.title), element("div", {}, canvas, tip)));
      const map = { canvas, tip, x: unpacked(each.x), y: unpacked(each.y), side: 0 };
      canvas.addEventListener("pointermove", (event) => point(map, event));
      canvas.addEventListener("pointerdown", (event) => point(map, event));
      canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
      return map;
    });

    const PAD = 0.03;
    const at = (map, cell, side) => [side * (PAD + (1 - 2 * PAD) * map.x[cell] / (STEPS - 1)), side * (1 - PAD - (1 - 2 * PAD) * map.y[cell] / (STEPS - 1))];
    const isHidden = (cell) => column.categories && hidden[which].has(column.codes[cell]);

    // cells lie in random order: all of a colour are drawn at once, in a few rounds, so that none always lies on top
    function draw() {
      const ratio = Math.max(2, window.devicePixelRatio || 1);
      for (const map of maps) {
        const width = map.canvas.clientWidth || 320, side = Math.round(width * ratio), pen = map.canvas.getContext("2d");
        map.canvas.width = map.canvas.height = map.side = side;
        pen.fillStyle = "#fff"; pen.fillRect(0, 0, side, side);
        const radius = ratio * Math.min(3.2, Math.max(0.7, (width / 320) * 62 / Math.sqrt(n)));
        const rounds = 12, per = Math.ceil(n / rounds);
        for (const quiet of [true, false]) for (let round = 0; round < rounds; round++) {
          const paths = new Map();
          for (let cell = round * per; cell < Math.min(n, (round + 1) * per); cell++) {
            if (Boolean(isHidden(cell)) !== quiet) continue;
            const code = column.categories ? column.codes[cell] : column.values[cell];
            const colour = quiet ? QUIET : column.categories ? colourOf(column, code) : code === STEPS ? "#c8c8c8" : scale[Math.min(scale.length - 1, Math.floor((code / (STEPS - 1)) * scale.length))];
            const shape = column.categories ? shapeOf(code) : 0, key = colour + shape;
            if (!paths.has(key)) paths.set(key, { colour, shape: SHAPES[shape], path: new Path2D() });
            const own = paths.get(key);
            own.shape(own.path, ...at(map, cell, side), radius);
          }
          for (const { colour, path } of paths.values()) { pen.fillStyle = colour; pen.fill(path); }
        }
      }
    }

    function point(map, event) {
      const box = map.canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
      let best = -1, near = 14 ** 2;
      for (let cell = 0; cell < n; cell++) {
        const [u, v] = at(map, cell, box.width), far = (u - x) ** 2 + (v - y) ** 2;
        if (far < near && !isHidden(cell)) { near = far; best = cell; }
      }
      map.tip.hidden = best < 0;
      if (best < 0) return;
      const others = columns.filter((each) => each !== column).slice(0, 5);
      map.tip.textContent = [column, ...others].map((each) => `${each.name}: ${valueOf(each, best)}`).join("\n");
      const right = x > box.width / 2;
      map.tip.style.left = right ? "auto" : `${x + 14}px`; map.tip.style.right = right ? `${box.width - x + 14}px` : "auto";
      map.tip.style.top = `${Math.min(y, box.height - map.tip.offsetHeight)}px`;
    }

    function explain() {
      legend.replaceChildren();
      if (!column.categories) {
        const bar = element("i");
        bar.style.background = `linear-gradient(to right, ${scale.join(",")})`;
        legend.append(element("div", { class: "scale" }, said(column.low), bar, said(column.high)));
        return;
      }
      const counts = new Map();
      for (const code of column.codes) counts.set(code, (counts.get(code) || 0) + 1);
      const list = element("ul", { class: "names" });
      const toggle = (codes, off) => { for (const code of codes) hidden[which][off(code) ? "add" : "delete"](code); renew(); };
      const codes = column.categories.map((_, code) => code).filter((code) => counts.get(code));
      for (const code of codes) {
        const button = element("button", { type: "button", "aria-pressed": String(!hidden[which].has(code)) },
          mark(column, code), column.categories[code], element("span", { class: "count" }, String(counts.get(code))));
        button.addEventListener("click", () => toggle([code], () => !hidden[which].has(code)));
        button.addEventListener("dblclick", () => toggle(codes, (each) => each !== code));
        list.append(element("li", {}, button));
      }
      if (codes.length > 2) {
        const none = hidden[which].size < codes.length;
        const button = element("button", { type: "button", class: "all" }, hidden[which].size ? "show all" : "hide all");
        button.addEventListener("click", () => toggle(codes, () => none && !hidden[which].size));
        list.append(element("li", {}, button));
      }
      legend.append(list);
      const pressed = () => list.querySelectorAll("button[aria-pressed]");
      function renew() {
        pressed().forEach((button, i) => button.setAttribute("aria-pressed", String(!hidden[which].has(codes[i]))));
        const all = list.querySelector(".all");
        if (all) all.textContent = hidden[which].size ? "show all" : "hide all";
        draw();
      }
    }

    const show = (i) => { which = i; column = columns[i]; explain(); draw(); };
    if (columns.length > 1) chooser(controls, "Colour by", columns.map((each) => each.name), show);
    redraws.push({ place, draw, width: 0 });
    show(0);
  }

  // -- all ----------------------------------------------------------------------------------------------------------
  function redraw() {
    for (const each of redraws) {
      if (each.place.clientWidth === each.width) continue;
      each.width = each.place.clientWidth;
      each.draw();
    }
  }
  let waiting = 0;
  window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redraw, 120); });
  window.addEventListener("beforeprint", () => { document.querySelectorAll("details").forEach((each) => { each.dataset.was = each.open; each.open = true; }); redraw(); });
  window.addEventListener("afterprint", () => { document.querySelectorAll("details").forEach((each) => { each.open = each.dataset.was === "true"; }); redraw(); });
  window.matchMedia("print").addEventListener("change", redraw);

  const drawn = [];
  for (const figure of document.querySelectorAll("figure[data-picture]")) {
    const picture = given.pictures[figure.dataset.picture];
    drawn.push((picture.kind === "chart" ? chart : cells)(figure, picture));
  }
  for (const each of redraws) each.width = each.place.clientWidth;
  Promise.all(drawn).then(() => { document.documentElement.dataset.ready = "true"; });
})();
