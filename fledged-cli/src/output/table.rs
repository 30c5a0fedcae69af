//! Tables for people.

use std::fmt::Write as _;

use console::Style;

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
    rows: Vec<Vec<Cell>>,
}

/// A text, and how it looks on a terminal with colours.
#[derive(Debug, Clone, Default)]
struct Cell {
    text: String,
    style: Style,
}

/// How wide each column of a table is; `None`: it is left out.
pub(crate) type Widths = Vec<Option<usize>>;

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
        self.styled_row(cells.into_iter().map(|cell| (cell, Style::new())));
    }

    /// Adds a row with colours, where standard output shows any.
    pub fn styled_row(&mut self, cells: impl IntoIterator<Item = (String, Style)>) {
        let cells = cells.into_iter().take(self.columns.len());
        let cells = cells.map(|(text, style)| Cell {
            text: on_one_line(&text).into_owned(),
            style,
        });
        self.rows.push(cells.collect());
    }

    /// The whole table, each line ended by a line feed. Columns that are empty in every row are
    /// left out.
    #[must_use]
    pub fn render(&self) -> String {
        let widths = self.widths();
        self.header(&widths) + &self.body(&widths)
    }

    /// The widths that fit what is in it.
    pub(crate) fn widths(&self) -> Widths {
        let columns = self.columns.iter().enumerate();
        let widths = columns.map(|(i, (name, _))| {
            let cells = self.rows.iter().filter_map(|row| row.get(i));
            let widest = cells.map(|cell| console::measure_text_width(&cell.text));
            let widest = widest.max().unwrap_or(0);
            (widest > 0 || self.rows.is_empty()).then(|| widest.max(name.len()))
        });
        widths.collect()
    }

    /// The names of the columns, in those widths.
    pub(crate) fn header(&self, widths: &Widths) -> String {
        let names = self.columns.iter().map(|(name, _)| Cell {
            text: name.clone(),
            style: Style::new(),
        });
        self.line(&names.collect::<Vec<_>>(), widths)
    }

    /// The rows, in those widths.
    pub(crate) fn body(&self, widths: &Widths) -> String {
        self.rows.iter().map(|row| self.line(row, widths)).collect()
    }

    fn line(&self, cells: &[Cell], widths: &Widths) -> String {
        let mut line = String::new();
        let empty = Cell::default();
        for (i, ((_, align), width)) in self.columns.iter().zip(widths).enumerate() {
            let Some(width) = width else {
                continue;
            };
            let cell = cells.get(i).unwrap_or(&empty);
            let space = width.saturating_sub(console::measure_text_width(&cell.text));
            let space = " ".repeat(space);
            let text = cell.style.apply_to(&cell.text);
            let _ = match align {
                Align::Left => write!(line, "{text}{space}   "),
                Align::Right => write!(line, "{space}{text}   "),
            };
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
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
