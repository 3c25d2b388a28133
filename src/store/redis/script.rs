//! A Lua script that Redis is told by its hash, and by its source where it doesn't know it.

use redis::{Cmd, ErrorKind, ServerErrorKind, Value};

use super::{
    link::{Failed, Manner},
    links::Links,
};

const NO_SCRIPT: ErrorKind = ErrorKind::Server(ServerErrorKind::NoScript);

pub(super) struct Script {
    source: &'static str,
    hash: String,
}

impl Script {
    pub(super) fn new(source: &'static str) -> Self {
        Self {
            source,
            hash: redis::Script::new(source).get_hash().to_owned(),
        }
    }

    /// Runs the script with the keys and arguments that `push` adds, where `key` is. Where Redis doesn't
    /// know it (a restart, SCRIPT FLUSH, another node), nothing ran, and it is sent whole: that can't
    /// miss, whichever node has the key by then.
    pub(super) async fn run(
        &self,
        links: &Links,
        key: &str,
        manner: Manner,
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
