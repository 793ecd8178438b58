//! The admin socket's place in the file system: for this account alone, and no other daemon's.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use crate::DaemonError;

/// The socket's file; removed when this is dropped, if it is still ours.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

/// Listens on `path`. A socket that a killed daemon left is replaced; one that answers is not, nor anything else.
pub(crate) async fn listen(path: &Path) -> Result<(UnixListener, SocketFile), DaemonError> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(DaemonError::SocketTaken {
            path: path.to_owned(),
        });
    }
    place(path).map_err(|source| DaemonError::Socket {
        path: path.to_owned(),
        source,
    })
}

fn place(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    if let Ok(there) = fs::symlink_metadata(path)
        && !there.file_type().is_socket()
    {
        let what = "something that is no socket stands there";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    // Made in a folder that nobody else may enter, and brought to its place when its mode is right: there is no moment
    // at which another account could connect.
    let made = tempfile::Builder::new()
        .prefix(".d")
        .rand_bytes(4)
        .tempdir_in(folder.unwrap_or(Path::new(".")))?;
    let inside = made.path().join("s");
    let listener = UnixListener::bind(&inside)?;
    fs::set_permissions(&inside, Permissions::from_mode(0o600))?;
    let found = fs::symlink_metadata(&inside)?;
    fs::rename(&inside, path)?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: (found.dev(), found.ino()),
    };
    Ok((listener, file))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let there = fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == self.identity) {
            // If it cannot be removed it answers nobody; the next daemon replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_this_account_alone_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sock");
        let (listener, file) = listen(&path).await.expect("a socket");
        let mode = fs::metadata(&path).expect("it is there").mode();
        assert_eq!(mode & 0o7777, 0o600);
        let names = fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(names, 1, "nothing beside it");
        let taken = listen(&path).await.expect_err("it answers");
        assert!(matches!(taken, DaemonError::SocketTaken { .. }));
        drop((listener, file));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_a_killed_daemon_left_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sock");
        let (listener, file) = listen(&path).await.expect("a socket");
        std::mem::forget(file);
        drop(listener);
        assert!(path.exists());
        let (_listener, ours) = listen(&path).await.expect("it is replaced");
        // Somebody put another file there since: it is not ours to remove.
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "text").expect("written");
        drop(ours);
        assert_eq!(fs::read_to_string(&path).expect("a file"), "text");
        let refused = listen(&path).await.expect_err("no socket");
        assert!(matches!(refused, DaemonError::Socket { .. }));
    }
}
