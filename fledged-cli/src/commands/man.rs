//! `fledged man`.

use std::fs;

use clap::CommandFactory as _;

use super::CommandError;
use super::print::print;
use crate::args::{Cli, ManArgs};
use crate::exit::Exit;

pub(super) fn man(args: &ManArgs) -> Result<Exit, CommandError> {
    let command = Cli::command();
    match &args.directory {
        Some(directory) => {
            let written = fs::create_dir_all(directory)
                .and_then(|()| clap_mangen::generate_to(command, directory));
            written.map_err(|source| CommandError::ManualPages {
                directory: directory.clone(),
                source,
            })?;
        }
        None => {
            let mut page = Vec::new();
            let rendered = clap_mangen::Man::new(command).render(&mut page);
            rendered.map_err(CommandError::Output)?;
            print(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(Exit::Done)
}
