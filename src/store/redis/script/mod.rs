//! The Lua scripts: their sources, their keys and arguments, and MessagePack as they write it.

pub mod keys;
pub(crate) mod reader;
pub(crate) mod request;

use redis::{Cmd, ServerErrorKind, Value};

use crate::store::redis::conn::{RedisClient, connection::SendOptions, errors::SendError};

/// A script that is called by its hash, and sent whole to a server that does not know it.
pub(crate) struct Script {
    source: &'static str,
    hash: String,
}

impl Script {
    pub(crate) fn new(source: &'static str) -> Self {
        Self {
            source,
            hash: redis::Script::new(source).get_hash().to_owned(),
        }
    }

    /// Runs the script with the keys and arguments that `push` adds, where `key` is. Where the server doesn't
    /// know it (a restart, SCRIPT FLUSH, another node), nothing ran, and it is sent whole: that can't miss,
    /// whichever node has the key by then.
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
        let reply = match client.send(key, &by_hash, options).await {
            Err(failed) if failed.rejection() == Some(ServerErrorKind::NoScript) => {
                let whole = command("EVAL", self.source);
                client.send(key, &whole, options).await
            }
            reply => reply,
        };
        Ok(reply?.value)
    }
}
