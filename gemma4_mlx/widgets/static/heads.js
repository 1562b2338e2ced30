/* The panel of all heads: one map, a scatter of two numbers, groups, and two dozen small pictures.
 * Whatever shows them, a head that is pointed at is described with its small picture, a click
 * chooses it, and a dragged rectangle marks the heads in it. */

import { headMap } from "./headmap.js";
import { sayValue } from "./headscale.js";
import { barCell, picker, segmented, table } from "./pieces.js";
import { scatter } from "./scatter.js";
import { categoryColors, colorAt, h, inkOn, perFrame, sizeCanvas } from "./shared.js";

const DOZENS = 24,
  UNUSUAL = 4;
const VIEWS = [
  ["map", "Map", "A cell for each head"],
  ["scatter", "Scatter", "Two numbers of every head"],
  ["groups", "Groups", "Heads that are alike"],
  ["pictures", "Pictures", "Small pictures of two dozen heads"],
];

/**
 * @param {object} o
 * @param {any} o.view  from mount()
 * @param {any} o.heads  headTable of headscale.js
 * @param {any} o.store  pictureStore of headpictures.js
 * @param {() => any} o.ink @param {() => {table: Uint8Array}} o.palette
 * @param {(head: {layer: number, head: number}) => void} o.onPick @param {(error: Error) => void} o.onError
 */
export function headPanel(o) {
  const { heads, view } = o;
  const now = { view: "map", by: "unlike", across: "distance", up: "first", sorted: false };
  let marked = null,
    markedWhy = "",
    chosen = -1,
    hovered = null,
    filled = false;

  const colour = (index) => {
    const value = heads.value(now.by, index);
    if (Number.isNaN(value)) return null;
    return now.by === "group"
      ? categoryColors[value % categoryColors.length]
      : colorAt(o.palette().table, heads.scale(now.by).place(value));
  };
  const number = (index) => {
    const value = heads.value(now.by, index);
    if (Number.isNaN(value) || now.by === "group") return null;
    const text =
      now.by === "unlike"
        ? value.toFixed(1)
        : sayValue(now.by, value).replace(/ (nats|tokens)$/, "");
    return [text, inkOn(o.palette().table, heads.scale(now.by).place(value))];
  };
  const nameOf = (index) => `Layer ${heads.list[index].layer}, head ${heads.list[index].head}`;
  const shortName = (index) => `L${heads.list[index].layer}·H${heads.list[index].head}`;
  const why = (index) => {
    // in which summary a head is unlike the others
    const name = heads.names[heads.value("reason", index)];
    return name === undefined ? "" : `${heads.words.get(name)} ${heads.say(name, index)}`;
  };
  const describe = (index) =>
    `${nameOf(index)}, ${heads.list[index].kind} attention: ${heads.words.get(now.by)} ${heads.say(now.by, index)}${now.by === "unlike" ? `; ${why(index)}` : ""}`;

  // ---- pointing -------------------------------------------------------------------------------
  const readout = h("output", { class: "g4-readout g4-headreadout", "aria-live": "off" });
  const hint = "Point at a head, or use the arrow keys. Drag to mark several.";
  readout.textContent = hint;
  function hover(index, x, y) {
    if (index === null) {
      hovered = null;
      readout.textContent = hint;
      view.tip.hide();
      return;
    }
    if (index === hovered) return;
    hovered = index;
    readout.textContent = describe(index);
    const canvas = h("canvas", { class: "g4-preview", width: 1, height: 1, "aria-hidden": "true" });
    const lines = [...new Set([now.by, "unlike", ...heads.names])]
      .filter((name) => name !== "group" && heads.columns.has(name))
      .slice(0, 7);
    const item = heads.list[index];
    const right = node.getBoundingClientRect().right - 8; // beside the panel, so that no head is hidden
    view.tip.show(
      right < innerWidth - 300 ? right : x,
      y,
      h(
        "div",
        { class: "g4-headtip" },
        canvas,
        h(
          "div",
          {},
          h("strong", {}, nameOf(index)),
          h(
            "span",
            { class: "g4-note" },
            item.kind === "full" ? "full: queries × keys" : "sliding: queries × offset",
          ),
          h(
            "dl",
            {},
            ...lines.flatMap((name) => [
              h("dt", {}, heads.words.get(name)),
              h("dd", {}, heads.say(name, index)),
            ]),
          ),
        ),
      ),
    );
    o.store
      .paint(canvas, item)
      .then(() => {
        canvas.dataset.ready = "true";
      })
      .catch(o.onError);
  }
  const pick = (index) => {
    view.tip.hide();
    o.onPick(heads.list[index]);
  };
  function mark(set, reason = "") {
    marked = set?.size ? set : null;
    markedWhy = reason;
    draw();
    build();
  }

  const shared = {
    table: heads,
    ink: o.ink,
    colour,
    marked: () => marked,
    onHover: hover,
    onPick: pick,
    onMark: mark,
    describe,
    announce: view.announce,
  };
  const map = headMap({
    ...shared,
    number,
    order: () => (now.sorted ? heads.columns.get(now.by) : null),
  });
  const plot = scatter({ ...shared, axes: () => [now.across, now.up] });

  // ---- controls -------------------------------------------------------------------------------
  const by = picker("Colour by", [["unlike", "unlike the other heads"]], "unlike", (value) => {
    now.by = value;
    update();
  });
  const sorted = h("input", { type: "checkbox" });
  sorted.addEventListener(
    "change",
    () => {
      now.sorted = sorted.checked;
      map.draw();
    },
    { signal: view.signal },
  );
  const unfold = h("button", {
    type: "button",
    class: "g4-quiet",
    title: "Sliding layers between the full ones",
    onclick: () => {
      map.foldAll(map.unfolded);
      update();
    },
  });
  const views = segmented("How to show the heads", VIEWS, "map", (value) => {
    now.view = value;
    view.tip.hide();
    update();
  });
  const across = picker("Across", [], "distance", (value) => {
    now.across = value;
    plot.draw();
  });
  const up = picker("Up", [], "first", (value) => {
    now.up = value;
    plot.draw();
  });
  const sortLabel = h("label", { title: "Highest first in each layer" }, sorted, "Sort in layers");
  const axes = h("div", { class: "g4-toolbar g4-axes" }, across.node, up.node);
  const unmark = h(
    "button",
    { type: "button", class: "g4-quiet", onclick: () => mark(null) },
    "Show all",
  );
  const markNote = h(
    "div",
    { class: "g4-marknote", role: "status" },
    h("span", { class: "g4-note" }),
    unmark,
  );
  const tools = h("div", { class: "g4-toolbar g4-headtools" }, by.node, sortLabel, unfold);
  const legend = h("canvas", { class: "g4-headlegend", role: "img" });
  const stage = h("div", { class: "g4-stage" });
  const list = h("div", { class: "g4-stage-list" });
  const unusual = h("div", { class: "g4-unusual" });
  const node = h(
    "section",
    { class: "g4-panel g4-section g4-headpanel", "aria-label": "All heads" },
    h("div", { class: "g4-toolbar" }, views.node),
    tools,
    axes,
    markNote,
    stage,
    legend,
    readout,
    unusual,
  );

  function choices() {
    const all = ["unlike", ...heads.names, "group", "span"].filter((name) =>
      heads.columns.has(name),
    );
    by.select.replaceChildren(
      ...all.map((name) => h("option", { value: name }, heads.words.get(name))),
    );
    by.select.value = now.by;
    for (const [one, key] of [
      [across, "across"],
      [up, "up"],
    ]) {
      one.select.replaceChildren(
        ...all
          .filter((name) => name !== "group")
          .map((name) => h("option", { value: name }, heads.words.get(name))),
      );
      if (!all.includes(now[key])) now[key] = all[0];
      one.select.value = now[key];
    }
  }

  // ---- drawing --------------------------------------------------------------------------------
  function draw() {
    map.draw();
    if (now.view === "scatter") plot.draw();
    drawLegend();
  }

  function update() {
    if (!filled) return;
    const onMap = now.view === "map";
    sortLabel.hidden = !onMap || now.by === "group";
    unfold.hidden = !onMap || !map.foldable;
    unfold.textContent = map.unfolded ? "Fold" : "Unfold";
    axes.hidden = now.view !== "scatter";
    tools.hidden = now.view === "groups";
    stage.replaceChildren(onMap ? map.canvas : now.view === "scatter" ? plot.canvas : list);
    if (now.view === "scatter") plot.resize(Math.min(448, stage.clientWidth || 448));
    node.dataset.by = now.by;
    draw();
    build();
  }

  function build() {
    markNote.hidden = !marked;
    if (marked) markNote.firstChild.textContent = markedWhy || `${marked.size} heads marked.`;
    if (now.view === "groups") list.replaceChildren(...groupList());
    else if (now.view === "pictures") list.replaceChildren(pictures());
    unusual.replaceChildren(
      h("span", { class: "g4-note" }, "Unusual:"),
      ...heads
        .ranked("unlike")
        .slice(0, UNUSUAL)
        .map((index) =>
          h(
            "button",
            {
              type: "button",
              class: "g4-quiet",
              title: describe(index),
              onclick: () => pick(index),
            },
            shortName(index),
            h("span", { class: "g4-note" }, reasonWord(index)),
          ),
        ),
    );
    unusual.hidden = heads.list.length < 12;
  }
  const reasonWord = (index) => {
    const name = heads.names[heads.value("reason", index)];
    return name === "first" ? "sink" : (name ?? "");
  };

  function drawLegend() {
    const ink = o.ink(),
      width = 448;
    legend.hidden = now.by === "group" || now.view === "groups" || !heads.columns.has(now.by);
    if (legend.hidden) return;
    const context = sizeCanvas(legend, width, 32),
      scale = heads.scale(now.by),
      left = 58,
      right = width - 8,
      length = right - left;
    context.clearRect(0, 0, width, 32);
    for (let x = 0; x < length; x++) {
      context.fillStyle = colorAt(o.palette().table, x / (length - 1));
      context.fillRect(left + x, 2, length - x, 10);
    }
    context.fillStyle = ink.text;
    context.font = `12px ${ink.font}`;
    context.textBaseline = "top";
    for (let k = 0; k <= 4; k++) {
      context.textAlign = k === 0 ? "left" : k === 4 ? "right" : "center";
      const value = scale.at(k / 4);
      context.fillText(
        now.by === "unlike"
          ? value.toFixed(1)
          : sayValue(now.by, value).replace(k === 4 ? /$^/ : / (nats|tokens)$/, ""),
        left + (k / 4) * length,
        16,
      );
    }
    legend.setAttribute(
      "aria-label",
      `Colours: ${heads.words.get(now.by)}, from ${sayValue(now.by, scale.low)} to ${sayValue(now.by, scale.high)}`,
    );
  }

  function headButton(index, ranked) {
    const canvas = h("canvas", { width: 1, height: 1, "aria-hidden": "true" });
    o.store.paint(canvas, heads.list[index]).catch(o.onError);
    return h(
      "button",
      {
        type: "button",
        class: "g4-thumb",
        "aria-pressed": String(index === chosen),
        "aria-label": describe(index),
        title: describe(index),
        onclick: () => pick(index),
      },
      canvas,
      ranked ? h("span", {}, shortName(index)) : null,
      ranked
        ? h(
            "em",
            {},
            now.by === "group"
              ? reasonWord(index)
              : heads.say(now.by, index).replace(" spreads", ""),
          )
        : null,
    );
  }

  function pictures() {
    const order = heads
      .ranked(now.by === "group" ? "unlike" : now.by)
      .filter((index) => !marked || marked.has(index))
      .slice(0, DOZENS);
    return h(
      "div",
      {},
      h("div", { class: "g4-dozens" }, ...order.map((index) => headButton(index, true))),
      h(
        "p",
        { class: "g4-note" },
        `${marked ? "Of the marked heads" : "Of all heads"}, ${now.by === "group" ? "those most unlike the others" : `those with the highest value: ${heads.words.get(now.by)}`}. Full heads: keys to the right; sliding heads: offset to the right, 0 to the window. Queries down.`,
      ),
    );
  }

  function groupList() {
    const rows = heads.groups.map(({ name, central }, group) => {
      const members = heads.list
        .map((_, index) => index)
        .filter((index) => heads.value("group", index) === group);
      const show = h(
        "button",
        {
          type: "button",
          class: "g4-quiet g4-groupname",
          title: "Mark these heads",
          onclick: () => {
            mark(
              new Set(members),
              `${members.length} heads of group ${group + 1} marked: ${name}.`,
            );
          },
        },
        h("i", {
          class: "g4-swatch",
          style: { background: categoryColors[group % categoryColors.length] },
        }),
        name,
      );
      return h(
        "tr",
        {},
        h(
          "th",
          { scope: "row" },
          show,
          h("div", { class: "g4-central" }, ...central.map((index) => headButton(index, false))),
        ),
        barCell(
          members.length / heads.list.length,
          String(members.length),
          categoryColors[group % categoryColors.length],
        ),
      );
    });
    return [
      table("Groups of alike heads", ["Group, and the heads nearest its middle", "#Heads"], rows),
      h("p", { class: "g4-note" }, `Method: ${heads.method}.`),
    ];
  }

  view.signal.addEventListener("abort", () => {
    map.destroy();
    plot.destroy();
  });
  return {
    node,
    redraw: perFrame(() => {
      if (filled) {
        draw();
        build();
      }
    }),
    /** The table has been filled. */
    start() {
      filled = true;
      now.by = heads.by;
      choices();
      update();
    },
    choose(layer, head) {
      chosen = heads.indexOf(layer, head);
      map.choose(chosen);
      plot.choose(chosen);
      if (filled && now.view === "pictures") build();
    },
    /** Colour by the mass between the marked spans. */
    showSpan() {
      now.by = "span";
      now.view = "map";
      views.set("map");
      choices();
      update();
    },
    describe,
  };
}
