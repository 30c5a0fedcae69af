//! What the demo says, and the commands it shows: on standard output, as their own results are.

use std::fmt::Display;
use std::future::Future;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Parser as _;
use console::{Style, Term};

use super::DemoError;
use crate::args::{Cli, Command};
use crate::cluster;
use crate::commands::print;
use crate::exit::Exit;
use crate::output::{Pane, Terminal};
use crate::printable::printable;

/// Between two drawings of what changes.
const REDRAW: Duration = Duration::from_millis(120);

/// Where the demo is shown.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    pub(super) terminal: Terminal,
    live: bool,
    kubeconfig: String,
}

impl Screen {
    /// The process's own. Commands are given that kubeconfig.
    pub(super) fn new(terminal: &Terminal, kubeconfig: String) -> Self {
        Self {
            terminal: terminal.clone(),
            live: terminal.is_live() && io::stdout().is_terminal(),
            kubeconfig,
        }
    }

    /// Whether what changes can be drawn again and again.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// Lines that there is room for on a terminal.
    pub(super) fn height(&self) -> usize {
        let (lines, _) = Term::stderr().size();
        usize::from(lines)
    }

    /// Begins the first act.
    pub(super) fn first_act(&self, title: &str) -> Result<(), DemoError> {
        let title = Style::new().bold().apply_to(title);
        Ok(print(&format!("{title}\n"))?)
    }

    /// Begins an act.
    pub(super) fn act(&self, title: &str) -> Result<(), DemoError> {
        print("\n")?;
        self.first_act(title)
    }

    /// Says something of the demo's own.
    pub(super) fn say(&self, text: impl Display) -> Result<(), DemoError> {
        let text = text.to_string();
        let lines = text.lines().map(|line| format!("   {}\n", printable(line)));
        Ok(print(&lines.collect::<String>())?)
    }

    /// Shows the result of what was shown.
    pub(super) fn result(&self, text: &str) -> Result<(), DemoError> {
        Ok(print(&format!("{}\n", printable(text.trim_end())))?)
    }

    /// Shows what somebody would type.
    pub(super) fn prompt(&self, line: impl Display) -> Result<(), DemoError> {
        let line = line.to_string();
        let line = Style::new().cyan().apply_to(printable(&line));
        Ok(print(&format!("$ {line}\n"))?)
    }

    /// Shows a command of this program, and runs it as it would be run by itself; it must end with 0.
    pub(super) async fn fledged(&self, args: &[&str]) -> Result<(), DemoError> {
        let line = format!("fledged {}", args.join(" "));
        self.prompt(&line)?;
        let program = ["fledged"].iter().chain(args);
        let all = program.copied().chain(["--kubeconfig", &self.kubeconfig]);
        let exit = match Cli::try_parse_from(all) {
            Ok(Cli {
                command: Command::Cluster(command),
                ..
            }) => cluster::dispatch(command, &self.terminal).await?,
            _ => Exit::BadInput,
        };
        match exit {
            Exit::Done => Ok(()),
            exit => Err(DemoError::Ended { line, exit }),
        }
    }

    /// Draws what `look` sees while `work` goes on, if that is a terminal.
    pub(super) async fn while_drawing<T, F>(
        &self,
        mut look: impl FnMut() -> F,
        work: impl Future<Output = T>,
    ) -> T
    where
        F: Future<Output = Option<String>>,
    {
        let pane = self.live.then(|| Pane::open(&self.terminal)).flatten();
        let Some(pane) = pane else {
            return work.await;
        };
        let drawing = async {
            loop {
                if let Some(text) = look().await {
                    pane.show(text);
                }
                tokio::time::sleep(REDRAW).await;
            }
        };
        tokio::select! {
            done = work => done,
            () = drawing => std::future::pending().await,
        }
    }
}
