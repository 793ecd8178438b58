//! `export`: what was written of one user.

use std::path::Path;

use serde::Serialize;

use super::{Form, Grid, json};

/// What stands in `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// His key.
    pub user: String,
    /// What the files are.
    pub format: String,
    /// Each service in which he lives somewhere.
    pub services: Vec<Exported>,
    /// What is kept of him and is not in here.
    pub left_out: Vec<String>,
}

/// What one service keeps of him.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// The service.
    pub service: String,
    /// His home in it.
    pub site: String,
    /// His epoch there.
    pub epoch: i64,
    /// When that was read, by the home's clock (UTC).
    pub read_at: String,
    /// His rows.
    pub tables: Vec<ExportedTable>,
}

/// His rows of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportedTable {
    /// The table.
    pub table: String,
    /// The file, from the folder's own place.
    pub file: String,
    /// How many rows.
    pub rows: u64,
    /// The BLAKE3 hash of the file, in hexadecimal.
    pub blake3: String,
}

/// The manifest, as JSON or as a table.
pub fn render(manifest: &Manifest, folder: &Path, form: Form) -> String {
    if form == Form::Json {
        return json(manifest);
    }
    let mut grid = Grid::new(&["service", "home", "table", ">rows", "file"]);
    for service in &manifest.services {
        for table in &service.tables {
            grid.row([
                service.service.clone(),
                service.site.clone(),
                table.table.clone(),
                table.rows.to_string(),
                folder.join(&table.file).display().to_string(),
            ]);
        }
    }
    let mut text = grid.show(form);
    for left in &manifest.left_out {
        text.push_str(&format!("\nnot in it: {left}"));
    }
    text
}
