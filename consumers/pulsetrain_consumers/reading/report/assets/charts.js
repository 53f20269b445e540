// One chart: the curves of one metric over the runs, drawn by uPlot, with bands of extremes and marks of NaN and infinities
// drawn under and over them. All charts share the x range and the cursor.
"use strict";
const Charts = (() => {
  const { number, duration, withUnit, unit } = Format;
  const alive = new Set();
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // ---- what is drawn ------------------------------------------------------------------------------------------------

  /** x values of a curve on the chosen axis. Hardware has no steps: the run's clock gives the step of its times. */
  function positions(curve) {
    const run = Data.runs[curve.run];
    const kind = State.chosen.axis;
    if (kind === "step") return curve.axis.steps || stepsAt(run, curve.axis.times);
    return kind === "time" ? curve.axis.times : curve.axis.times.map((time) => run.origin + time);
  }

  function stepsAt(run, times) {
    if (!run.clock) return times;
    const { steps, times: clock } = run.clock.axis;
    const order = sortedOrder(clock);
    const at = order ? Array.from(order, (i) => clock[i]) : clock;
    const step = order ? Array.from(order, (i) => steps[i]) : steps;
    let i = 0;
    return times.map((time) => {
      if (time < at[0] || time > at[at.length - 1]) return NaN;
      while (i > 0 && at[i] > time) i--;
      while (i < at.length - 2 && at[i + 1] < time) i++;
      const width = at[i + 1] - at[i];
      return width > 0 ? step[i] + ((step[i + 1] - step[i]) * (time - at[i])) / width : step[i];
    });
  }

  /** The order that sorts, or null where the values are sorted already. */
  function sortedOrder(values) {
    for (let i = 1; i < values.length; i++) {
      if (!(values[i] >= values[i - 1])) {
        return Uint32Array.from(values.keys()).filter((k) => !Number.isNaN(values[k])).sort((a, b) => values[a] - values[b]);
      }
    }
    return values.length && Number.isNaN(values[0]) ? new Uint32Array() : null;
  }

  /** Exponential moving average, debiased as Adam's moments are, so that the start is not pulled to zero. */
  function smooth(values, weight) {
    if (!weight) return values;
    const out = new Float64Array(values.length);
    let average = 0;
    let bias = 1;
    values.forEach((value, i) => {
      if (Number.isFinite(value)) {
        average = weight * average + (1 - weight) * value;
        bias *= weight;
      }
      out[i] = Number.isFinite(value) ? average / (1 - bias) : NaN;
    });
    return out;
  }

  /** A curve as it stands on the chosen axis: sorted, with `line` smoothed, `original` for each entry its bucket. */
  function lay(curve) {
    let x = positions(curve);
    let { y, lows, highs } = curve;
    const order = sortedOrder(x);
    const pick = (values) => (order && values ? Float64Array.from(order, (i) => values[i]) : values);
    x = pick(x);
    y = pick(y);
    return { curve, x, y, lows: pick(lows) || y, highs: pick(highs) || y, line: smooth(y, State.chosen.smoothing), order };
  }

  const drawable = (value, log) => Number.isFinite(value) && !(log && value <= 0);

  // ---- the chart ----------------------------------------------------------------------------------------------------

  class Chart {
    /** `curves` are one metric's; `log()` says whether this chart's own axis is logarithmic. */
    constructor(holder, metric, curves, height, log) {
      this.holder = holder;
      this.metric = metric;
      this.curves = curves;
      this.unit = unit(metric);
      this.height = height;
      this.log = log;
      this.make();
      alive.add(this);
    }

    make() {
      this.laid = this.curves.map(lay);
      this.isLog = this.log();
      const plot = new uPlot(this.options(), this.aligned(), this.holder);
      this.plot = plot;
      plot.over.addEventListener("mouseenter", () => (Chart.hovered = this));
      plot.over.addEventListener("mouseleave", () => {
        if (Chart.hovered === this) Chart.hovered = null;
        Tooltip.hide();
      });
      // uPlot's own double click shows everything of this chart; here of all charts.
      plot.over.addEventListener("dblclick", () => State.set({ range: null }));
    }

    destroy() {
      alive.delete(this);
      if (Chart.hovered === this) {
        Chart.hovered = null;
        Tooltip.hide();
      }
      this.plot.destroy();
    }

    remake() {
      this.plot.destroy();
      this.make();
    }

    resize(height = this.height) {
      this.height = height;
      const width = this.holder.clientWidth;
      if (width && (width !== this.plot.width || height !== this.plot.height)) this.plot.setSize({ width, height });
    }

    aligned() {
      const tables = this.laid.map(({ x, line }) => [x, Array.from(line, (value) => (drawable(value, this.isLog) ? value : null))]);
      if (!tables.length) return [[], []];
      return tables.length === 1 ? tables[0] : uPlot.join(tables);
    }

    options() {
      const text = css("--muted");
      const font = "11px system-ui, sans-serif";
      const grid = { stroke: css("--grid"), width: 1 };
      const kind = State.chosen.axis;
      const axis = { stroke: text, font, grid, ticks: { show: false }, gap: 6 };
      return {
        width: Math.max(200, this.holder.clientWidth),
        height: this.height,
        padding: [10, 12, 0, 0],
        legend: { show: false },
        focus: { alpha: this.curves.length > 1 ? 0.25 : 1 },
        cursor: {
          drag: { x: true, y: false, setScale: false, dist: 4 },
          sync: { key: "pulsetrain", setSeries: false, scales: ["x", null] },
          focus: { prox: 20 },
          points: { size: 7, width: 1.5, fill: css("--card") },
        },
        scales: {
          x: { time: kind === "clock", range: (_, low, high) => this.xRange(low, high) },
          y: { distr: this.isLog ? 3 : 1, range: () => this.yRange() },
        },
        axes: [
          { ...axis, size: 30, space: 70, values: kind === "clock" ? undefined : (_, ticks) => ticks.map(kind === "time" ? duration : compact) },
          { ...axis, size: (_, values) => 14 + 6.3 * Math.max(3, ...(values || []).map((value) => (value || "").length)), space: 34, values: (plot, ticks) => this.yLabels(ticks) },
        ],
        series: [
          {},
          ...this.curves.map((curve) => ({
            show: State.visible(curve.run),
            stroke: State.colour(curve.run),
            width: 1.6,
            dash: State.dash(curve.run, curve.dash),
            spanGaps: false,
            points: { size: 5, fill: State.colour(curve.run) },
          })),
        ],
        hooks: {
          drawAxes: [(plot) => this.drawUnder(plot)],
          draw: [(plot) => this.drawMarks(plot), (plot) => this.drawAlerts(plot)],
          setCursor: [() => Chart.hovered === this && Tooltip.show(this)],
          setSelect: [(plot) => this.zoom(plot)],
        },
      };
    }

    /** Log axes mark the powers of ten alone where there are many of them. */
    yLabels(ticks) {
      const named = this.isLog && ticks.length > 6 ? ticks.map((tick) => (Number.isInteger(Math.round(Math.log10(tick) * 1e6) / 1e6) ? tick : null)) : ticks;
      return named.map((tick) => (tick === null ? "" : this.unit.base === 1024 ? withUnit(tick, this.unit) : compact(tick)));
    }

    xRange(low, high) {
      if (State.chosen.range) return State.chosen.range;
      if (low === null || high === null) return [0, 1];
      return low === high ? [low - 0.5, high + 0.5] : [low, high];
    }

    /** Over what is shown: the bands (or lines) of the visible runs between the ends of the x range. */
    yRange() {
      const { band, smoothing, outliers, range } = State.chosen;
      const lines = [];
      let low = Infinity;
      let high = -Infinity;
      for (const { curve, x, y, lows, highs, line } of this.laid) {
        if (!State.visible(curve.run)) continue;
        for (let i = 0; i < x.length; i++) {
          if (range && (x[i] < range[0] || x[i] > range[1])) continue;
          const bottom = band ? lows[i] : smoothing ? Math.min(line[i], y[i]) : line[i];
          const top = band ? highs[i] : smoothing ? Math.max(line[i], y[i]) : line[i];
          if (drawable(bottom, this.isLog) && bottom < low) low = bottom;
          if (drawable(top, this.isLog) && top > high) high = top;
          if (!outliers && drawable(y[i], this.isLog)) lines.push(y[i]);
        }
      }
      if (lines.length > 20) {
        lines.sort((a, b) => a - b);
        low = lines[Math.floor(lines.length * 0.02)];
        high = lines[Math.ceil(lines.length * 0.98) - 1];
      }
      if (low > high) return this.isLog ? [0.1, 1] : [0, 1];
      if (this.isLog) return low === high ? [low / 2, high * 2] : [low / 1.15, high * 1.15];
      const pad = low === high ? Math.abs(low) * 0.1 || 1 : (high - low) * 0.06;
      // A range that touches zero from above ends there.
      return [low >= 0 && low - pad < 0 ? 0 : low - pad, high + pad];
    }

    zoom(plot) {
      const { left, width } = plot.select;
      if (width < 4) return;
      const range = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
      plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
      State.set({ range });
    }

    rescale() {
      const { x } = this.plot.scales;
      const xs = this.plot.data[0];
      const [low, high] = this.xRange(xs.length ? xs[0] : null, xs.length ? xs[xs.length - 1] : null);
      if (x.min === low && x.max === high) this.plot.redraw(true, false);
      this.plot.setScale("x", { min: low, max: high });
    }

    /** Clips to the plot's area and calls `draw(context, laid)` for each visible curve. */
    each(plot, draw) {
      const { ctx: context, bbox } = plot;
      context.save();
      context.beginPath();
      context.rect(bbox.left, bbox.top, bbox.width, bbox.height);
      context.clip();
      for (const laid of this.laid) {
        if (!State.visible(laid.curve.run)) continue;
        const { focus } = State.chosen;
        context.globalAlpha = focus === null || focus === laid.curve.run ? 1 : 0.2;
        context.strokeStyle = context.fillStyle = State.colour(laid.curve.run);
        draw(context, laid);
      }
      context.restore();
    }

    /** Under the lines: the band from the lowest to the highest point of each bucket, and what smoothing smoothed. */
    drawUnder(plot) {
      const { band, smoothing } = State.chosen;
      const across = (value) => plot.valToPos(value, "x", true);
      const up = (value) => plot.valToPos(this.isLog ? Math.max(value, plot.scales.y.min / 10) : value, "y", true);
      this.each(plot, (context, { curve, x, y, lows, highs }) => {
        const alpha = context.globalAlpha;
        if (band && !curve.exact) {
          context.globalAlpha = alpha * (this.curves.length > 12 ? 0.1 : 0.2);
          for (const [from, to] of stretches(lows)) {
            context.beginPath();
            for (let i = from; i < to; i++) context.lineTo(across(x[i]), up(highs[i]));
            for (let i = to - 1; i >= from; i--) context.lineTo(across(x[i]), up(lows[i]));
            context.closePath();
            context.fill();
            // A band one bucket wide, or flat, must be seen too.
            context.lineWidth = devicePixelRatio;
            context.stroke();
          }
        }
        if (smoothing) {
          context.globalAlpha = alpha * 0.28;
          context.lineWidth = devicePixelRatio;
          for (const [from, to] of stretches(y)) {
            context.beginPath();
            for (let i = from; i < to; i++) context.lineTo(across(x[i]), up(y[i]));
            context.stroke();
          }
        }
      });
    }

    /** NaN: a cross at the foot of the plot. Infinities: an arrow at the edge that they left by. */
    drawMarks(plot) {
      const { bbox } = plot;
      const size = 4 * devicePixelRatio;
      this.each(plot, (context, { curve }) => {
        if (!curve.strange.length) return;
        const x = positions(curve);
        context.lineWidth = 1.6 * devicePixelRatio;
        const room = 3 * size;
        const free = { nan: -Infinity, up: -Infinity, down: -Infinity };
        // Marks that would cover one another are one mark: a stretch of NaN is a row of crosses.
        const fits = (kind, count, at) => count > 0 && Math.abs(at - free[kind]) >= room && ((free[kind] = at), true);
        for (const [index, nans, up, down] of curve.strange) {
          const at = plot.valToPos(x[index], "x", true);
          const foot = bbox.top + bbox.height - 2 * size;
          const head = bbox.top + 2 * size;
          if (fits("nan", nans, at)) {
            context.beginPath();
            context.moveTo(at - size, foot - size);
            context.lineTo(at + size, foot + size);
            context.moveTo(at - size, foot + size);
            context.lineTo(at + size, foot - size);
            context.stroke();
          }
          if (fits("up", up, at)) arrow(context, at, head, size, -1);
          if (fits("down", down, at)) arrow(context, at, foot, size, 1);
        }
      });
    }

    /** Alerts: a dashed line where each began, with a flag at its head. */
    drawAlerts(plot) {
      const { ctx: context, bbox } = plot;
      const size = 5 * devicePixelRatio;
      context.save();
      context.lineWidth = devicePixelRatio;
      for (const [alert, x] of Alerts.on(this.metric, this.curves)) {
        if (x < plot.scales.x.min || x > plot.scales.x.max) continue;
        const at = plot.valToPos(x, "x", true);
        context.strokeStyle = context.fillStyle = Alerts.colour(alert);
        context.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
        context.beginPath();
        context.moveTo(at, bbox.top);
        context.lineTo(at, bbox.top + bbox.height);
        context.stroke();
        context.beginPath();
        // Towards the inside, at the right end too.
        const side = at + 2 * size > bbox.left + bbox.width ? -1 : 1;
        context.moveTo(at, bbox.top - size * 0.4);
        context.lineTo(at + side * 2 * size, bbox.top + size * 0.5);
        context.lineTo(at, bbox.top + size * 1.4);
        context.closePath();
        context.fill();
      }
      context.restore();
    }

    /** The alerts within a few pixels of the pointer. */
    alerts() {
      const { left } = this.plot.cursor;
      return Alerts.on(this.metric, this.curves).filter(([, x]) => Math.abs(this.plot.valToPos(x, "x") - left) < 8).map(([alert]) => alert);
    }

    /** What the curves say at the cursor, the nearest to the pointer first: [{curve, index, value, distance}]. */
    readings() {
      const { left, top, idx } = this.plot.cursor;
      if (idx === null || idx === undefined || left < 0) return [];
      const at = this.plot.posToVal(left, "x");
      const reach = (this.plot.scales.x.max - this.plot.scales.x.min) * 0.05;
      return this.laid
        .filter(({ curve, x }) => State.visible(curve.run) && x.length)
        .map((laid) => {
          const index = nearest(laid.x, at);
          const value = laid.line[index];
          return { ...laid, index, value, away: Math.abs(laid.x[index] - at), distance: Math.abs(this.plot.valToPos(value, "y") - top) };
        })
        .filter(({ away, x }) => away <= reach || x.length === 1)
        .sort((a, b) => (a.distance || 0) - (b.distance || 0));
    }
  }
  Chart.hovered = null;

  /** [from, to) stretches of entries that are numbers. */
  function* stretches(values) {
    let from = -1;
    for (let i = 0; i <= values.length; i++) {
      const there = i < values.length && Number.isFinite(values[i]);
      if (there && from < 0) from = i;
      if (!there && from >= 0) {
        yield [from, i];
        from = -1;
      }
    }
  }

  function arrow(context, x, y, size, direction) {
    context.beginPath();
    context.moveTo(x, y + direction * size);
    context.lineTo(x - size, y - direction * size * 0.6);
    context.lineTo(x + size, y - direction * size * 0.6);
    context.closePath();
    context.fill();
  }

  function nearest(sorted, at) {
    let low = 0;
    let high = sorted.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (sorted[middle] < at) low = middle;
      else high = middle;
    }
    return Math.abs(sorted[low] - at) <= Math.abs(sorted[high] - at) ? low : high;
  }

  /** Short enough for an axis. */
  function compact(value) {
    if (value === null || value === undefined) return "";
    const size = Math.abs(value);
    if (size >= 1e9 || (size > 0 && size < 1e-3)) return number(value, 4);
    if (size >= 1e6) return `${number(value / 1e6, 4)}M`;
    if (size >= 1e4) return `${number(value / 1e3, 5)}k`;
    return number(value, 6);
  }

  // ---- what the reader changes --------------------------------------------------------------------------------------

  State.listen((names) => {
    const remake = ["axis", "log", "theme"].some((name) => names.has(name));
    for (const chart of alive) {
      if (remake) {
        chart.remake();
        continue;
      }
      if (names.has("hidden")) chart.curves.forEach((curve, i) => chart.plot.series[i + 1].show !== State.visible(curve.run) && chart.plot.setSeries(i + 1, { show: State.visible(curve.run) }));
      if (names.has("smoothing")) {
        chart.laid.forEach((laid) => (laid.line = smooth(laid.y, State.chosen.smoothing)));
        chart.plot.setData(chart.aligned(), false);
      }
      if (names.has("focus")) chart.curves.forEach((curve, i) => (chart.plot.series[i + 1].alpha = State.chosen.focus === null || State.chosen.focus === curve.run ? 1 : 0.2));
      if (["hidden", "smoothing", "range", "band", "outliers", "focus"].some((name) => names.has(name))) chart.rescale();
    }
  });

  return { Chart, alive, smooth };
})();
