//! The socket of a listener: a TCP port or a unix socket.

use std::{
    fmt,
    fs::{self, File, Permissions, TryLockError},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream, lookup_host},
    time::{Instant, sleep},
};
use tokio_util::either::Either;

/// Connections that may wait to be accepted; the system has a limit of its own. If the backlog is full, a connection is
/// retried after a second.
const BACKLOG: u32 = 65_535;

/// The mode of a unix socket: its owner and its group may connect.
const SOCKET_MODE: u32 = 0o660;

/// How long to wait for the lock of a folder: any user of a shared folder may hold it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// How often to try the lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

const NO_PORT: &str = "names no port from 0 to 65535: an address is HOST:PORT, such as 127.0.0.1:50051, or :PORT for \
                       all addresses, or unix:/path.sock";

/// A TCP or unix connection.
pub(crate) type Stream = Either<TcpStream, UnixStream>;

/// A bound socket.
pub(crate) enum Socket {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

/// A unix socket. Its file is removed when this is dropped.
pub(crate) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: another process may replace the file later.
    file: (u64, u64),
}

/// The address of a listener. Displays as in the settings: `HOST:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Socket {
    /// Binds `HOST:PORT`, `:PORT` on all addresses, or `unix:PATH`.
    pub(crate) async fn bind(address: &str) -> io::Result<Self> {
        if let Some(path) = address.strip_prefix("unix:") {
            // gRPC's form of an absolute path is unix:///PATH.
            let path = path.strip_prefix("//").unwrap_or(path);
            return Ok(Self::Unix(UnixSocket::bind(Path::new(path)).await?));
        }
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        let port = port.parse().map_err(|_| invalid(NO_PORT))?;
        if host.is_empty() {
            return Ok(Self::Tcp(bind_all(port)?));
        }
        // The first address of the name that can be bound.
        let mut last = invalid("stands for no address");
        for address in lookup_host(address).await? {
            match bind_tcp(address) {
                Ok(listener) => return Ok(Self::Tcp(listener)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Accepts a connection. A unix connection has no remote address.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                Ok((Either::Left(stream), Some(from)))
            }
            Self::Unix(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                Ok((Either::Right(stream), None))
            }
        }
    }

    pub(crate) fn address(&self) -> io::Result<ListenAddress> {
        Ok(match self {
            Self::Tcp(listener) => ListenAddress::Tcp(listener.local_addr()?),
            Self::Unix(socket) => ListenAddress::Unix(socket.path.clone()),
        })
    }
}

impl ListenAddress {
    /// Whether it is reachable from this machine only.
    pub(crate) fn is_loopback(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl UnixSocket {
    async fn bind(path: &Path) -> io::Result<Self> {
        if path.as_os_str().is_empty() {
            return Err(invalid("names no socket: unix:/path.sock"));
        }
        // If two processes find the same stale socket, the second must see the first one's new socket.
        let _lock = lock_folder(path).await?;
        remove_if_stale(path).await?;
        let socket = tokio::net::UnixSocket::new_stream()?;
        socket.bind(path)?;
        // Before it listens: until then no connection is possible.
        fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
        let listener = socket.listen(BACKLOG)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: identity(&fs::symlink_metadata(path)?),
        })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // If the lock is held, only the file's identity is checked: shutdown must not hang.
        let folder = open_folder(&self.path);
        let _lock = folder.inspect(|folder| drop(folder.try_lock()));
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| identity(&found) == self.file)
            && let Err(error) = fs::remove_file(&self.path)
        {
            let path = self.path.display();
            tracing::warn!(%path, %error, "the socket's file can't be removed");
        }
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Locks the folder of a path until the returned file is dropped.
async fn lock_folder(path: &Path) -> io::Result<File> {
    let folder = open_folder(path)?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(folder),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                let fault = "another process has its folder locked";
                return Err(io::Error::new(io::ErrorKind::WouldBlock, fault));
            }
            Err(TryLockError::WouldBlock) => sleep(LOCK_INTERVAL).await,
        }
    }
}

fn open_folder(path: &Path) -> io::Result<File> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))
}

/// Removes the socket of a process that has ended.
async fn remove_if_stale(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        let fault = "there is something else in its place, and no socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, fault));
    }
    // A listener with a full backlog has another error.
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => {
            let fault = "the socket is in use: another process listens on it";
            Err(io::Error::new(io::ErrorKind::AddrInUse, fault))
        }
    }
}

/// Binds a port on all addresses: IPv6 and IPv4, or IPv4 alone if the machine has no IPv6.
fn bind_all(port: u16) -> io::Result<TcpListener> {
    let both = || {
        let socket = TcpSocket::new_v6()?;
        // A system may be configured for IPv6 only (net.ipv6.bindv6only).
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
        listen(socket, (Ipv6Addr::UNSPECIFIED, port).into())
    };
    match both() {
        Err(error) if has_no_ipv6(&error) => bind_tcp((Ipv4Addr::UNSPECIFIED, port).into()),
        bound => bound,
    }
}

fn has_no_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    listen(socket, address)
}

fn listen(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpListener> {
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn invalid(fault: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, fault)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    async fn bind(path: &Path) -> io::Result<Socket> {
        Socket::bind(&format!("unix:{}", path.display())).await
    }

    #[tokio::test]
    async fn a_socket_that_another_process_put_in_its_place_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grpc.sock");
        let first = bind(&path).await.unwrap();
        fs::remove_file(&path).unwrap();
        let _second = bind(&path).await.unwrap();
        drop(first);
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_folder_that_another_process_keeps_locked_blocks_neither_start_nor_shutdown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grpc.sock");
        let socket = bind(&path).await.unwrap();
        let folder = File::open(dir.path()).unwrap();
        folder.lock().unwrap();
        let fault = bind(&dir.path().join("http.sock")).await.err().unwrap();
        assert!(fault.to_string().contains("folder locked"), "{fault}");
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_port_alone_means_all_addresses() {
        let socket = Socket::bind(":0").await.unwrap();
        let ListenAddress::Tcp(address) = socket.address().unwrap() else {
            panic!("a port")
        };
        assert!(address.ip().is_unspecified());
        assert!(!socket.address().unwrap().is_loopback());
        TcpStream::connect((Ipv4Addr::LOCALHOST, address.port()))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn an_address_without_a_port_is_refused_with_an_example() {
        let example = "no port from 0 to 65535: an address is HOST:PORT, such as 127.0.0.1:50051,";
        for (wrong, why) in [
            (":", example),
            (":99999", example),
            ("", example),
            ("localhost", example),
            ("50051", example),
            ("[::1]", example),
            ("127.0.0.1:65536", example),
            ("unix:", "no socket"),
        ] {
            let fault = Socket::bind(wrong).await.err().unwrap();
            assert!(fault.to_string().contains(why), "{wrong}: {fault}");
        }
    }
}
