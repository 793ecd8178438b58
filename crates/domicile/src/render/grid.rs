//! A table: with lines on a terminal, aligned columns elsewhere.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::Form;

/// Terminals of fewer columns than this get tables as wide as they are.
const NARROW: u16 = 60;

/// A header and rows of as many cells.
#[derive(Clone, Debug)]
pub struct Grid {
    header: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// Columns by their headings; one that begins with `>` is a number's, aligned to the right.
    pub fn new(columns: &[&str]) -> Self {
        Self {
            header: columns
                .iter()
                .map(|c| c.trim_start_matches('>').to_owned())
                .collect(),
            right: columns.iter().map(|c| c.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; a cell for each column.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.header.len(), "a cell for each column");
        self.rows.push(cells.map(|cell| plain(&cell)).into());
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, ending with an end of line.
    pub fn show(&self, form: Form) -> String {
        match form {
            Form::Terminal => self.lined(),
            Form::Plain | Form::Json => self.aligned(),
        }
    }

    fn lined(&self) -> String {
        let mut table = Table::new();
        // Where the terminal does not say how wide it is, or is very narrow, lines break by themselves:
        // that reads better than columns of single letters.
        let arrangement = match table.width() {
            Some(width) if width >= NARROW => ContentArrangement::Dynamic,
            Some(_) | None => ContentArrangement::Disabled,
        };
        table
            .load_style(presets::UTF8_FULL_CONDENSED)
            .set_content_arrangement(arrangement)
            .set_header(&self.header)
            .add_rows(&self.rows);
        for (column, right) in table.column_iter_mut().zip(&self.right) {
            if *right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        format!("{table}\n")
    }

    fn aligned(&self) -> String {
        let rows = || std::iter::once(&self.header).chain(&self.rows);
        let wide = |n: usize| rows().map(|row| row[n].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.header.len()).map(wide).collect();
        let mut out = String::new();
        for row in rows() {
            let cells =
                row.iter().zip(&widths).zip(&self.right).map(
                    |((cell, width), right)| match right {
                        true => format!("{cell:>width$}"),
                        false => format!("{cell:<width$}"),
                    },
                );
            out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            out.push('\n');
        }
        out
    }
}

/// Markets and keys come from the data: no control character of theirs reaches the terminal.
pub(super) fn plain(cell: &str) -> String {
    cell.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let mut grid = Grid::new(&["market", ">users"]);
        grid.row(["Brazil".into(), "5".into()]);
        grid.row(["IN\x1b[31m".into(), "1,200".into()]);
        grid
    }

    #[test]
    fn plain_lines_are_aligned() {
        let mut grid = grid();
        grid.rows.pop();
        assert_eq!(grid.show(Form::Plain), "market  users\nBrazil      5\n");
    }

    #[test]
    fn a_terminal_gets_lines_and_no_control_characters_of_the_data() {
        let shown = grid().show(Form::Terminal);
        assert!(shown.contains('┌') && shown.contains("1,200 │"), "{shown}");
        assert!(!shown.contains('\x1b'), "{shown}");
    }
}
