// The cards that hold charts, in sections by what stands before the first '/' of a metric's name. A card draws when it comes
// near the window and lets go when it has left, so that five hundred metrics cost no more than a dozen.
"use strict";
const Panels = (() => {
  const { element, integer, unit } = Format;
  const HEIGHT = 220;
  const TALL = 460;
  const cards = [];

  class Card {
    constructor(metric, curves, title) {
      this.metric = metric;
      this.curves = curves;
      this.chart = null;
      this.wide = false;
      this.ownLog = null;
      this.logButton = element("button", { type: "button", class: "small", title: "Logarithmic y axis for this chart", on: { click: () => this.toggleLog() } }, "log");
      this.wideButton = element("button", { type: "button", class: "small", title: "Wider", "aria-label": "Wider", on: { click: () => this.toggleWide() } }, "⤢");
      this.holder = element("div", { class: "plot" });
      const { unit: name } = unit(metric);
      this.root = element(
        "article",
        { class: "card" },
        element("header", {}, element("h3", { title: metric }, title, name && name !== "B" ? element("span", { class: "unit" }, ` ${name}`) : null), this.badge(), element("span", { class: "tools" }, this.logButton, this.wideButton)),
        this.holder,
      );
      cards.push(this);
      this.showLog();
      sight.observe(this.root);
      this.root.card = this;
    }

    /** Says where numbers were no numbers, so that a diverged run is seen without hovering. */
    badge() {
      const sums = [0, 0, 0];
      this.curves.forEach((curve) => curve.strange.forEach(([, ...counts]) => counts.forEach((count, k) => (sums[k] += count))));
      const text = ["NaN", "+∞", "−∞"].flatMap((name, k) => (sums[k] ? [`${integer(sums[k])} ${name}`] : [])).join(", ");
      return text ? element("span", { class: "badge", title: "Values that are no finite numbers" }, text) : null;
    }

    get log() {
      return this.ownLog === null ? State.chosen.log : this.ownLog;
    }

    showLog() {
      this.logButton.setAttribute("aria-pressed", this.log);
    }

    toggleLog() {
      this.ownLog = !this.log;
      this.showLog();
      if (this.chart) this.chart.remake();
    }

    toggleWide() {
      this.wide = !this.wide;
      this.root.classList.toggle("wide", this.wide);
      this.wideButton.textContent = this.wide ? "⤡" : "⤢";
      if (this.chart) this.chart.resize(this.wide ? TALL : HEIGHT);
      if (this.wide) this.root.scrollIntoView({ block: "nearest" });
    }

    draw() {
      if (!this.chart && this.holder.clientWidth) this.chart = new Charts.Chart(this.holder, this.metric, this.curves, this.wide ? TALL : HEIGHT, () => this.log);
    }

    release() {
      if (this.chart) this.chart.destroy();
      this.chart = null;
    }
  }

  const sight = new IntersectionObserver(
    (entries) => entries.forEach(({ target, isIntersecting }) => (isIntersecting ? target.card.draw() : target.card.release())),
    { rootMargin: "500px 0px" },
  );

  new ResizeObserver(() => cards.forEach((card) => card.chart && card.chart.resize())).observe(document.getElementById("main"));

  const collator = new Intl.Collator("en", { numeric: true });

  // What is looked at first comes first; then the metrics without a section, then the other sections by name.
  const FIRST = ["train", "val", "valid", "validation", "eval", "test", "best", ""];

  /** [[group, [[metric, curves] …]] …] */
  function grouped(curves, groupOf, mergeSingles) {
    const groups = new Map();
    for (const curve of curves) {
      const group = groupOf(curve);
      if (!groups.has(group)) groups.set(group, new Map());
      const metrics = groups.get(group);
      if (!metrics.has(curve.metric)) metrics.set(curve.metric, []);
      metrics.get(curve.metric).push(curve);
    }
    // A section of one chart is a row of one chart: it goes with the metrics that have no section.
    for (const [group, metrics] of [...groups]) {
      if (!mergeSingles || group === "" || metrics.size > 1 || groups.size === 1) continue;
      groups.delete(group);
      if (!groups.has("")) groups.set("", new Map());
      metrics.forEach((own, metric) => groups.get("").set(metric, own));
    }
    const rank = (group) => (FIRST.includes(group.toLowerCase()) ? FIRST.indexOf(group.toLowerCase()) : FIRST.length);
    const sorted = (map) => [...map].sort(([a], [b]) => rank(a) - rank(b) || collator.compare(a, b));
    return sorted(groups).map(([group, metrics]) => [group, [...metrics].sort(([a], [b]) => collator.compare(a, b))]);
  }

  function section(name, metrics, { titleOf, open }) {
    const grid = element("div", { class: "grid" });
    const made = metrics.map(([metric, curves]) => new Card(metric, curves, titleOf(metric)));
    grid.append(...made.map((card) => card.root));
    const count = element("span", { class: "count" }, integer(made.length));
    const root = element("details", { class: "group", open }, element("summary", {}, element("span", {}, name), count), grid);
    return { root, cards: made, count, wasOpen: open };
  }

  /** Shows the cards whose metric holds what is searched for; opens their sections while something is. */
  function search(sections, text) {
    let pattern = null;
    try {
      pattern = new RegExp(text, "i");
    } catch {
      // Half a regular expression, as it is being typed: its letters count.
    }
    const wanted = (metric) => (pattern && pattern.test(metric)) || metric.toLowerCase().includes(text.toLowerCase());
    let shown = 0;
    for (const one of sections) {
      const found = one.cards.filter((card) => {
        const fits = !text || wanted(card.metric);
        card.root.hidden = !fits;
        return fits;
      });
      shown += found.length;
      one.root.hidden = !found.length;
      one.root.open = text ? true : one.wasOpen;
      one.count.textContent = text ? `${found.length} of ${one.cards.length}` : integer(one.cards.length);
    }
    return shown;
  }

  State.listen((names) => {
    if (names.has("log")) {
      cards.forEach((card) => {
        card.ownLog = null;
        card.showLog();
      });
    }
  });

  // On paper there is no scrolling: draw what is open, in light colours.
  window.addEventListener("beforeprint", () => cards.filter((card) => card.root.offsetParent).forEach((card) => card.draw()));

  return { grouped, section, search, cards };
})();
