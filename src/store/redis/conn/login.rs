//! How a client logs in to a server: user, password, database.

use std::{fmt, path::PathBuf};

use redis::{ErrorKind, RedisConnectionInfo, RedisError};
use tokio::task::spawn_blocking;

use crate::files::read::{ReadError, read_file, trimmed};

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

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl Login {
    /// The login for the client library.
    ///
    /// # Errors
    ///
    /// The password file can't be used.
    pub(crate) async fn connection_info(&self) -> Result<RedisConnectionInfo, RedisError> {
        let mut info = RedisConnectionInfo::default().set_db(self.database.unwrap_or(0));
        if let Some(username) = &self.username {
            info = info.set_username(username);
        }
        match &self.password {
            None => Ok(info),
            Some(Password::Text(password)) => Ok(info.set_password(password)),
            Some(Password::File(path)) => {
                let read = spawn_blocking({
                    let path = path.clone();
                    move || read_file(&path, MAX_PASSWORD_FILE_BYTES)
                });
                let read = read.await.map_err(std::io::Error::other);
                let password = read
                    .map_err(ReadError::from)
                    .flatten()
                    .map_err(|error| error.to_string())
                    .and_then(|bytes| password_in(&bytes));
                let password = password.map_err(|fault| {
                    let why = format!("redis.password_file [{}] {fault}", path.display());
                    RedisError::from((ErrorKind::Client, "password", why))
                });
                Ok(info.set_password(password?))
            }
        }
    }
}

/// The password in a file of this content.
fn password_in(bytes: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let password = trimmed(text)?;
    if password.is_empty() {
        return Err("is empty".to_owned());
    }
    Ok(password.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use rustix::fs::Mode;

    use super::*;

    fn in_file(path: &std::path::Path) -> Login {
        Login {
            password: Some(Password::File(path.to_owned())),
            ..Login::default()
        }
    }

    #[tokio::test]
    async fn a_password_file_is_read_for_each_connection_and_trimmed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let login = in_file(file.path());
        for (content, password) in [("first\n", "first"), (" a b/#?%@:\r\n", "a b/#?%@:")] {
            fs::write(file.path(), content).unwrap();
            let info = login.connection_info().await.unwrap();
            assert_eq!(info.password(), Some(password));
        }
    }

    #[tokio::test]
    async fn a_password_file_that_cannot_be_used_is_named_without_its_content() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (content, why) in [
            (&b"\n"[..], "is empty"),
            (b"secret\nsecret\n", "control character"),
            (b"secret\xff", "is not UTF-8"),
        ] {
            fs::write(file.path(), content).unwrap();
            let error = in_file(file.path()).connection_info().await.unwrap_err();
            let text = error.to_string();
            assert!(text.contains(why), "{text}");
            assert!(text.contains("redis.password_file"), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
        let fifo = tempfile::tempdir().unwrap();
        let fifo = fifo.path().join("fifo");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, Mode::RUSR, 0).unwrap();
        for path in [
            &fifo,
            std::path::Path::new("/dev/zero"),
            std::path::Path::new("/"),
        ] {
            let error = in_file(path).connection_info().await.unwrap_err();
            assert!(
                error.to_string().contains("it is no regular file"),
                "{error}"
            );
        }
        fs::write(file.path(), vec![b'x'; (64 << 10) + 1]).unwrap();
        let error = in_file(file.path()).connection_info().await.unwrap_err();
        assert!(error.to_string().contains("larger than 64 KiB"), "{error}");
        let gone = in_file(std::path::Path::new("/nowhere/password"));
        let text = gone.connection_info().await.unwrap_err().to_string();
        assert!(text.contains("[/nowhere/password] can't be read"), "{text}");
    }

    #[test]
    fn the_debug_output_of_a_login_has_no_password() {
        let login = Login {
            password: Some(Password::Text("secret".to_owned())),
            ..Login::default()
        };
        assert!(!format!("{login:?}").contains("secret"));
    }
}
