//! Tables of text with aligned columns.

use std::fmt::Write as _;

use console::Style;

use super::on_one_line;

/// Alignment of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// For words.
    Left,
    /// For numbers.
    Right,
}

/// A header and rows; every column is as wide as its widest cell.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<TableCell>>,
}

/// A text, and its style on a terminal with colours.
#[derive(Debug, Clone, Default)]
struct TableCell {
    text: String,
    style: Style,
}

/// The width of each column; `None` for a column that is not shown.
pub(crate) type Widths = Vec<Option<usize>>;

impl Table {
    /// An empty table with those columns.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        Self {
            columns: columns
                .iter()
                .map(|(name, align)| ((*name).to_owned(), *align))
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, with control characters escaped. Surplus cells are dropped.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.styled_row(cells.into_iter().map(|cell| (cell, Style::new())));
    }

    /// Adds a row with colours.
    pub(crate) fn styled_row(&mut self, cells: impl IntoIterator<Item = (String, Style)>) {
        let cells = cells
            .into_iter()
            .take(self.columns.len())
            .map(|(text, style)| TableCell {
                text: on_one_line(&text).into_owned(),
                style,
            });
        self.rows.push(cells.collect());
    }

    /// The table, without columns that are empty in every row. Every line ends with a line feed.
    pub(crate) fn render(&self) -> String {
        let widths = self.widths();
        self.header(&widths) + &self.body(&widths)
    }

    /// The widths that fit the content.
    pub(crate) fn widths(&self) -> Widths {
        self.columns
            .iter()
            .enumerate()
            .map(|(i, (name, _))| {
                let widest = self
                    .rows
                    .iter()
                    .filter_map(|row| row.get(i))
                    .map(|cell| console::measure_text_width(&cell.text))
                    .max()
                    .unwrap_or(0);
                (widest > 0 || self.rows.is_empty()).then(|| widest.max(name.len()))
            })
            .collect()
    }

    /// The names of the columns, in those widths.
    pub(crate) fn header(&self, widths: &Widths) -> String {
        let names: Vec<TableCell> = self
            .columns
            .iter()
            .map(|(name, _)| TableCell {
                text: name.clone(),
                style: Style::new(),
            })
            .collect();
        self.line(&names, widths)
    }

    /// The rows, in those widths.
    pub(crate) fn body(&self, widths: &Widths) -> String {
        self.rows.iter().map(|row| self.line(row, widths)).collect()
    }

    fn line(&self, cells: &[TableCell], widths: &Widths) -> String {
        let mut line = String::new();
        let empty = TableCell::default();
        for (i, ((_, align), width)) in self.columns.iter().zip(widths).enumerate() {
            let Some(width) = width else {
                continue;
            };
            let cell = cells.get(i).unwrap_or(&empty);
            let padding = " ".repeat(width.saturating_sub(console::measure_text_width(&cell.text)));
            let text = cell.style.apply_to(&cell.text);
            let _ = match align {
                Align::Left => write!(line, "{text}{padding}   "),
                Align::Right => write!(line, "{padding}{text}   "),
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
    fn control_characters_in_cells_are_escaped() {
        let mut table = Table::new(&[("IMAGE", Align::Left)]);
        table.row(["a\u{1b}[31m\nb".to_owned()]);
        assert_eq!(table.render(), "IMAGE\na\\u{1b}[31m\\nb\n");
    }

    #[test]
    fn empty_columns_are_left_out() {
        let mut table = Table::new(&[("IMAGE", Align::Left), ("REASON", Align::Left)]);
        table.row(["a".to_owned(), String::new()]);
        assert_eq!(table.render(), "IMAGE\na\n");
    }

    #[test]
    fn an_empty_table_has_a_header() {
        assert_eq!(Table::new(&[("IMAGE", Align::Left)]).render(), "IMAGE\n");
    }
}
