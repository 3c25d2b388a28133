//! Flags are trimmed as every other source is.

use std::ffi::OsStr;

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, TypedValueParser},
    error::ErrorKind,
    parser::ValueSource,
};

use crate::files::read::trimmed;

/// Trims a flag's value, and its variable's where clap reads that, before another parser reads it.
#[derive(Debug, Clone)]
pub(crate) struct TrimmedParser<P>(pub(crate) P);

impl<P: TypedValueParser> TypedValueParser for TrimmedParser<P> {
    type Value = P::Value;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<P::Value, Error> {
        self.parse_ref_(command, arg, value, ValueSource::CommandLine)
    }

    fn parse_ref_(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
        source: ValueSource,
    ) -> Result<P::Value, Error> {
        let value = match value.to_str().map(trimmed) {
            None => value,
            Some(Ok(value)) => OsStr::new(value),
            Some(Err(fault)) => {
                let name = arg.map(|arg| name(arg, source)).unwrap_or_default();
                let fault = format!("{name}: {fault}\n");
                return Err(Error::raw(ErrorKind::ValueValidation, fault).with_cmd(command));
            }
        };
        self.0.parse_ref_(command, arg, value, source)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        self.0.possible_values()
    }
}

/// The variable that a value is from, or the flag, or the place among the arguments.
fn name(arg: &Arg, source: ValueSource) -> String {
    match (source, arg.get_env(), arg.get_long()) {
        (ValueSource::EnvVariable, Some(variable), _) => variable.to_string_lossy().into_owned(),
        (_, _, Some(flag)) => format!("--{flag}"),
        _ => arg.to_string(),
    }
}
