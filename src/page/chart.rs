//! Charts as SVG: lines, dots, bars, marked points, between two axes.

use super::escape;
use std::fmt::Write;

/// An axis. Bounds that are not given are those of the data.
#[derive(Clone, Debug, Default)]
pub struct Axis {
    pub label: &'static str,
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// Logarithmic; values that are not above 0 are left out.
    pub log: bool,
}

/// How a series looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Line,
    /// Pale and thin, to stand behind a smoothed one of the same colour.
    Raw,
    /// A line with a dot at each point.
    Dots,
    /// Dashed and grey, not in the legend: what to compare with.
    Guide,
}

/// Points in ascending x; one that is not finite interrupts the line.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    pub look: Look,
    /// 0 to 3.
    pub colour: usize,
}

/// A point to point out.
#[derive(Clone, Debug)]
pub struct Mark {
    pub x: f64,
    pub y: f64,
    pub label: String,
    pub colour: usize,
}

/// A bar from the lower end of the y axis.
#[derive(Clone, Debug)]
pub struct Bar {
    pub from: f64,
    pub to: f64,
    pub height: f64,
    /// Shown where the pointer rests.
    pub note: String,
    /// Paler: rests on few cases.
    pub few: bool,
}

/// A chart with one pair of axes; what is drawn later lies above: bars, series, marks.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    pub title: String,
    /// Below the title; may be empty.
    pub note: String,
    pub x: Axis,
    pub y: Axis,
    pub bars: Vec<Bar>,
    pub series: Vec<Series>,
    pub marks: Vec<Mark>,
}

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 54.0;
const RIGHT: f64 = WIDTH - 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = HEIGHT - 42.0;

/// Larger values, whose differences may overflow, are left out.
const LARGEST: f64 = 1e300;

/// An axis that knows its bounds: of the values, or of their logarithms.
struct Scale {
    low: f64,
    high: f64,
    log: bool,
    /// Where the bounds are in the drawing.
    ends: [f64; 2],
}

impl Scale {
    /// None without a value to show.
    /// `room`: the part of the axis to leave free above the values.
    fn new(axis: &Axis, values: impl Iterator<Item = f64>, ends: [f64; 2], room: f64) -> Option<Self> {
        let mut scale = Scale { low: f64::INFINITY, high: f64::NEG_INFINITY, log: axis.log, ends };
        for value in values {
            let Some(value) = scale.inner(value) else { continue };
            (scale.low, scale.high) = (scale.low.min(value), scale.high.max(value));
        }
        if scale.low > scale.high {
            return None;
        }
        if scale.low == scale.high {
            let around = if scale.log { 0.5 } else { scale.low.abs().max(1.0) / 10.0 };
            (scale.low, scale.high) = (scale.low - around, scale.high + around);
        }
        let given = |bound: Option<f64>| bound.and_then(|bound| scale.inner(bound));
        let low = given(axis.low).unwrap_or(scale.low);
        let high = given(axis.high).unwrap_or(scale.high + room * (scale.high - low));
        Some(if low < high { Scale { low, high, ..scale } } else { scale })
    }

    /// The value on the axis; None where it has no place on any.
    fn inner(&self, value: f64) -> Option<f64> {
        let value = if self.log { value.log10() } else { value };
        (value.abs() <= LARGEST).then_some(value)
    }
    fn place(&self, value: f64) -> Option<f64> {
        let part = (self.inner(value)? - self.low) / (self.high - self.low);
        Some(self.ends[0] + part.clamp(0.0, 1.0) * (self.ends[1] - self.ends[0]))
    }

    /// Values with a round number each, and its text: at most about `most`.
    fn ticks(&self, most: f64) -> Vec<(f64, String)> {
        if self.log && self.high - self.low > 0.5 {
            return self.log_ticks(most);
        }
        let outer = |v: f64| if self.log { 10f64.powf(v) } else { v };
        let (low, high) = (outer(self.low), outer(self.high));
        let step = round_step((high - low) / most);
        multiples(low, high, step).map(|v| (v, text(v, step))).collect()
    }

    /// Powers of ten; where they are few, twice and five times those too.
    fn log_ticks(&self, most: f64) -> Vec<(f64, String)> {
        let span = self.high - self.low;
        let digits: &[f64] = if span <= 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let powers = multiples(self.low.floor(), self.high, (span / most).round().max(1.0));
        let values = powers.flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powf(power)));
        let seen = values.filter(|value| (self.low..=self.high).contains(&value.log10()));
        seen.map(|value| (value, text(value, value))).collect()
    }
}

fn multiples(low: f64, high: f64, step: f64) -> impl Iterator<Item = f64> {
    // A hair more than the bounds, which are rounded themselves.
    let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
    (0..=((last - first).clamp(0.0, 50.0) as usize)).map(move |i| (first + i as f64) * step)
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|digit| digit * power).find(|step| *step >= least).unwrap_or(10.0 * power)
}

/// `value`, a multiple of `step`, with the digits that tell it from its neighbours.
fn text(value: f64, step: f64) -> String {
    let exponent = |v: f64| v.abs().log10().floor();
    if value.abs() < step / 2.0 {
        return "0".into();
    }
    if value.abs() < 1e-3 || value.abs() >= 1e6 {
        let digits = (exponent(value) - exponent(step)).clamp(0.0, 9.0) as usize;
        return format!("{value:.digits$e}");
    }
    let digits = (-exponent(step)).clamp(0.0, 9.0) as usize;
    format!("{value:.digits$}")
}

impl Chart {
    /// A `<figure>`; empty where no point can be shown.
    pub fn html(&self) -> String {
        let points = || self.series.iter().flat_map(|s| s.points.iter().copied());
        let marks = || self.marks.iter().map(|mark| (mark.x, mark.y));
        let bars = || self.bars.iter().flat_map(|bar| [(bar.from, bar.height), (bar.to, bar.height)]);
        let all = || points().chain(marks()).chain(bars()).filter(|(x, y)| x.is_finite() && y.is_finite());
        let x = Scale::new(&self.x, all().map(|(x, _)| x), [LEFT, RIGHT], 0.0);
        let y = Scale::new(&self.y, all().map(|(_, y)| y), [BOTTOM, TOP], 0.04);
        let (Some(x), Some(y)) = (x, y) else { return String::new() };
        let note = if self.note.is_empty() { String::new() } else { format!("<small>{}</small>", escape(&self.note)) };
        format!(
            "<figure><figcaption>{}{note}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{}\" data-x=\"{LEFT} {RIGHT} {} {}\" data-y=\"{BOTTOM} {TOP} {} {} {}\">\n{}</svg>\n{}</figure>\n",
            escape(&self.title),
            escape(&self.summary()),
            x.low,
            x.high,
            y.low,
            y.high,
            u8::from(y.log),
            self.drawing(&x, &y),
            self.legend(),
        )
    }

    /// What a reader who does not see the chart hears.
    fn summary(&self) -> String {
        let mut out = self.title.clone();
        for Series { name, points, .. } in self.series.iter().filter(|s| s.look != Look::Guide) {
            if let (Some((x0, y0)), Some((x1, y1))) = (points.first(), points.last()) {
                let (x0, y0, x1, y1) = (short(*x0), short(*y0), short(*x1), short(*y1));
                let _ = write!(out, "; {name}: {y0} at {x0}, {y1} at {x1}");
            }
        }
        self.marks.iter().for_each(|mark| {
            let _ = write!(out, "; {}: {} at {}", mark.label, short(mark.y), short(mark.x));
        });
        out
    }

    fn drawing(&self, x: &Scale, y: &Scale) -> String {
        let mut out = String::new();
        self.axes(x, y, &mut out);
        self.draw_bars(x, y, &mut out);
        let shown = self.series.iter().filter(|s| s.look != Look::Guide);
        for series in self.series.iter().filter(|s| s.look == Look::Guide) {
            out.push_str(&lines(series, x, y, "guide"));
        }
        for (place, series) in shown.enumerate() {
            let _ = write!(out, "<g class=\"k{}\" data-name=\"{place}\">", series.colour);
            out.push_str(&lines(series, x, y, if series.look == Look::Raw { "line raw" } else { "line" }));
            out.push_str("</g>\n");
        }
        self.marks.iter().for_each(|mark| draw_mark(mark, x, y, &mut out));
        out.push_str("<path class=\"cursor\"/>\n");
        out
    }

    fn axes(&self, x: &Scale, y: &Scale, out: &mut String) {
        for (value, text) in y.ticks(5.0) {
            let Some(at) = y.place(value) else { continue };
            let _ = writeln!(out, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{RIGHT}\"/>");
            let _ =
                writeln!(out, "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", LEFT - 6.0, at + 4.0);
        }
        for (value, text) in x.ticks(6.0) {
            let Some(at) = x.place(value) else { continue };
            let _ = writeln!(out, "<path class=\"frame\" d=\"M{at:.1} {BOTTOM}v4\"/>");
            let _ =
                writeln!(out, "<text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{text}</text>", BOTTOM + 18.0);
        }
        let _ = writeln!(out, "<path class=\"frame\" d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\"/>");
        let (x_name, y_name) = (escape(self.x.label), escape(self.y.label));
        let (middle, height) = ((LEFT + RIGHT) / 2.0, (TOP + BOTTOM) / 2.0);
        let bottom = HEIGHT - 8.0;
        let _ = writeln!(out, "<text x=\"{middle}\" y=\"{bottom}\" text-anchor=\"middle\">{x_name}</text>");
        let _ = writeln!(
            out,
            "<text transform=\"translate(12 {height}) rotate(-90)\" text-anchor=\"middle\">{y_name}</text>"
        );
    }

    fn draw_bars(&self, x: &Scale, y: &Scale, out: &mut String) {
        if self.bars.is_empty() {
            return;
        }
        out.push_str("<g class=\"k0 bars\">\n");
        for bar in &self.bars {
            let (Some(from), Some(to), Some(top)) = (x.place(bar.from), x.place(bar.to), y.place(bar.height)) else {
                continue;
            };
            let (width, height) = ((to - from - 2.0).max(1.0), (BOTTOM - top).max(0.0));
            let class = if bar.few { " class=\"few\"" } else { "" };
            let note = escape(&bar.note);
            let _ = writeln!(
                out,
                "<rect{class} x=\"{:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"><title>{note}</title></rect>",
                from + 1.0
            );
        }
        out.push_str("</g>\n");
    }

    fn legend(&self) -> String {
        let item = |s: &Series| {
            let pale = if s.look == Look::Raw { " pale" } else { "" };
            format!("<li class=\"k{}{pale}\"><span>{}</span></li>", s.colour, escape(&s.name))
        };
        let items: String = self.series.iter().filter(|s| s.look != Look::Guide).map(item).collect();
        if items.is_empty() { items } else { format!("<ul class=\"legend\">{items}</ul>\n") }
    }
}

/// At most four significant digits.
fn short(value: f64) -> String {
    let digits = (3.0 - value.abs().max(1e-300).log10().floor()).clamp(0.0, 9.0) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

/// One polyline for each run of points that can be shown, and their dots.
fn lines(series: &Series, x: &Scale, y: &Scale, class: &str) -> String {
    let placed: Vec<_> = series.points.iter().map(|&(px, py)| x.place(px).zip(y.place(py))).collect();
    let mut out = String::new();
    for run in placed.split(Option::is_none).filter(|run| !run.is_empty()) {
        let points: Vec<String> = run.iter().flatten().map(|(px, py)| format!("{px:.2},{py:.2}")).collect();
        let _ = write!(out, "<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
        if series.look == Look::Dots || (run.len() == 1 && series.look != Look::Guide) {
            for (px, py) in run.iter().flatten() {
                let _ = write!(out, "<circle class=\"dot\" cx=\"{px:.2}\" cy=\"{py:.2}\" r=\"3\"/>");
            }
        }
    }
    out
}

fn draw_mark(mark: &Mark, x: &Scale, y: &Scale, out: &mut String) {
    let (Some(px), Some(py)) = (x.place(mark.x), y.place(mark.y)) else { return };
    let (label, colour) = (escape(&mark.label), mark.colour);
    // Towards the middle, so that the text stays in the drawing.
    let (anchor, side) = if px > (LEFT + RIGHT) / 2.0 { ("end", -9.0) } else { ("start", 9.0) };
    let down = if py < TOP + 24.0 { 20.0 } else { -8.0 };
    let (tx, ty) = (px + side, py + down);
    let _ = writeln!(
        out,
        "<g class=\"k{colour}\"><circle class=\"mark\" cx=\"{px:.2}\" cy=\"{py:.2}\" r=\"5\"/>\
         <text class=\"mark-text\" x=\"{tx:.1}\" y=\"{ty:.1}\" text-anchor=\"{anchor}\">{label}</text></g>"
    );
}
