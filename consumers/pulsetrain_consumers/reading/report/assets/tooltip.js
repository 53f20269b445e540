// What the curves of a chart say where the pointer is: one box for all charts, the nearest curve first.
"use strict";
const Tooltip = (() => {
  const { integer, duration, moment, withUnit, element } = Format;
  const box = document.getElementById("tooltip");
  const ROWS = 9;
  const ALERTS = 3;

  function where(reading) {
    const { curve, x, index, order } = reading;
    const original = order ? order[index] : index;
    const run = Data.runs[curve.run];
    const time = curve.axis.times[original];
    const parts = curve.axis.steps ? [`step ${integer(curve.axis.steps[original])}`] : [];
    parts.push(duration(time), moment(run.origin + time));
    return { original, text: parts.join(" · ") };
  }

  function row(chart, reading, first) {
    const { curve, lows, highs, index, value, y } = reading;
    const run = Data.runs[curve.run];
    const line = element(
      "div",
      { class: first ? "reading first" : "reading", colour: State.colour(curve.run) },
      element("i"),
      element("span", { class: "who" }, Data.runs.length > 1 || !curve.label ? run.name : "", curve.label ? ` ${curve.label}` : ""),
      element("b", {}, withUnit(value, chart.unit)),
    );
    const more = [];
    if (State.chosen.smoothing && Number.isFinite(y[index])) more.push(`unsmoothed ${withUnit(y[index], chart.unit)}`);
    if (!curve.exact && lows[index] !== highs[index]) more.push(`${withUnit(lows[index], chart.unit)} to ${withUnit(highs[index], chart.unit)}`);
    const { original } = where(reading);
    if (first && curve.counts && curve.counts[original] > 1) more.push(`${integer(curve.counts[original])} points here`);
    const strange = curve.strange.find(([at]) => at === original);
    if (strange) ["NaN", "+∞", "−∞"].forEach((name, k) => strange[k + 1] && more.push(`${integer(strange[k + 1])} × ${name}`));
    if (more.length && (first || strange || Data.runs.length < 4)) line.append(element("small", {}, more.join(", ")));
    return line;
  }

  function show(chart) {
    const readings = chart.readings();
    State.chosen.focus !== null && readings.sort((a, b) => (b.curve.run === State.chosen.focus) - (a.curve.run === State.chosen.focus));
    if (!readings.length) return hide();
    box.replaceChildren(
      element("div", { class: "where" }, where(readings[0]).text),
      ...readings.slice(0, ROWS).map((reading, i) => row(chart, reading, i === 0)),
      readings.length > ROWS ? element("div", { class: "more" }, `and ${readings.length - ROWS} more`) : "",
      ...chart.alerts().slice(0, ALERTS).map((alert) => element("div", { class: "severity", "data-severity": alert.severity }, `${alert.severity}: ${alert.text}`)),
    );
    box.hidden = false;
    const frame = chart.plot.over.getBoundingClientRect();
    const x = frame.left + chart.plot.cursor.left;
    const y = frame.top + chart.plot.cursor.top;
    const { offsetWidth: width, offsetHeight: height } = box;
    const left = x + 18 + width > innerWidth - 8 ? x - width - 18 : x + 18;
    box.style.left = `${Math.max(8, left)}px`;
    box.style.top = `${Math.max(8, Math.min(y - height / 2, innerHeight - height - 8))}px`;
  }

  const hide = () => (box.hidden = true);
  return { show, hide };
})();
