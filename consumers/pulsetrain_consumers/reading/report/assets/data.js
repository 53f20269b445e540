// Reads the report's data: the mirror of payload.py. Names and values in it are untrusted: they only ever become text.
"use strict";
const Data = (() => {
  const KINDS = { f4: Float32Array, f8: Float64Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };

  /** A number array of payload.py as a Float64Array. */
  function numbers(written) {
    if (Array.isArray(written)) {
      const [start, stride, count] = written;
      return Float64Array.from({ length: count }, (_, i) => start + stride * i);
    }
    const kind = Object.keys(KINDS).find((name) => name in written);
    const bytes = Uint8Array.from(atob(written[kind]), (character) => character.charCodeAt(0));
    const from = written.from || 0;
    const out = Float64Array.from(new KINDS[kind](bytes.buffer));
    if (from) for (let i = 0; i < out.length; i++) out[i] += from;
    return out;
  }

  /** Defers `make` to the first read of the property: a report may hold fifty thousand curves and show twelve. */
  function lazily(target, name, make) {
    Object.defineProperty(target, name, {
      configurable: true,
      enumerable: true,
      get() {
        const value = make();
        Object.defineProperty(target, name, { value, enumerable: true });
        return value;
      },
    });
  }

  function axis(written) {
    const read = {};
    lazily(read, "steps", () => numbers(written.steps));
    lazily(read, "times", () => numbers(written.times));
    return read;
  }

  function curve(written, axes, metrics) {
    const read = {
      run: written.run,
      metric: metrics[written.metric],
      axis: axes[written.axis],
      points: written.points,
      low: written.low,
      high: written.high,
      last: written.last,
      strange: written.strange || [],
      exact: !written.lows,
      label: "",
      dash: 0,
    };
    for (const name of ["y", "lows", "highs", "counts"]) {
      lazily(read, name, () => (written[name] ? numbers(written[name]) : null));
    }
    for (const name of ["low_steps", "high_steps"]) {
      lazily(read, name, () => {
        if (!written[name]) return null;
        const offsets = numbers(written[name]);
        return offsets.map((offset, i) => read.axis.steps[i] + offset);
      });
    }
    return read;
  }

  function telemetry(written) {
    const read = {
      run: written.run,
      metric: written.metric,
      host: written.host,
      gpu: written.gpu,
      gpuIndex: written.gpu_index,
      strange: [],
      exact: !written.lows,
      label: written.gpu_index >= 0 ? `GPU ${written.gpu_index}` : "",
      dash: Math.max(0, written.gpu_index),
      axis: {},
    };
    lazily(read.axis, "times", () => numbers(written.times));
    for (const name of ["y", "lows", "highs"]) lazily(read, name, () => (written[name] ? numbers(written[name]) : null));
    return read;
  }

  function read(written) {
    const axes = written.axes.map(axis);
    const curves = written.curves.map((one) => curve(one, axes, written.metrics));
    const runs = written.runs.map((run, index) => ({ ...run, index, clock: null }));
    // The run's clock: of its axes the one with most entries; it turns times of the hardware into steps.
    written.curves.forEach((one) => {
      const run = runs[one.run];
      const length = entries(written.axes[one.axis].times);
      if (!run.clock || length > run.clock.length) run.clock = { length, axis: axes[one.axis] };
    });
    return { ...written, runs, curves, telemetry: written.telemetry.map(telemetry) };
  }

  function entries(written) {
    return Array.isArray(written) ? written[2] : Object.values(written).find((value) => typeof value === "string").length;
  }

  return read(JSON.parse(document.getElementById("report-data").textContent));
})();
