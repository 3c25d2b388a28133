//! How a client logs in to a server: user, password, database.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use redis::{ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError};
use tokio::task::spawn_blocking;

use crate::files::read::{read_file, trimmed};

const MAX_PASSWORD_FILE_BYTES: u64 = 64 << 10;

/// The user, password and database of a connection. Sentinels have users of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The user; `None`: the default one.
    pub username: Option<String>,
    /// Its password; `None`: the server needs none.
    pub password: Option<Password>,
    /// The number of the database; `None`: 0.
    pub database: Option<i64>,
}

/// A password, or its file.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// The password itself.
    Text(String),
    /// A file that holds it. It is read for each new connection, so a rotated password needs no restart.
    File(PathBuf),
}

impl Login {
    /// The login for the client library.
    ///
    /// # Errors
    ///
    /// The password file can't be used.
    pub(crate) async fn connection_info(&self) -> Result<RedisConnectionInfo, RedisError> {
        let mut info = RedisConnectionInfo::default()
            .set_db(self.database.unwrap_or(0))
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        if let Some(username) = &self.username {
            info = info.set_username(username);
        }
        match &self.password {
            None => Ok(info),
            Some(Password::Text(password)) => Ok(info.set_password(password)),
            Some(Password::File(path)) => {
                let file = path.clone();
                let read = spawn_blocking(move || read_password(&file)).await;
                let password = read.map_err(io::Error::other)?.map_err(|fault| {
                    let why = format!("redis.password_file [{}] {fault}", path.display());
                    RedisError::from((ErrorKind::Client, "password", why))
                });
                Ok(info.set_password(password?))
            }
        }
    }
}

/// Reads a password from its file. Blocks.
fn read_password(file: &Path) -> Result<String, String> {
    let bytes = read_file(file, MAX_PASSWORD_FILE_BYTES).map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8")?;
    match trimmed(&text)? {
        "" => Err("is empty".to_owned()),
        password => Ok(password.to_owned()),
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::RedisUrl;

    #[tokio::test]
    async fn a_password_file_that_cannot_be_used_is_named_without_its_content() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let login = Login {
            password: Some(Password::File(file.path().to_owned())),
            ..Login::default()
        };
        let large = vec![b'x'; 65 << 10];
        for (content, why) in [
            (&b"\n"[..], "is empty"),
            (b"secret\nsecret\n", "control character"),
            (b"secret\xff", "is not UTF-8"),
            (&large, "larger than 64 KiB"),
        ] {
            std::fs::write(file.path(), content).expect("written");
            let error = login.connection_info().await.expect_err("refused");
            let text = error.to_string();
            assert!(text.contains(why), "{text}");
            assert!(text.contains("redis.password_file"), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn the_debug_output_of_a_url_has_no_password() {
        let url = RedisUrl::parse("redis://user:secret@host").expect("a URL");
        assert!(!format!("{url:?}").contains("secret"), "{url:?}");
    }
}
