//! `tollgate program`: the built-in programmes, which a policy may extend.

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::tables;
use crate::{
    client::output::print,
    policy::{BuiltinProgram, PROGRAMS},
};

/// What to print of the built-in programmes.
#[derive(Debug, clap::Subcommand)]
pub enum ProgramCommand {
    /// Print the name of each, and how many models it lists
    List,
    /// Print one as a policy file without organizations
    Show {
        /// The programme's name
        #[arg(value_parser = program_parser())]
        name: &'static BuiltinProgram,
    },
}

fn program_parser() -> impl TypedValueParser<Value = &'static BuiltinProgram> {
    let names = PROGRAMS.iter().map(|program| program.name);
    PossibleValuesParser::new(names).try_map(|name| BuiltinProgram::named(&name))
}

pub(super) fn run(command: &ProgramCommand) -> anyhow::Result<()> {
    match command {
        ProgramCommand::List => print(&tables::programs()),
        ProgramCommand::Show { name } => print(name.text),
    }
}
