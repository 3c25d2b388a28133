//! The Lua scripts: their sources, their keys and arguments, and MessagePack as they write it.

pub mod keys;
pub(crate) mod reader;
pub(crate) mod request;

use redis::{Cmd, ErrorKind, ServerErrorKind, Value};

use crate::store::redis::conn::{
    RedisClient,
    connection::{Failed, SendOptions},
};

const NO_SCRIPT: ErrorKind = ErrorKind::Server(ServerErrorKind::NoScript);

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

    /// Runs the script with the keys and arguments that `push` adds, where `key` is. Where Redis doesn't
    /// know it (a restart, SCRIPT FLUSH, another node), nothing ran, and it is sent whole: that can't
    /// miss, whichever node has the key by then.
    pub(crate) async fn run(
        &self,
        links: &RedisClient,
        key: &str,
        manner: SendOptions,
        push: impl Fn(&mut Cmd),
    ) -> Result<Value, Failed> {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.hash);
        push(&mut command);
        let sent = links.ask(key, &command, manner).await;
        if matches!(&sent, Err(Failed::Asking(e)) if e.kind() == NO_SCRIPT) {
            let mut command = redis::cmd("EVAL");
            command.arg(self.source);
            push(&mut command);
            return Ok(links.ask(key, &command, manner).await?.value);
        }
        Ok(sent?.value)
    }
}
