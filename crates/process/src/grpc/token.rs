//! The token file: read at each call, refused when others may read it. Never shown.

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use tonic::metadata::AsciiMetadataValue;

/// Longest token in bytes: a projected service account token is 1 to 2 KiB, ours are 64 bytes.
const MAX_TOKEN_BYTES: u64 = 16 * 1024;

/// Why there is no token to send.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("token file {path:?}: {reason}; make one with `culvertd token --node NAME --out FILE`")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Group or others may read it.
    #[error("token file {path:?} has mode {mode:04o}: others may read it; run chmod 0600 on it")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// The `authorization` value of the token in the file; marked sensitive, so that nothing shows it.
pub(super) fn read(path: &Path, shared: bool) -> Result<AsciiMetadataValue, TokenError> {
    let unreadable = |reason: String| TokenError::Unreadable {
        path: path.to_owned(),
        reason,
    };
    let (mode, text) = contents(path).map_err(|error| unreadable(error.to_string()))?;
    if mode & 0o077 != 0 {
        if !shared {
            return Err(TokenError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
        // The file is read at each call; once is enough to be told.
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            let mode = format!("{mode:04o}");
            tracing::warn!(?path, mode, "others may read the token file");
        });
    }
    let token = text.trim();
    if token.is_empty() {
        return Err(unreadable("is empty".to_owned()));
    }
    let mut value = AsciiMetadataValue::try_from(format!("Bearer {token}"))
        .map_err(|_| unreadable("holds bytes that no token has".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Mode and text, of one open file: what was checked is what is read.
fn contents(path: &Path) -> io::Result<(u32, String)> {
    let file = std::fs::File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    let mut text = String::new();
    file.take(MAX_TOKEN_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_TOKEN_BYTES {
        return Err(io::Error::other(format!(
            "is longer than {MAX_TOKEN_BYTES} bytes"
        )));
    }
    Ok((mode, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_private_token_is_sent_trimmed_and_never_shown() {
        let value = read(file("abc123\n", 0o600).path(), false).unwrap();
        assert_eq!(value.to_str().unwrap(), "Bearer abc123");
        assert!(!format!("{value:?}").contains("abc123"));
    }

    #[test]
    fn a_token_that_others_may_read_is_refused_unless_allowed() {
        for mode in [0o644, 0o640, 0o604] {
            let file = file("abc123", mode);
            let error = read(file.path(), false).unwrap_err();
            assert!(error.to_string().contains("chmod 0600"), "{error}");
            assert!(read(file.path(), true).is_ok());
        }
    }

    #[test]
    fn a_missing_empty_long_or_binary_token_is_refused_by_name() {
        let long = "a".repeat(MAX_TOKEN_BYTES as usize + 1);
        for text in ["", " \n", "a\nb", long.as_str()] {
            let file = file(text, 0o600);
            let error = read(file.path(), false).unwrap_err().to_string();
            assert!(error.contains(file.path().to_str().unwrap()), "{error}");
        }
        let error = read(Path::new("/nowhere/token"), false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/nowhere/token") && error.contains("culvertd token"),
            "{error}"
        );
    }
}
