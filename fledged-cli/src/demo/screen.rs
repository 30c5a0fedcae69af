//! The demo's output: titles, explanations, and commands with their results, all on stdout.

use std::fmt::Display;
use std::future::Future;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Parser as _;
use console::{Style, Term};

use super::DemoError;
use crate::args::{Cli, Command};
use crate::command_result::{Exit, print};
use crate::output::{Pane, Terminal, printable};
use crate::remote;

/// Interval between redraws.
const REDRAW: Duration = Duration::from_millis(120);

/// The output of the demo.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    pub(super) terminal: Terminal,
    live: bool,
    kubeconfig: String,
}

impl Screen {
    /// The output of this process. Commands use that kubeconfig.
    pub(super) fn new(terminal: &Terminal, kubeconfig: String) -> Self {
        Self {
            terminal: terminal.clone(),
            live: terminal.is_live() && io::stdout().is_terminal(),
            kubeconfig,
        }
    }

    /// Whether text can be redrawn.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// Number of lines of the terminal.
    pub(super) fn height(&self) -> usize {
        let (lines, _) = Term::stderr().size();
        usize::from(lines)
    }

    /// Prints the title of the first step.
    pub(super) fn first_step(&self, title: &str) -> Result<(), DemoError> {
        let title = Style::new().bold().apply_to(title);
        Ok(print(&format!("{title}\n"))?)
    }

    /// Prints the title of a step.
    pub(super) fn step(&self, title: &str) -> Result<(), DemoError> {
        print("\n")?;
        self.first_step(title)
    }

    /// Prints an explanation, indented.
    pub(super) fn note(&self, text: impl Display) -> Result<(), DemoError> {
        let text = text.to_string();
        let lines = text.lines().map(|line| format!("   {}\n", printable(line)));
        Ok(print(&lines.collect::<String>())?)
    }

    /// Prints the result of a command.
    pub(super) fn result(&self, text: &str) -> Result<(), DemoError> {
        Ok(print(&format!("{}\n", printable(text.trim_end())))?)
    }

    /// Prints a command line.
    pub(super) fn prompt(&self, line: impl Display) -> Result<(), DemoError> {
        let line = line.to_string();
        let line = Style::new().cyan().apply_to(printable(&line));
        Ok(print(&format!("$ {line}\n"))?)
    }

    /// Prints a command line of `fledged` and runs it, with the demo's kubeconfig.
    ///
    /// # Errors
    ///
    /// [`DemoError::CommandFailed`] unless the exit code is 0.
    pub(super) async fn fledged(&self, args: &[&str]) -> Result<(), DemoError> {
        let line = format!("fledged {}", args.join(" "));
        self.prompt(&line)?;
        let all = ["fledged"]
            .iter()
            .chain(args)
            .copied()
            .chain(["--kubeconfig", &self.kubeconfig]);
        let exit = match Cli::try_parse_from(all) {
            Ok(Cli {
                command: Command::Cluster(command),
                ..
            }) => remote::run(command, &self.terminal).await?,
            _ => Exit::BadInput,
        };
        match exit {
            Exit::Done => Ok(()),
            exit => Err(DemoError::CommandFailed { line, exit }),
        }
    }

    /// Redraws the text of `read` until `work` is done, if text can be redrawn.
    pub(super) async fn while_drawing<T, F>(
        &self,
        mut read: impl FnMut() -> F,
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
                if let Some(text) = read().await {
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
