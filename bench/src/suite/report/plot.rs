//! A facet as bars with whiskers from the least round to the most.
//!
//! The colours are those of a light page. [`STYLE`] gives each its twin on a dark one: a style sheet
//! goes before the colours that stand in the drawing.

use anyhow::anyhow;
use plotters::prelude::*;

use super::{super::results::digits, facet::Facet};

const SIZE: (u32, u32) = (760, 300);

/// Text and axes; lines that guide the eye.
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const FAINT: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// A contender's colour on a light and on a dark page. They differ in brightness too, for those who
/// print without colours or do not tell them apart.
const COLOURS: [(&str, RGBColor, &str); 7] = [
    ("vswitch", RGBColor(0x0b, 0x5c, 0xad), "#5aa9f0"),
    ("openvswitch", RGBColor(0xe0, 0x7b, 0x1a), "#f0a050"),
    ("openvswitch-afxdp", RGBColor(0xe0, 0x7b, 0x1b), "#f0a051"),
    ("bridge-nftables", RGBColor(0x7a, 0xb0, 0x55), "#98c97a"),
    ("testpmd-io", RGBColor(0x8a, 0x8a, 0x8a), "#a5a5a5"),
    ("xdp-redirect", RGBColor(0xb0, 0x5a, 0xa0), "#cf85c2"),
    ("direct", RGBColor(0x8a, 0x8a, 0x8b), "#a5a5a6"),
];
const OTHER: (RGBColor, &str) = (RGBColor(0x4f, 0x9d, 0x9d), "#7cc4c4");

/// What a page needs for plots: dark colours where dark is preferred, and not on paper.
pub fn style() -> String {
    let mut dark = format!(
        "svg [fill=\"{}\"]{{fill:#e8e8e8}}svg [stroke=\"{0}\"]{{stroke:#e8e8e8}}\
         svg [stroke=\"{}\"]{{stroke:#3c3c3c}}",
        hex(INK),
        hex(FAINT)
    );
    for (name, light, there) in COLOURS.iter().copied().chain([("other", OTHER.0, OTHER.1)]) {
        dark += &format!(
            "svg [fill=\"{}\"],.key .{name}{{fill:{there};background:{there}}}",
            hex(light)
        );
    }
    let mut light = String::new();
    for (name, colour, _) in COLOURS.iter().copied().chain([("other", OTHER.0, OTHER.1)]) {
        light += &format!(".key .{name}{{background:{}}}", hex(colour));
    }
    format!("{light}@media screen and (prefers-color-scheme:dark){{{dark}}}")
}

/// The class of a contender in [`style`].
pub fn class(contender: &str) -> &'static str {
    let known = COLOURS.iter().find(|(name, ..)| *name == contender);
    known.map_or("other", |(name, ..)| name)
}

/// Draws a facet.
///
/// # Errors
/// When it has nothing that can be drawn.
pub fn draw(facet: &Facet<'_>) -> anyhow::Result<String> {
    let mut svg = String::new();
    let failed = |error: &dyn std::fmt::Display| anyhow!("{}: {error}", facet.title());
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        bars(facet, &root).map_err(|error| failed(&error))?;
        root.present().map_err(|error| failed(&error))?;
    }
    Ok(svg)
}

fn bars<'a>(
    facet: &Facet<'_>,
    root: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
    let figures = |step: &str| {
        let at = facet.contenders.iter();
        at.filter_map(|name| facet.at(step, name))
            .collect::<Vec<_>>()
    };
    let all = facet.steps.iter().flat_map(|step| figures(step));
    let most = all
        .map(|figure| figure.spread.max)
        .filter(|max| max.is_finite());
    let most = most.fold(0.0, f64::max);
    let most = if most > 0.0 { most * 1.15 } else { 1.0 };
    let text = |size| ("sans-serif", size).into_font().color(&INK);
    let mut chart = ChartBuilder::on(root)
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..facet.steps.len() as f64, 0.0..most)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_labels(6)
        .y_label_formatter(&|value| digits(*value))
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .label_style(text(12))
        .draw()?;
    let (_, height) = SIZE;
    for (index, step) in facet.steps.iter().enumerate() {
        let place = index as f64;
        let (middle, _) = chart.backend_coord(&(place + 0.5, 0.0));
        let centred = text(12).pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Center,
            plotters::style::text_anchor::VPos::Top,
        ));
        let label = format!(
            "{step}{}",
            if facet.axis == super::super::Axis::Case {
                String::new()
            } else {
                format!(" {}", facet.axis.name())
            }
        );
        root.draw(&Text::new(label, (middle, height as i32 - 36), centred))?;
        let figures = figures(step);
        let width = 0.8 / figures.len().max(1) as f64;
        for (number, figure) in figures.iter().enumerate() {
            let left = place + 0.1 + number as f64 * width;
            let (from, to) = (left + width * 0.06, left + width * 0.94);
            let known = COLOURS.iter().find(|(name, ..)| *name == figure.contender);
            let colour = known.map_or(OTHER.0, |(_, colour, _)| *colour);
            let spread = figure.spread;
            let top = [(from, 0.0), (to, spread.median)];
            chart.draw_series([Rectangle::new(top, colour.filled())])?;
            let at = left + width / 2.0;
            let whisker = [(at, spread.min), (at, spread.max)];
            chart.draw_series([PathElement::new(whisker, INK.stroke_width(1))])?;
            let (x, y) = chart.backend_coord(&(at, spread.max));
            let above = text(11).pos(plotters::style::text_anchor::Pos::new(
                plotters::style::text_anchor::HPos::Center,
                plotters::style::text_anchor::VPos::Bottom,
            ));
            root.draw(&Text::new(digits(spread.median), (x, y - 2), above))?;
        }
    }
    Ok(())
}

fn hex(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}
