//! The screen as lines of text: a pure function of what is known and what was chosen.

use super::model::{AppRow, Capacity, Detail, HostRow, Latency, Percentiles, Place, Spark, Window};
use super::paint::{Line, Paint, memory, rate, share, spark, thousands, time};

/// What the applications are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Rate,
    Errors,
    Latency,
    InFlight,
    Cpu,
    Memory,
    Name,
}

impl Sort {
    const ALL: [Sort; 7] =
        [Sort::Rate, Sort::Errors, Sort::Latency, Sort::InFlight, Sort::Cpu, Sort::Memory, Sort::Name];

    pub fn next(self) -> Sort {
        let at = Sort::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Sort::ALL[(at + 1) % Sort::ALL.len()]
    }

    fn name(self) -> &'static str {
        match self {
            Sort::Rate => "rate",
            Sort::Errors => "errors",
            Sort::Latency => "latency",
            Sort::InFlight => "in flight",
            Sort::Cpu => "cpu",
            Sort::Memory => "memory",
            Sort::Name => "name",
        }
    }
}

/// What was chosen.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub sort: Sort,
    /// The application that is selected, by name: it stays so while others overtake it.
    pub app: Option<String>,
    /// Only applications whose name holds this.
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    pub paused: bool,
    /// The selected application alone, in detail.
    pub detail: bool,
}

impl Default for Chosen {
    fn default() -> Self {
        let (app, filter) = (None, String::new());
        Chosen { sort: Sort::Rate, app, filter, typing: false, paused: false, detail: false }
    }
}

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub latency: Latency,
    pub detail: Option<Detail>,
    /// Why nothing new comes.
    pub trouble: Option<String>,
}

/// Applications as they are listed.
pub fn sorted<'a>(apps: &'a [AppRow], chosen: &Chosen) -> Vec<&'a AppRow> {
    let mut rows: Vec<&AppRow> = apps.iter().filter(|app| app.name.contains(&chosen.filter)).collect();
    let descending = |a: f64, b: f64| b.total_cmp(&a);
    let p99 = |app: &AppRow| app.now.times().p99_us.unwrap_or(0) as f64;
    rows.sort_by(|a, b| {
        let order = match chosen.sort {
            Sort::Rate => descending(a.now.rate, b.now.rate),
            Sort::Errors => descending(a.now.error_share(), b.now.error_share()),
            Sort::Latency => descending(p99(a), p99(b)),
            Sort::InFlight => b.in_flight.cmp(&a.in_flight),
            Sort::Cpu => descending(a.cpu, b.cpu),
            Sort::Memory => b.memory_bytes.cmp(&a.memory_bytes),
            Sort::Name => std::cmp::Ordering::Equal,
        };
        order.then_with(|| a.name.cmp(&b.name))
    });
    rows
}

/// The whole screen, of `height` lines at most (0: as many as there are).
pub fn screen(known: &Known, chosen: &Chosen, width: usize, height: usize) -> Vec<Line> {
    let mut lines = head(known, width);
    match &known.detail {
        Some(detail) if chosen.detail => lines.extend(detailed(detail, width)),
        _ => {
            lines.push(Line::new());
            lines.extend(hosts(&known.latency.hosts, width));
            lines.push(Line::new());
            let room = if height == 0 { usize::MAX } else { height.saturating_sub(lines.len() + 3) };
            lines.extend(apps(&known.latency, chosen, width, room));
        }
    }
    if height > 0 {
        lines.truncate(height - 1);
        lines.resize(height - 1, Line::new());
        lines.push(keys(known, chosen));
    }
    lines
}

fn head(known: &Known, width: usize) -> Vec<Line> {
    let all = &known.latency.all;
    let (now, times) = (&all.now, all.now.times());
    let mut first = Line::new();
    first.push("steady top", Paint::Strong).push("   ", Paint::Plain);
    first.push(rate(now.rate), Paint::Strong).push(" requests/s   ", Paint::Faint);
    first.push(share(now.error_share()), error_paint(now)).push(" errors", Paint::Faint);
    for (name, us) in [("p50", times.p50_us), ("p90", times.p90_us), ("p99", times.p99_us), ("p99.9", times.p999_us)] {
        first.push(format!("   {name} "), Paint::Faint).push(time(us), time_paint(us));
    }
    let network = now.network.unwrap_or_default().p50_us;
    first.push("   network ", Paint::Faint).push(time(network), Paint::Plain);
    let bars = (width.saturating_sub(24) / 2).min(60);
    let mut second = Line::new();
    second.push("requests ", Paint::Faint);
    second.push(spark(&counts(&all.spark), bars), Paint::Accent);
    second.push("   p99 ", Paint::Faint);
    second.push(spark(&all.spark.p99_us, bars), Paint::Warn);
    vec![first, second]
}

fn counts(spark: &Spark) -> Vec<Option<u64>> {
    spark.requests.iter().map(|count| (*count > 0).then_some(*count)).collect()
}

/// Columns of a table beside its names: how wide each is, 0 for one that is left out on a narrow screen.
fn fit<const N: usize>(mut widths: [usize; N], spared: &[usize], room: usize) -> [usize; N] {
    let total = |widths: &[usize; N]| widths.iter().filter(|width| **width > 0).map(|width| width + 2).sum::<usize>();
    for column in spared {
        if total(&widths) > room + 2 {
            widths[*column] = 0;
        }
    }
    widths
}

/// Puts cells into their columns, to the right of each.
fn columns(line: &mut Line, cells: &[(String, Paint)], widths: &[usize]) {
    for ((text, paint), width) in cells.iter().zip(widths).filter(|(_, width)| **width > 0) {
        let mut text: String = text.chars().take(*width).collect();
        let blanks = " ".repeat(width - text.chars().count());
        text.insert_str(0, &blanks);
        line.push(text, *paint).push("  ", Paint::Plain);
    }
}

const HOST_WIDTHS: [usize; 11] = [9, 8, 7, 7, 9, 7, 7, 8, 6, 10, 17];
/// What hardly changes and is spared first, also for a note: capacity, zone.
const HOST_STANDING: [usize; 2] = [10, 9];
/// What a narrow screen can spare next: memory, queued.
const HOST_SPARED: [usize; 4] = [7, 5, 8, 6];
/// What is said of a host that is silent takes so much.
const HOST_NOTE: usize = 22;

fn hosts(hosts: &[HostRow], width: usize) -> Vec<Line> {
    let name_width = name_width(hosts.iter().map(|host| host.name.as_str()), width);
    let room = width.saturating_sub(name_width + 2);
    let noted = if hosts.iter().any(|host| note(host).is_some()) { HOST_NOTE } else { 0 };
    let widths = fit(HOST_WIDTHS, &HOST_STANDING, room.saturating_sub(noted));
    let widths = fit(widths, &HOST_SPARED, room);
    let titles = ["STATE", "REQ/S", "P50", "P99", "IN FLIGHT", "QUEUED", "CPU", "MEMORY", "APPS", "ZONE", "CAPACITY"];
    let mut lines = vec![title("HOST", name_width, &titles.map(str::to_owned), &widths)];
    for host in hosts {
        let (times, room) = (host.now.times(), host.capacity.unwrap_or_default());
        let mut line = Line::new();
        line.push(&*host.name, Paint::Strong).pad_to(name_width + 2);
        let cells = [
            (host.state.clone(), state_paint(&host.state)),
            (rate(host.now.rate), Paint::Plain),
            (time(times.p50_us), Paint::Plain),
            (time(times.p99_us), time_paint(times.p99_us)),
            (thousands(host.in_flight), Paint::Plain),
            (thousands(host.queued), if host.queued > 0 { Paint::Warn } else { Paint::Plain }),
            (share(host.cpu), Paint::Plain),
            (memory(host.memory_bytes), Paint::Plain),
            (
                if room.apps_max > 0 { format!("{}/{}", host.ready, room.apps_max) } else { thousands(host.ready) },
                Paint::Plain,
            ),
            (host.zone.clone().filter(|zone| !zone.is_empty()).unwrap_or_else(|| "-".to_owned()), Paint::Plain),
            (capacity(room), Paint::Plain),
        ];
        columns(&mut line, &cells, &widths);
        if let Some(note) = note(host) {
            line.push(note, Paint::Warn);
        }
        lines.push(line);
    }
    lines
}

fn note(host: &HostRow) -> Option<String> {
    match host.reported_ms {
        None => Some("has not reported yet".to_owned()),
        Some(ms) => (ms >= 3_000).then(|| format!("reported {} s ago", ms / 1_000)),
    }
}

fn capacity(room: Capacity) -> String {
    match room.cpus {
        0 => memory(room.memory_bytes),
        1 => format!("1 core {}", memory(room.memory_bytes)),
        cores => format!("{cores} cores {}", memory(room.memory_bytes)),
    }
}

const APP_WIDTHS: [usize; 11] = [8, 8, 8, 7, 7, 7, 7, 7, 9, 7, 8];
/// What a narrow screen can spare first: p99.9, p90, memory, the host.
const APP_SPARED: [usize; 6] = [7, 5, 10, 1, 9, 8];

fn apps(latency: &Latency, chosen: &Chosen, width: usize, room: usize) -> Vec<Line> {
    let rows = sorted(&latency.apps, chosen);
    let name_width = name_width(rows.iter().map(|app| app.name.as_str()), width);
    let by = |sort: Sort, title: &str| if sort == chosen.sort { format!("{title}▾") } else { title.to_owned() };
    let titles = [
        "STATE".to_owned(),
        "HOST".to_owned(),
        by(Sort::Rate, "REQ/S"),
        by(Sort::Errors, "ERRORS"),
        "P50".to_owned(),
        "P90".to_owned(),
        by(Sort::Latency, "P99"),
        "P99.9".to_owned(),
        by(Sort::InFlight, "IN FLIGHT").chars().take(9).collect(),
        by(Sort::Cpu, "CPU"),
        by(Sort::Memory, "MEMORY"),
    ];
    let widths = fit(APP_WIDTHS, &APP_SPARED, width.saturating_sub(name_width + 2));
    let mut head = title("APPLICATION", name_width, &titles, &widths);
    let bars = width.saturating_sub(head.width()).min(60);
    if bars >= 8 {
        head.push(format!("P99, LAST {bars} S"), Paint::Faint);
    }
    let mut lines = vec![head];
    if rows.is_empty() {
        let mut line = Line::new();
        let text = if chosen.filter.is_empty() {
            "No application yet. Deploy one: steady deploy PATH --name NAME".to_owned()
        } else {
            format!("No application's name holds {:?}.", chosen.filter)
        };
        line.push(text, Paint::Faint);
        lines.push(line);
    }
    // The selected one stays in sight.
    let selected = rows.iter().position(|app| Some(&app.name) == chosen.app.as_ref());
    let room = room.max(1);
    let first = selected.map_or(0, |at| (at + 1).saturating_sub(room));
    for app in rows.iter().skip(first).take(room) {
        lines.push(app_line(app, Some(&app.name) == chosen.app.as_ref(), name_width, &widths, bars));
    }
    let shown = first + rows.len().saturating_sub(first).min(room);
    let more = rows.len() - shown + latency.active.saturating_sub(latency.apps.len());
    if more > 0 {
        let mut line = Line::new();
        line.push(format!("… and {} more", thousands(more as u64)), Paint::Faint);
        lines.push(line);
    }
    lines
}

fn app_line(app: &AppRow, selected: bool, name_width: usize, widths: &[usize], bars: usize) -> Line {
    let times = app.now.times();
    let mut line = Line::new();
    line.selected = selected;
    line.push(app.name.chars().take(name_width).collect::<String>(), Paint::Strong).pad_to(name_width + 2);
    let host = match &app.places[..] {
        [] => "-".to_owned(),
        [place] => place.host.clone(),
        [place, rest @ ..] => format!("{}+{}", place.host, rest.len()),
    };
    let queued = if app.queued > 0 { format!("{}+{}q", app.in_flight, app.queued) } else { thousands(app.in_flight) };
    let cells = [
        (app.state.clone(), state_paint(&app.state)),
        (host, Paint::Plain),
        (rate(app.now.rate), Paint::Plain),
        (share(app.now.error_share()), error_paint(&app.now)),
        (time(times.p50_us), Paint::Plain),
        (time(times.p90_us), Paint::Plain),
        (time(times.p99_us), time_paint(times.p99_us)),
        (time(times.p999_us), Paint::Plain),
        (queued, if app.queued > 0 { Paint::Warn } else { Paint::Plain }),
        (share(app.cpu), Paint::Plain),
        (memory(app.memory_bytes), Paint::Plain),
    ];
    columns(&mut line, &cells, widths);
    if bars >= 8 {
        line.push(spark(&app.spark.p99_us, bars), Paint::Warn);
    }
    line
}

fn detailed(detail: &Detail, width: usize) -> Vec<Line> {
    let mut lines = vec![Line::new()];
    let mut name = Line::new();
    name.push(&*detail.name, Paint::Strong).push("  ", Paint::Plain);
    name.push(&*detail.state, state_paint(&detail.state));
    lines.push(name);
    lines.extend(detail.places.iter().map(place_line));
    lines.push(Line::new());
    let widths = [9, 9, 7, 8, 8, 8, 8];
    let titles = ["REQUESTS", "REQ/S", "ERRORS", "P50", "P90", "P99", "P99.9"].map(str::to_owned);
    lines.push(title("", 22, &titles, &widths));
    let windows = &detail.windows;
    for (name, window) in [("10 s", &windows.seconds), ("1 min", &windows.minute), ("1 h", &windows.hour)] {
        let rows: [(&str, Option<Percentiles>); 5] = [
            ("total", window.total),
            ("network and edge", window.network),
            ("application", window.application),
            ("waiting there", window.queue),
            ("agent itself", window.own),
        ];
        for (at, (part, times)) in rows.into_iter().enumerate() {
            let mut line = Line::new();
            line.push(if at == 0 { name } else { "" }, Paint::Strong).pad_to(6).push(part, Paint::Faint).pad_to(24);
            let first = |text: String| if at == 0 { text } else { String::new() };
            let times = times.unwrap_or_default();
            let cells = [
                (first(thousands(window.requests)), Paint::Plain),
                (first(rate(window.rate)), Paint::Plain),
                (first(share(window.error_share())), error_paint(window)),
                (time(times.p50_us), Paint::Plain),
                (time(times.p90_us), Paint::Plain),
                (time(times.p99_us), time_paint(times.p99_us)),
                (time(times.p999_us), Paint::Plain),
            ];
            columns(&mut line, &cells, &widths);
            lines.push(line);
        }
    }
    lines.push(Line::new());
    let bars = width.saturating_sub(20).min(60);
    let most = |values: &[Option<u64>]| values.iter().flatten().copied().max();
    let requests = counts(&detail.spark);
    let errors: Vec<Option<u64>> = detail.spark.errors.iter().map(|count| (*count > 0).then_some(*count)).collect();
    for (name, values, paint, top) in [
        ("requests", &requests, Paint::Accent, thousands(most(&requests).unwrap_or(0))),
        ("errors", &errors, Paint::Bad, thousands(most(&errors).unwrap_or(0))),
        ("p50", &detail.spark.p50_us, Paint::Good, time(most(&detail.spark.p50_us))),
        ("p99", &detail.spark.p99_us, Paint::Warn, time(most(&detail.spark.p99_us))),
    ] {
        let mut line = Line::new();
        line.push(name, Paint::Faint).pad_to(10).push(spark(values, bars), paint);
        line.push(format!(" ≤ {top}"), Paint::Faint);
        lines.push(line);
    }
    lines
}

fn place_line(place: &Place) -> Line {
    let mut line = Line::new();
    line.push(format!("  {} ", place.host), Paint::Plain).push(&*place.state, state_paint(&place.state));
    let text = format!(
        "  version {}  {} in flight (at most {})  {} waiting  cpu {}  memory {}",
        place.version,
        place.in_flight,
        place.in_flight_max,
        place.queued,
        share(place.cpu),
        memory(place.memory_bytes)
    );
    line.push(text, Paint::Faint);
    line
}

fn keys(known: &Known, chosen: &Chosen) -> Line {
    let mut line = Line::new();
    if let Some(trouble) = &known.trouble {
        line.push(format!("{trouble}; trying again"), Paint::Bad);
        return line;
    }
    if chosen.typing {
        line.push("only names with: ", Paint::Faint).push(format!("{}▏", chosen.filter), Paint::Strong);
        line.push("   enter done   esc all", Paint::Faint);
        return line;
    }
    if chosen.paused {
        line.push("paused   ", Paint::Warn);
    }
    let text = if chosen.detail {
        "esc back   ↑↓ another   space pause   q quit".to_owned()
    } else {
        format!("↑↓ select   enter details   s sort: {}   / filter   space pause   q quit", chosen.sort.name())
    };
    line.push(text, Paint::Faint);
    line
}

fn title(first: &str, name_width: usize, titles: &[String], widths: &[usize]) -> Line {
    let mut line = Line::new();
    line.push(first, Paint::Faint).pad_to(name_width + 2);
    let cells: Vec<_> = titles.iter().map(|title| (title.clone(), Paint::Faint)).collect();
    columns(&mut line, &cells, widths);
    line
}

fn name_width<'a>(names: impl Iterator<Item = &'a str>, width: usize) -> usize {
    names.map(|name| name.chars().count()).max().unwrap_or(0).clamp(11, (width / 4).clamp(11, 40))
}

fn state_paint(state: &str) -> Paint {
    match state {
        "up" | "ready" => Paint::Good,
        "down" | "crashed" | "failed" => Paint::Bad,
        "cold" | "stopped" => Paint::Faint,
        _ => Paint::Warn,
    }
}

fn error_paint(window: &Window) -> Paint {
    match window.error_share() {
        share if share <= 0.0 => Paint::Plain,
        share if share < 0.01 => Paint::Warn,
        _ => Paint::Bad,
    }
}

/// What people notice (0.1 s), and what they wait for (1 s).
fn time_paint(us: Option<u64>) -> Paint {
    match us.unwrap_or(0) {
        0..100_000 => Paint::Plain,
        100_000..1_000_000 => Paint::Warn,
        _ => Paint::Bad,
    }
}
