//! Flags are trimmed as every other source is.

use std::ffi::OsStr;

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, TypedValueParser},
    error::ErrorKind,
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
        let value = match value.to_str().map(trimmed) {
            None => value,
            Some(Ok(value)) => OsStr::new(value),
            Some(Err(fault)) => {
                let name = arg.and_then(Arg::get_long).unwrap_or_default();
                let fault = format!("--{name}: {fault}\n");
                return Err(Error::raw(ErrorKind::ValueValidation, fault).with_cmd(command));
            }
        };
        self.0.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        self.0.possible_values()
    }
}
