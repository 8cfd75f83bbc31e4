//! What larger numbers of devices need: a [`model`] on paper, fitted to what was measured, and many [`followers`] of one chain.

pub mod followers;
mod model;

use eyre::{Result, ensure};

/// For how many.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Numbers of devices, a column each.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 1_000_000, 1_000_000_000], value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub devices: Vec<u64>,
}

/// Prints the table of `docs/scale.md`, computed from `eval/figures.json` and `test-sol/gas`.
///
/// # Errors
/// If the kept figures cannot be read.
pub fn run(options: &Options) -> Result<()> {
    ensure!(!options.devices.is_empty(), "no number of devices");
    print!("{}", model::table(&model::Figures::kept()?, &options.devices));
    Ok(())
}
