// What the monitor said of the runs: where it stands on the charts, and in a table.
"use strict";
const Alerts = (() => {
  const { element, integer, duration, moment } = Format;
  const COLOURS = { critical: "--bad", warning: "--warn", info: "--accent" };
  // By run and metric. What is about a run as a whole (it stalls, it crashed, a GPU is lost) stands at null.
  const byMetric = new Map();
  Data.alerts.forEach((alert) => {
    const key = JSON.stringify([alert.run, alert.metric]);
    byMetric.set(key, [...(byMetric.get(key) || []), alert]);
  });

  const colour = (alert) => getComputedStyle(document.documentElement).getPropertyValue(COLOURS[alert.severity] || "--muted").trim();

  /** Where on the chosen axis an alert began; null where it has no place there. */
  function place(alert) {
    if (State.chosen.axis === "step") return typeof alert.step === "number" ? alert.step : null;
    return State.chosen.axis === "clock" ? alert.started : alert.started - Data.runs[alert.run].origin;
  }

  /** [[alert, x] …] of what is about the metric of these curves, or critical to all of their run, in runs that are shown. */
  function on(metric, curves) {
    const runs = [...new Set(curves.map((curve) => curve.run))].filter(State.visible);
    const about = (run, name) => byMetric.get(JSON.stringify([run, name])) || [];
    const found = runs.flatMap((run) => [...about(run, metric), ...about(run, null).filter((alert) => alert.severity === "critical")]);
    return found.map((alert) => [alert, place(alert)]).filter(([, x]) => x !== null);
  }

  function lasted(alert) {
    if (alert.kind === "user") return "";
    if (alert.resolved === null) return element("span", { class: "firing" }, "still fires");
    return [duration(alert.resolved - alert.started), element("div", { class: "ending" }, alert.ending)];
  }

  /** Its severity and kind in words, for whom colours and titles say too little. */
  const sort = (alert) => [alert.severity, alert.kind.replaceAll("_", " "), ...(alert.silenced ? ["silenced"] : [])].join(" · ");

  function table() {
    const several = Data.runs.length > 1;
    const heads = ["Alert", ...(several ? ["Run"] : []), "What was seen", "Step", "Began", "Lasted"];
    const ordered = [...Data.alerts].sort((a, b) => (a.resolved !== null) - (b.resolved !== null) || b.started - a.started);
    const rows = ordered.map((alert) => {
      const run = Data.runs[alert.run];
      return element(
        "tr",
        { "data-run": alert.run },
        element("th", { scope: "row" }, element("span", { class: "severity", "data-severity": alert.severity }, alert.title), element("div", { class: "sort" }, sort(alert))),
        several ? element("td", {}, element("span", { class: "who" }, Tables.swatch(run), element("a", { href: `#run-${run.index}` }, run.name))) : null,
        element("td", { class: "said" }, alert.text),
        element("td", { class: "number" }, typeof alert.step === "number" ? integer(alert.step) : alert.step),
        element("td", {}, moment(alert.started)),
        element("td", {}, ...[lasted(alert)].flat()),
      );
    });
    const made = element("div", { class: "scroll" }, element("table", { class: "alerts" }, element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))), element("tbody", {}, ...rows)));
    return Data.more_alerts ? [made, element("p", { class: "note" }, `The latest ${integer(Data.alerts.length)}; pulsetrain alerts shows all.`)] : [made];
  }

  return { on, colour, table };
})();
