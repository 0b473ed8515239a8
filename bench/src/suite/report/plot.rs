//! A facet as bars with whiskers from the least round to the most.
//!
//! The colours are those of a light page. [`style`] gives each its twin on a dark one: a style sheet
//! goes before the colours that stand in the drawing.

use std::fmt::Write;

use anyhow::anyhow;
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    super::{Axis, results::digits},
    facet::Facet,
};

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
        let _ = write!(
            dark,
            "svg [fill=\"{}\"],.key .{name}{{fill:{there};background:{there}}}",
            hex(light)
        );
    }
    let mut light = String::new();
    for (name, colour, _) in COLOURS.iter().copied().chain([("other", OTHER.0, OTHER.1)]) {
        let _ = write!(light, ".key .{name}{{background:{}}}", hex(colour));
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

/// How values become heights: evenly, or by their logarithm where they are too far apart.
#[derive(Clone, Copy, Debug)]
struct Scale {
    bottom: f64,
    logarithmic: bool,
}

impl Scale {
    /// For these values, all of them positive where the logarithm is taken.
    fn of(least: f64, most: f64) -> Self {
        /// Above that the smaller of two bars could not be seen.
        const FAR_APART: f64 = 100.0;
        let logarithmic = least > 0.0 && most / least > FAR_APART;
        Self {
            bottom: if logarithmic {
                (least / 2.0).log10()
            } else {
                0.0
            },
            logarithmic,
        }
    }

    fn height(self, value: f64) -> f64 {
        if self.logarithmic {
            value.log10().max(self.bottom)
        } else {
            value
        }
    }

    fn value(self, height: f64) -> f64 {
        if self.logarithmic {
            10_f64.powf(height)
        } else {
            height
        }
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Failure<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

fn bars<'a>(facet: &Facet<'_>, root: &Area<'a>) -> Result<(), Failure<'a>> {
    let figures = |step: &str| {
        let at = facet.contenders.iter();
        at.filter_map(|name| facet.at(step, name))
            .collect::<Vec<_>>()
    };
    let spreads = facet.steps.iter().flat_map(|step| figures(step));
    let spreads: Vec<_> = spreads.map(|figure| figure.spread).collect();
    let finite = |value: f64| Some(value).filter(|value| value.is_finite());
    let most = spreads.iter().filter_map(|spread| finite(spread.max));
    let least = spreads.iter().filter_map(|spread| finite(spread.min));
    let (least, most) = (
        least.fold(f64::INFINITY, f64::min),
        most.fold(0.0, f64::max),
    );
    let scale = Scale::of(least, most);
    let top = if most > 0.0 { scale.height(most) } else { 1.0 };
    let top = scale.bottom + (top - scale.bottom) * 1.15;
    let mut chart = ChartBuilder::on(root)
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..facet.steps.len() as f64, scale.bottom..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_labels(6)
        .y_label_formatter(&|height| digits(scale.value(*height)))
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .label_style(text(12))
        .draw()?;
    let bottom = SIZE.1.cast_signed();
    for (index, step) in facet.steps.iter().enumerate() {
        let place = index as f64;
        let (middle, _) = chart.backend_coord(&(place + 0.5, scale.bottom));
        let label = match facet.axis {
            Axis::Case => step.clone(),
            axis => format!("{step} {}", axis.name()),
        };
        let below = text(12).pos(Pos::new(HPos::Center, VPos::Top));
        root.draw(&Text::new(label, (middle, bottom - 36), below))?;
        let figures = figures(step);
        let width = 0.8 / figures.len().max(1) as f64;
        for (number, figure) in figures.iter().enumerate() {
            let left = place + 0.1 + number as f64 * width;
            let (from, to) = (left + width * 0.06, left + width * 0.94);
            let known = COLOURS.iter().find(|(name, ..)| *name == figure.contender);
            let colour = known.map_or(OTHER.0, |(_, colour, _)| *colour);
            let [min, median, max] = [figure.spread.min, figure.spread.median, figure.spread.max]
                .map(|v| scale.height(v));
            let bar = [(from, scale.bottom), (to, median)];
            chart.draw_series([Rectangle::new(bar, colour.filled())])?;
            let at = left + width / 2.0;
            let whisker = PathElement::new([(at, min), (at, max)], INK.stroke_width(1));
            chart.draw_series([whisker])?;
            let (x, y) = chart.backend_coord(&(at, max));
            let above = text(11).pos(Pos::new(HPos::Center, VPos::Bottom));
            let number = digits(figure.spread.median);
            root.draw(&Text::new(number, (x, y - 2), above))?;
        }
    }
    Ok(())
}

fn text(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

fn hex(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_far_apart_are_drawn_by_their_logarithm() {
        let near = Scale::of(1.0, 50.0);
        assert!(!near.logarithmic && near.bottom == 0.0);
        let far = Scale::of(2.0, 8000.0);
        assert!(far.logarithmic && far.height(2.0) > far.bottom);
        assert!((far.value(far.height(300.0)) - 300.0).abs() < 1e-6);
        assert!(!Scale::of(0.0, 8000.0).logarithmic);
    }
}
