//! Charts as SVG, by `plotters`, which needs no fonts of the system for it.

use eyre::{Result, eyre};
use plotters::coord::Shift;
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
    }
    Ok(charts)
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
            .x_label_area_size(28)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..last, (least * 0.8..most * 1.2).log_scale())
            .map_err(failed)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(QUANTILES.len())
            .x_label_formatter(&|at| quantile_name(*at))
            .y_label_formatter(&|value| super::number(*value))
            .label_style(FONT)
            .draw()
            .map_err(failed)?;
        for ((name, values), color) in curves.iter().zip(COLORS.iter().cycle()) {
            let points = (0_u32..).zip(values).map(|(at, value)| (f64::from(at), value.max(1.0)));
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(2)))
                .map_err(failed)?
                .label(name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2))
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .label_font(FONT)
            .draw()
            .map_err(failed)
    })
}

fn quantile_name(at: f64) -> String {
    let found = (0_u32..).zip(QUANTILES).find(|(index, _)| (f64::from(*index) - at).abs() < 0.01);
    found.map_or_else(String::new, |(_, (name, _))| name.to_owned())
}

/// Values beside each other, a bar for each.
pub(super) fn bars(title: &str, unit: &str, bars: &[(String, f64)]) -> Result<String> {
    const ROW: i32 = 20;
    const NAME: i32 = 330;
    const BAR: f64 = 400.0;
    let most = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let rows = i32::try_from(bars.len())?;
    drawn((860, u32::try_from(ROW * (rows + 2))?), |area| {
        let text =
            |words: String, at: (i32, i32)| area.draw(&Text::new(words, at, FONT)).map_err(failed);
        text(format!("{title}, {unit}"), (4, 4))?;
        for ((name, value), row) in bars.iter().zip(1..) {
            #[allow(clippy::cast_possible_truncation, reason = "at most the width of the chart")]
            let long = (BAR * (value / most).clamp(0.0, 1.0)) as i32;
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

/// The same target has the same colour in all charts of bars.
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
            .x_label_area_size(28)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..end, 0.0..most * 1.2)
            .map_err(failed)?;
        chart.configure_mesh().label_style(FONT).draw().map_err(failed)?;
        chart.draw_series(LineSeries::new(points, &COLORS[0])).map_err(failed).map(drop)
    })
}
