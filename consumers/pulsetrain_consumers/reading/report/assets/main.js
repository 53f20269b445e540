// Puts the page together: navigation, legend, controls, and the sections.
"use strict";
(() => {
  const { element, integer, moment } = Format;
  const main = document.getElementById("main");
  const several = Data.runs.length > 1;
  const points = Data.curves.reduce((sum, curve) => sum + curve.points, 0);

  // ---- heading ------------------------------------------------------------------------------------------------------

  const names = (count, one) => `${integer(count)} ${one}${count === 1 ? "" : "s"}`;
  document.getElementById("subtitle").textContent = [names(Data.runs.length, "run"), names(Data.metrics.length, "metric"), names(points, "point"), moment(Data.generated)].join(" · ");

  const THEMES = { auto: ["◐", "As the system has it"], light: ["☀", "Light"], dark: ["☾", "Dark"] };
  const theme = document.getElementById("theme");
  function showTheme() {
    const [symbol, title] = THEMES[State.chosen.theme];
    theme.textContent = symbol;
    theme.title = title;
    document.documentElement.dataset.theme = State.isDark() ? "dark" : "light";
  }
  // Colours are read from the page's styles: they change before the charts hear of it.
  theme.addEventListener("click", () => {
    const order = Object.keys(THEMES);
    State.chosen.theme = order[(order.indexOf(State.chosen.theme) + 1) % order.length];
    showTheme();
    State.set({ theme: State.chosen.theme });
  });
  showTheme();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    showTheme();
    State.set({ theme: State.chosen.theme });
  });

  // ---- legend -------------------------------------------------------------------------------------------------------

  const legend = document.getElementById("legend");
  if (several) {
    const entries = Data.runs.map((run) =>
      element(
        "div",
        { class: "entry", "data-run": run.index, on: { mouseenter: () => State.set({ focus: run.index }), mouseleave: () => State.set({ focus: null }) } },
        Tables.swatch(run),
        element("button", { type: "button", class: "name", title: `${run.project}/${run.id}`, on: { click: () => State.toggle(run.index), dblclick: () => State.only(run.index) } }, run.name),
        element("i", { class: "dot", "data-state": run.state, title: run.state }),
      ),
    );
    const filter = element("input", { type: "search", placeholder: "Find a run", "aria-label": "Find a run", on: { input: () => entries.forEach((entry, i) => (entry.hidden = !found(Data.runs[i], filter.value))) } });
    const found = (run, text) => [run.name, run.id, run.group, run.state, ...run.tags].some((one) => String(one).toLowerCase().includes(text.toLowerCase()));
    const shownRuns = () => Data.runs.filter((_, i) => !entries[i].hidden).map((run) => run.index);
    const all = element("button", { type: "button", class: "small", on: { click: () => State.set({ hidden: new Set([...State.chosen.hidden].filter((run) => !shownRuns().includes(run))) }) } }, "all");
    const none = element("button", { type: "button", class: "small", on: { click: () => State.set({ hidden: new Set([...State.chosen.hidden, ...shownRuns()]) }) } }, "none");
    legend.append(element("div", { class: "bar" }, element("h2", {}, "Runs"), all, none), Data.runs.length > 8 ? filter : "", element("div", { class: "entries" }, ...entries));
  } else {
    document.body.classList.add("single");
  }

  // ---- controls -----------------------------------------------------------------------------------------------------

  function segmented(label, options, name) {
    const buttons = options.map(([key, text, title]) => element("button", { type: "button", title, "data-value": key, "aria-pressed": String(State.chosen[name] === key), on: { click: () => choose(key) } }, text));
    function choose(key) {
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.value === key)));
      State.set({ [name]: key, ...(name === "axis" ? { range: null } : {}) });
    }
    return element("div", { class: "segmented", role: "group", "aria-label": label }, ...buttons);
  }

  function switched(name, text, title) {
    const button = element("button", { type: "button", class: "switch", id: `switch-${name}`, title, "aria-pressed": String(State.chosen[name]), on: { click: () => State.set({ [name]: !State.chosen[name] }) } }, text);
    State.listen((changed) => changed.has(name) && button.setAttribute("aria-pressed", String(State.chosen[name])));
    return button;
  }

  function smoothing() {
    const shown = element("output", {}, "0");
    // Weights near one are where the differences are: the slider's end is stretched.
    const slider = element("input", {
      type: "range", id: "smoothing", min: "0", max: "1", step: "0.005", value: "0", "aria-label": "Smoothing",
      on: {
        input: () => {
          const weight = Number(slider.value) === 0 ? 0 : 0.999 * (1 - (1 - Number(slider.value)) ** 2);
          shown.textContent = weight ? weight.toFixed(weight > 0.99 ? 3 : 2) : "0";
          State.set({ smoothing: weight });
        },
      },
    });
    return element("label", { class: "slider", title: "Exponential moving average, debiased; the unsmoothed curve stays behind it" }, "Smoothing", slider, shown);
  }

  const groups = [];
  const nothing = element("p", { class: "note", hidden: true }, "No metric has this in its name.");
  const search = element("input", { type: "search", id: "search", placeholder: "Find a metric ( / )", "aria-label": "Find a metric", on: { input: () => (nothing.hidden = Panels.search(groups, search.value) > 0) } });
  const reset = element("button", { type: "button", class: "switch", id: "reset", hidden: true, on: { click: () => State.set({ range: null }) } }, "Show all of x");
  State.listen((changed) => changed.has("range") && (reset.hidden = State.chosen.range === null));

  function controls() {
    return element(
      "div",
      { class: "controls" },
      search,
      segmented("x axis", [["step", "Step", "Over steps"], ["time", "Time", "Over the time since each run began"], ["clock", "Clock", "Over the time of day"]], "axis"),
      smoothing(),
      switched("log", "log y", "Logarithmic y axes"),
      switched("band", "min–max", "The band between the lowest and the highest point that a bucket holds"),
      switched("outliers", "outliers", "Make the y axis wide enough for every point"),
      reset,
    );
  }

  // ---- sections -----------------------------------------------------------------------------------------------------

  const nav = document.getElementById("nav");
  function place(id, title, ...content) {
    nav.append(element("a", { href: `#${id}` }, title));
    main.append(element("section", { id }, element("h2", {}, title), ...content));
  }

  const OPEN_CARDS = 60;
  function panels(curves, groupOf, nameOf, titleOf, mergeSingles = false) {
    let cards = 0;
    return Panels.grouped(curves, groupOf, mergeSingles).map(([group, metrics]) => {
      const made = Panels.section(nameOf(group), metrics, { titleOf: (metric) => titleOf(metric, group), open: cards < OPEN_CARDS });
      cards += metrics.length;
      groups.push(made);
      return made.root;
    });
  }

  if (several) place("runs", "Runs", Tables.runTable());
  else if (Data.runs.length) place("runs", "Run", ...Tables.details());
  else main.append(element("p", { class: "note" }, "There are no runs in this report."));

  if (Data.alerts.length) place("alerts", "Alerts", ...Alerts.table());

  if (Data.curves.length) {
    const prefix = ({ metric }) => (metric.includes("/") ? metric.slice(0, metric.indexOf("/")) : "");
    const sections = panels(Data.curves, prefix, (group) => group || "metrics", (metric, group) => (group ? metric.slice(group.length + 1) || metric : metric), true);
    place("charts", "Charts", controls(), nothing, ...sections);
  }
  if (Data.telemetry.length) {
    const sections = panels(Data.telemetry, ({ gpuIndex }) => (gpuIndex >= 0 ? "GPU" : "Host"), (group) => group, (metric) => metric.replace(Format.unit(metric).suffix, "").replaceAll("_", " ") || metric);
    place("hardware", "Hardware", Data.curves.length ? "" : controls(), ...sections);
  }
  for (const [section, title] of [["config", "Config"], ["summary", "Summary"]]) {
    const table = Tables.comparison(section);
    if (table) place(section, title, table);
  }
  if (several) place("details", "Details and consoles", ...Tables.details());
  main.append(element("footer", {}, "Made by Pulsetrain from every point that was logged; charts by uPlot. Drag over a chart to zoom all of them, double click to zoom out."));

  // ---- moving about -------------------------------------------------------------------------------------------------

  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !(event.target instanceof HTMLInputElement)) {
      event.preventDefault();
      search.focus();
    }
    if (event.key === "Escape") {
      if (event.target === search) {
        search.value = "";
        search.dispatchEvent(new Event("input"));
        search.blur();
      } else State.set({ range: null });
    }
  });

  function openTarget() {
    const target = location.hash.length > 1 ? document.getElementById(location.hash.slice(1)) : null;
    if (target instanceof HTMLDetailsElement) target.open = true;
    if (target) target.scrollIntoView();
  }
  window.addEventListener("hashchange", openTarget);
  openTarget();

  const links = [...nav.children];
  const seen = new IntersectionObserver(
    (entries) => entries.forEach(({ target, isIntersecting }) => isIntersecting && links.forEach((link) => link.setAttribute("aria-current", String(link.hash === `#${target.id}`)))),
    { rootMargin: "-15% 0px -75% 0px" },
  );
  main.querySelectorAll("section").forEach((section) => seen.observe(section));
})();
