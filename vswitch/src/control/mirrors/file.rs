//! The sessions in a file beside the control socket, so that a restart keeps them.
//!
//! What must hold: the file is whole whenever the process ends; one that cannot be understood is moved
//! aside and reported, and stops nobody.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::api::mirror_types::MirrorRequest;

/// The most that is read.
const MAX_BYTES: u64 = 64 << 20;
const VERSION: u32 = 1;

/// A session, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    pub(super) request: MirrorRequest,
    pub(super) number: u32,
    pub(super) lease_until_s: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    sessions: Vec<Kept>,
}

/// Reads what was kept; nothing when there is no file.
///
/// # Errors
/// What is wrong with it, and where it was moved.
pub(super) fn read(path: &Path) -> Result<Vec<Kept>, String> {
    let content = match content(path) {
        Ok(content) => return Ok(content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => error,
    };
    let aside = with_suffix(path, ".damaged");
    let moved = match fs::rename(path, &aside) {
        Ok(()) => format!("it was moved to {}", aside.display()),
        Err(error) => format!("and it cannot be moved aside: {error}"),
    };
    Err(format!(
        "the mirror sessions in {} cannot be read ({content}); {moved}, and there are none now: create them again",
        path.display()
    ))
}

fn content(path: &Path) -> io::Result<Vec<Kept>> {
    let mut text = String::new();
    File::open(path)?
        .take(MAX_BYTES)
        .read_to_string(&mut text)?;
    let content: Content = serde_json::from_str(&text)?;
    if content.version != VERSION {
        let message = format!("version {}, not {VERSION}", content.version);
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(content.sessions)
}

/// Replaces what is kept.
///
/// # Errors
/// What the system says: what was kept before is still there.
pub(super) fn write(path: &Path, sessions: Vec<Kept>) -> io::Result<()> {
    let content = Content {
        version: VERSION,
        sessions,
    };
    let new = with_suffix(path, ".new");
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(&serde_json::to_vec_pretty(&content)?)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::mirror_types::MirrorSource;

    fn kept(name: &str) -> Kept {
        let request = serde_json::json!({
            "name": name, "owner": "acme", "source": { "port": "a" }, "target": "ids",
        });
        Kept {
            request: serde_json::from_value(request).expect("a request"),
            number: 5,
            lease_until_s: Some(99),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().expect("temp");
        let path = folder.path().join("sessions");
        assert_eq!(read(&path), Ok(Vec::new()));
        write(&path, vec![kept("one")]).expect("written");
        write(&path, vec![kept("one"), kept("two")]).expect("written");
        let back = read(&path).expect("whole");
        assert_eq!(back, [kept("one"), kept("two")]);
        assert_eq!(back[0].request.source, MirrorSource::Port("a".into()));
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_reported_and_moved_aside() {
        let folder = tempfile::tempdir().expect("temp");
        let path = folder.path().join("sessions");
        for damage in ["", "{", "{\"version\": 2, \"sessions\": []}", "[1]"] {
            fs::write(&path, damage).expect("written");
            let error = read(&path).expect_err(damage);
            assert!(error.contains("was moved to"), "{error}");
            assert_eq!(read(&path), Ok(Vec::new()), "it is told once");
        }
    }
}
