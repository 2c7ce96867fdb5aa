// Draw each plotly figure of a page (templates/figure.html) when it scrolls into view.
(function () {
  "use strict";
  const config = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "" };
  const figures = new Map();
  for (const source of document.querySelectorAll(".figure-json")) {
    figures.set(source.parentElement.querySelector(".plot"), { source: source, parsed: null, drawn: false });
  }

  function draw(plot) {
    const figure = figures.get(plot);
    if (figure.drawn) return;
    figure.drawn = true;
    figure.parsed = figure.parsed || JSON.parse(figure.source.textContent);
    figure.parsed.config = config;
    Plotly.newPlot(plot, figure.parsed).then(function () { joinCameras(plot); });
  }

  // Remove a 3D figure when it is far out of view, because browsers limit the number of WebGL contexts per page.
  // The view is kept, because plotly stores the camera in the layout.
  function release(plot) {
    const figure = figures.get(plot);
    if (!figure.drawn || !figure.parsed.layout.scene) return;
    figure.parsed.layout = plot.layout;
    Plotly.purge(plot);
    figure.drawn = false;
  }

  // Rotate the maps of one figure together.
  function joinCameras(plot) {
    const scenes = Object.keys(plot.layout).filter(function (key) { return /^scene\d*$/.test(key); });
    if (scenes.length < 2) return;
    let following = false;
    plot.on("plotly_relayout", function (change) {
      const turned = scenes.find(function (scene) { return change[scene + ".camera"]; });
      if (!turned || following) return;
      const update = {};
      for (const scene of scenes) {
        if (scene !== turned) update[scene + ".camera"] = change[turned + ".camera"];
      }
      following = true;
      Plotly.relayout(plot, update).finally(function () { following = false; });
    });
  }

  const watcher = new IntersectionObserver(function (entries) {
    for (const entry of entries) (entry.isIntersecting ? draw : release)(entry.target);
  }, { rootMargin: "600px 0px" });
  for (const plot of figures.keys()) watcher.observe(plot);
  window.addEventListener("beforeprint", function () {
    for (const plot of figures.keys()) draw(plot);
  });
})();
