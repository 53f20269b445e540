// How numbers, times and values are written for a reader, and how elements are made: from text alone, never from markup.
"use strict";
const Format = (() => {
  const grouped = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

  function number(value, digits = 5) {
    if (value === null || value === undefined) return "";
    if (typeof value !== "number") return String(value);
    if (Number.isNaN(value)) return "NaN";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e9) return grouped.format(value).replace("-", "−");
    if (size >= 1e6 || size < 1e-3) return value.toExponential(Math.min(3, digits - 1)).replace("e+", "e").replace(/\.?0+e/, "e").replace(/-/g, "−");
    return String(Number(value.toPrecision(digits))).replace("-", "−");
  }

  const integer = (value) => grouped.format(value);

  function duration(seconds) {
    if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
    const sign = seconds < 0 ? "−" : "";
    const s = Math.abs(seconds);
    if (s < 60) return `${sign}${s < 10 ? Number(s.toFixed(2)) : Number(s.toFixed(1))} s`;
    const parts = [Math.floor(s / 86400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60, Math.floor(s) % 60];
    const units = ["d", "h", "m", "s"];
    const first = parts.findIndex((part) => part > 0);
    return sign + parts.slice(first, first + 2).map((part, i) => `${part}${units[first + i]}`).join(" ");
  }

  function moment(seconds) {
    if (seconds === null || seconds === undefined) return "";
    const date = new Date(seconds * 1000);
    const two = (n) => String(n).padStart(2, "0");
    return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  }

  /** A value of a config or summary (payload.py's json_value) as text. */
  function value(written) {
    if (written === undefined) return "";
    if (written === null) return "null";
    if (typeof written === "number") return number(written, 6);
    if (typeof written === "object") return "number" in written ? written.number : String(written.json);
    return String(written);
  }

  const UNITS = [
    ["_bytes_per_second", "B/s", 1024],
    ["_bytes", "B", 1024],
    ["_percent", "%", 0],
    ["_celsius", "°C", 0],
    ["_watts", "W", 0],
    ["_mhz", "MHz", 0],
    ["_seconds", "s", 0],
  ];

  /** The unit that a metric's name carries: {suffix, unit, base}; base is 1024 for bytes. */
  function unit(metric) {
    const found = UNITS.find(([suffix]) => metric.endsWith(suffix));
    return found ? { suffix: found[0], unit: found[1], base: found[2] } : { suffix: "", unit: "", base: 0 };
  }

  function withUnit(value, { unit: name, base }) {
    if (typeof value !== "number" || !Number.isFinite(value)) return number(value);
    if (base !== 1024) return name ? `${number(value, 4)} ${name}` : number(value);
    const power = Math.min(5, Math.max(0, Math.floor(Math.log2(Math.max(1, Math.abs(value))) / 10)));
    return `${number(value / 1024 ** power, 4)} ${["", "Ki", "Mi", "Gi", "Ti", "Pi"][power]}${name}`;
  }

  /** element("td", {class: "x", title: "y", on: {click: f}}, "text", child …): attributes and text nodes, no markup. */
  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, given] of Object.entries(attributes)) {
      if (given === undefined || given === null || given === false) continue;
      if (key === "on") for (const [event, handler] of Object.entries(given)) made.addEventListener(event, handler);
      else if (key === "colour") made.style.setProperty("--run", given);
      else made.setAttribute(key, given === true ? "" : given);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  return { number, integer, duration, moment, value, unit, withUnit, element };
})();
