//! Charts, as SVG that needs nothing to be shown: horizontal bars in groups, with the range of the rounds as a whisker.

use std::fmt::Write as _;

use super::Setting;
use super::outcome::{Outcome, Spread};
use super::rows::What;

const LABELS: f64 = 150.0;
const PLOT: f64 = 480.0;
const RIGHT: f64 = 90.0;
const BAR: f64 = 13.0;
const GAP: f64 = 10.0;
const TOP: f64 = 58.0;
/// Dark enough for white paper, light enough for a dark page.
const COLOURS: [&str; 7] = ["#2f7ed8", "#e07b39", "#4a9d5b", "#a85fb5", "#b8a031", "#5fb3b3", "#999999"];

/// One bar.
struct Bar {
    series: usize,
    value: Spread,
}

struct Chart<'a> {
    title: String,
    series: Vec<&'a str>,
    groups: Vec<(String, Vec<Bar>)>,
    /// A line that bars are to be seen against.
    mark: Option<f64>,
    /// Each decade as wide as the next.
    is_log: bool,
}

impl Chart<'_> {
    fn svg(&self) -> String {
        let values = || self.groups.iter().flat_map(|(_, bars)| bars.iter().map(|bar| bar.value));
        let most = values().map(|value| value.most).chain(self.mark).fold(0.0, f64::max).max(1e-9);
        let least = values().map(|value| value.least).filter(|value| *value > 0.0).fold(most, f64::min);
        let floor = 10f64.powf(least.log10().floor());
        let x = |value: f64| {
            let part = if self.is_log {
                (value.max(floor) / floor).ln() / (most / floor).ln().max(1e-9)
            } else {
                value / most
            };
            LABELS + PLOT * part.clamp(0.0, 1.0)
        };
        let height: f64 = TOP + self.groups.iter().map(|(_, bars)| bars.len() as f64 * BAR + GAP).sum::<f64>() + GAP;
        let width = LABELS + PLOT + RIGHT;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"11\" fill=\"#777\">\n<text x=\"8\" y=\"18\" font-size=\"14\">{}</text>\n",
            escape(&self.title)
        );
        let mut at = 8.0;
        for (series, name) in self.series.iter().enumerate() {
            let colour = COLOURS[series % COLOURS.len()];
            let _ = writeln!(
                svg,
                "<rect x=\"{at}\" y=\"30\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{}\" y=\"39\">{}</text>",
                at + 14.0,
                escape(name)
            );
            at += 30.0 + 6.5 * name.len() as f64;
        }
        let mut y = TOP;
        for (label, bars) in &self.groups {
            let middle = y + bars.len() as f64 * BAR / 2.0 + 4.0;
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
                LABELS - 8.0,
                escape(label)
            );
            for Bar { series, value } in bars {
                let colour = COLOURS[series % COLOURS.len()];
                let (end, low, high, centre) = (x(value.median), x(value.least), x(value.most), y + BAR / 2.0 - 1.0);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{LABELS}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                     <path d=\"M{low:.1} {centre}H{high:.1}\" stroke=\"#444\" stroke-width=\"1.5\"/>\
                     <text x=\"{:.1}\" y=\"{}\">{}</text>",
                    end - LABELS,
                    BAR - 2.0,
                    high.max(end) + 5.0,
                    y + BAR - 3.0,
                    number(value.median)
                );
                y += BAR;
            }
            y += GAP;
        }
        if let Some(mark) = self.mark {
            let _ = writeln!(
                svg,
                "<path d=\"M{0:.1} {1}V{height}\" stroke=\"#c33\" stroke-dasharray=\"4 3\"/>",
                x(mark),
                TOP - 6.0
            );
        }
        svg + "</svg>\n"
    }
}

fn number(value: f64) -> String {
    match value {
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// Every chart that there are rows for: its file's name and its text.
pub fn all(outcomes: &[Outcome]) -> Vec<(String, String)> {
    let mut charts = Vec::new();
    for setting in [Setting::Bare, Setting::Production] {
        let is = |outcome: &&Outcome, wanted: &dyn Fn(What) -> bool| {
            outcome.setting == setting && outcome.row().is_some_and(|row| wanted(row.what))
        };
        let of =
            |wanted: &dyn Fn(What) -> bool| outcomes.iter().filter(|outcome| is(outcome, wanted)).collect::<Vec<_>>();
        let costs = of(&|what| matches!(what, What::Cost | What::Chain));
        let (bulk, small): (Vec<_>, Vec<_>) =
            costs.iter().copied().partition(|outcome| outcome.row.contains("64k") || outcome.row.contains("1m"));
        let name = setting.name();
        let mut add = |file: &str, chart: Option<Chart<'_>>| {
            charts.extend(chart.map(|chart| (format!("{file}-{name}.svg"), chart.svg())));
        };
        add("ratios", ratios(format!("CPU per request, Steady's by the best peer's, {name} (less is better)"), &costs));
        add("cost", figures(format!("CPU µs per request, {name}"), &small, false));
        add("bodies", figures(format!("CPU µs per body, {name} (logarithmic)"), &bulk, true));
        let latencies = of(&|what| matches!(what, What::Latency(_)));
        add(
            "latency",
            figures(format!("p99.9 in µs at a part of the best peer's most, {name} (logarithmic)"), &latencies, true),
        );
        add("memory", figures(format!("KiB per idle connection, {name}"), &of(&|what| what == What::Memory), false));
    }
    charts
}

fn ratios<'a>(title: String, outcomes: &[&'a Outcome]) -> Option<Chart<'a>> {
    let groups: Vec<_> = outcomes
        .iter()
        .filter_map(|outcome| Some((outcome.row.clone(), vec![Bar { series: 0, value: outcome.ratio(0)? }])))
        .collect();
    let series = vec!["steady / best peer of the round"];
    (!groups.is_empty()).then_some(Chart { title, series, groups, mark: Some(1.0), is_log: false })
}

fn figures<'a>(title: String, outcomes: &[&'a Outcome], is_log: bool) -> Option<Chart<'a>> {
    let mut series: Vec<&str> = Vec::new();
    let mut groups = Vec::new();
    for outcome in outcomes {
        let mut bars = Vec::new();
        for (at, who) in outcome.who.iter().enumerate() {
            let Some(value) = outcome.figures(at) else { continue };
            let known = series.iter().position(|name| *name == who.name());
            let series = known.unwrap_or_else(|| {
                series.push(who.name());
                series.len() - 1
            });
            bars.push(Bar { series, value });
        }
        if !bars.is_empty() {
            groups.push((outcome.row.clone(), bars));
        }
    }
    (!groups.is_empty()).then_some(Chart { title, series, groups, mark: None, is_log })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_value_and_names_are_escaped() {
        let value = |median| Spread { median, least: median, most: median };
        let bars = |median| vec![Bar { series: 0, value: value(median) }];
        let groups = vec![("a<b".to_owned(), bars(1.0)), ("c".to_owned(), bars(4.0))];
        let chart = Chart { title: "t & u".to_owned(), series: vec!["s"], groups, mark: Some(2.0), is_log: false };
        let svg = chart.svg();
        assert!(svg.contains("a&lt;b") && svg.contains("t &amp; u"));
        assert!(svg.contains("width=\"120.0\"") && svg.contains("width=\"480.0\""), "{svg}");
        assert!(svg.contains("M390.0 52V"), "the mark is half way: {svg}");
    }
}
