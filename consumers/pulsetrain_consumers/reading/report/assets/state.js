// What the reader has chosen (axis, smoothing, which runs …), told to whoever listens, and the colours of the runs.
"use strict";
const State = (() => {
  // Okabe and Ito's colours, which people with any kind of colour vision tell apart, darkened or lightened for the ground
  // they stand on. Past eight runs the same colours come again with another dash.
  const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#c0569b", "#c98600", "#3a9bd9", "#7a5c00", "#505a66"];
  const DARK = ["#4aa8e8", "#ff8342", "#2fcb9b", "#ec9ecb", "#f2b632", "#9ad4f8", "#cfbb55", "#b9c1cb"];
  const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
  const listeners = [];
  const chosen = {
    axis: "step",
    smoothing: 0,
    log: false,
    band: true,
    outliers: true,
    search: "",
    range: null,
    hidden: new Set(),
    focus: null,
    theme: "auto",
  };
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  const isDark = () => (chosen.theme === "auto" ? dark.matches : chosen.theme === "dark");
  const colour = (run) => (isDark() ? DARK : LIGHT)[run % LIGHT.length];
  const dash = (run, more = 0) => DASHES[(Math.floor(run / LIGHT.length) + more) % DASHES.length];
  const visible = (run) => !chosen.hidden.has(run);

  /** Changes what is chosen and tells the listeners which names changed. */
  function set(changes) {
    const names = Object.keys(changes);
    Object.assign(chosen, changes);
    listeners.forEach((listen) => listen(new Set(names)));
  }

  function toggle(run) {
    const hidden = new Set(chosen.hidden);
    if (!hidden.delete(run)) hidden.add(run);
    set({ hidden });
  }

  const only = (run) => set({ hidden: new Set(Data.runs.map((one) => one.index).filter((index) => index !== run)) });
  const listen = (listener) => listeners.push(listener);

  dark.addEventListener("change", () => set({ theme: chosen.theme }));
  return { chosen, set, toggle, only, listen, colour, dash, visible, isDark };
})();
