//! The Lua scripts: their sources, their keys and arguments, and MessagePack as they write it.

pub mod keys;
pub(crate) mod reader;
pub(crate) mod request;

use std::collections::HashMap;

use redis::{Cmd, ServerErrorKind, Value};

use crate::store::redis::conn::{RedisClient, connection::SendOptions, errors::SendError};

/// A script. It is called by its hash; a server that does not have it gets its source.
pub(crate) struct Script {
    source: String,
    hash: String,
}

impl Script {
    pub(crate) fn new(source: &str) -> Self {
        let source = fold_constants(source);
        Self {
            hash: redis::Script::new(&source).get_hash().to_owned(),
            source,
        }
    }

    /// Runs the script at the server that has `key`, with the keys and arguments that `push` adds. If the server
    /// does not have the script (a restart, SCRIPT FLUSH, another node), nothing ran, and EVAL sends the source.
    /// EVAL works at any node.
    pub(crate) async fn run(
        &self,
        client: &RedisClient,
        key: &str,
        options: SendOptions,
        push: impl Fn(&mut Cmd),
    ) -> Result<Value, SendError> {
        let command = |name: &str, script: &str| {
            let mut command = redis::cmd(name);
            command.arg(script);
            push(&mut command);
            command
        };
        let by_hash = command("EVALSHA", &self.hash);
        let mut reply = client.send(key, &by_hash, options).await;
        if matches!(&reply, Err(failed) if failed.rejection() == Some(ServerErrorKind::NoScript)) {
            let whole = command("EVAL", &self.source);
            reply = client.send(key, &whole, options).await;
        }
        Ok(reply?.value)
    }
}

/// Replaces a script's constants by their values. An unindented line like `local CLOSED, FREE = 5, 'F'` defines
/// them. Lua 5.1 has no constants: as variables, each function would capture them again at each call, which makes
/// the script a quarter slower.
fn fold_constants(source: &str) -> String {
    let mut constants = HashMap::new();
    let mut lines = Vec::new();
    for line in source.lines() {
        let definitions = definitions(line);
        // The other lines keep their numbers.
        lines.push(if definitions.is_some() { "" } else { line });
        constants.extend(definitions.into_iter().flatten());
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let text = lines.join("\n");
    let pieces = text.split_inclusive(|c| !is_word(c)).map(|piece| {
        let word = piece.trim_end_matches(|c| !is_word(c));
        let value = constants.get(word).copied().unwrap_or(word);
        [value, &piece[word.len()..]].concat()
    });
    pieces.collect()
}

/// The constants that a line defines, if it does nothing else.
fn definitions(line: &str) -> Option<Vec<(&str, &str)>> {
    let code = line.split(" -- ").next()?;
    let (names, values) = code.strip_prefix("local ")?.split_once(" = ")?;
    let (names, values) = (names.split(", "), values.split(", "));
    let definitions: Vec<_> = names.zip(values).collect();
    let is_constant = |(name, value): &(&str, &str)| {
        let is_literal = value.parse::<i64>().is_ok()
            || value.len() > 1 && value.starts_with('\'') && value.ends_with('\'');
        is_literal && !name.contains(|c: char| c != '_' && !c.is_ascii_uppercase())
    };
    definitions.iter().all(is_constant).then_some(definitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_of_a_script_are_folded_and_variables_are_not() {
        let source = "local FREE, MAX = 'F', 12 -- the most\n\
                      local limit, MAX_ROWS = 1, 2\n\
                      local KEY = KEYS[1]\n\
                      return FREE .. MAX_ROWS + MAX - FREED";
        let folded = "\n\
                      local limit, MAX_ROWS = 1, 2\n\
                      local KEY = KEYS[1]\n\
                      return 'F' .. MAX_ROWS + 12 - FREED";
        assert_eq!(fold_constants(source), folded);
    }
}
