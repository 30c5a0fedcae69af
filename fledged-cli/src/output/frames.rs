//! Text on a terminal that is drawn again and again in the same place.

use console::Term;

use crate::command_result::CommandError;

/// Redraws text on stdout.
#[derive(Debug)]
pub(crate) struct Frames {
    terminal: Term,
    /// The lines of the last frame.
    drawn: usize,
}

impl Frames {
    /// `None` if stdout is no terminal that can redraw.
    pub(crate) fn on_stdout() -> Option<Self> {
        let terminal = Term::stdout();
        let redraws =
            terminal.is_term() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        redraws.then_some(Self { terminal, drawn: 0 })
    }

    /// Replaces the last frame.
    pub(crate) fn show(&mut self, text: &str) -> Result<(), CommandError> {
        let (rows, columns) = self.terminal.size();
        let lines = fitting(text, usize::from(rows), usize::from(columns));
        self.draw(&lines).map_err(CommandError::Output)
    }

    fn draw(&mut self, lines: &[String]) -> std::io::Result<()> {
        self.terminal.clear_last_lines(self.drawn)?;
        self.drawn = lines.len();
        for line in lines {
            self.terminal.write_line(line)?;
        }
        self.terminal.flush()
    }
}

/// The lines of a text, cut to that size: a line that wraps, or one above the screen, cannot be cleared.
fn fitting(text: &str, rows: usize, columns: usize) -> Vec<String> {
    let cut = |line: &str| console::truncate_str(line, columns, "…").into_owned();
    let mut lines: Vec<String> = text.lines().map(cut).collect();
    // The cursor is in the row below.
    let room = rows.saturating_sub(1).max(1);
    if lines.len() > room {
        let hidden = lines.len() - room + 1;
        lines.truncate(room - 1);
        lines.push(cut(&format!(
            "… {hidden} more lines do not fit on the screen"
        )));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_on_the_screen() {
        assert_eq!(fitting("a\n\nb\n", 4, 10), ["a", "", "b"]);
        let cut = fitting("one\ntwo\nthree\nfour", 4, 80);
        assert_eq!(
            cut,
            ["one", "two", "… 2 more lines do not fit on the screen"]
        );
        assert_eq!(fitting("abcdef", 4, 4), ["abc…"]);
    }
}
