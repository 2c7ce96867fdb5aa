// Draw each plotly figure of a page (templates/figure.html) when it scrolls into view, in light or dark colours.
(() => {
  "use strict";
  const NARROW_PX = 600;  // panels side by side are stacked in figures that are narrower
  const DEFAULT_HEIGHT_PX = 440;
  const SMALLEST_DRAWING = 0.7;  // scale below which a drawing is scrolled instead
  const BUTTONS_PX = 28;
  const CLOSE_PX = 190;
  const LETTER = 0.56;  // mean width of a letter, relative to the size of the font
  // The neutral colours of the plotly template "cryoem", and their counterparts on a dark page.
  const DARK = {
    "#1f2933": "#e4e9ee", "#3e4c59": "#c3ccd5", "#4d5a66": "#98a4b0", "#66727f": "#98a4b0", "#9aa5b1": "#66727f",
    "#cbd2d9": "#4a545f", "#dfe4ea": "#323a44", "#e7ebef": "#2b333c", "#f6f8fa": "#1c2229", "#ffffff": "#14181d",
    "white": "#14181d", "#0072b2": "#3b9fdd", "rgba(255,255,255,0.85)": "rgba(20,24,29,0.85)",
    "rgba(255,255,255,0.8)": "rgba(20,24,29,0.8)",
  };
  const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
  const figures = new Map();
  let printing = false;
  for (const plot of document.querySelectorAll(".plot")) {
    const owner = plot.dataset.figure ? document.getElementById(plot.dataset.figure) : plot.parentElement;
    const source = owner.querySelector(".figure-json");
    figures.set(plot, { source, cameras: {}, drawn: false, turning: false });
  }

  function isDark() {
    const theme = document.documentElement.dataset.theme;  // of the website, which has a switch
    return !printing && (theme ? theme === "dark" : systemIsDark.matches);
  }

  function scenesOf(layout) {
    return Object.keys(layout).filter(key => /^scene\d*$/.test(key));
  }

  // Parse a figure, in the given colours and from the current viewpoint.
  function parsed(plot, dark) {
    const figure = figures.get(plot);
    let text = figure.source.textContent;
    if (dark) text = text.replace(/"(#[0-9a-f]{6}|white|rgba\(255,255,255,0\.85?\))"/g, (whole, colour) => {
      return colour in DARK ? '"' + DARK[colour] + '"' : whole;
    });
    const content = JSON.parse(text);
    for (const scene of Object.keys(figure.cameras)) content.layout[scene].camera = figure.cameras[scene];
    return content;
  }

  // Return a figure as this page shows it.
  function shown(plot) {
    const dark = isDark(), content = parsed(plot, dark), layout = content.layout;
    if (dark) layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";  // that of the page
    const width = plot.clientWidth, tables = content.data.filter(trace => trace.type === "table");
    if (plot.classList.contains("turning")) showMapOnly(layout, figures.get(plot).cameras, width);
    else if (tables.length) fitTable(tables[0], layout, width);
    else if (layout.width) shrinkDrawing(layout, width);
    else {
      if (width < NARROW_PX) {
        stackPanels(layout);
        const isImages = layout.xaxis?.visible === false;  // their labels stay side by side
        for (const note of isImages ? layout.annotations || [] : []) {
          if (note.xref !== "paper" && note.font?.size) note.font.size = Math.max(7, note.font.size * width / NARROW_PX);
        }
      }
      fitTitles(layout, width);
      fitImages(layout, width);
      if (width < NARROW_PX && scenesOf(layout).length === 1) fitScene(layout, width);
    }
    plot.style.minHeight = (layout.height || DEFAULT_HEIGHT_PX) + "px";
    content.config = {
      responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
      modeBarButtonsToAdd: [{
        name: "svg", title: "Download as SVG", icon: Plotly.Icons.disk,
        click: () => {
          keepCameras(plot);
          const image = { format: "svg", width: plot.clientWidth, height: plot.clientHeight, filename: "figure" };
          Plotly.downloadImage(parsed(plot, false), image);
        },
      }],
    };
    return content;
  }

  function draw(plot) {
    const figure = figures.get(plot);
    if (figure.drawn) return;
    figure.drawn = true;
    Plotly.newPlot(plot, shown(plot)).then(() => {
      makeRoom(plot);
      joinCameras(plot);
      if (plot.classList.contains("turning")) startTurning(plot);
    });
  }

  // On a narrow screen, place panels that are side by side below each other.
  function stackPanels(layout) {
    const panels = [];
    for (const key of Object.keys(layout)) {
      const axis = layout[key];
      if (/^scene\d*$/.test(key)) {
        const domain = axis.domain || {};
        panels.push({ x: domain.x || [0, 1], y: domain.y || [0, 1], place: y => { axis.domain = { x: [0, 1], y: y }; } });
      } else if (/^xaxis\d*$/.test(key)) {
        const other = layout["yaxis" + (axis.anchor || "y").slice(1)];
        if (!other || axis.overlaying || other.overlaying) return;
        panels.push({ x: axis.domain || [0, 1], y: other.domain || [0, 1], other, place: y => {
          axis.domain = [0, 1];
          other.domain = y;
          axis.showticklabels = other.showticklabels = true;
        } });
      }
    }
    panels.sort((a, b) => b.y[1] - a.y[1] || a.x[0] - b.x[0]);
    if (!panels.some(panel => panel.x[0] > 0.2)) return;
    const count = panels.length, gap = 0.24 / count, height = (1 - (count - 1) * gap) / count;
    const before = layout.height || DEFAULT_HEIGHT_PX, rows = new Set(panels.map(panel => panel.y[1])).size;
    layout.height = Math.round(before / rows * count);
    panels.forEach((panel, index) => {
      const top = 1 - index * (height + gap);
      for (const note of layout.annotations || []) {
        const isTitle = note.xref === "paper" && note.yref === "paper" &&
          Math.abs(note.x - (panel.x[0] + panel.x[1]) / 2) < 0.02 && Math.abs(note.y - panel.y[1]) < 0.02;
        if (isTitle && !note.moved) Object.assign(note, { x: 0.5, y: top, moved: true });
      }
      const first = panels.find(each => each.y[1] === panel.y[1]);
      if (panel.other && first.other && !panel.other.title?.text) panel.other.title = first.other.title;
      panel.place([Math.max(0, top - height), top]);
    });
    for (const note of layout.annotations || []) delete note.moved;
    if (layout.legend?.y > 1) layout.legend.y = 1 + (layout.legend.y - 1) * before / layout.height;
  }

  function lettersOf(text) {
    return String(text).replace(/<br>/g, " ").replace(/<[^>]*>/g, "");
  }

  // Shrink titles of panels and of horizontal axes that are wider than their panel.
  function fitTitles(layout, width) {
    const margin = Object.assign({ l: 70, r: 30 }, layout.margin), right = margin.r, inner = width - margin.l - right;
    const domains = [];
    for (const key of Object.keys(layout)) {
      const domain = /^scene\d*$/.test(key) ? layout[key].domain?.x : /^xaxis\d*$/.test(key) ? layout[key].domain : null;
      if (domain) domains.push(domain);
    }
    function fitted(text, size, room) {
      const longest = Math.max(...String(text).split("<br>").map(line => lettersOf(line).length));
      return Math.max(8, Math.min(size, room / (LETTER * longest)));
    }
    const titles = [];
    for (const note of layout.annotations || []) {
      if (note.xref !== "paper" || note.yref !== "paper" || note.showarrow !== false) continue;
      const own = domains.find(domain => Math.abs(note.x - (domain[0] + domain[1]) / 2) < 0.02);
      if (own) titles.push({ note, size: fitted(note.text, note.font?.size || 13, (own[1] - own[0]) * inner) });
    }
    const smallest = Math.min(...titles.map(title => title.size));
    for (const title of titles) title.note.font = { ...title.note.font, size: smallest };
    for (const key of Object.keys(layout)) {
      const axis = layout[key];
      if (!/^xaxis\d*$/.test(key) || !axis.title?.text) continue;
      const domain = axis.domain || [0, 1], font = axis.title.font || {}, isAlone = domain[1] - domain[0] > 0.9;
      const room = isAlone ? inner + 2 * right : (domain[1] - domain[0]) * inner;
      axis.title.font = { ...font, size: fitted(axis.title.text, font.size || 13, room) };
      // where panels are close together, only the first of those with the same vertical axis has its title
      const other = layout["yaxis" + (axis.anchor || "y").slice(1)] || {}, first = layout.yaxis?.title || {};
      const isRepeated = domain[0] > 0 && other.title && other.title.text === first.text;
      if (isRepeated && (domain[1] - domain[0]) * inner < CLOSE_PX) other.title.text = "";
    }
  }

  // Make a figure of images no higher than the images are at this width.
  function fitImages(layout, width) {
    const x = layout.xaxis || {}, y = layout.yaxis || {}, margin = layout.margin || {};
    if (!(x.visible === false && y.scaleanchor === "x" && x.range && y.range) || layout.xaxis2) return;
    const shape = Math.abs((y.range[1] - y.range[0]) / (x.range[1] - x.range[0]));
    const height = shape * (width - margin.l - margin.r) + margin.t + margin.b;
    layout.height = Math.min(layout.height || DEFAULT_HEIGHT_PX, Math.max(120, Math.ceil(height)));
  }

  // Keep the sides of a scene in view, and its slider below its buttons.
  function fitScene(layout, width) {
    layout.height = Math.min(layout.height || DEFAULT_HEIGHT_PX, 0.9 * width);
    if (layout.updatemenus) {
      layout.height += 60;
      Object.assign(layout.sliders[0], { x: 0.1, len: 0.8, pad: { t: 60 } });
    }
    if (!layout.title?.text) return;
    layout.height += BUTTONS_PX;
    layout.margin = { ...layout.margin, t: 2.2 * BUTTONS_PX };
    Object.assign(layout.title, { y: 1 - 1.2 * BUTTONS_PX / layout.height, yanchor: "top" });  // below the buttons
  }

  // Shrink a drawing, whose coordinates are pixels, with its text, and leave room for the buttons above it.
  function shrinkDrawing(layout, width) {
    const scale = Math.min(1, Math.max(SMALLEST_DRAWING, width / layout.width));
    layout.width *= scale;
    layout.height = layout.height * scale + BUTTONS_PX;
    layout.margin.t = BUTTONS_PX;
    for (const note of layout.annotations || []) {
      if (note.font?.size) note.font.size *= scale;
    }
  }

  // Give each column room for its longest word, and the table room for all its rows.
  function fitTable(table, layout, width) {
    const size = width < NARROW_PX ? 11 : 12, letter = 1.1 * LETTER * size, margin = layout.margin, padding = 18;
    const columns = table.cells.values.map((cells, index) => {
      return [table.header.values[index]].concat(cells).map(lettersOf);
    });
    function widthOf(texts) { return padding + letter * Math.max(...texts.map(text => text.length)); }
    const least = columns.map(texts => widthOf(texts.join(" ").split(/\s+/))), most = columns.map(widthOf);
    function sum(values) { return values.reduce((a, b) => a + b, 0); }
    const inner = Math.max(width - margin.l - margin.r, sum(least)), spare = inner - sum(least), wanted = sum(most) - sum(least);
    const widths = least.map((value, index) => {
      return wanted > 0 ? value + spare * (most[index] - value) / wanted : value + spare / least.length;
    });
    layout.width = inner + margin.l + margin.r;
    table.columnwidth = widths;
    for (const part of [table.header, table.cells]) part.font = { ...part.font, size };
    let height = margin.t + margin.b + 24;
    for (let row = 0; row < columns[0].length; row++) {
      const lines = columns.map((texts, index) => Math.ceil(letter * texts[row].length / (widths[index] - padding + 1)));
      height += Math.max(28, 12 + 1.35 * size * Math.max(...lines));
    }
    layout.height = Math.ceil(height);
  }

  // Move the plot down if the legend takes much of its height, or if the buttons hide the legend or a title.
  function makeRoom(plot, tries = 3) {
    const size = plot._fullLayout._size, given = plot._fullLayout.margin.t, bar = plot.querySelector(".modebar-group");
    if (plot.classList.contains("turning") || plot.layout.width || !bar) return;
    const buttons = plot.querySelector(".modebar").getBoundingClientRect();
    let hidden = 0;
    for (const text of plot.querySelectorAll(".legend .bg, .annotation-text-g")) {
      const place = text.getBoundingClientRect();
      if (place.right > buttons.left && place.top < buttons.bottom && place.bottom > buttons.top) hidden = Math.max(hidden, buttons.bottom - place.top);
    }
    const before = plot.layout.height || DEFAULT_HEIGHT_PX, legend = plot._fullLayout.legend || {};
    let top = size.t + hidden, height = Math.ceil(before + Math.max(0, size.t - given) + hidden);
    if (legend._height > legend._effHeight + 1) {  // plotly cuts off legends above half the height of the figure
      top = Math.max(top, legend._height + BUTTONS_PX + 12);
      height = Math.ceil(Math.max(2 * legend._height + 20, before - given + top));
    }
    if (height - before < 2) return;
    plot.style.minHeight = height + "px";
    const moved = Plotly.relayout(plot, { height: height, "margin.t": top });
    if (tries > 1) moved.then(() => { makeRoom(plot, tries - 1); });  // a legend that did not fit has grown
  }

  // Leave out the axes and the controls, and move the camera closer.
  function showMapOnly(layout, cameras, width) {
    const scenes = scenesOf(layout), closer = width < 240 * scenes.length ? 0.95 : 0.72;
    layout.sliders = layout.updatemenus = [];
    layout.height = 340;
    layout.margin = { l: 0, r: 0, t: 56, b: 30 };
    for (const scene of scenes) {
      for (const axis of ["xaxis", "yaxis", "zaxis"]) layout[scene][axis].visible = false;
      const eye = layout[scene].camera.eye;
      if (!cameras[scene]) {
        layout[scene].camera = { eye: { x: closer * eye.x, y: closer * eye.y, z: closer * eye.z }, center: { x: 0, y: 0, z: 0 } };
      }
    }
  }

  function keepCameras(plot) {
    const figure = figures.get(plot);
    for (const scene of scenesOf(plot.layout || {})) {
      if (plot.layout[scene].camera) figure.cameras[scene] = plot.layout[scene].camera;
    }
  }

  // Remove a 3D figure when it is far out of view, because browsers limit the number of WebGL contexts per page.
  function release(plot) {
    const figure = figures.get(plot);
    if (!figure.drawn || !scenesOf(plot.layout || {}).length) return;
    keepCameras(plot);
    figure.turning = figure.drawn = false;
    Plotly.purge(plot);
  }

  // Rotate the maps of one figure together.
  function joinCameras(plot) {
    const scenes = scenesOf(plot.layout);
    if (scenes.length < 2) return;
    let following = false;
    plot.on("plotly_relayout", change => {
      const turned = scenes.find(scene => change[scene + ".camera"]);
      if (!turned || following || figures.get(plot).turning) return;
      const update = {};
      for (const scene of scenes) {
        if (scene !== turned) update[scene + ".camera"] = change[turned + ".camera"];
      }
      following = true;
      Plotly.relayout(plot, update).finally(() => { following = false; });
    });
  }

  // Turn the map about the vertical axis until the reader drags it or presses the button.
  function startTurning(plot) {
    const figure = figures.get(plot), scenes = scenesOf(plot.layout), button = plot.parentElement.querySelector(".turn");
    const stillness = matchMedia("(prefers-reduced-motion: reduce)");
    let before = 0;
    function turn(now) {
      if (!figure.turning || !figure.drawn) return;
      requestAnimationFrame(turn);
      if (now - before < 40) return;
      const angle = Math.min(now - before, 200) * 0.0004, cos = Math.cos(angle), sin = Math.sin(angle), update = {};
      before = now;
      for (const scene of scenes) {
        const camera = plot.layout[scene].camera, eye = camera.eye;
        const turned = { x: cos * eye.x - sin * eye.y, y: sin * eye.x + cos * eye.y, z: eye.z };
        update[scene + ".camera"] = { ...camera, eye: turned };
      }
      Plotly.relayout(plot, update);
    }
    function set(turning) {
      figure.stopped = !turning;
      figure.turning = turning;
      button.textContent = turning ? "Stop turning" : "Turn";
      if (turning) requestAnimationFrame(turn);
    }
    button.hidden = false;
    button.onclick = () => { set(!figure.turning); };
    plot.onpointerdown = plot.onwheel = () => { set(false); };
    set(!(figure.stopped || stillness.matches));
  }

  function redrawAll() {
    for (const plot of figures.keys()) {
      if (!figures.get(plot).drawn) continue;
      keepCameras(plot);
      Plotly.react(plot, shown(plot)).then(() => { makeRoom(plot); });
    }
  }

  const watcher = new IntersectionObserver(entries => {
    for (const entry of entries) (entry.isIntersecting ? draw : release)(entry.target);
  }, { rootMargin: "600px 0px" });
  for (const plot of figures.keys()) watcher.observe(plot);
  systemIsDark.addEventListener("change", redrawAll);
  new MutationObserver(redrawAll).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  window.addEventListener("beforeprint", () => {
    printing = true;
    redrawAll();
    for (const plot of figures.keys()) draw(plot);
  });
  window.addEventListener("afterprint", () => {
    printing = false;
    redrawAll();
  });
})();
