"use strict";
(() => {
  const one = (query, inside = document) => inside.querySelector(query);
  const all = (query, inside = document) => [...inside.querySelectorAll(query)];
  const make = (name, words, kind) => {
    const made = document.createElement(name);
    if (words !== undefined) made.textContent = words;
    if (kind) made.className = kind;
    return made;
  };
  const visible = part => part.getAttribute("visibility") !== "hidden";
  const SVG = "http://www.w3.org/2000/svg";
  const exact = new Intl.NumberFormat("en");
  const full = value => value === null ? "–" : exact.format(value);
  const rounded = value => {
    if (value === null) return "–";
    for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (value >= size * 0.9995) return `${+(value / size).toPrecision(3)} ${unit}`;
    return String(+value.toPrecision(3));
  };
  const times = value => value === null ? "–"
    : `${value >= 100 ? exact.format(Math.round(value)) : +value.toPrecision(3)}×`;
  const bytes = value => value === null ? "–" : `${rounded(value)}B`.replace(/^([\d.]+)B$/, "$1 B");

  // What the page shows of each node.
  const source = one("#data");
  const data = source ? JSON.parse(source.textContent) : null;
  const decoded = pairs => {
    let before = "";
    return pairs.map(([same, rest]) => before = [...before].slice(0, same).join("") + rest);
  };
  const modules = decoded(data?.modules ?? []), names = decoded(data?.rows ?? []);
  const rows = (data?.rows ?? []).map(([, , module, kind], number) => {
    const [op, shape, role, params, uses, macs, held, moved, memory] = data.kinds[kind];
    return { number, name: names[number], module: modules[module], op, shape, role, params, uses,
      macs, memory, params_new: params, param_bytes: held, activation_bytes: moved };
  });
  const sentence = row => [
    `${row.name} (${row.op})`,
    row.role === "unweighted" ? "no weights of its own" : `${full(row.params)} parameters, each used ${times(row.uses)}`,
    `${rounded(row.macs)} MACs`,
    row.shape && `output ${row.shape}`,
    row.module && `in ${row.module}`,
  ].filter(Boolean).join(", ");

  // One of several pictures.
  for (const choices of all("[data-choices]"))
    choices.addEventListener("change", event => {
      const name = choices.dataset.choices;
      for (const shown of all(`[data-choice^="${name}:"]`))
        shown.hidden = shown.dataset.choice !== `${name}:${event.target.value}`;
    });

  // Commands to copy.
  for (const button of all("[data-copy]"))
    button.addEventListener("click", async () => {
      const code = one("code", button.parentElement);
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        getSelection().selectAllChildren(code);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });

  // Pictures whose parts stand for rows: what is under the mouse, or chosen by keys, is told.
  const choose = (section, part) => {
    for (const old of all(".chosen-row")) old.classList.remove("chosen-row");
    part.classList.add("chosen-row");
    const row = rows[part.dataset.row];
    one(".row", section).textContent = row ? sentence(row) : part.dataset.name;
    for (const line of all("#rows tr.marked")) line.classList.remove("marked");
    if (row) one(`#rows tr[data-row="${row.number}"]`)?.classList.add("marked");
  };
  const keys = (svg, section, parts, enter, escape) => {
    let at = -1;
    svg.tabIndex = 0;
    svg.addEventListener("keydown", event => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const shown = parts().filter(visible);
      if (step && shown.length) {
        at = (at + step + shown.length) % shown.length;
        choose(section, shown[at]);
      } else if (event.key === "Enter" && enter && shown[at]) {
        enter(shown[at]);
        at = -1;
      } else if (event.key === "Escape" && escape) {
        escape();
        at = -1;
      } else return;
      event.preventDefault();
    });
  };

  // The treemap: a module fills the picture.
  const parts_of = path => path ? path.split("/") : [];
  for (const section of all('[data-view="treemap"]')) {
    const out = one(".out", section), where = one(".where", section);
    for (const svg of all("svg[data-map]", section)) {
      const { width: across, height: down } = svg.viewBox.baseVal;
      let parts = [], leaves = [], zoomed = [];
      // The picture again, from the layout of one measure.
      const build = area => {
        svg.dataset.map = area;
        for (const old of all("rect, text", svg)) old.remove();
        parts = data.maps[area].flatMap(numbers => {
          const found = [];
          for (let at = 0; at < numbers.length; at += 6) {
            const [row, role, ...place] = numbers.slice(at, at + 6);
            const part = document.createElementNS(SVG, "rect");
            const module = row < 0 ? modules[-1 - row] : "";
            part.setAttribute("class", role < 0 ? "paper outline" : data.roles[role]);
            if (role < 0) part.dataset.module = module;
            else if (row < 0) part.dataset.name = module;
            else part.dataset.row = row;
            found.push({ part, module: role < 0 ? module : null, place: place.map(value => value / 10) });
          }
          return found;
        });
        leaves = parts.map(item => item.part).filter(part => !part.dataset.module);
        svg.append(...parts.map(item => item.part));
        show([]);
      };
      const label = leaf => {
        const row = rows[leaf.dataset.row], name = (row?.name ?? leaf.dataset.name).split("/").pop();
        const [x, y, w, h] = ["x", "y", "width", "height"].map(side => +leaf.getAttribute(side));
        const fits = words => words && w >= words.length * 6.9 + 8;
        const lines = [name, row && `${rounded(row[svg.dataset.map] ?? null)}${row.role === "unweighted" ? "" : ` · ${times(row.uses)}`}`]
          .filter(fits).slice(0, Math.floor(h / 17));
        lines.forEach((line, at) => {
          const words = document.createElementNS(SVG, "text");
          words.textContent = line;
          words.setAttribute("x", x + w / 2);
          words.setAttribute("y", y + h / 2 + 4 + (at - (lines.length - 1) / 2) * 15);
          words.setAttribute("class", /^(once|u10000)$/.test(leaf.getAttribute("class")) ? "on-strong" : "on-pale");
          svg.append(words);
        });
      };
      const place = () => {
        const wide = svg.clientWidth || across, high = Math.max(300, wide * down / across);
        const module = parts.find(item => item.module === zoomed.join("/"));
        const [x, y, width, height] = module && zoomed.length ? module.place : [0, 0, across, down];
        svg.setAttribute("viewBox", `0 0 ${wide} ${high}`);
        for (const { part, place: [left, top, w, h] } of parts) {
          const inside = left + w > x + 1e-6 && left < x + width - 1e-6 && top + h > y + 1e-6 && top < y + height - 1e-6;
          part.setAttribute("visibility", inside ? "visible" : "hidden");
          if (part.dataset.module)  // a frame must not hide what is in it
            part.setAttribute("stroke-width", Math.min(part.dataset.module.includes("/") ? 1.5 : 3, w * wide / width / 10, h * high / height / 10));
          [(left - x) * wide / width, (top - y) * high / height, w * wide / width, h * high / height].forEach((value, at) =>
            part.setAttribute(["x", "y", "width", "height"][at], value.toFixed(2)));
        }
        for (const words of all("text", svg)) words.remove();
        for (const leaf of leaves) if (visible(leaf)) label(leaf);
      };
      const show = path => {
        zoomed = path;
        place();
        out.hidden = !path.length;
        where.textContent = path.join(" / ");
      };
      const into = leaf => {
        const path = parts_of(rows[leaf.dataset.row]?.module ?? leaf.dataset.name);
        for (let depth = zoomed.length + 1; depth <= path.length; depth++)
          if (parts.some(item => item.module === path.slice(0, depth).join("/")))
            return show(path.slice(0, depth));
      };
      const back = () => {
        let path = zoomed.slice(0, -1);
        while (path.length && !parts.some(item => item.module === path.join("/"))) path = path.slice(0, -1);
        show(path);
      };
      svg.addEventListener("pointerover", event => {
        if (leaves.includes(event.target)) choose(section, event.target);
      });
      svg.addEventListener("click", event => { if (leaves.includes(event.target)) into(event.target); });
      out.addEventListener("click", () => { back(); });
      keys(svg, section, () => leaves, into, back);
      const choices = one(".choices", section);
      if (choices) choices.hidden = false;
      choices?.addEventListener("change", event => build(event.target.value));
      build(svg.dataset.map);
      new ResizeObserver(place).observe(svg);
    }
  }
  for (const section of all('[data-view="scatter"]'))
    for (const svg of all("svg", section)) {
      const dots = all("[data-row]", svg);
      for (const dot of dots) dot.addEventListener("pointerover", () => choose(section, dot));
      keys(svg, section, () => dots);
    }

  // Tables whose rows are all there: a click on a head sorts them.
  for (const table of all("table[data-sortable]"))
    all("th", table).forEach((head, at) => {
      const button = make("button", head.textContent);
      button.type = "button";
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const numeric = head.classList.contains("number");
        const down = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : numeric;
        const value = row => row.children[at].dataset.value;
        const order = (a, b) => numeric ? value(a) - value(b) : value(a) < value(b) ? -1 : 1;
        for (const other of all("th", table)) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = one("tbody", table);
        body.append(...[...body.children].sort((a, b) => order(a, b) * (down ? -1 : 1)));
      });
    });

  // The table: some hundred rows at once.
  const STEP = 100;
  const table = one("#rows");
  if (!table || !data) return;
  const columns = [
    ["layer", row => row.name, row => row.name, ""],
    ["operator", row => row.op, row => row.op, ""],
    ["output", row => row.shape, row => row.shape, "less"],
    ["parameters", row => row.params, row => row.role === "unweighted" ? "" : full(row.params), "number"],
    ["of all", row => row.params, row => share(row.params), "number less"],
    ["uses", row => row.uses, row => row.role === "unweighted" ? "" : times(row.uses), "number"],
    ["MACs", row => row.macs, row => row.macs ? rounded(row.macs) : row.macs === null ? "–" : "", "number"],
    ["memory", row => row.memory, row => bytes(row.memory), "number less"],
  ];
  const share = params => !params || !data.params ? "" : params * 1000 < data.params
    ? "<0.1 %" : `${(100 * params / data.params).toFixed(1)} %`;
  let shown = STEP, order = null, open = new Set();
  const sum = values => values.includes(null) ? null : values.reduce((a, b) => a + b, 0);
  const matching = () => {
    const words = one("#search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const every = one("#every").checked;
    const found = rows.filter(row => (every || row.role !== "unweighted" || row.macs !== 0)
      && words.every(word => `${row.name} ${row.op} ${row.module}`.toLowerCase().includes(word)));
    if (order) {
      const value = columns[order.at][1];
      const rank = row => value(row) ?? (typeof value(row) === "string" ? "" : -1);
      found.sort((a, b) => (rank(a) < rank(b) ? -1 : rank(a) > rank(b) ? 1 : 0) * order.way);
    }
    return found;
  };
  const folded = found => {
    const groups = new Map();
    for (const row of found) {
      const key = parts_of(row.module).slice(0, 2).join("/") || "(outside all modules)";
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(row);
    }
    const lines = [];
    for (const [key, inside] of groups) {
      lines.push({ key, inside });
      if (open.has(key)) lines.push(...inside);
    }
    return lines;
  };
  const line = row => {
    const made = make("tr");
    made.dataset.row = row.number;
    for (const [title, , words, kind] of columns) {
      const cell = make("td", words(row), kind);
      if (title === "layer") {
        const key = document.createElementNS(SVG, "svg");
        key.setAttribute("class", "key");
        key.setAttribute("viewBox", "0 0 12 12");
        const square = document.createElementNS(SVG, "rect");
        square.setAttribute("width", 12);
        square.setAttribute("height", 12);
        square.setAttribute("class", row.role);
        key.append(square);
        cell.prepend(key);
      }
      made.append(cell);
    }
    return made;
  };
  const moduleLine = ({ key, inside }) => {
    const made = make("tr", undefined, "module");
    const params = sum(inside.map(row => row.params)), macs = sum(inside.map(row => row.macs));
    const button = make("button", `${open.has(key) ? "▾" : "▸"} ${key}`);
    button.type = "button";
    button.setAttribute("aria-expanded", open.has(key));
    button.addEventListener("click", () => {
      open.has(key) ? open.delete(key) : open.add(key);
      draw();
      all("#rows tr.module button").find(other => other.textContent.slice(2) === key)?.focus();
    });
    const cells = [button, `${inside.length} layers`, "", full(params), share(params), "", rounded(macs), ""];
    cells.forEach((cell, at) => {
      const held = make("td", undefined, columns[at][3]);
      held.append(cell);
      made.append(held);
    });
    return made;
  };
  const draw = () => {
    const found = matching();
    const lines = one("#fold").checked ? folded(found) : found;
    const made = make("table"), head = make("tr"), body = make("tbody");
    columns.forEach(([title, , , kind], at) => {
      const cell = make("th", undefined, kind), button = make("button", title);
      cell.scope = "col";
      button.type = "button";
      if (order?.at === at) cell.setAttribute("aria-sort", order.way < 0 ? "descending" : "ascending");
      button.addEventListener("click", () => {
        const numeric = at > 2;
        order = order?.at === at ? (order.way === (numeric ? -1 : 1) ? { at, way: -order.way } : null)
          : { at, way: numeric ? -1 : 1 };
        draw();
        one(`#rows th:nth-child(${at + 1}) button`).focus();
      });
      cell.append(button);
      head.append(cell);
    });
    for (const item of lines.slice(0, shown)) body.append(item.inside ? moduleLine(item) : line(item));
    const top = make("thead");
    top.append(head);
    made.append(top, body);
    table.replaceChildren(made);
    one("#count").textContent = `${exact.format(found.length)} of ${exact.format(rows.length)} nodes`;
    one("#more").hidden = lines.length <= shown;
  };
  one(".tools").hidden = false;
  one("#search").addEventListener("input", () => { shown = STEP; draw(); });
  for (const id of ["#fold", "#every"]) one(id).addEventListener("change", () => { shown = STEP; draw(); });
  one("#more").addEventListener("click", () => { shown += STEP; draw(); });
  draw();
})();
