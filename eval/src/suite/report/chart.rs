//! Charts as SVG, by `plotters`, which needs no fonts of the system for it.

use eyre::{Result, eyre};
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;

use crate::suite::book::{Book, Page};
use crate::suite::soak::Soak;
use crate::suite::stage::QUANTILES;

const SIZE: (u32, u32) = (560, 320);
const FONT: (&str, u32) = ("sans-serif", 12);
const COLORS: [RGBColor; 5] = [
    RGBColor(0x33, 0x66, 0x99),
    RGBColor(0xcc, 0x66, 0x33),
    RGBColor(0x55, 0x99, 0x55),
    RGBColor(0x88, 0x55, 0x99),
    RGBColor(0x88, 0x88, 0x88),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Of a scenario: a curve for each case that is a distribution, and a chart of each metric that is not, over all cases.
pub(super) fn of(book: &Book, scenario: &str) -> Result<Vec<String>> {
    let mut charts = Vec::new();
    let targets = book.distinct(scenario, |series| &series.target);
    for case in book.distinct(scenario, |series| &series.case) {
        let page = Page { scenario, case };
        let curves: Vec<(String, Vec<f64>)> = targets
            .iter()
            .filter_map(|target| {
                let at = |(name, _)| Some(book.find(page, target, name)?.spread()?.median);
                Some((
                    (*target).to_owned(),
                    QUANTILES.into_iter().map(at).collect::<Option<Vec<f64>>>()?,
                ))
            })
            .collect();
        if !curves.is_empty() {
            charts.push(distribution(case, &curves)?);
        }
    }
    for metric in book.distinct(scenario, |series| &series.metric) {
        if QUANTILES.iter().any(|(name, _)| *name == metric) {
            continue;
        }
        let of_metric =
            book.series.iter().filter(|of| of.scenario == scenario && of.metric == metric);
        let bars: Vec<(String, f64)> = of_metric
            .clone()
            .filter_map(|of| Some((format!("{}: {}", of.case, of.target), of.spread()?.median)))
            .collect();
        let unit = of_metric.clone().next().map_or("", |of| of.unit.as_str());
        charts.push(self::bars(metric, unit, &bars)?);
        charts.extend(by_size(book, scenario, metric, unit)?);
    }
    Ok(charts)
}

/// The octets that a case begins with, such as `64 KiB, QoS 0, flood`, and the rest.
fn size_of(case: &str) -> Option<(f64, &str)> {
    let (size, rest) = case.split_once(", ")?;
    let (number, unit) = size.split_once(' ')?;
    let octets = number.parse::<f64>().ok()?;
    match unit {
        "B" => Some((octets, rest)),
        "KiB" => Some((octets * 1_024.0, rest)),
        _ => None,
    }
}

/// A curve over the sizes of messages, for each kind of traffic of which three sizes or more were measured.
fn by_size(book: &Book, scenario: &str, metric: &str, unit: &str) -> Result<Vec<String>> {
    let cases = book.distinct(scenario, |series| &series.case);
    let mut kinds: Vec<&str> = Vec::new();
    for (_, kind) in cases.iter().filter_map(|case| size_of(case)) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let targets = book.distinct(scenario, |series| &series.target);
    let mut charts = Vec::new();
    for kind in kinds {
        let curve = |target: &&str| {
            let point = |case: &&str| {
                let (octets, of) = size_of(case)?;
                let series = book.find(Page { scenario, case }, target, metric)?;
                (of == kind).then_some((octets, series.spread()?.median))
            };
            let mut points: Vec<(f64, f64)> = cases.iter().filter_map(point).collect();
            points.sort_by(|one, other| one.0.total_cmp(&other.0));
            ((*target).to_owned(), points)
        };
        let curves: Vec<_> =
            targets.iter().map(curve).filter(|(_, points)| points.len() > 2).collect();
        if !curves.is_empty() {
            charts.push(sizes(
                &format!("{metric}, {unit}, by octets of a message ({kind})"),
                &curves,
            )?);
        }
    }
    Ok(charts)
}

/// Both axes logarithmic.
fn sizes(title: &str, curves: &[(String, Vec<(f64, f64)>)]) -> Result<String> {
    let ends = |of: fn(&(f64, f64)) -> f64| {
        let all = || curves.iter().flat_map(|(_, points)| points.iter().map(of));
        let least = all().fold(f64::INFINITY, f64::min).max(1e-3);
        (least * 0.8)..(all().fold(least * 2.0, f64::max) * 1.2)
    };
    drawn(SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 14))
            .margin(8)
            .margin_right(24)
            .x_label_area_size(28)
            .y_label_area_size(72)
            .build_cartesian_2d(
                ends(|point| point.0).log_scale(),
                ends(|point| point.1).log_scale(),
            )
            .map_err(failed)?;
        chart
            .configure_mesh()
            .max_light_lines(0)
            .x_label_formatter(&|value| super::number(*value))
            .y_label_formatter(&|value| super::number(*value))
            .label_style(FONT)
            .draw()
            .map_err(failed)?;
        for (name, points) in curves {
            let color = color_of(name);
            chart
                .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))
                .map_err(failed)?
                .label(name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2))
                });
        }
        legend(&mut chart)
    })
}

/// Draws into a text.
fn drawn(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

fn failed(error: impl std::fmt::Display) -> eyre::Report {
    eyre!("a chart could not be drawn: {error}")
}

/// Quantiles of each target, on a logarithmic axis: what is rare is where proxies differ.
fn distribution(case: &str, curves: &[(String, Vec<f64>)]) -> Result<String> {
    let all = || curves.iter().flat_map(|(_, values)| values.iter().copied());
    let least = all().fold(f64::INFINITY, f64::min).max(1.0);
    let most = all().fold(least * 2.0, f64::max);
    drawn(SIZE, |area| {
        let last = QUANTILES.len() as f64 - 1.0;
        let mut chart = ChartBuilder::on(area)
            .caption(format!("{case}, µs"), ("sans-serif", 15))
            .margin(8)
            .margin_right(24)
            .x_label_area_size(28)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..last, (least * 0.8..most * 1.2).log_scale())
            .map_err(failed)?;
        chart
            .configure_mesh()
            .max_light_lines(0)
            .disable_x_mesh()
            .x_labels(QUANTILES.len())
            .x_label_formatter(&|at| quantile_name(*at))
            .y_label_formatter(&|value| super::number(*value))
            .label_style(FONT)
            .draw()
            .map_err(failed)?;
        for (name, values) in curves {
            let color = color_of(name);
            let points = (0_u32..).zip(values).map(|(at, value)| (f64::from(at), value.max(1.0)));
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(2)))
                .map_err(failed)?
                .label(name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2))
                });
        }
        legend(&mut chart)
    })
}

fn legend<'a, X, Y>(chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>) -> Result<()>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .label_font(FONT)
        .draw()
        .map_err(failed)
}

fn quantile_name(at: f64) -> String {
    let found = (0_u32..).zip(QUANTILES).find(|(index, _)| (f64::from(*index) - at).abs() < 0.01);
    found.map_or_else(String::new, |(_, (name, _))| name.to_owned())
}

/// Values beside each other, a bar for each, as long as it is beside the others of its case.
pub(super) fn bars(title: &str, unit: &str, bars: &[(String, f64)]) -> Result<String> {
    const ROW: i32 = 20;
    const NAME: i32 = 330;
    const BAR: f64 = 400.0;
    // What is beside each other is to be compared: the targets of one case.
    let group =
        |name: &str| name.rsplit_once(": ").map_or(String::new(), |(case, _)| case.to_owned());
    let most = |of: &str| {
        let beside = bars.iter().filter(|(name, _)| group(name) == group(of));
        beside.map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max)
    };
    let rows = i32::try_from(bars.len())?;
    drawn((860, u32::try_from(ROW * (rows + 2))?), |area| {
        let text =
            |words: String, at: (i32, i32)| area.draw(&Text::new(words, at, FONT)).map_err(failed);
        text(format!("{title}, {unit}"), (4, 4))?;
        for ((name, value), row) in bars.iter().zip(1..) {
            #[allow(clippy::cast_possible_truncation, reason = "at most the width of the chart")]
            let long = (BAR * (value / most(name)).clamp(0.0, 1.0)) as i32;
            let y = ROW * row + 6;
            text(name.clone(), (4, y))?;
            let target = name.rsplit(": ").next().unwrap_or_default();
            let color = color_of(target);
            let bar =
                Rectangle::new([(NAME, y), (NAME + long.max(1), y + ROW - 6)], color.filled());
            area.draw(&bar).map_err(failed)?;
            text(super::number(*value), (NAME + long + 8, y))?;
        }
        Ok(())
    })
}

/// The same target has the same colour in all charts.
fn color_of(target: &str) -> RGBColor {
    let known = ["FlyTrap", "HAProxy", "nginx", "direct"];
    COLORS[known.iter().position(|name| *name == target).unwrap_or(known.len())]
}

/// Resident memory over time.
pub(super) fn soak(soak: &Soak) -> Result<String> {
    let points: Vec<(f64, f64)> = soak
        .looks
        .iter()
        .map(|look| (look.seconds, look.resident_octets as f64 / 1_048_576.0))
        .collect();
    let end = points.last().map_or(1.0, |(seconds, _)| seconds.max(1.0));
    let most = points.iter().map(|(_, octets)| *octets).fold(1.0, f64::max);
    drawn(SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption("resident memory of the gateway, MiB, over seconds", ("sans-serif", 15))
            .margin(8)
            .margin_right(24)
            .x_label_area_size(28)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..end, 0.0..most * 1.2)
            .map_err(failed)?;
        chart.configure_mesh().label_style(FONT).draw().map_err(failed)?;
        chart.draw_series(LineSeries::new(points, &COLORS[0])).map_err(failed).map(drop)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_begin_with_a_size_or_have_none() {
        assert_eq!(size_of("64 KiB, QoS 0, flood"), Some((65_536.0, "QoS 0, flood")));
        assert_eq!(size_of("16 B, QoS 0, flood"), Some((16.0, "QoS 0, flood")));
        for none in ["plain", "1 to 1000", "100 sessions, TLS", "64 B"] {
            assert_eq!(size_of(none), None, "{none}");
        }
    }

    /// Of three sizes a curve over them, of two none.
    #[test]
    fn costs_of_three_sizes_are_a_curve() {
        let mut book = Book::default();
        for case in
            ["16 B, flood", "64 B, flood", "1 KiB, flood", "64 B, batches", "1 KiB, batches"]
        {
            book.put(Page { scenario: "s", case }, "FlyTrap", ("CPU", "ns"), 40.0);
        }
        let charts = by_size(&book, "s", "CPU", "ns").expect("charts");
        assert_eq!(charts.len(), 1);
        assert!(charts[0].contains("by octets of a message (flood)"), "{}", charts[0]);
    }
}
