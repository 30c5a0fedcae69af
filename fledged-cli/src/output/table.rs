//! Tables for people.

use std::fmt::Write as _;

use crate::printable::on_one_line;

/// On which side a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a header, every column as wide as its widest cell.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with those columns.
    #[must_use]
    pub fn new(columns: &[(&str, Align)]) -> Self {
        Self {
            columns: columns
                .iter()
                .map(|(name, align)| ((*name).to_owned(), *align))
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; cells beyond the columns are left out, and what does not print is escaped.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(
            cells
                .into_iter()
                .take(self.columns.len())
                .map(|cell| on_one_line(&cell).into_owned())
                .collect(),
        );
    }

    /// The whole table, each line ended by a line feed. Columns that are empty in every row are
    /// left out.
    #[must_use]
    pub fn render(&self) -> String {
        let cell = |row: &[String], i: usize| row.get(i).cloned().unwrap_or_default();
        let shown: Vec<(usize, usize, Align)> = self
            .columns
            .iter()
            .enumerate()
            .filter_map(|(i, (name, align))| {
                let widest = self
                    .rows
                    .iter()
                    .map(|row| console::measure_text_width(&cell(row, i)))
                    .max()
                    .unwrap_or(0);
                (widest > 0 || self.rows.is_empty()).then(|| (i, widest.max(name.len()), *align))
            })
            .collect();
        let header: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let mut out = String::new();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for (i, width, align) in &shown {
                let text = cell(row, *i);
                let space = " ".repeat(width.saturating_sub(console::measure_text_width(&text)));
                let _ = match align {
                    Align::Left => write!(line, "{text}{space}   "),
                    Align::Right => write!(line, "{space}{text}   "),
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&[("IMAGE", Align::Left), ("SIZE", Align::Right)]);
        table.row(["a".to_owned(), "1 B".to_owned()]);
        table.row(["longer-name".to_owned(), "100 B".to_owned()]);
        assert_eq!(
            table.render(),
            "IMAGE          SIZE\na               1 B\nlonger-name   100 B\n"
        );
    }

    #[test]
    fn a_cell_can_not_steer_the_terminal() {
        let mut table = Table::new(&[("IMAGE", Align::Left)]);
        table.row(["a\u{1b}[31m\nb".to_owned()]);
        assert_eq!(table.render(), "IMAGE\na\\u{1b}[31m\\nb\n");
    }

    #[test]
    fn columns_without_content_are_left_out() {
        let mut table = Table::new(&[("IMAGE", Align::Left), ("REASON", Align::Left)]);
        table.row(["a".to_owned(), String::new()]);
        assert_eq!(table.render(), "IMAGE\na\n");
    }

    #[test]
    fn an_empty_table_is_its_header() {
        assert_eq!(Table::new(&[("IMAGE", Align::Left)]).render(), "IMAGE\n");
    }
}
