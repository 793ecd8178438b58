//! The figures: a line of JSON each, and a table at the end.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use serde_json::{Map, Value, json};

use crate::stats::{median, spread};

/// What was measured again and again: ours or the peer's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    /// One value per run or slice.
    pub(crate) values: Vec<f64>,
    /// CPU of everybody concerned per unit of work, in microseconds, per run or slice; empty where it means nothing.
    pub(crate) cpu_us: Vec<f64>,
}

/// One figure.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// Its name, fixed for ever.
    pub(crate) bench: String,
    /// What it counts.
    pub(crate) unit: &'static str,
    /// Ours.
    pub(crate) ours: Series,
    /// What one would use instead, with its name.
    pub(crate) peer: Option<(&'static str, Series)>,
    /// Further fields of the line.
    pub(crate) more: Vec<(&'static str, Value)>,
}

/// The figures so far, written as they come.
#[derive(Debug)]
pub(crate) struct Report {
    file: File,
    figures: Vec<Figure>,
}

// === impl Series ===

impl Series {
    pub(crate) fn of(value: f64) -> Self {
        Self {
            values: vec![value],
            cpu_us: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, value: f64, cpu_us: f64) {
        self.values.push(value);
        self.cpu_us.push(cpu_us);
    }

    fn value(&self) -> f64 {
        median(&self.values)
    }
}

// === impl Figure ===

impl Figure {
    /// Ours divided by the peer's.
    fn ratio(&self) -> Option<f64> {
        let (_, peer) = self.peer.as_ref()?;
        (peer.value() != 0.0).then(|| self.ours.value() / peer.value())
    }

    /// The ratios of neighbouring slices or runs, least and greatest, where there are as many of both.
    fn ratios(&self) -> Vec<f64> {
        match &self.peer {
            Some((_, peer)) if peer.values.len() == self.ours.values.len() => {
                let pairs = self.ours.values.iter().zip(&peer.values);
                pairs.map(|(ours, theirs)| ours / theirs).collect()
            }
            _ => Vec::new(),
        }
    }

    /// CPU per unit, ours divided by the peer's.
    fn cpu_ratio(&self) -> Option<f64> {
        let (_, peer) = self.peer.as_ref()?;
        let theirs = median(&peer.cpu_us);
        (theirs > 0.0 && !self.ours.cpu_us.is_empty()).then(|| median(&self.ours.cpu_us) / theirs)
    }

    fn line(&self) -> Value {
        let mut line = Map::new();
        let mut put = |name: &str, value: Value| {
            line.insert(name.to_owned(), value);
        };
        put("bench", json!(self.bench));
        put("value", json!(rounded(self.ours.value())));
        put("unit", json!(self.unit));
        put("peer", json!(self.peer.as_ref().map(|(name, _)| name)));
        let theirs = self.peer.as_ref().map(|(_, peer)| rounded(peer.value()));
        put("peer_value", json!(theirs));
        put("ratio", json!(self.ratio().map(rounded)));
        let (least, greatest) = spread(&self.ours.values);
        put("n", json!(self.ours.values.len()));
        put("min", json!(rounded(least)));
        put("max", json!(rounded(greatest)));
        if let Some((_, peer)) = &self.peer {
            let (least, greatest) = spread(&peer.values);
            put("peer_min", json!(rounded(least)));
            put("peer_max", json!(rounded(greatest)));
        }
        let ratios = self.ratios();
        if !ratios.is_empty() {
            let (least, greatest) = spread(&ratios);
            put("ratio_min", json!(rounded(least)));
            put("ratio_max", json!(rounded(greatest)));
            put("ratio_of_pairs", json!(rounded(median(&ratios))));
        }
        if !self.ours.cpu_us.is_empty() {
            put("cpu_us", json!(rounded(median(&self.ours.cpu_us))));
        }
        if let Some((_, peer)) = self.peer.as_ref().filter(|(_, p)| !p.cpu_us.is_empty()) {
            put("peer_cpu_us", json!(rounded(median(&peer.cpu_us))));
        }
        if let Some(ratio) = self.cpu_ratio() {
            put("cpu_ratio", json!(rounded(ratio)));
        }
        for (name, value) in &self.more {
            put(name, value.clone());
        }
        Value::Object(line)
    }
}

// === impl Report ===

impl Report {
    /// An empty report that writes to `path`; what stood there is gone.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let doing = || format!("cannot write {}", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(doing)?;
        }
        Ok(Self {
            file: File::create(path).with_context(doing)?,
            figures: Vec::new(),
        })
    }

    /// Takes a figure, and writes it at once: what comes later may fail.
    pub(crate) fn add(&mut self, figure: Figure) -> Result<()> {
        let line = figure.line();
        writeln!(self.file, "{line}").context("cannot write the figures")?;
        println!("  {line}");
        self.figures.push(figure);
        Ok(())
    }

    /// Everything, for people.
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header([
            "figure",
            "value",
            "[min..max]",
            "unit",
            "peer",
            "value",
            "[min..max]",
            "ratio",
            "[min..max]",
            "CPU us",
            "peer's",
            "CPU ratio",
        ]);
        for figure in &self.figures {
            let range = |values: &[f64]| match values.len() {
                0 | 1 => String::new(),
                _ => {
                    let (least, greatest) = spread(values);
                    format!("[{}..{}]", short(least), short(greatest))
                }
            };
            let cpu = |series: &Series| match series.cpu_us.is_empty() {
                true => String::new(),
                false => short(median(&series.cpu_us)),
            };
            let optional = |value: Option<f64>| value.map(short).unwrap_or_default();
            let peer = figure.peer.as_ref().map(|(_, peer)| peer);
            table.add_row([
                figure.bench.clone(),
                short(figure.ours.value()),
                range(&figure.ours.values),
                figure.unit.to_owned(),
                figure.peer.as_ref().map_or("", |(name, _)| name).to_owned(),
                optional(peer.map(Series::value)),
                peer.map(|peer| range(&peer.values)).unwrap_or_default(),
                optional(figure.ratio()),
                range(&figure.ratios()),
                cpu(&figure.ours),
                peer.map(cpu).unwrap_or_default(),
                optional(figure.cpu_ratio()),
            ]);
        }
        table
    }
}

/// Four places are more than any of this is good for.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 10_000.0 => format!("{:.0} k", value / 1_000.0),
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
