//! The command line arguments.

use std::ops::Range;

use clap::Parser;
use fledged_tests::arguments::{CheckedArgs, Given, number};
use fledged_tests::simulation::{PLANTED_BUGS, PlantedBug};

/// Simulates the real controller and agents on an API server in the process, on virtual time.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
pub(crate) struct Args {
    /// Number of seeds to simulate.
    #[arg(long, default_value_t = 100, value_parser = number::<u64>(1..=u64::MAX))]
    seeds: u64,
    /// First seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Simulates this seed only, and prints what happened at the end.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// With --seed: only the moves of these numbers, separated by commas; empty: none.
    #[arg(long, value_parser = numbers)]
    pub(crate) moves: Option<Numbers>,
    /// With --seed: prints each step.
    #[arg(long)]
    pub(crate) trace: bool,
    /// Threads.
    #[arg(long, default_value_t = 1, value_parser = number::<usize>(1..=1_000))]
    pub(crate) threads: usize,
    /// Starts no further seed after this many seconds.
    #[arg(long, value_parser = number::<u64>(1..=u64::MAX))]
    pub(crate) budget: Option<u64>,
    /// Most runs to shrink a failing seed. Default 150; with --planted-bugs none.
    #[arg(long)]
    pub(crate) shrink: Option<usize>,
    /// Plants each bug in turn, and prints the first seed that finds it.
    #[arg(long)]
    pub(crate) planted_bugs: bool,
    /// With --planted-bugs: only these. With --seed: plants this one.
    #[arg(long, value_delimiter = ',', value_parser = planted)]
    pub(crate) bugs: Vec<&'static PlantedBug>,
    /// Continues after a seed that fails.
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Simulates idle clusters for so many hours in place of seeds, and counts what is written.
    #[arg(long, value_name = "HOURS", value_parser = number::<u32>(1..=8_760))]
    pub(crate) idle_hours: Option<u32>,
}

impl Args {
    /// The seeds to simulate.
    pub(crate) fn seeds(&self) -> Range<u64> {
        self.first..self.first.saturating_add(self.seeds)
    }
}

impl CheckedArgs for Args {
    fn check(&self, given: &Given) -> Result<(), String> {
        let of_seeds = ["seeds", "first", "threads"];
        let of_many = ["budget", "keep_going"];
        let of_one = ["moves", "trace"];
        if self.idle_hours.is_some() {
            let why = "with --idle-hours";
            given.refuse(&["seed", "planted_bugs", "bugs", "shrink"], why)?;
            given.refuse(&[of_seeds.as_slice(), &of_many, &of_one].concat(), why)?;
        } else if self.seed.is_some() {
            let why = "with --seed";
            given.refuse(&["planted_bugs", "shrink"], why)?;
            given.refuse(&[of_seeds.as_slice(), &of_many].concat(), why)?;
            if self.bugs.len() > 1 {
                let bugs = given.words("bugs");
                return Err(format!("{bugs}: with --seed, only one bug can be planted"));
            }
        } else if self.planted_bugs {
            given.refuse(
                &[of_many.as_slice(), &of_one].concat(),
                "with --planted-bugs",
            )?;
        } else {
            given.refuse(&of_one, "without --seed")?;
            given.refuse(&["bugs"], "without --planted-bugs or --seed")?;
        }
        if self.first.checked_add(self.seeds).is_none() {
            let (first, seeds, most) = (self.first, self.seeds, u64::MAX);
            return Err(format!(
                "--first {first} with --seeds {seeds}: seeds must be less than {most}"
            ));
        }
        Ok(())
    }
}

/// Numbers of moves, in order, each once.
#[derive(Debug, Clone)]
pub(crate) struct Numbers(pub(crate) Vec<usize>);

fn numbers(text: &str) -> Result<Numbers, String> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    let numbers = parts.map(|part| {
        let number = part.trim().parse();
        number.map_err(|_| format!("{part:?} is not the number of a move"))
    });
    let mut numbers = numbers.collect::<Result<Vec<usize>, String>>()?;
    numbers.sort_unstable();
    numbers.dedup();
    Ok(Numbers(numbers))
}

fn planted(name: &str) -> Result<&'static PlantedBug, String> {
    let mut bugs = PLANTED_BUGS.iter();
    let found = bugs.find(|bug| bug.name == name);
    found.ok_or_else(|| {
        format!("no planted bug is called {name:?}; tests/src/simulation/planted.rs lists them")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Args, String> {
        let parsed = Args::from_checked(["simulate"].iter().chain(words));
        parsed.map_err(|error| error.to_string())
    }

    #[test]
    fn seeds_go_up_to_the_largest_number() {
        let parsed = parse(&["--first", "18446744073709551610", "--seeds", "5"]).unwrap();
        assert_eq!(parsed.seeds().count(), 5);
        let error = parse(&["--first", "18446744073709551610", "--seeds", "6"]).unwrap_err();
        assert!(error.contains("--first 18446744073709551610"), "{error}");
    }

    #[test]
    fn numbers_of_moves_are_sorted_and_each_once() {
        let parsed = parse(&["--seed", "1", "--moves", "3,1,3"]).unwrap();
        assert_eq!(parsed.moves.unwrap().0, [1, 3]);
        let none = parse(&["--seed", "1", "--moves="]).unwrap();
        assert!(none.moves.unwrap().0.is_empty());
        assert!(
            parse(&["--seed", "1", "--moves", "x"])
                .unwrap_err()
                .contains("\"x\"")
        );
    }

    #[test]
    fn a_seed_has_one_planted_bug() {
        let [first, second] = [PLANTED_BUGS[0].name, PLANTED_BUGS[1].name];
        assert!(parse(&["--seed", "1", "--bugs", first]).is_ok());
        let both = format!("{first},{second}");
        assert!(parse(&["--planted-bugs", "--bugs", &both]).is_ok());
        let error = parse(&["--seed", "1", "--bugs", &both]).unwrap_err();
        assert!(error.contains(&format!("--bugs {both}: ")), "{error}");
    }
}
