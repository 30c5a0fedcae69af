//! The command lines of the programs in this package: each argument is parsed, then all are checked together.
//!
//! clap's own `requires` is not enough: clap skips it if the argument that is needed conflicts with one that was
//! given, and the argument is then ignored.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, Parser};
use fledged_core::model::GoDuration;

/// The longest duration that an argument may have.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// A command line whose arguments are also checked together.
pub trait CheckedArgs: Parser {
    /// Checks what the parsers of the single arguments cannot see.
    ///
    /// # Errors
    ///
    /// The text names the argument and its value.
    fn check(&self, given: &Given) -> Result<(), String>;

    /// Parses the command line of this process. An invalid one is printed, and the process exits with 2.
    #[must_use]
    fn from_command_line() -> Self {
        Self::from_checked(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Parses and checks a command line, which begins with the name of the program.
    ///
    /// # Errors
    ///
    /// If an argument is invalid, or has no effect beside the others.
    fn from_checked<I>(words: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator,
        I::Item: Into<OsString> + Clone,
    {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(words)?;
        let parsed =
            Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        let given = Given { matches, command };
        match parsed.check(&given) {
            Ok(()) => Ok(parsed),
            Err(text) => Err(Self::command().error(ErrorKind::ArgumentConflict, text)),
        }
    }
}

/// The arguments that a command line has, without defaults.
#[derive(Debug)]
pub struct Given {
    matches: ArgMatches,
    command: Command,
}

impl Given {
    /// Whether the command line has the argument of this field.
    #[must_use]
    pub fn has(&self, field: &str) -> bool {
        self.matches.value_source(field) == Some(ValueSource::CommandLine)
    }

    /// Refuses arguments that have no effect.
    ///
    /// # Errors
    ///
    /// If the command line has the argument of one of these fields; `why` follows "has no effect".
    pub fn refuse(&self, fields: &[&str], why: &str) -> Result<(), String> {
        let mut found = fields.iter().filter(|field| self.has(field));
        found.next().map_or(Ok(()), |field| {
            Err(format!("{} has no effect {why}", self.words(field)))
        })
    }

    /// An argument as it was given, with its value.
    #[must_use]
    pub fn words(&self, field: &str) -> String {
        let name = format!("--{}", field.replace('_', "-"));
        let mut known = self.command.get_arguments();
        let takes_value = known
            .find(|known| known.get_id() == field)
            .is_some_and(|known| known.get_action().takes_values());
        let values = self.matches.get_raw(field).filter(|_| takes_value);
        let Some(values) = values else { return name };
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        format!("{name} {}", values.join(","))
    }
}

/// Parses a number in a range.
#[must_use]
pub fn number<T>(range: RangeInclusive<u64>) -> RangedU64ValueParser<T>
where
    T: TryFrom<u64> + Clone + Send + Sync + 'static,
    T::Error: std::error::Error + Send + Sync + 'static,
{
    RangedU64ValueParser::new().range(range)
}

/// Parses a duration of at most 30 days, for example `90s` or `1h30m`.
///
/// # Errors
///
/// If it is no such duration.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<GoDuration>();
    let GoDuration(duration) = parsed.map_err(|error| error.to_string())?;
    if duration > LONGEST {
        return Err("must be at most 720h".to_owned());
    }
    Ok(duration)
}

/// The same, without zero.
///
/// # Errors
///
/// If it is no such duration.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() {
        return Err("must be greater than zero, for example 5m".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Sample {
        #[arg(long, default_value_t = 1, value_parser = number::<usize>(1..=9))]
        count: usize,
        #[arg(long, default_value = "1s", value_parser = positive_duration)]
        period: Duration,
        #[arg(long, value_delimiter = ',')]
        names: Vec<String>,
        #[arg(long)]
        quiet: bool,
    }

    impl CheckedArgs for Sample {
        fn check(&self, given: &Given) -> Result<(), String> {
            match self.names.is_empty() {
                true => Ok(()),
                false => given.refuse(&["count", "quiet"], "with --names"),
            }
        }
    }

    fn parse(words: &[&str]) -> Result<Sample, String> {
        let parsed = Sample::from_checked(["sample"].iter().chain(words));
        parsed.map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_without_effect_are_named_with_their_values() {
        let parsed = parse(&["--count", "3"]).unwrap();
        assert_eq!((parsed.count, parsed.quiet), (3, false));
        assert!(parse(&["--names", "a", "--period", "2s"]).is_ok());
        let error = parse(&["--names", "a,b", "--count=3"]).unwrap_err();
        assert!(
            error.contains("--count 3 has no effect with --names"),
            "{error}"
        );
        let error = parse(&["--names", "a", "--quiet"]).unwrap_err();
        assert!(
            error.contains("--quiet has no effect with --names"),
            "{error}"
        );
    }

    #[test]
    fn values_out_of_range_are_named() {
        for (word, wanted) in [
            ("--count=0", "'0' for '--count <COUNT>': 0 is not in 1..=9"),
            ("--count=10", "10 is not in 1..=9"),
            ("--count=-1", "'-1' for '--count <COUNT>'"),
            (
                "--period=0s",
                "'0s' for '--period <PERIOD>': must be greater",
            ),
            (
                "--period=721h",
                "'721h' for '--period <PERIOD>': must be at most",
            ),
            ("--period=soon", "'soon' for '--period <PERIOD>'"),
        ] {
            let error = parse(&[word]).unwrap_err();
            assert!(error.contains(wanted), "{word}: {error}");
        }
    }
}
